"""Checkpoints in Chinese-CLIP's dict layout plus what an exact resume needs; written aside and renamed."""

from __future__ import annotations

import contextlib
import os
import pickle
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import torch

from cnclip.errors import WeightsError


def save_checkpoint(path: Path, payload: dict[str, Any]) -> None:
    """Write `payload` (tensors, numbers, strings, containers of them) so that a kill leaves old or new, whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            torch.save(payload, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(partial)
        raise


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

