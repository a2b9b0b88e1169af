"""Feature files in Chinese-CLIP's form: `{"image_id": 3, "feature": [0.1, …]}`, one line for each.

The model that made a file is written beside it, `NAME.jsonl.model.json`, together with the size of the file:
a file that somebody replaced is not taken for that model's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cnclip.errors import InputError
from cnclip.model.atomic import replacing
from cnclip.prediction.features import Features, What
from cnclip.prediction.ids import Id, positions
from cnclip.printable import printable

FloatArray = npt.NDArray[np.float32]
_PIECE = 8192  # rows converted at a time


def write_jsonl(path: Path, features: Features, extra: Mapping[str, Any] | None = None) -> None:
    """Write the lines, whole or not at all; numbers as Chinese-CLIP writes them, so that float32 comes back.

    extra: further plain values to keep with the name of the model.

    Raises:
        InputError: it cannot be written.
    """
    beside = model_path(path)
    with suppress(OSError):
        beside.unlink()
    field = f"{features.what}_id"
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for start in range(0, len(features.ids), _PIECE):
            rows = np.asarray(features.vectors[start : start + _PIECE], np.float32).tolist()
            for value, row in zip(features.ids[start : start + _PIECE], rows, strict=True):
                file.write(json.dumps({field: value, "feature": row}) + "\n")
    with replacing(beside) as temporary:
        size = path.stat().st_size
        content = {
            "model": features.model,
            "fingerprint": features.fingerprint,
            **(extra or {}),
            "bytes": size,
        }
        temporary.write_text(json.dumps(content) + "\n", encoding="utf-8")


def read_jsonl(path: Path, what: What) -> Features:
    """Read the lines into float32.

    Raises:
        InputError: a broken line by file, line and field, or an id used twice.
    """
    ids: list[Id] = []
    pieces: list[FloatArray] = []
    piece: list[tuple[int, list[float]]] = []  # with the numbers of their lines
    width = 0
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                value, vector = _parse(line, f"{what}_id", f"{path}:{number}")
                width = width or len(vector)
                if len(vector) != width:
                    raise InputError(f"{path}:{number}: field feature: {len(vector)} numbers, not {width}")
                ids.append(value)
                piece.append((number, vector))
                if len(piece) == _PIECE:
                    pieces.append(_array(piece, path))
                    piece = []
        if piece:
            pieces.append(_array(piece, path))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not UTF-8") from None
    positions(ids, f"{what}_id", path)
    vectors = np.concatenate(pieces) if pieces else np.empty((0, 0), np.float32)
    return Features(what, ids, vectors, *_made_by(path), path)


def _parse(line: str, field: str, where: str) -> tuple[Id, list[float]]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict):
        raise InputError(printable(f"{where}: not a JSON object on one line"))
    value, vector = row.get(field), row.get("feature")
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise InputError(printable(f"{where}: field {field}: missing, or neither a whole number nor text"))
    if not isinstance(vector, list) or not vector:
        raise InputError(printable(f"{where}: field feature: missing, or not a list of numbers"))
    return value, vector


def _array(piece: list[tuple[int, list[float]]], path: Path) -> FloatArray:
    with suppress(ValueError, TypeError, OverflowError):
        array = np.array([vector for _, vector in piece], np.float32)
        if np.isfinite(array).all():
            return array
    if len(piece) == 1:
        raise InputError(f"{path}:{piece[0][0]}: field feature: holds something that is not a finite number")
    for start in range(len(piece)):  # one of them fails
        _array(piece[start : start + 1], path)
    raise AssertionError("rows that are numbers one by one are numbers together")


def model_path(path: Path) -> Path:
    """Where it is written which model made a file."""
    return path.with_name(f"{path.name}.model.json")


def _made_by(path: Path) -> tuple[str, str]:
    """Name and fingerprint of the model, both "" where nobody says."""
    try:
        content = json.loads(model_path(path).read_text(encoding="utf-8"))
        if content["bytes"] != path.stat().st_size:
            return "", ""
        return str(content["model"]), str(content["fingerprint"])
    except (OSError, ValueError, KeyError, TypeError):
        return "", ""
