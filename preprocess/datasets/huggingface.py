"""A Hugging Face dataset on disk: folders of pictures with metadata, or parquet files.

    train/metadata.jsonl       {"file_name": "0001.png", "text": "红色连衣裙"}, or metadata.csv with a header
    train/0001.png             file_name is relative to the metadata file
    data/train-00000-of-00002.parquet, train/0000.parquet   (see `preprocess.datasets.parquet`)
Metadata may also be in data/{split}/, in data/ or at the root: there a picture is of the split whose folder
its file_name begins with, else of train. Where there is metadata, parquet files are not read.
Source: huggingface/datasets, "Create an image dataset", and huggingface/hub-docs, "File names and splits".
Assumed: captions are in a column of `preprocess.datasets.columns`; a picture's id is its image_id, or its
file_name where there is no such column.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from itertools import count
from pathlib import Path, PurePosixPath
from typing import Any

from cnclip.errors import InputError
from preprocess.datasets.columns import caption_column, captions_of
from preprocess.datasets.files import SPLIT_NAMES, find, lines, records, split_of, text_field
from preprocess.datasets.parquet import ParquetPictures, parquet_rows
from preprocess.datasets.rows import Bad, PictureFolder, Row, RowError, Split


def open_huggingface(source: Path, images: Path | None) -> dict[str, Split]:
    """SOURCE: the dataset's folder, or one metadata or parquet file; IMAGES: what file_name is relative to.

    Raises:
        InputError: neither is there, or two metadata files speak of one split.
    """
    globs = [f"{depth}{name}" for name in ("metadata.*", "*.parquet") for depth in ("", "*/", "*/*/")]
    files = find(source, globs, r"metadata\.(jsonl|csv)|.+\.parquet")
    root = source if source.is_dir() else source.parent
    if metadata := [path for path in files if path.suffix != ".parquet"]:
        return _metadata_splits(metadata, root, images)
    of_split: dict[str, list[Path]] = {}
    for path in files:
        of_split.setdefault(_split_of_path(path.relative_to(root)), []).append(path)
    return {
        name: Split(str(paths[0]), partial(parquet_rows, paths), ParquetPictures())
        for name, paths in of_split.items()
    }


def _split_of_path(path: Path) -> str:
    folder = next((SPLIT_NAMES[part] for part in reversed(path.parts[:-1]) if part in SPLIT_NAMES), None)
    return folder or split_of(path.name)


def _metadata_splits(files: list[Path], root: Path, images: Path | None) -> dict[str, Split]:
    splits: dict[str, Split] = {}
    for path in files:
        pictures = PictureFolder(images or root)
        folder = "." if images else path.parent.relative_to(root).as_posix()
        own = SPLIT_NAMES.get(path.parent.name) if path.parent != root else None
        for name in [own] if own else _split_folders(path.parent):
            if name in splits:
                raise InputError(
                    f"{path}: {name} is also in {splits[name].label}; give one of them as SOURCE"
                )
            only = None if own else name
            splits[name] = Split(str(path), partial(_rows, path, folder, only), pictures)
    return splits


def _split_folders(folder: Path) -> list[str]:
    """The splits of a metadata file that is not in the folder of one."""
    names = {
        SPLIT_NAMES[path.name] for path in folder.iterdir() if path.name in SPLIT_NAMES and path.is_dir()
    }
    return sorted({"train", *names})


def _rows(path: Path, folder: str, only: str | None) -> Iterator[Row]:
    """The captions of a metadata file; with `only`, those of pictures in the folder of that split."""
    numbers, column = count(), ""
    for where, record in records(path, ["file_name"]) if path.suffix == ".csv" else _json_lines(path):
        try:
            if isinstance(record, RowError):
                raise record
            name = text_field(record, "file_name").strip()
        except RowError as error:
            yield Bad(error, where)
            continue
        if only and SPLIT_NAMES.get(next(iter(PurePosixPath(name).parts), ""), "train") != only:
            continue
        column = column or caption_column(record, where)
        image_id = record.get("image_id", name)
        yield from captions_of(record, column, image_id, f"{folder}/{name}", where, numbers)


def _json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any] | RowError]]:
    for where, line in lines(path):
        if isinstance(line, RowError):
            yield where, line
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        if isinstance(record, dict):
            yield where, record
        else:
            yield where, RowError("(all)", "not a JSON object on one line")
