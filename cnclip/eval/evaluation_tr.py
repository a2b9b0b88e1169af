"""Recall of predicted texts: GOLD PRED OUT.json, as Chinese-CLIP's script of this name."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

if __package__ in (None, ""):  # started as a file: let `cnclip` be found
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from cnclip.prediction.scoring_cli import add_scoring_arguments, score_pictures
from cnclip.prediction.scripts import run_script


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the script; returns the exit code."""
    return run_script("evaluation_tr.py", __doc__, add_scoring_arguments, score_pictures, argv)


if __name__ == "__main__":
    sys.exit(main())
