"""The best texts of each picture from feature files, as Chinese-CLIP's script of this name."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

if __package__ in (None, ""):  # started as a file: let `cnclip` be found
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from cnclip.prediction.scripts import run_script
from cnclip.prediction.topk_cli import add_image_flags, run


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the script; returns the exit code."""
    return run_script("make_topk_predictions_tr.py", __doc__, add_image_flags, run, argv)


if __name__ == "__main__":
    sys.exit(main())
