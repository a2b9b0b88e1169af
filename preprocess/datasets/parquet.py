"""Parquet files of pictures and captions, as Hugging Face stores them. Needs pyarrow.

A picture is a column of bytes or of {"bytes", "path"} (huggingface/datasets, features/image.py), its caption
as in `preprocess.datasets.columns`. Rows with one image_id or img_id show one picture, the first of them;
without such a column every row has its own, numbered through the files.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from importlib import import_module
from itertools import accumulate, count
from pathlib import Path
from typing import Any

from cnclip.errors import InputError
from preprocess.datasets.columns import caption_column, captions_of
from preprocess.datasets.rows import Row, RowError

IMAGE_COLUMNS = ("image", "img", "jpg", "png", "picture")
_ID_COLUMNS = ("image_id", "img_id")


def _open(path: Path) -> Any:
    try:
        parquet = import_module("pyarrow.parquet")
    except ImportError:
        raise InputError(f"{path}: parquet files need pyarrow: pip install pyarrow") from None
    try:
        return parquet.ParquetFile(path)
    except (OSError, ValueError) as error:  # all of pyarrow's errors about a file are one of these
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> InputError:
    return InputError(
        f"{path}: not readable as parquet: {str(error).splitlines()[0] if str(error) else error!r}"
    )


def _image_column(columns: Sequence[str], path: Path) -> str:
    for name in IMAGE_COLUMNS:
        if name in columns:
            return name
    known, there = ", ".join(IMAGE_COLUMNS), ", ".join(map(repr, columns))
    raise InputError(f"{path}: no column of pictures ({known}) among {there}")


def parquet_rows(files: Sequence[Path]) -> Iterator[Row]:
    """The captions of parquet files; pictures are named `file#row`, rows counted from 0.

    Raises:
        InputError: no pyarrow, a file that is not parquet, or without a column of captions or pictures.
    """
    names: dict[str, str] = {}  # of the first row of each image_id
    numbers, unnamed = count(), count()
    for path in files:
        file = _open(path)
        columns = file.schema_arrow.names
        _image_column(columns, path)
        text_column = caption_column(columns, str(path))
        id_column = next((column for column in _ID_COLUMNS if column in columns), None)
        wanted = [column for column in (text_column, *_ID_COLUMNS, "caption_id") if column in columns]
        for number, record in enumerate(_records(file, wanted, path)):
            image_id = record[id_column] if id_column else next(unnamed)
            name = names.setdefault(str(image_id), f"{path}#{number}")
            yield from captions_of(record, text_column, image_id, name, f"{path}: row {number}", numbers)


def _records(file: Any, columns: Sequence[str], path: Path) -> Iterator[dict[str, Any]]:
    try:
        for batch in file.iter_batches(columns=list(columns)):
            yield from batch.to_pylist()
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from None


class ParquetPictures:
    """The pictures of parquet files. Reads one group of rows at a time and holds it until another is asked
    for, so that pictures asked for in file order are read once."""

    def __init__(self) -> None:
        self._path = Path()
        self._file: Any = None
        self._ends: list[int] = []  # number of rows up to and with each group
        self._group = -1
        self._images: Any = None  # of the group, as a pyarrow column

    def stamp(self, name: str) -> list[str | int]:
        """Path, size in bytes and time of change in ns of the file."""
        path = Path(name.rpartition("#")[0])
        try:
            info = path.stat()
        except OSError as error:
            raise RowError("image", f"cannot be read: {error.strerror}") from None
        return [str(path), info.st_size, info.st_mtime_ns]

    def load(self, name: str) -> bytes:
        path, _, row = name.rpartition("#")
        try:
            self._turn_to(Path(path), int(row))
            position = int(row) - (self._ends[self._group - 1] if self._group else 0)
            value = self._images[position].as_py()
        except (OSError, ValueError):
            raise RowError("image", "cannot be read from the parquet file") from None
        data = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(data, bytes) or not data:
            raise RowError("image", "holds no bytes")
        return data

    def _turn_to(self, path: Path, row: int) -> None:
        if path != self._path:
            self._file, self._path, self._group = _open(path), path, -1
            groups = range(self._file.metadata.num_row_groups)
            self._ends = list(accumulate(self._file.metadata.row_group(group).num_rows for group in groups))
        group = bisect_right(self._ends, row)
        if group != self._group:
            column = _image_column(self._file.schema_arrow.names, path)
            self._images, self._group = self._file.read_row_group(group, columns=[column]).column(0), group
