"""Feature files: the vectors of pictures or texts with their ids.

Two forms. Chinese-CLIP's JSON lines, `{"image_id": 3, "feature": [0.1, …]}` or `{"text_id": …}`, and a binary
one that loads without reading it all:

    test_imgs.img_feat.npy        float16 or float32 (n, dim)
    test_imgs.img_feat.ids.json   {"what": "image", "ids": […], "model", "fingerprint", …}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from cnclip.errors import InputError, ModelMismatchError
from cnclip.prediction.arrays import (
    description_path,
    open_array,
    read_description,
    read_ids,
    write_described,
)
from cnclip.prediction.ids import Id, positions

What = Literal["image", "text"]
KIND = "features"
_PIECE = 65_536  # rows written at a time


@dataclass(frozen=True)
class Features:
    """vectors: float (n, dim), possibly mapped from disk; row i is that of `ids[i]`. fingerprint: of the
    model, "" where it is not known."""

    what: What
    ids: list[Id]
    vectors: npt.NDArray[Any]
    model: str = ""
    fingerprint: str = ""
    where: Path | None = None

    @property
    def name(self) -> str:
        """What messages call it."""
        return str(self.where or f"{self.what} features")


def check_one_model(one: Features, other: Features) -> None:
    """Raises ModelMismatchError where two feature files are known to be of different models, InputError
    where their dimensions differ."""
    if one.vectors.shape[1] != other.vectors.shape[1]:
        widths = f"{one.vectors.shape[1]} and {other.vectors.shape[1]}"
        raise InputError(f"{one.name} and {other.name}: {widths} dimensions, so not of one model")
    if one.fingerprint and other.fingerprint and one.fingerprint != other.fingerprint:
        raise ModelMismatchError(
            f"{one.name} is of {one.model or 'a model'} ({one.fingerprint[:12]}), {other.name} of"
            f" {other.model or 'another'} ({other.fingerprint[:12]}): their scores would mean nothing"
        )


def write_npy(
    path: Path,
    features: Features,
    *,
    dtype: npt.DTypeLike = np.float16,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write the binary form. extra: further plain values for the description.

    Raises:
        InputError: it cannot be written.
    """
    rows = range(0, len(features.ids), _PIECE)
    description = {
        "kind": KIND,
        "what": features.what,
        "model": features.model,
        "fingerprint": features.fingerprint,
        **(extra or {}),
        "ids": features.ids,
    }
    shape = (len(features.ids), features.vectors.shape[1])
    pieces = (features.vectors[start : start + _PIECE] for start in rows)
    write_described(path, shape, dtype, pieces, description)


def read_npy(path: Path, what: What) -> Features:
    """Map the binary form.

    Raises:
        InputError: not whole, of the other kind, or ids that do not fit.
    """
    vectors = open_array(path)
    content = read_description(path, KIND)
    where = description_path(path)
    if content is None:
        raise InputError(f"{path}: {where.name} is not beside it")
    if content.get("what") != what:
        raise InputError(
            f"{where}: field what: these are {content.get('what')} features, not {what} features"
        )
    ids = read_ids(content, "ids", where)
    if len(ids) != len(vectors):
        raise InputError(f"{where}: field ids: {len(ids)} for {len(vectors)} rows")
    positions(ids, f"{what}_id", where)
    model, fingerprint = (str(content.get(name) or "") for name in ("model", "fingerprint"))
    return Features(what, ids, vectors, model, fingerprint, path)


def read_features(path: str | Path, what: What) -> Features:
    """Read either form, by its ending.

    Raises:
        InputError: not there, broken (by line and field), an id used twice, or no row.
    """
    from cnclip.prediction.feature_lines import read_jsonl

    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    features = read_npy(path, what) if path.suffix == ".npy" else read_jsonl(path, what)
    if not features.ids:
        raise InputError(f"{path}: holds no features")
    return features
