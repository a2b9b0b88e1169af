"""`cnclip convert-dataset`: COCO, Flickr30k, csv or Hugging Face data → LMDB shards
(`preprocess/convert_dataset.py`)."""

from __future__ import annotations

from preprocess.convert_dataset import add_arguments, run

__all__ = ["add_arguments", "run"]
