"""Reading and writing training checkpoints (Chinese-CLIP's dict layout plus what an exact resume needs)."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from cnclip.errors import WeightsError
from cnclip.model.atomic import replacing


def save_checkpoint(path: Path, payload: dict[str, Any]) -> None:
    """Write `payload` (tensors, plain values, containers of them): a kill leaves the old file or the new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        torch.save(payload, temporary)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint without running any code in it. Raises WeightsError naming the file."""
    try:
        payload = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise WeightsError(f"{path}: no such checkpoint") from error
    except pickle.UnpicklingError as error:
        raise WeightsError(f"{path}: holds more than tensors and numbers; refused") from error
    except (RuntimeError, EOFError, OSError, zipfile.BadZipFile, ValueError, KeyError) as error:
        raise WeightsError(f"{path}: truncated or not a checkpoint") from error
    if not isinstance(payload, dict):
        raise WeightsError(f"{path}: not a checkpoint (holds a {type(payload).__name__})")
    return payload
