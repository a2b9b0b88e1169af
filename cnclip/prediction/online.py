"""Learning the queries of a split before they are answered: rounds of guarded single steps on fresh pictures.

Epoch e (from 0) asks for picture number e % 5 + 1 of each query, as Online-CNCLIP does at test time; how a
round goes, and when it is taken back, is `cnclip.online.round`. The split's own pictures must not teach.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from cnclip.errors import ImageError, InputError
from cnclip.evaluation.ranks import FloatArray
from cnclip.model.save import save_pt
from cnclip.model.weights import LoadedWeights
from cnclip.online.gate import Guarded
from cnclip.online.plan import distinct, gallery_hashes
from cnclip.online.record import RoundBook
from cnclip.online.report import write_online_report
from cnclip.online.round import Outcome
from cnclip.online.source import ImageSource
from cnclip.online.standalone import Pupil
from cnclip.online.verdict import Balance
from cnclip.prediction.embedding import PICTURES_AT_ONCE, OnProgress
from cnclip.prediction.ids import digest
from cnclip.prediction.online_state import OnlineState, Progress
from cnclip.prediction.split import PredictionSplit
from cnclip.training.validation import shared_encoder

logger = logging.getLogger(__name__)


@dataclass
class QueryPupil(Pupil):
    """A pupil that learns the queries of a split whose pictures it must not learn.

    gallery: the split. Its pictures are embedded when a picture is judged with them: once where steps leave
    the image tower alone, else after each round that was kept.
    """

    gallery: PredictionSplit | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._vectors: FloatArray | None = None  # of the gallery's pictures

    def guarded(self) -> Guarded:
        """The gallery that is answered from, and by their looks the pictures of the labelled split.

        Not by their vectors, too: what is near is judged by how near pictures of one gallery are to each
        other, and one that is in both galleries would make everything look far.
        """
        labelled = super().guarded()
        if self.gallery is None:
            return labelled
        if self._vectors is None:
            self._vectors = self._embed(self.gallery)
        return Guarded([*self._gallery_hashes, *labelled.hashes], self._vectors)

    def forget_vectors(self) -> None:
        """Call after a round that was kept."""
        if self.settings.scope != "text":
            self._vectors = None

    @cached_property
    def _gallery_hashes(self) -> list[int]:
        return [] if self.gallery is None else gallery_hashes(self.gallery)

    def _embed(self, split: PredictionSplit) -> FloatArray:
        encoder = shared_encoder(self.parallel, bf16=self.precision.name == "bf16")
        pieces = []
        for start in range(0, len(split.image_ids), PICTURES_AT_ONCE):
            skipped: list[tuple[int, ImageError]] = []
            pictures = []
            for image_id in split.image_ids[start : start + PICTURES_AT_ONCE]:
                try:
                    pictures.append(split.image_bytes(image_id))
                except InputError:  # what cannot be read is not answered with, either
                    continue
            pieces.append(encoder.encode_images(pictures, on_error="skip", skipped=skipped))
        return np.concatenate(pieces)


OpenSource = Callable[[], AbstractContextManager[ImageSource]]


@dataclass(frozen=True)
class Lesson:
    """What is learnt. loaded: the file that the pupil began with. run: folder for records and report.
    checkpoint: the model goes here. epochs: over the queries."""

    split: PredictionSplit
    loaded: LoadedWeights
    fingerprint: str
    run: Path
    checkpoint: Path
    epochs: int


def learn_queries(
    lesson: Lesson, pupil: QueryPupil, open_source: OpenSource, progress: OnProgress | None = None
) -> Path:
    """Learn, write the report and the model; returns the model's file. Goes on where a killed call was.

    The model is a Chinese-CLIP checkpoint without `module.` before its names.

    Raises:
        InputError: data that cannot be used, or a folder that cannot be written.
    """
    queries = distinct([row.text for row in lesson.split.texts])
    state, book = OnlineState(lesson.run / "state", _made_from(lesson, pupil, queries)), RoundBook(lesson.run)
    done, optimizer = state.load(pupil.model)
    pupil.go_on(Balance(dict(done.balance)), done.pace, optimizer)
    if done.rounds:
        logger.info("going on after %d of %d epochs", min(done.rounds, lesson.epochs), lesson.epochs)
    if done.rounds < lesson.epochs:
        with open_source() as source:
            for epoch in range(done.rounds, lesson.epochs):
                outcome = pupil.take(
                    epoch,
                    queries,
                    source,
                    where={"step": done.steps, "epoch": epoch},
                    used=book.used_before(epoch),
                )
                done = _keep(outcome, done, pupil, book, state)
                if progress is not None:
                    progress("epochs", done.rounds, lesson.epochs)
    write_online_report(lesson.run)
    info = lesson.loaded.info
    save_pt(
        pupil.model,
        lesson.checkpoint,
        epoch=int(info.get("epoch", 0)),
        step=int(info.get("step", 0)) + done.steps,
        name=str(info.get("name", "cnclip")),
        optimizer={},  # Online-CNCLIP wants the entry; there is nothing of the run's own to go on with
        prefix="",
    )
    return lesson.checkpoint


def _keep(
    outcome: Outcome, done: Progress, pupil: QueryPupil, book: RoundBook, state: OnlineState
) -> Progress:
    """Record a round; the state after it."""
    record = outcome.record
    book.keep_fresh(outcome.judged)
    if pupil.split is not None:
        book.keep_gallery(pupil.split, record["movers"])
    book.write(record)
    logger.info("epoch %d: %s: %s", record["epoch"] + 1, record["decision"], record["why"])
    done = replace(done, rounds=done.rounds + 1, balance=dict(pupil.balance.totals), pace=pupil.pace)
    if not outcome.kept:
        state.save(done, None, None)
        return done
    pupil.forget_vectors()
    done = replace(done, kept=done.rounds, steps=done.steps + len(record["steps"]))
    state.save(done, pupil.model, outcome.optimizer)
    return done


def _made_from(lesson: Lesson, pupil: QueryPupil, queries: list[str]) -> dict[str, Any]:
    """Everything that decides what is learnt, but the pictures."""
    config = pupil.config
    return {
        "fingerprint": lesson.fingerprint,
        "queries": digest(queries),
        "settings": {name: value for name, value in asdict(pupil.settings).items() if name != "budget_s"},
        "data": [str(folder) for folder in (*config.train_data, config.val_data)],
        "batch_size": config.batch_size,
        "precision": pupil.precision.name,
        "augment": [config.use_augment, config.augment],
        "context_length": pupil.model.config.context_length,
    }
