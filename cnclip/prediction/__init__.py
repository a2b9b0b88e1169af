"""Models into files that others score: features, score matrices, ensembles, top-k predictions."""

from __future__ import annotations
