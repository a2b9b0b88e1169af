"""Other people's datasets, each format in a module of its own, all read into the rows of `rows`.

A format is a function (source, folder of pictures or None) → its splits by name: train, valid, test, or
restval. It raises InputError where it finds none.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from preprocess.datasets.coco import open_coco
from preprocess.datasets.coco_cn import open_coco_cn
from preprocess.datasets.flickr30k import open_flickr30k, open_flickr30k_cn
from preprocess.datasets.huggingface import open_huggingface
from preprocess.datasets.rows import Split
from preprocess.datasets.zerovl import open_zerovl


class Format(NamedTuple):
    """What finds the splits of a dataset, and what that looks for, in a line."""

    open: Callable[[Path, Path | None], dict[str, Split]]
    looks_for: str


FORMATS: dict[str, Format] = {
    "csv": Format(open_zerovl, "{split}_anno.csv with image, image_id, caption, caption_id (ZeroVL)"),
    "coco": Format(open_coco, "annotations/captions_{split}{2014,2017}.json, or dataset_coco.json"),
    "flickr30k": Format(open_flickr30k, "results_20130124.token, results.csv, or dataset_flickr30k.json"),
    "flickr30k-cn": Format(open_flickr30k_cn, "flickr30k_cn_{split}.txt, or seg.flickr30kzh….caption.txt"),
    "coco-cn": Format(open_coco_cn, "coco-cn_{split}.txt and imageid.human-written-caption.txt"),
    "hf": Format(open_huggingface, "metadata.jsonl or .csv with file_name and text, or *.parquet"),
}
