"""Distil a small text tower from a sentence encoder: every text goes where the teacher puts it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from cnclip.model.bert import Bert
from cnclip.model.dual_encoder import DualEncoder
from cnclip.training.loop import Events, FitConfig, Progress, fit
from cnclip.training.losses import cosine_distillation, similarity_distillation
from cnclip.training.step import Batch, Direct, Precision
from cnclip.training.text_space import Corpus

logger = logging.getLogger(__name__)


@torch.no_grad()
def start_from_characters(model: DualEncoder, corpus: Corpus) -> int:
    """Start every character's embedding where the teacher puts that character. Returns how many were set.

    A bag of characters is a fair guess at a Chinese word, so training starts from meaning, not from noise.
    """
    width = model.config.text.text_hidden_size
    single = (corpus.lengths == 3).nonzero().flatten()  # [CLS] character [SEP]
    if not isinstance(model.bert, Bert):
        raise TypeError("only our own BERT has character embeddings to start from")
    embeddings = model.bert.embeddings.word_embeddings.weight
    tokens, targets = corpus.ids[single, 1].long(), corpus.targets[single, :width].float()
    embeddings[tokens] = targets
    model.text_projection.zero_()
    model.text_projection[:, :width] = torch.eye(width)
    return len(set(tokens.tolist()))


def distill_objective(model: DualEncoder, batch: Batch) -> dict[str, Tensor]:
    """Match the teacher's vectors and its neighbourhoods. batch: {"text" (B, L), "target" (B, D)}."""
    student = model.encode_text(batch["text"])
    cosine = cosine_distillation(student, batch["target"])
    neighbours = similarity_distillation(student, batch["target"])
    return {"loss": cosine + neighbours, "cosine": 1 - cosine, "neighbours": neighbours}


@dataclass(frozen=True)
class CorpusBatches:
    """Batches of corpus texts, epoch after epoch."""

    corpus: Corpus
    batch_size: int
    seed: int = 0

    @property
    def steps_per_epoch(self) -> int:
        return len(self.corpus.batches(self.batch_size, seed=self.seed, epoch=0))

    @property
    def global_batch_size(self) -> int:
        return self.batch_size

    def iterate(self, start_step: int) -> Iterator[Batch]:
        epoch, offset = divmod(start_step, self.steps_per_epoch)
        while True:
            for rows in self.corpus.batches(self.batch_size, seed=self.seed, epoch=epoch, start=offset):
                yield self.corpus.batch(rows)
            epoch, offset = epoch + 1, 0


def distill(
    model: DualEncoder,
    corpus: Corpus,
    config: FitConfig,
    batch_size: int,
    checkpoint: Path,
    precision: Precision,
) -> None:
    """Train the text tower in place; resumes from `checkpoint` and keeps it up to date."""
    trained = [*model.bert.parameters(), model.text_projection]
    model.requires_grad_(False)
    for parameter in trained:
        parameter.requires_grad_(True)
    if not checkpoint.exists():
        logger.info("%d characters start from the teacher", start_from_characters(model, corpus))

    def log(progress: Progress) -> None:
        values = " | ".join(f"{name} {value:.4f}" for name, value in progress.metrics.items())
        logger.info(
            "distill %d/%d | %s | %.2f s",
            progress.step,
            progress.total_steps,
            values,
            progress.times["batch_s"],
        )

    source = CorpusBatches(corpus, batch_size, config.seed)
    settings = {"corpus": corpus.digest(), "batch_size": batch_size, "total_steps": config.total_steps}
    fit(
        model,
        source,
        Direct(distill_objective),
        config,
        precision,
        checkpoint=checkpoint,
        settings=settings,
        events=Events(log=log),
    )
    model.requires_grad_(True)
