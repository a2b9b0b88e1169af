"""Chinese-CLIP's evaluation scripts under their own names, over `cnclip.prediction`.

Each runs as `python -m cnclip.eval.NAME …` and as a file; flags take dashes and underscores.
"""

from __future__ import annotations
