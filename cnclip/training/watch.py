"""What a fine-tune does at its stations: log lines, validation, the best weights, kept checkpoints."""

from __future__ import annotations

import logging
import math
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import safe_open

from cnclip.data.dataset import PairDataset
from cnclip.model.atomic import replacing
from cnclip.model.save import save_safetensors
from cnclip.training.config import TrainConfig
from cnclip.training.log_lines import (
    begin_line,
    gallery_line,
    online_line,
    saved_line,
    train_line,
    validation_line,
)
from cnclip.training.loop import Progress
from cnclip.training.records import Records
from cnclip.training.run_folder import BEST, LATEST
from cnclip.training.run_state import RunState
from cnclip.training.schedule import epoch_of
from cnclip.training.validation import Learner, measure_split

logger = logging.getLogger(__name__)


@dataclass
class Watch:
    """The stations of one run. `records` is that of rank 0, and None elsewhere.

    What must outlive the process (the best score, the start's, how long nothing was better) is in
    `state.notes`, which every checkpoint holds.
    """

    run: Path
    config: TrainConfig
    state: RunState
    steps_per_epoch: int
    global_batch_size: int
    total_steps: int
    records: Records | None
    valid: PairDataset | None = None
    learner: Learner | None = None
    on_progress: Callable[[int, int], None] | None = None
    _stopped: bool = field(default=False, init=False)  # early

    def log(self, progress: Progress) -> None:
        """One line per interval, in the wording that users of Chinese-CLIP parse."""
        if self.records is None:
            return
        values = progress.metrics
        logger.info(
            train_line(
                step=progress.step,
                total_steps=progress.total_steps,
                steps_per_epoch=self.steps_per_epoch,
                global_batch_size=self.global_batch_size,
                loss=values["loss"],
                lr=progress.lr,
                logit_scale=math.log(values["logit_scale"]),
                times=progress.times,
                accuracies=(values["i2t_acc"], values["t2i_acc"])
                if self.config.report_training_batch_acc
                else None,
            )
        )
        row = {"lr": progress.lr, **values, **progress.times}
        self.records.train(progress.step, progress.epoch, row)
        if self.on_progress is not None:
            self.on_progress(progress.step, progress.total_steps)

    def validate(self, step: int) -> bool:
        """Measure, keep the weights if they are the best so far. Returns whether to stop early."""
        if self.valid is None:
            return False
        epoch = epoch_of(step, self.steps_per_epoch)
        logger.info(begin_line(epoch, step))
        parallel = self.state.parallel
        measured = measure_split(
            parallel,
            self.valid,
            batch_size=self.config.valid_batch_size,
            bf16=self.state.precision.name == "bf16",
            seed=self.config.seed,
        )
        result = parallel.world.share(measured.result)  # all must decide alike
        self._report(step, epoch, result)
        if self.learner is not None and step > 0:  # the start is measured as it is
            record, after = self.learner.learn(self.state, self.valid, measured, step=step, epoch=epoch)
            result = parallel.world.share(after.result)
            self._report_online(step, epoch, record, result)
        score = float(result["text_to_image"]["mean_recall"])
        notes = self.state.notes
        notes["best"], notes["best_step"] = parallel.world.share(self._best())
        if step == 0:
            notes["start"] = score
        better = score > notes["best"]
        notes["last"] = score
        notes["since_best"] = 0 if better else notes.get("since_best", 0) + 1
        if better:
            notes.update(best=score, best_step=step)
            self._keep_best(score, step)
        stop = 0 < self.config.early_stop <= int(notes["since_best"])
        self._stopped = stop
        if stop:
            self.note(step, f"early stop: {notes['since_best']} validations without a better mean recall")
        return stop

    def saved(self, step: int, seconds: float) -> None:
        """Keep the checkpoint that was just written, where its epoch or step is one to keep."""
        if self.records is None:
            return
        epoch = epoch_of(step, self.steps_per_epoch)
        every_epochs, every_steps = self.config.save_epoch_frequency, self.config.save_step_frequency
        folder = self.run / "checkpoints"
        logger.info(saved_line(self.run / LATEST, epoch=epoch, step=step, seconds=seconds))
        ends = step == self.total_steps or self._stopped
        whole = step % self.steps_per_epoch == 0
        if ends or (whole and every_epochs > 0 and epoch % every_epochs == 0):
            _link(self.run / LATEST, folder / f"epoch{epoch}.pt")
        if every_steps > 0 and step % every_steps == 0:
            _link(self.run / LATEST, folder / f"epoch_{epoch}_{step}.pt")

    def verdict(self, step: int) -> None:
        """At the end: say loudly if the fine-tune did harm."""
        notes = self.state.notes
        if self.valid is None or "start" not in notes or "last" not in notes:
            return
        start, best, last = (f"{100 * notes[name]:.2f}" for name in ("start", "best", "last"))
        if notes["best"] <= notes["start"]:
            advice = "A lower learning rate, a larger batch (--accum-freq) or fewer epochs may help."
            self.note(
                step,
                f"this run never got above its starting point (mean recall {start} %); {BEST} holds the "
                f"weights it started from. {advice}",
            )
        elif notes["last"] < notes["start"]:
            self.note(
                step,
                f"this run ended below its starting point (mean recall {last} %, was {start} %); {BEST} "
                f"holds those of step {notes['best_step']} ({best} %)",
            )
        elif self.records is not None:
            logger.info(
                "mean recall from text to image %s %% -> %s %%; the best weights (%s %%) are in %s",
                start, last, best, self.run / BEST,
            )  # fmt: skip

    def note(self, step: int, text: str) -> None:
        """A remark that should not be missed."""
        if self.records is not None:
            logger.warning(text)
            self.records.note(step, text)

    def _best(self) -> tuple[float, int]:
        """Score and step of the best weights on disk, which may be newer than the checkpoint's notes."""
        if not (self.run / BEST).exists():
            return -1.0, 0
        with safe_open(self.run / BEST, "pt") as file:
            metadata = file.metadata()
        return float(metadata["mean_recall"]), int(metadata["step"])

    def _report(self, step: int, epoch: int, result: dict[str, Any]) -> None:
        if self.records is None:
            return
        in_batch = result["in_batch"]
        logger.info(
            validation_line(
                epoch=epoch,
                step=step,
                loss=in_batch["loss"],
                accuracies=(in_batch["i2t_acc"], in_batch["t2i_acc"]),
                logit_scale=float(self.state.parallel.model.logit_scale.detach()),
                batch_size=int(in_batch["batch_size"]),
            )
        )
        logger.info(gallery_line(epoch=epoch, step=step, result=result))
        if result["problems"]:
            count, first = result["left_out"]["unreadable pictures"], result["problems"][0]
            logger.warning(
                "%d validation pictures cannot be read and are not counted; first: %s", count, first
            )
        self.records.valid(step, epoch, result)

    def _report_online(self, step: int, epoch: int, record: dict[str, Any], result: dict[str, Any]) -> None:
        if self.records is None:
            return
        logger.info(online_line(epoch=epoch, step=step, record=record))
        self.records.online(step, epoch, record)
        if record["decision"] == "kept":
            logger.info(gallery_line(epoch=epoch, step=step, result=result))
            self.records.valid(step, epoch, result)

    def _keep_best(self, score: float, step: int) -> None:
        weights = self.state.parallel.state_dict()
        if self.records is not None:
            metadata = {"mean_recall": repr(score), "step": str(step)}
            save_safetensors(self.state.parallel.model, self.run / BEST, metadata=metadata, state=weights)


def _link(source: Path, target: Path) -> None:
    """Give a checkpoint a second name. It is never written in place, so a link is as good as a copy."""
    with replacing(target) as temporary:
        try:
            os.link(source, temporary)
        except OSError:  # no links on this file system
            shutil.copyfile(source, temporary)
