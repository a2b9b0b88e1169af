"""The space in which `lite` lives: a sentence encoder's embeddings, centred and rotated.

Sentence embeddings share a large common component (mean norm 0.44 here), which makes unrelated words look
alike. Without it cosines of unrelated words are near zero, so a score says something about relevance.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cnclip.errors import InputError
from cnclip.text import tokenize


@dataclass(frozen=True)
class TextSpace:
    """mean (512,), basis (512, D) with orthonormal columns: principal axes of the corpus, largest first."""

    mean: Tensor
    basis: Tensor

    @classmethod
    def fit(cls, teacher: Tensor, dim: int, *, sample: int = 60_000, seed: int = 0) -> TextSpace:
        """Principal axes of a sample of teacher embeddings (n, 512)."""
        generator = torch.Generator().manual_seed(seed)
        rows = teacher[torch.randperm(len(teacher), generator=generator)[:sample]].float()
        mean = rows.mean(0)
        centred = rows - mean
        _, vectors = torch.linalg.eigh(centred.T @ centred / len(rows))
        return cls(mean, vectors.flip(1)[:, :dim].contiguous())

    def __call__(self, teacher: Tensor) -> Tensor:
        """Teacher embeddings (n, 512) -> (n, D), unit length."""
        return torch.nn.functional.normalize((teacher.float() - self.mean) @ self.basis, dim=-1)


@dataclass(frozen=True)
class Corpus:
    """Texts with their token ids (n, L) int32 and teacher targets (n, D) float16, in the text space."""

    texts: list[str]
    ids: Tensor
    lengths: Tensor
    targets: Tensor
    space: TextSpace

    @classmethod
    def load(cls, folder: Path, *, dim: int, context_length: int) -> Corpus:
        """Read the output of preprocess/lite_corpus.py. Raises InputError naming what does not fit."""
        try:
            texts = (folder / "texts.txt").read_text(encoding="utf-8").splitlines()
            teacher = torch.from_numpy(np.load(folder / "teacher.npy", allow_pickle=False))
        except (OSError, ValueError) as error:
            raise InputError(f"{folder}: not a text corpus: {error}") from error
        if len(texts) != len(teacher):
            raise InputError(f"{folder}: {len(texts)} texts but {len(teacher)} teacher rows")
        ids = torch.from_numpy(tokenize(texts, context_length)).int()
        space = TextSpace.fit(teacher, dim)
        targets = torch.cat([space(chunk).half() for chunk in torch.split(teacher, 65_536)])
        return cls(texts, ids, ids.ne(0).sum(1), targets, space)

    def digest(self) -> str:
        """Names the texts and their targets, so that no checkpoint is resumed on another corpus."""
        content = hashlib.sha256("\n".join(self.texts).encode())
        content.update(self.targets.numpy().tobytes())
        return content.hexdigest()[:16]

    def batches(self, batch_size: int, *, seed: int, epoch: int, start: int = 0) -> list[Tensor]:
        """Row indices of every batch of an epoch: random, but texts of a batch are of similar length."""
        generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
        order = torch.randperm(len(self.texts), generator=generator)
        groups = []
        for group in torch.split(order, batch_size * 32):
            by_length = group[self.lengths[group].argsort(stable=True)]
            groups += [b for b in torch.split(by_length, batch_size) if len(b) == batch_size]
        shuffled = torch.randperm(len(groups), generator=generator)
        return [groups[int(i)] for i in shuffled][start:]

    def batch(self, rows: Tensor) -> dict[str, Tensor]:
        """{"text": ids int64 (B, L) trimmed to the longest, "target": (B, D) float32}."""
        longest = int(self.lengths[rows].max())
        return {"text": self.ids[rows, :longest].long(), "target": self.targets[rows].float()}
