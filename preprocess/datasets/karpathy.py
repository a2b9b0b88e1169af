"""Karpathy's split files: `dataset_coco.json`, `dataset_flickr30k.json`, `dataset_flickr8k.json`.

    {"images": [{"filepath": "val2014", "filename": "COCO_val2014_000000391895.jpg", "cocoid": 391895,
                 "split": "test", "sentences": [{"raw": "A man with a red helmet …", "sentid": 770337}]}]}
Splits: train, restval (COCO only: what is left of val2014; most people train on both), val and test.
Source: karpathy/neuraltalk2, coco/coco_preprocess.ipynb, and mehdidc/retrieval_annotations.
A picture's id is its cocoid, else the stem of its file name, as in the lists of captions of Flickr30k.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from cnclip.data.lmdb_report import none_usable
from cnclip.errors import InputError
from preprocess.datasets.files import SPLIT_NAMES, json_list, read_json, text_field
from preprocess.datasets.rows import Bad, Caption, Picture, PictureFolder, Row, RowError, Split

COCO_FOLDERS = ("train2014", "val2014", "train2017", "val2017")
_NO_SPLIT = ("split", "not one of train, restval, val, test")


def karpathy_file(files: Sequence[Path]) -> Path | None:
    """The split file among annotation files, which must then be the only one: it holds the captions too.

    Raises:
        InputError: there are others beside it.
    """
    found = next((path for path in files if path.name.startswith("dataset_")), None)
    if found and len(files) > 1:
        other = next(path for path in files if path != found)
        raise InputError(f"{found}: its captions are also in {other}; give one of the two files as SOURCE")
    return found


def open_karpathy(path: Path, folders: Sequence[Path]) -> dict[str, Split]:
    """Every split that a file speaks of.

    Raises:
        InputError: the file is no such JSON, or no entry of it is in a split.
    """
    entries: dict[str, list[tuple[int, Any]]] = {}
    for number, entry in enumerate(json_list(read_json(path, without=["tokens"]), "images", path)):
        written = entry.get("split") if isinstance(entry, dict) else None
        entries.setdefault(SPLIT_NAMES.get(str(written), ""), []).append((number, entry))
    homeless = entries.pop("", [])  # in no known split: reported with each of them
    if not entries:
        first = [f"{_where(path, number)}: {RowError(*_NO_SPLIT).reason}" for number, _ in homeless[:1]]
        raise InputError(none_usable(str(path), "picture", len(homeless), first))
    pictures = PictureFolder(*folders)
    return {
        name: Split(str(path), partial(_rows, path, homeless + listed), pictures)
        for name, listed in entries.items()
    }


def _rows(path: Path, entries: Sequence[tuple[int, Any]]) -> Iterator[Row]:
    for number, entry in entries:
        where = _where(path, number)
        try:
            if not isinstance(entry, dict) or str(entry.get("split")) not in SPLIT_NAMES:
                raise RowError(*_NO_SPLIT)
            picture = _picture(entry, where)
        except RowError as error:
            yield Bad(error, where, "picture")
            continue
        yield picture
        sentences = entry.get("sentences")
        if not isinstance(sentences, list):
            yield Bad(RowError("sentences", "missing, or not a list"), where)
            continue
        for position, sentence in enumerate(sentences):
            at = f"{where}.sentences[{position}]"
            record = sentence if isinstance(sentence, dict) else {}
            yield Caption(record.get("sentid"), record.get("raw"), picture.image_id, picture.name, at)


def _where(path: Path, number: int) -> str:
    return f"{path}: images[{number}]"


def _picture(entry: dict[str, Any], where: str) -> Picture:
    name = filename = text_field(entry, "filename")
    folder = entry.get("filepath")
    if isinstance(folder, str) and folder not in COCO_FOLDERS:  # those are looked into anyway
        name = f"{folder}/{filename}"
    return Picture(entry.get("cocoid", PurePosixPath(filename).stem), name, where)


def coco_folders(root: Path) -> list[Path]:
    """Where COCO's pictures lie below a root, however it was unpacked; the root itself comes last."""
    return [*(root / name for name in COCO_FOLDERS), root]
