"""`cnclip train`: train or fine-tune a model on LMDB shards (`cnclip/training/cli.py`)."""

from __future__ import annotations

from cnclip.training.cli import add_arguments, run

__all__ = ["add_arguments", "run"]
