"""All that a training run is at one step: what a checkpoint holds, and an exact resume needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from cnclip.errors import InputError, WeightsError
from cnclip.model.checkpoint_files import torch_load
from cnclip.model.hf_tower import from_stored
from cnclip.model.save import save_pt
from cnclip.training.parallel import Parallel
from cnclip.training.step import Precision

# What a run started from, which need not be said again to go on with it.
STARTS = ("model", "resume", "clip_weight_path", "bert_weight_path")
_UNFIT = (KeyError, IndexError, RuntimeError, ValueError, TypeError, AttributeError)


@dataclass
class RunState:
    """Saved: weights, optimizer, loss scaler, settings, notes. Not saved: batches and random numbers, which
    are functions of the seed and the step.

    settings: plain values that must not change between the parts of a run.
    notes: plain values that the run's owner keeps with each checkpoint.
    """

    parallel: Parallel
    optimizer: torch.optim.Optimizer
    precision: Precision
    settings: dict[str, Any]
    name: str = "cnclip"
    notes: dict[str, Any] = field(default_factory=dict)

    def save(self, path: Path, step: int, epoch: int) -> None:
        """Write a checkpoint that Chinese-CLIP reads too; a kill leaves the old file or the new, whole.

        Every process must call; rank 0 writes.
        """
        self.parallel.share_buffers()
        weights = self.parallel.state_dict()
        optimizer = self.parallel.optimizer_state(self.optimizer)
        if self.parallel.world.is_main:
            extra = {
                "scaler": self.precision.scaler.state_dict() if self.precision.scaler else {},
                "settings": self.settings,
                "notes": self.notes,
            }
            save_pt(
                self.parallel.model,
                path,
                epoch=epoch,
                step=step,
                name=self.name,
                optimizer=optimizer,
                extra=extra,
                state=weights,
            )
        self.parallel.world.wait()

    def resume(self, path: Path) -> int:
        """Take up the run in `path`. Returns the steps already taken.

        Raises:
            WeightsError: the file is missing, damaged, or holds another model.
            InputError: the file was made with other settings; names the first that differs.
        """
        saved = torch_load(path)
        if "settings" not in saved:  # Chinese-CLIP's own run, whose weights the model has already
            return self.take_over(path)
        try:
            self._check_settings(path, saved["settings"])
            self.settings = {**self.settings, **saved["settings"]}  # with what was not said again
            weights = from_stored(self.parallel.model.config, _plain(saved["state_dict"]))
            self.parallel.load_state_dict(weights)
            self.parallel.load_optimizer_state(self.optimizer, saved["optimizer"])
            if self.precision.scaler and saved["scaler"]:
                self.precision.scaler.load_state_dict(saved["scaler"])
            self.notes.update(saved["notes"])
            step = int(saved["step"])
        except _UNFIT as error:
            raise WeightsError(f"{path}: does not fit this run ({str(error).splitlines()[0]})") from error
        return step

    def take_over(self, path: Path, *, optimizer: bool = True) -> int:
        """Go on from another run's checkpoint, ours or Chinese-CLIP's, whose weights the model has already:
        take its optimizer state, if asked for. Returns the steps that run had taken.

        Learning rate, decay and Adam's constants stay this run's.

        Raises: WeightsError if there is no optimizer state or it does not fit.
        """
        saved = torch_load(path)
        if optimizer:
            self._take_moments(path, saved)
        step = saved.get("step", 0)
        if not isinstance(step, int) or step < 0:
            raise WeightsError(f"{path}: step {step!r} is no number of steps")
        return step

    def _take_moments(self, path: Path, saved: Mapping[str, Any]) -> None:
        advice = "add --reset-optimizer"
        if "optimizer" not in saved:
            raise WeightsError(f"{path}: holds no optimizer state; {advice}")
        theirs, ours = (s.get("optimizer", "adamw") for s in (saved.get("settings", {}), self.settings))
        if theirs != ours:
            raise WeightsError(f"{path}: its optimizer is {theirs}, not {ours}; {advice}")
        by_name = any(isinstance(key, str) for key in saved["optimizer"].get("state", ()))
        if by_name != self.parallel.sharded:
            raise WeightsError(f"{path}: only one of its run and this one has --fsdp; {advice}")
        own = [{k: v for k, v in group.items() if k != "params"} for group in self.optimizer.param_groups]
        try:
            state = saved["optimizer"] if "settings" in saved else self._from_chinese_clip(saved)
            self.parallel.load_optimizer_state(self.optimizer, state)
        except _UNFIT as error:
            line = str(error).splitlines()[0]
            raise WeightsError(f"{path}: its optimizer state does not fit ({line}); {advice}") from error
        for group, values in zip(self.optimizer.param_groups, own, strict=True):
            group.update(values)

    def _from_chinese_clip(self, saved: Mapping[str, Any]) -> dict[str, Any]:
        """Moments by parameter name, put into our groups. Chinese-CLIP numbers its parameters in two groups,
        names with bn, ln, bias or logit_scale first, each in the order of its state_dict."""
        model = self.parallel.model
        ours = dict(model.named_parameters())
        theirs = [name for name in _plain(saved["state_dict"]) if name in ours]
        free = [n for n in theirs if any(mark in n for mark in ("bn", "ln", "bias", "logit_scale"))]
        rest = [n for n in theirs if n not in set(free)]
        numbers = [n for group in saved["optimizer"]["param_groups"] for n in group["params"]]
        moments = {
            name: saved["optimizer"]["state"][number]
            for name, number in zip([*free, *rest], numbers, strict=True)
        }
        state = self.optimizer.state_dict()
        names = {id(parameter): name for name, parameter in ours.items()}
        order = [names[id(p)] for group in self.optimizer.param_groups for p in group["params"]]
        state["state"] = {
            i: {k: torch.as_tensor(v) for k, v in moments[name].items()} for i, name in enumerate(order)
        }
        for i, name in enumerate(order):
            if state["state"][i]["exp_avg"].shape != ours[name].shape:
                raise ValueError(f"moments of {name} have another shape")
        return state

    def _check_settings(self, path: Path, before: dict[str, Any]) -> None:
        for name in sorted(before.keys() | self.settings.keys()):
            given = self.settings.get(name)
            if before.get(name) != given and not (given is None and name in STARTS):
                raise InputError(
                    f"{path}: made with {name} = {before.get(name)!r}, this run says {given!r}; keep the "
                    f"setting, give the run another name, or start over with --restart"
                )


def _plain(state: Mapping[str, Any]) -> dict[str, Any]:
    return {name.removeprefix("module."): value for name, value in state.items()}
