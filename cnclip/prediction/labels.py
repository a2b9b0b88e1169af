"""Files of queries with items: labels and predictions, in any of the schemas, row by row with what is wrong.

{"text_id": 7, "image_ids": [3, 5]}    Chinese-CLIP, text to picture
{"query_id": 7, "item_ids": [3, 5]}    Online-CNCLIP and MUGE, the same
{"image_id": 3, "text_ids": [7]}       Chinese-CLIP, picture to text
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from cnclip.errors import InputError
from cnclip.prediction.ids import Id
from cnclip.printable import printable

Direction = Literal["text-to-image", "image-to-text"]
FIELDS: dict[Direction, tuple[tuple[str, str], ...]] = {
    "text-to-image": (("text_id", "image_ids"), ("query_id", "item_ids")),
    "image-to-text": (("image_id", "text_ids"),),
}


class Row(NamedTuple):
    """One query and its items, with the names of the two fields and the line (from 1)."""

    query: Id
    items: list[Id]
    fields: tuple[str, str]
    line: int


class Problem(NamedTuple):
    """A broken row as `file:line: field F: why`."""

    message: str


def scan_rows(path: str | Path, direction: Direction) -> Iterator[Row | Problem]:
    """Every row of a file, good and broken alike; empty lines are skipped.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        with Path(path).open("rb") as file:
            for number, raw in enumerate(file, 1):
                if number == 1:
                    raw = raw.removeprefix(b"\xef\xbb\xbf")
                if raw.strip():
                    row = _parse(raw, FIELDS[direction], number)
                    yield Problem(printable(f"{path}:{number}: {row}")) if isinstance(row, str) else row
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None


def _parse(raw: bytes, schemas: tuple[tuple[str, str], ...], line: int) -> Row | str:
    """The row, or `field F: why` it is none."""
    try:
        row = json.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError):  # UnicodeDecodeError is a ValueError
        row = None
    if not isinstance(row, dict):
        return "not a JSON object on one line, in UTF-8"
    fields = next((pair for pair in schemas if pair[0] in row), None)
    if fields is None:
        return f"field {' or '.join(one for one, _ in schemas)}: missing"
    one, many = fields
    if not _is_id(row[one]):
        return f"field {one}: {row[one]!r} is neither a whole number nor text"
    if many not in row:
        return f"field {many}: missing"
    items = row[many]
    if not isinstance(items, list):
        return f"field {many}: not a list"
    wrong = [rank for rank, item in enumerate(items, 1) if not _is_id(item)]
    if wrong:
        return f"field {many}: item {wrong[0]} is neither a whole number nor text"
    return Row(row[one], items, fields, line)


def _is_id(value: object) -> bool:
    return isinstance(value, int | str) and not isinstance(value, bool)


def good_rows(path: str | Path, direction: Direction) -> Iterator[Row]:
    """The rows of a file. Raises InputError at the first broken one, or where the file cannot be read."""
    for row in scan_rows(path, direction):
        if isinstance(row, Problem):
            raise InputError(row.message)
        yield row


def read_labels(path: str | Path, direction: Direction = "text-to-image") -> dict[str, list[str]]:
    """For each query its items, as text; the items of queries listed twice together.

    Raises:
        InputError: the file cannot be read, or a row is broken.
    """
    labels: dict[str, list[str]] = {}
    for row in good_rows(path, direction):
        labels.setdefault(str(row.query), []).extend(map(str, row.items))
    return labels


def transpose_labels(path: str | Path) -> dict[Id, list[Id]]:
    """From "pictures of each text" to "texts of each picture", in the order in which pictures turn up.

    Raises:
        InputError: the file cannot be read, or a row is broken.
    """
    texts: dict[Id, list[Id]] = {}
    for row in good_rows(path, "text-to-image"):
        for item in dict.fromkeys(row.items):
            texts.setdefault(item, []).append(row.query)
    return texts
