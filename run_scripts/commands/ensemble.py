"""`cnclip ensemble fit`: weights learnt on a labelled split (`cnclip/prediction/fit_cli.py`)."""

from __future__ import annotations

from cnclip.prediction.fit_cli import add_arguments, run

__all__ = ["add_arguments", "run"]
