"""ZeroVL: `{split}_anno.csv` with the columns image, image_id, caption, caption_id.

    coco/train_anno.csv, coco/valid_anno.csv      one row for each caption; pictures repeat
    coco/train/289333.jpg, coco/valid/82935.jpg   what the column `image` is relative to
Source: zerovl/ZeroVL, PRETRAINING.md, sections 1.1 and 1.2, and data/coco/train_anno.csv.
Assumed: where there is no column image_id (its training does not read it), a picture's path is its id; where
there is no caption_id, captions are numbered in file order.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from preprocess.datasets.files import find, one_each, records
from preprocess.datasets.rows import Bad, Caption, PictureFolder, Row, RowError, Split, number_or_text


def open_zerovl(source: Path, images: Path | None) -> dict[str, Split]:
    """SOURCE: a folder with `*_anno.csv`, or one csv file; a split's pictures: IMAGES/{split}, IMAGES, or the
    same beside the csv file."""
    files = one_each(find(source, ["*.csv"], r"\w+_anno\.csv"))
    splits = {}
    for name, path in files.items():
        root = images or path.parent
        splits[name] = Split(str(path), partial(_rows, path), PictureFolder(root / name, root))
    return splits


def _rows(path: Path) -> Iterator[Row]:
    for number, (where, record) in enumerate(records(path, ["image", "caption"])):
        if isinstance(record, RowError):
            yield Bad(record, where)
            continue
        name = record["image"].strip()
        text_id = number_or_text(record["caption_id"]) if "caption_id" in record else number
        yield Caption(text_id, record["caption"], record.get("image_id", name), name, where)
