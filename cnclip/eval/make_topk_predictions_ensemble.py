"""An ensemble of saved score matrices, as Online-CNCLIP's script of this name, for any number of them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

if __package__ in (None, ""):  # started as a file: let `cnclip` be found
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from cnclip.prediction.scripts import run_script
from cnclip.prediction.topk_cli import add_ensemble_flags, run_ensemble


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the script; returns the exit code."""
    return run_script("make_topk_predictions_ensemble.py", __doc__, add_ensemble_flags, run_ensemble, argv)


if __name__ == "__main__":
    sys.exit(main())
