"""Labels of texts into labels of pictures: X.jsonl into X.tr.jsonl, as Chinese-CLIP's script of this name."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

if __package__ in (None, ""):  # started as a file: let `cnclip` be found
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from cnclip.prediction.scoring_cli import add_transform_flags, run_transform
from cnclip.prediction.scripts import run_script


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the script; returns the exit code."""
    return run_script("transform_ir_annotation_to_tr.py", __doc__, add_transform_flags, run_transform, argv)


if __name__ == "__main__":
    sys.exit(main())
