"""What prediction-time learning needs to go on after a kill, exactly.

state.json   after every round: how many there have been, and what they have cost
state.pt     after every round that was kept: the same, and the weights with the moments of the steps
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from cnclip.errors import InputError
from cnclip.model.atomic import replacing
from cnclip.model.dual_encoder import DualEncoder
from cnclip.training.optim import build_optimizer


@dataclass
class Progress:
    """rounds: done. kept: of these, the last one whose weights were kept, from 1; 0: none. steps: taken by
    kept rounds. balance, pace: see `cnclip.online.round.OnlineRound`."""

    rounds: int = 0
    kept: int = 0
    steps: int = 0
    balance: dict[str, float] = field(default_factory=dict)
    pace: float = 1.0


@dataclass(frozen=True)
class OnlineState:
    """The files of one run. made_from: plain values; what was made from others is not gone on with."""

    folder: Path
    made_from: Mapping[str, Any]

    def save(
        self, progress: Progress, model: DualEncoder | None, optimizer: torch.optim.Optimizer | None
    ) -> None:
        """Remember a round. model: only if its weights are new.

        Raises:
            InputError: the folder cannot be written.
        """
        content = {"made_from": dict(self.made_from), **asdict(progress)}
        if model is not None:
            tensors = {"weights": model.state_dict(), "moments": _moments(model, optimizer)}
            with replacing(self.folder / "state.pt") as temporary:
                torch.save({**tensors, "state": json.dumps(content)}, temporary)
        with replacing(self.folder / "state.json") as temporary:
            temporary.write_text(json.dumps(content) + "\n", encoding="utf-8")

    def load(self, model: DualEncoder) -> tuple[Progress, torch.optim.Optimizer | None]:
        """Put the weights of the last kept round into `model`; how far things are, and the moments.

        Raises:
            InputError: the weights cannot be read.
        """
        noted = self._read_json()
        path = self.folder / "state.pt"
        if not path.is_file():
            return (noted if noted is not None and not noted.kept else Progress()), None
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
            own = self._progress(json.loads(content["state"]))
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, EOFError) as error:
            raise InputError(f"{path}: cannot be read ({error}); remove it to begin anew") from None
        if own is None:
            return Progress(), None
        model.load_state_dict(content["weights"])
        optimizer = _with_moments(model, content["moments"])
        # The note of a round comes after its weights: one that knows of no such weights is older.
        return (noted if noted is not None and noted.kept == own.kept else own), optimizer

    def _read_json(self) -> Progress | None:
        try:
            return self._progress(json.loads((self.folder / "state.json").read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _progress(self, content: dict[str, Any]) -> Progress | None:
        """None where it was made from something else."""
        if content.pop("made_from") != json.loads(json.dumps(dict(self.made_from))):
            return None
        return Progress(**content)


def _moments(model: DualEncoder, optimizer: torch.optim.Optimizer | None) -> dict[str, dict[str, Any]]:
    state = {} if optimizer is None else optimizer.state
    return {name: dict(state[weight]) for name, weight in model.named_parameters() if weight in state}


def _with_moments(model: DualEncoder, moments: Mapping[str, dict[str, Any]]) -> torch.optim.Optimizer | None:
    """An optimizer to carry moments over from; None where there are none."""
    if not moments:
        return None
    optimizer = build_optimizer(model, weight_decay=0.0)
    for name, weight in model.named_parameters():
        if name in moments:
            optimizer.state[weight] = {
                key: value.to(weight.device) if key != "step" and torch.is_tensor(value) else value
                for key, value in moments[name].items()
            }
    return optimizer
