"""`python -m cnclip.training`, also below torchrun: `torchrun --nproc_per_node=8 -m -- cnclip.training …`.

The `--` keeps torchrun from taking `--logs` for an abbreviation of a flag of its own.
"""

from __future__ import annotations

import sys

from cnclip.training.cli import main

sys.exit(main())
