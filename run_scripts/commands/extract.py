"""`cnclip extract`: features of pictures and texts into files (`cnclip/prediction/extract_cli.py`)."""

from __future__ import annotations

from cnclip.prediction.extract_cli import add_arguments, run

__all__ = ["add_arguments", "run"]
