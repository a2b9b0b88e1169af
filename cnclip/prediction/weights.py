"""The weights of an ensemble: given, equal, Online-CNCLIP's eight, or a file of `cnclip ensemble fit`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cnclip.errors import InputError
from cnclip.model.atomic import replacing
from cnclip.prediction.ensemble import check_weights
from cnclip.prediction.normalise import NORMALIZATIONS, Normalize

SCHEMA = 1
# leolee99/Online-CNCLIP, src/eval/make_topk_predictions_ensemble.py
REFERENCE = tuple(w / 8 for w in (0.5, 0.5, 0.5, 0.5, 0.5, 1.25, 0.75, 0.7))


@dataclass(frozen=True)
class FileMember:
    """A model that weights were learnt for. weight: 0 where it did not help."""

    model: str
    fingerprint: str
    weight: float


@dataclass(frozen=True)
class WeightsFile:
    """What a weights file says. details: what was measured, for people."""

    members: list[FileMember]
    normalize: Normalize
    details: Mapping[str, Any] = field(default_factory=dict)
    path: Path | None = None

    def weight_of(self, model: str, fingerprint: str) -> float:
        """The weight of a model. Raises InputError where the file knows nothing of it."""
        for member in self.members:
            if member.fingerprint == fingerprint:
                return member.weight
        known = ", ".join(f"{m.model} ({m.fingerprint[:12]})" for m in self.members)
        raise InputError(f"{self.path}: has no weight for {model} ({fingerprint[:12]}), only for {known}")

    def check_complete(self, fingerprints: Sequence[str]) -> None:
        """Raises InputError where a model with a weight above 0 is not among these."""
        lacking = [m.model for m in self.members if m.weight > 0 and m.fingerprint not in fingerprints]
        if lacking:
            raise InputError(f"{self.path}: needs {', '.join(lacking)}, not among the models given")


Weights = list[float] | WeightsFile | None
"""In the order of the models; by model; None: equal."""


def parse_weights(text: str | None) -> Weights:
    """What `--weights` says: nothing or "equal", "reference", numbers with commas between, or a file.

    Raises:
        InputError: none of these, or a broken file.
    """
    if text is None or text == "equal":
        return None
    if text == "reference":
        return list(REFERENCE)
    try:
        return [float(number) for number in text.split(",")]
    except ValueError:
        pass
    path = Path(text)
    if not path.is_file():
        raise InputError(f"--weights: {text!r} is not equal, reference, numbers like 0.5,0.5 or a file")
    return read_weights(path)


def numbers(weights: list[float] | None, n_members: int) -> list[float]:
    """Weights by position for so many members.

    Raises:
        InputError: another number of them, or values that cannot be weights.
    """
    values = [1.0 / n_members] * n_members if weights is None else weights
    if len(values) == len(REFERENCE) != n_members and values == list(REFERENCE):
        raise InputError(f"--weights reference: is for {len(REFERENCE)} members, not {n_members}")
    try:
        check_weights(values, n_members)
    except InputError as error:
        raise InputError(f"--{error}") from None
    return values


def write_weights(path: Path, weights: WeightsFile) -> None:
    """Write a weights file. Raises InputError where it cannot be written."""
    content = {
        "schema": SCHEMA,
        "normalize": weights.normalize,
        "members": [vars(member) for member in weights.members],
        **weights.details,
    }
    with replacing(path) as temporary:
        text = json.dumps(content, ensure_ascii=False, indent=2)
        temporary.write_text(text + "\n", encoding="utf-8")


def read_weights(path: Path) -> WeightsFile:
    """Read a weights file.

    Raises:
        InputError: not one, by field.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        content = None
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise InputError(f"{path}: not a weights file of cnclip ensemble fit")
    if content.get("normalize") not in NORMALIZATIONS:
        raise InputError(f"{path}: field normalize: not one of {', '.join(NORMALIZATIONS)}")
    rows = content.get("members")
    members = []
    for row in rows if isinstance(rows, list) else []:
        try:
            members.append(FileMember(str(row["model"]), str(row["fingerprint"]), float(row["weight"])))
        except (KeyError, TypeError, ValueError):
            raise InputError(f"{path}: field members: {row!r} lacks model, fingerprint or weight") from None
    try:
        check_weights([member.weight for member in members], len(members))
    except InputError as error:
        raise InputError(f"{path}: field members: {error}") from None
    known = {"schema", "normalize", "members"}
    details = {name: value for name, value in content.items() if name not in known}
    return WeightsFile(members, content["normalize"], details, path)
