"""COCO captions of 2014 and 2017, and their Karpathy splits.

    annotations/captions_train2014.json, captions_val2017.json, …   or coco_test_karpathy.json, …, or
    dataset_coco.json (see `preprocess.datasets.karpathy`)
    train2014/COCO_train2014_000000000009.jpg, val2017/000000000139.jpg
    {"images": [{"id": 391895, "file_name": "COCO_val2014_000000391895.jpg"}],
     "annotations": [{"id": 770337, "image_id": 391895, "caption": "A man with a red helmet …"}]}
Sources: the COCO data format (cocodataset.org/#format-data); mehdidc/retrieval_annotations,
build_coco_splits.py. Ids stay: a picture and its captions have the same ids here and in the split file.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from preprocess.datasets.files import find, json_list, one_each, read_json, text_field
from preprocess.datasets.karpathy import coco_folders, karpathy_file, open_karpathy
from preprocess.datasets.rows import Bad, Caption, Picture, PictureFolder, Row, RowError, Split

_KNOWN = r"captions_(train|val)\d{4}\.json|coco_(train|val|test)_karpathy\.json|dataset_coco\.json"


def open_coco(source: Path, images: Path | None) -> dict[str, Split]:
    """SOURCE: COCO's root, its `annotations`, or one JSON file; IMAGES: what holds `train2014` and so on."""
    files = find(source, ["*.json", "annotations/*.json"], _KNOWN)
    base = files[0].parent
    folders = coco_folders(images or (base.parent if base.name == "annotations" else base))
    if path := karpathy_file(files):
        return open_karpathy(path, folders)
    return {
        name: Split(str(path), partial(_rows, path), PictureFolder(*folders))
        for name, path in one_each(files).items()
    }


def _rows(path: Path) -> Iterator[Row]:
    content = read_json(path)
    names: dict[str, str] = {}
    for number, entry in enumerate(json_list(content, "images", path)):
        where = f"{path}: images[{number}]"
        try:
            name = text_field(entry, "file_name")
        except RowError as error:
            yield Bad(error, where, "picture")
            continue
        yield Picture(entry.get("id"), name, where)
        names.setdefault(str(entry.get("id")), name)
    for number, entry in enumerate(json_list(content, "annotations", path)):
        where = f"{path}: annotations[{number}]"
        record = entry if isinstance(entry, dict) else {}
        image_id = record.get("image_id")
        if str(image_id) in names:
            caption = record.get("caption")
            yield Caption(record.get("id"), caption, image_id, names[str(image_id)], where)
        else:
            yield Bad(RowError("image_id", "names no entry of images", repr(image_id)[:80]), where)
