"""`cnclip build-lmdb`: MUGE tsv + jsonl → LMDB shards (`preprocess/build_lmdb_dataset.py`)."""

from __future__ import annotations

from preprocess.build_lmdb_dataset import add_arguments, run

__all__ = ["add_arguments", "run"]
