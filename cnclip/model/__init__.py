"""The towers, and where their weights come from. Importing this package loads no torch."""

from __future__ import annotations

ZOO_PREFIX = "hf:"  # of a tower that is a local Hugging Face folder
