"""Records with a column of captions, from whatever file they come."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from itertools import count

from cnclip.errors import InputError
from preprocess.datasets.rows import Caption, Row, number_or_text

CAPTION_COLUMNS = ("text", "caption", "captions", "description", "title", "prompt")


def caption_column(columns: Collection[str], where: str) -> str:
    """The first of `CAPTION_COLUMNS` among these columns. Raises InputError when there is none."""
    for name in CAPTION_COLUMNS:
        if name in columns:
            return name
    known, there = ", ".join(CAPTION_COLUMNS), ", ".join(map(repr, columns))[:200]
    raise InputError(f"{where}: no column of captions ({known}) among {there}")


def captions_of(
    record: Mapping[str, object], column: str, image_id: object, name: str, where: str, numbers: count[int]
) -> Iterator[Row]:
    """The caption of a record, or all of them where it holds a list. Their ids are those of the column
    caption_id, or `numbers` where there is none or a record has several captions."""
    value = record.get(column)
    several = value if isinstance(value, list) and value else None
    for text in several or [value]:
        text_id: object = next(numbers)
        if "caption_id" in record and several is None:
            text_id = record["caption_id"]
            text_id = number_or_text(text_id) if isinstance(text_id, str) else text_id
        yield Caption(text_id, text, image_id, name, where)
