"""The MUGE layout: `{split}_imgs.tsv` (`image_id<TAB>base64`) and `{split}_texts.jsonl`
(`{"text_id", "text", "image_ids"}`), as Chinese-CLIP reads it.

Files are streamed and every row is checked. A broken row becomes one line, `file:line: field F: why`, which
is either raised as `InputError` or handed to `on_error`, after which reading goes on.
"""

from __future__ import annotations

import binascii
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeVar

from cnclip.errors import InputError
from cnclip.printable import printable

OnError = Callable[[str], None]

MAX_ID_LENGTH = 512

_URL_SAFE_TO_STANDARD = bytes.maketrans(b"-_", b"+/")
_BOM = b"\xef\xbb\xbf"
_INT64 = range(-(2**63), 2**63)


class ImageRow(NamedTuple):
    """One picture: id, encoded bytes (JPEG, PNG, …), line (from 1) and file offset after it. `where` is what
    messages call the row if that is not the line of the file that is read."""

    image_id: str
    data: bytes
    line: int
    end: int = 0
    where: str = ""


class TextRow(NamedTuple):
    """One text with the ids of every picture that satisfies it (empty where a split has no labels). `where`
    as in `ImageRow`."""

    text_id: int | str
    text: str
    image_ids: list[str]
    line: int = 0
    where: str = ""


class BadRow(NamedTuple):
    """A row that could not be read. `reason` is `field F: why`; `message` adds file and line."""

    reason: str
    message: str
    line: int
    end: int


class _RowError(Exception):
    """Why a row is broken, as `field F: why`, before file and line are known."""

    def __init__(self, field: str, why: str) -> None:
        super().__init__(f"field {field}: {why}")


_Row = TypeVar("_Row", ImageRow, TextRow)


def decode_base64(value: bytes) -> bytes:
    """Decode base64 in the standard or the URL-safe alphabet, with or without padding.

    Raises:
        ValueError: characters outside both alphabets, an impossible length, or nothing at all.
    """
    stripped = value.strip().rstrip(b"=").translate(_URL_SAFE_TO_STANDARD)
    if not stripped:
        raise ValueError("empty")
    if len(stripped) % 4 == 1:
        raise ValueError("not base64 (impossible length)")
    padding = -len(stripped) % 4
    try:
        decoded = binascii.a2b_base64(stripped + b"=" * padding)
    except binascii.Error:
        raise ValueError("not base64") from None
    # a2b_base64 skips foreign characters; `strict_mode` needs Python 3.11. The length gives them away.
    if len(decoded) != (len(stripped) + padding) // 4 * 3 - padding:
        raise ValueError("not base64 (a character outside the alphabet)")
    return decoded


def id_problem(image_id: str) -> str | None:
    """Why a text cannot be the id of a picture, or None. Split files and galleries share this rule."""
    if not image_id:
        return "empty"
    if len(image_id) > MAX_ID_LENGTH:
        return f"longer than {MAX_ID_LENGTH} characters"
    if any(ord(character) < 32 or ord(character) == 127 for character in image_id):
        return "holds a control character"
    return None


def image_key(value: object) -> str:
    """The id of a picture as text: ids are compared as text everywhere, so 7 and "7" are one picture."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise _RowError("image_ids", "an id must be a whole number or text")
    key = str(value).strip()
    if not key:
        raise _RowError("image_ids", "an id is empty")
    return key


def _parse_image(raw: bytes, line: int, end: int) -> ImageRow:
    columns = raw.split(b"\t")
    if len(columns) != 2:
        raise _RowError("image", f"expected image_id<TAB>base64, found {len(columns)} column(s)")
    try:
        image_id = columns[0].decode("utf-8").strip()
    except UnicodeDecodeError:
        raise _RowError("image_id", "not UTF-8") from None
    if why := id_problem(image_id):
        raise _RowError("image_id", why)
    try:
        return ImageRow(image_id, decode_base64(columns[1]), line, end)
    except ValueError as error:
        raise _RowError("image", str(error)) from None


def _parse_text(raw: bytes, line: int, end: int) -> TextRow:  # noqa: ARG001 (same shape as _parse_image)
    try:
        row = json.loads(raw.decode("utf-8"))
    except UnicodeDecodeError:
        raise _RowError("text", "not UTF-8") from None
    except (ValueError, RecursionError):
        raise _RowError("(all)", "not a JSON object on one line") from None
    if not isinstance(row, dict):
        raise _RowError("(all)", "not a JSON object on one line")
    text_id, text, image_ids = row.get("text_id"), row.get("text"), row.get("image_ids", [])
    if isinstance(text_id, bool) or not isinstance(text_id, int | str):
        raise _RowError("text_id", "missing, or neither a whole number nor text")
    if isinstance(text_id, int) and text_id not in _INT64:
        raise _RowError("text_id", "does not fit 64 bits")
    if not isinstance(text, str) or not text.strip():
        raise _RowError("text", "missing or empty")
    if not isinstance(image_ids, list):
        raise _RowError("image_ids", "not a list")
    keys = list(dict.fromkeys(image_key(value) for value in image_ids))
    try:
        "".join([str(text_id), text, *keys]).encode("utf-8")
    except UnicodeEncodeError:
        raise _RowError("text", "half of a surrogate pair") from None
    return TextRow(text_id, text, keys, line)


def _scan(
    path: str | Path, parse: Callable[[bytes, int, int], _Row], file: BinaryIO, line: int
) -> Iterator[_Row | BadRow]:
    end = file.tell()
    for raw in file:
        line, end = line + 1, end + len(raw)
        if line == 1:
            raw = raw.removeprefix(_BOM)
        raw = raw.rstrip(b"\r\n")
        if not raw.strip():
            continue
        try:
            yield parse(raw, line, end)
        except _RowError as error:
            yield BadRow(str(error), printable(f"{path}:{line}: {error}"), line, end)


def _open(path: str | Path) -> BinaryIO:
    try:
        return Path(path).open("rb")
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None


def scan_images(path: str | Path, *, offset: int = 0, line: int = 0) -> Iterator[ImageRow | BadRow]:
    """Stream a `*_imgs.tsv`, good and broken rows alike, from the row after byte `offset` and line `line`."""
    with _open(path) as file:
        file.seek(offset)
        yield from _scan(path, _parse_image, file, line)


def scan_texts(path: str | Path) -> Iterator[TextRow | BadRow]:
    """Stream a `*_texts.jsonl`, good and broken rows alike."""
    with _open(path) as file:
        yield from _scan(path, _parse_text, file, 0)


def _good(rows: Iterator[_Row | BadRow], on_error: OnError | None) -> Iterator[_Row]:
    for row in rows:
        if not isinstance(row, BadRow):
            yield row
        elif on_error is None:
            raise InputError(row.message)
        else:
            on_error(row.message)


def iter_images(path: str | Path, on_error: OnError | None = None) -> Iterator[ImageRow]:
    """Stream the pictures of a `*_imgs.tsv` in file order.

    Args:
        path: the file; base64 in either alphabet, padded or not. Empty lines are skipped.
        on_error: receives `file:line: field F: why` for each broken row; without it the first one raises.

    Raises:
        InputError: the file cannot be read, or a row is broken and there is no `on_error`.
    """
    return _good(scan_images(path), on_error)


def read_texts(path: str | Path, on_error: OnError | None = None) -> list[TextRow]:
    """Read a `*_texts.jsonl` in file order; ids of pictures become text, repeated ones are listed once.

    A missing `image_ids` counts as empty (a test split without labels). Raises as `iter_images` does.
    """
    return list(_good(scan_texts(path), on_error))
