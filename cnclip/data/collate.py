"""Rows → one dict batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def collate(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Turn rows `{image, text, image_id, text_id}` into one dict of the same keys.

    Pictures that a transform has made into arrays of one shape are stacked into (B, …), dtype kept; anything
    else stays a list of length B. `torch.from_numpy` takes the stack without a copy.
    """
    batch: dict[str, Any] = {key: [row[key] for row in rows] for key in rows[0]} if rows else {}
    images = batch.get("image", [])
    if images and all(isinstance(image, np.ndarray) for image in images):
        batch["image"] = np.stack(images)
    return batch
