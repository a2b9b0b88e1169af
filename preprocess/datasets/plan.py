"""The plan of a split: its annotations, checked, as the two files that the LMDB builder reads.

    {split}_imgs.jsonl    {"id": "42", "name": "42.jpg", "stamp": […], "where": "annotations.csv:7"}
    {split}_texts.jsonl   {"id": 7, "text": "…", "image_ids": ["42"], "where": "annotations.csv:7"}
Rows that are left out are there too, {"bad": reason, "detail": …, "where": …}, so that the builder counts
and reports all of them. A plan holds no picture, only what finds it and a stamp of the file as it was: the
same annotations and pictures give the same plan, byte for byte, and a killed build is taken up by that.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from cnclip.data.lmdb_build import SplitSource
from cnclip.data.lmdb_report import none_usable
from cnclip.data.muge import BadRow, ImageRow, TextRow, id_problem
from cnclip.errors import InputError
from preprocess.datasets.rows import SURROGATE, Bad, Caption, Picture, Pictures, Row, RowError, Split

_INT64 = range(-(2**63), 2**63)


def write_plan(split: Split, name: str, folder: Path, *, strict: bool = False) -> SplitSource:
    """Read the annotations of a split and write its plan into `folder`.

    Raises:
        InputError: an annotation file that cannot be read at all, or that lists no picture that is there;
            with `strict`, the first broken row.
    """
    folder.mkdir(parents=True, exist_ok=True)
    images, texts = folder / f"{name}_imgs.jsonl", folder / f"{name}_texts.jsonl"
    with ExitStack() as files:
        plan = _Plan(
            files.enter_context(images.open("w", encoding="ascii")),
            files.enter_context(texts.open("w", encoding="ascii")),
            split.pictures,
            strict,
        )
        for row in split.rows():
            plan.add(row)
    if not plan.pictures:
        raise InputError(none_usable(split.label, "picture", plan.rows, plan.problems))
    scan = partial(scan_images, split.pictures)
    return SplitSource(images, texts, scan, scan_texts, split.label, needs_texts=True)


class _Plan:
    def __init__(self, images: TextIO, texts: TextIO, pictures: Pictures, strict: bool) -> None:
        self._images, self._texts, self._found, self._strict = images, texts, pictures, strict
        self.rows = self.pictures = 0  # read; listed
        self.problems: list[str] = []  # the first one
        self._names: dict[str, str] = {}  # of every picture listed so far, by id

    def add(self, row: Row) -> None:
        self.rows += 1
        if isinstance(row, Bad):
            self._bad(self._images if row.kind == "picture" else self._texts, row.error, row.where)
            return
        try:
            key = self._picture(row)
            if isinstance(row, Caption):
                text_id, text = _checked_text(row)
                _write(self._texts, id=text_id, text=text, image_ids=[key], where=row.where)
        except RowError as error:
            self._bad(self._images if isinstance(row, Picture) else self._texts, error, row.where)

    def _picture(self, row: Picture | Caption) -> str:
        """The id of a row's picture, which is listed if it is new."""
        key = _checked_image_id(row.image_id)
        if key not in self._names:
            self._names[key] = row.name
            try:
                stamp = self._found.stamp(row.name)
            except RowError as error:
                self._bad(self._images, error, row.where)
            else:
                _write(self._images, id=key, name=row.name, stamp=stamp, where=row.where)
                self.pictures += 1
        elif self._names[key] != row.name:
            raise RowError("image_id", "used by an earlier row for another picture", repr(key))
        return key

    def _bad(self, file: TextIO, error: RowError, where: str) -> None:
        message = _message(where, error.reason, error.detail)
        if self._strict:
            raise InputError(message)
        self.problems = self.problems or [message]
        _write(file, bad=error.reason, detail=error.detail, where=where)


def _write(file: TextIO, **values: object) -> None:
    file.write(json.dumps(values) + "\n")


def _message(where: str, reason: str, detail: str) -> str:
    return f"{where}: {reason}" + (f" ({detail})" if detail else "")


def _checked_image_id(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise RowError("image_id", "missing, or neither a whole number nor text")
    key = str(value).strip()
    if why := id_problem(key) or _surrogate(key):
        raise RowError("image_id", why)
    return key


def _checked_text(row: Caption) -> tuple[int | str, str]:
    text_id, text = row.text_id, row.text
    if isinstance(text_id, bool) or not isinstance(text_id, int | str) or text_id == "":
        raise RowError("text_id", "missing, or neither a whole number nor text")
    if isinstance(text_id, int) and text_id not in _INT64:
        raise RowError("text_id", "does not fit 64 bits")
    if not isinstance(text, str) or not text.strip():
        raise RowError("text", "missing or empty")
    if why := _surrogate(f"{text_id}{text}"):
        raise RowError("text", why)
    return text_id, " ".join(text.split())


def _surrogate(text: str) -> str | None:
    return "half of a surrogate pair" if SURROGATE.search(text) else None


def _lines(path: Path, offset: int, line: int) -> Iterator[tuple[dict[str, Any], int, int]]:
    """(entry, line, file offset after it) of every line after byte `offset` and line `line`."""
    with path.open("rb") as file:
        file.seek(offset)
        for raw in file:
            line, offset = line + 1, offset + len(raw)
            yield json.loads(raw), line, offset


def _bad_row(entry: dict[str, Any], reason: str, detail: str, line: int, end: int) -> BadRow:
    return BadRow(reason, _message(entry["where"], reason, detail), line, end)


def scan_images(
    pictures: Pictures, path: Path, *, offset: int = 0, line: int = 0
) -> Iterator[ImageRow | BadRow]:
    """The pictures of a plan with their bytes, as `cnclip.data.muge.scan_images` does for a tsv file."""
    for entry, number, end in _lines(path, offset, line):
        if "bad" in entry:
            yield _bad_row(entry, entry["bad"], entry["detail"], number, end)
            continue
        try:
            data = pictures.load(entry["name"])
        except RowError as error:
            yield _bad_row(entry, error.reason, error.detail, number, end)
        else:
            yield ImageRow(entry["id"], data, number, end, entry["where"])


def scan_texts(path: Path) -> Iterator[TextRow | BadRow]:
    """The texts of a plan, as `cnclip.data.muge.scan_texts` does for a jsonl file."""
    for entry, number, end in _lines(path, 0, 0):
        if "bad" in entry:
            yield _bad_row(entry, entry["bad"], entry["detail"], number, end)
        else:
            yield TextRow(entry["id"], entry["text"], entry["image_ids"], number, entry["where"])
