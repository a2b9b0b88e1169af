"""Training checkpoints: written whole, read without running any code in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from cnclip.errors import WeightsError
from cnclip.model.atomic import replacing
from cnclip.model.checkpoint_files import torch_load


def save_checkpoint(path: Path, payload: dict[str, Any]) -> None:
    """Write `payload` (tensors, plain values, containers of them): a kill leaves the old file or the new."""
    with replacing(path) as temporary:
        torch.save(payload, temporary)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint. Raises WeightsError naming the file: truncated, unsafe, or not a dict."""
    payload = torch_load(path)
    if not isinstance(payload, dict):
        raise WeightsError(f"{path}: not a checkpoint (holds a {type(payload).__name__})")
    return payload
