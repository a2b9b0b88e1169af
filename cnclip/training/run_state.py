"""All that a training run is at one step: what a checkpoint holds, and an exact resume needs."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cnclip.errors import InputError, WeightsError
from cnclip.model.checkpoint_files import torch_load
from cnclip.model.dual_encoder import DualEncoder
from cnclip.model.save import save_pt
from cnclip.training.step import Precision

logger = logging.getLogger(__name__)


@dataclass
class RunState:
    """Saved: weights, optimizer, loss scaler, random states, settings. Not saved: anything a batch source
    derives from the step.

    settings: plain values that must not change between the parts of a run.
    """

    model: DualEncoder
    optimizer: torch.optim.Optimizer
    precision: Precision
    settings: dict[str, Any]

    def save(self, path: Path, step: int, epoch: int) -> None:
        """Write a checkpoint that Chinese-CLIP reads too; a kill leaves the old file or the new, whole."""
        extra = {
            "rng": self._random_states(),
            "scaler": self.precision.scaler.state_dict() if self.precision.scaler else {},
            "settings": self.settings,
        }
        save_pt(self.model, path, epoch=epoch, step=step, optimizer=self.optimizer.state_dict(), extra=extra)

    def resume(self, path: Path | None, seed: int) -> int:
        """Take up the run in `path` if there is one, else seed a new one. Returns the steps already taken.

        Raises:
            WeightsError: the file is damaged or holds another model.
            InputError: the file was made with other settings; names the first that differs.
        """
        if path is None or not path.exists():
            torch.manual_seed(seed)
            return 0
        saved = torch_load(path)
        try:
            self._check_settings(path, saved["settings"])
            state = {name.removeprefix("module."): value for name, value in saved["state_dict"].items()}
            self.model.load_state_dict(state)
            self.optimizer.load_state_dict(saved["optimizer"])
            if self.precision.scaler and saved["scaler"]:
                self.precision.scaler.load_state_dict(saved["scaler"])
            self._set_random_states(saved["rng"])
            step = int(saved["step"])
        except (KeyError, RuntimeError, ValueError, TypeError, AttributeError) as error:
            raise WeightsError(f"{path}: does not fit this run ({str(error).splitlines()[0]})") from error
        logger.info("resuming %s at step %d", path, step)
        return step

    def _check_settings(self, path: Path, before: dict[str, Any]) -> None:
        for name in sorted(before.keys() | self.settings.keys()):
            if before.get(name) != self.settings.get(name):
                raise InputError(
                    f"{path}: made with {name} = {before.get(name)!r}, this run says "
                    f"{self.settings.get(name)!r}; keep the setting or give the run another name"
                )

    def _random_states(self) -> dict[str, Any]:
        states = {"cpu": torch.get_rng_state()}
        device = self.precision.device
        if device.type != "cpu":
            states["device"] = torch.get_device_module(device).get_rng_state(device)
        return states

    def _set_random_states(self, states: dict[str, Any]) -> None:
        torch.set_rng_state(states["cpu"])
        device = self.precision.device
        if device.type != "cpu" and "device" in states:
            torch.get_device_module(device).set_rng_state(states["device"], device)
