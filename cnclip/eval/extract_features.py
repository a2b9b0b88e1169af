"""Features of pictures and texts into files, as Chinese-CLIP's script of this name; also `cnclip extract`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

if __package__ in (None, ""):  # started as a file: let `cnclip` be found
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from cnclip.prediction.extract_cli import add_arguments, run
from cnclip.prediction.scripts import run_script


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the script; returns the exit code."""
    return run_script("extract_features.py", __doc__, add_arguments, run, argv)


if __name__ == "__main__":
    sys.exit(main())
