"""Reading annotation files: lines, csv records, JSON; and finding them by name."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from cnclip.errors import InputError
from preprocess.datasets.rows import SURROGATE, RowError

_BOM = b"\xef\xbb\xbf"
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "restval": "restval",
    "val": "valid",
    "valid": "valid",
    "validation": "valid",
    "dev": "valid",
    "test": "test",
    "testing": "test",
}
"""How a split is called in the wild, and here: as Chinese-CLIP's scripts call theirs."""
_SPLIT_WORD = re.compile(rf"(?<![a-z])({'|'.join(sorted(SPLIT_NAMES, key=len, reverse=True))})(?![a-z])")


def split_of(name: str) -> str:
    """The split that a file name speaks of (`captions_val2017.json`: valid); "train" where it names none."""
    found = _SPLIT_WORD.search(name.lower())
    return SPLIT_NAMES[found[1]] if found else "train"


def find(source: Path, globs: Sequence[str], known: str) -> list[Path]:
    """The annotation files of a source: itself if it is a file, else those below it that `globs` reach and
    whose names match the expression `known`, sorted.

    Raises:
        InputError: no such source, or none of those files in it.
    """
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise InputError(f"{source}: no such file or folder")
    reached = {path for glob in globs for path in source.glob(glob)}
    found = sorted(path for path in reached if re.fullmatch(known, path.name) and path.is_file())
    if not found:
        raise InputError(f"{source}: no annotation file of this format in it (looked for {', '.join(globs)})")
    return found


def one_each(files: Sequence[Path], split: Callable[[str], str] = split_of) -> dict[str, Path]:
    """The file of each split.

    Raises:
        InputError: two files for one split; SOURCE can be one of them.
    """
    found: dict[str, Path] = {}
    for path in files:
        other = found.setdefault(split(path.name), path)
        if other != path:
            raise InputError(
                f"{path}: {split(path.name)} is also in {other}; give one of the two files as SOURCE"
            )
    return found


def _open_lines(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            for number, raw in enumerate(file):
                yield raw if number else raw.removeprefix(_BOM)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None


def lines(path: Path) -> Iterator[tuple[str, str | RowError]]:
    """Every line that is not blank as (`file:line`, text), or why it is not text.

    Raises:
        InputError: the file cannot be read.
    """
    for number, raw in enumerate(_open_lines(path), start=1):
        if raw.strip():
            try:
                yield f"{path}:{number}", raw.decode("utf-8").strip()
            except UnicodeDecodeError:
                yield f"{path}:{number}", RowError("(all)", "not UTF-8")


def records(path: Path, needed: Sequence[str]) -> Iterator[tuple[str, dict[str, str] | RowError]]:
    """Every record of a csv file with a header as (`file:line`, columns), or why it is none. A quoted field
    may span lines; the line is the one where the record begins.

    Raises:
        InputError: the file cannot be read, or its header is none or lacks a column of `needed`.
    """
    reader = csv.reader(raw.decode("utf-8", "surrogateescape") for raw in _open_lines(path))
    header: list[str] = []
    while True:
        where = f"{path}:{reader.line_num + 1}"
        try:
            fields = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            if not header:
                raise InputError(f"{where}: not a csv header: {error}") from None
            yield where, RowError("(all)", "not csv", str(error))
            continue
        if not fields:
            continue
        if not header:
            header = _header(fields, needed, where)
        elif any(map(SURROGATE.search, fields)):
            yield where, RowError("(all)", "not UTF-8")
        elif len(fields) == len(header):
            yield where, dict(zip(header, fields, strict=True))
        else:
            yield where, RowError("(all)", f"expected {len(header)} columns", f"found {len(fields)}")
    if not header:
        raise InputError(f"{path}: empty, without even a header")


def _header(fields: list[str], needed: Sequence[str], where: str) -> list[str]:
    header = [field.strip() for field in fields]
    lacking = [column for column in needed if column not in header]
    if lacking:
        shown = ", ".join(map(repr, header))[:200]
        raise InputError(f"{where}: no column {lacking[0]!r}; the header is {shown}")
    return header


def read_json(path: Path, *, without: Sequence[str] = ()) -> dict[str, Any]:
    """A JSON object. Keys of `without` are left out on the way, which keeps large files small in memory.

    Raises:
        InputError: not readable, not UTF-8, not JSON (with line and column), or not an object.
    """

    def keep(record: dict[str, Any]) -> dict[str, Any]:
        for key in without:
            record.pop(key, None)
        return record

    try:
        content = json.loads(path.read_bytes().removeprefix(_BOM), object_hook=keep if without else None)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not UTF-8") from None
    except json.JSONDecodeError as error:
        raise InputError(f"{path}:{error.lineno}: not JSON: {error.msg}, column {error.colno}") from None
    except (ValueError, RecursionError):
        raise InputError(f"{path}: not JSON that can be read") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: not a JSON object")
    return content


def json_list(content: dict[str, Any], key: str, path: Path) -> list[Any]:
    """A list in a JSON object. Raises InputError when there is none under `key`."""
    value = content.get(key)
    if not isinstance(value, list):
        raise InputError(f"{path}: field {key}: missing, or not a list")
    return value


def text_field(record: object, key: str) -> str:
    """A text in a JSON record. Raises RowError when the record is no object or has none under `key`."""
    value = record.get(key) if isinstance(record, dict) else None
    if not isinstance(value, str) or not value.strip():
        raise RowError(key, "missing or empty")
    return value
