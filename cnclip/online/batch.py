"""One step's batch: fresh pairs, and training pairs to replay with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from cnclip.data.dataset import IntArray
from cnclip.errors import ImageError
from cnclip.evaluation.ranks import FloatArray
from cnclip.online.replay import Memory, ReplayRow
from cnclip.online.source import FreshPicture
from cnclip.text import normalize
from cnclip.training.data import Tokenize, TrainingView
from cnclip.training.distributed import World

Bools = npt.NDArray[np.bool_]

_ORDINARY = 0.99  # share of the cosines between unrelated texts that "near" is above


@dataclass(frozen=True)
class Meanings:
    """Which texts may mean the same: nobody labelled a fresh picture with the training texts, nor a training
    picture with the queries, and a text of like meaning is no negative.

    rows: number of each query, by normalised text. alike: bool (q, q), queries near each other. columns:
    int64 (texts of the memory,), the column of `near` that a training text has, or -1. near: bool (q, c).
    """

    rows: dict[str, int]
    alike: Bools
    columns: IntArray
    near: Bools

    @classmethod
    def of(
        cls,
        queries: Sequence[str],
        query_vectors: FloatArray,
        texts: IntArray,
        text_vectors: FloatArray,
        memory: Memory,
    ) -> Meanings:
        """query_vectors: float32 (q, d). texts: numbers of training texts, ascending; text_vectors: float32
        (c, d), theirs. Two texts are near if their cosine is one that few texts without a common picture
        reach: models differ widely in how near to each other they put any two texts."""
        columns = np.full(len(memory.texts), -1, np.int64)
        columns[texts] = np.arange(len(texts))
        sample = memory.sample()
        cosines = text_vectors[columns[sample]] @ text_vectors[columns[sample]].T
        apart = ~np.eye(len(sample), dtype=np.bool_) & ~memory.share_pictures(sample)
        near = float(np.quantile(cosines[apart], _ORDINARY)) if apart.any() else 1.0
        rows = {normalize(query): row for row, query in enumerate(queries)}
        alike = query_vectors @ query_vectors.T > near
        return cls(rows, alike, columns, query_vectors @ text_vectors.T > near)

    @classmethod
    def none(cls, memory: Memory) -> Meanings:
        """Of no queries at all."""
        nothing = np.zeros((0, 1), np.bool_)
        return cls({}, np.zeros((0, 0), np.bool_), np.zeros(len(memory.texts), np.int64), nothing)

    def row(self, text: str) -> int:
        """The number of a query."""
        return self.rows[normalize(text)]


@dataclass(frozen=True)
class BatchMaker:
    """Makes this process's rows of a step's global batch.

    view: how pictures become pixels. tokenize, context_length: how texts become ids.
    """

    memory: Memory
    view: TrainingView
    tokenize: Tokenize
    context_length: int
    world: World
    rows_at_once: int  # that a process takes through the towers

    def division(self, pairs: int, replay: int) -> tuple[int, int]:
        """How many pairs to replay beside `pairs` fresh ones, and in how many sub-batches: about `replay`,
        more where the rows would not divide evenly among processes and sub-batches otherwise."""
        world = self.world.size
        parts = -(-(pairs + replay) // (world * self.rows_at_once))
        total = -(-(pairs + replay) // (world * parts)) * world * parts
        return total - pairs, parts

    def batch(
        self,
        fresh: Sequence[FreshPicture],
        replayed: Sequence[ReplayRow],
        meanings: Meanings,
        seed: Sequence[int],
    ) -> dict[str, Any]:
        """The batch that `Contrastive` takes: this process's share of the rows, fresh ones first, and
        "relevance" and "unknown", bool (G, G), of all of them. seed: of what is random in the pictures."""
        total = len(fresh) + len(replayed)
        share = total // self.world.size
        mine = range(self.world.rank * share, (self.world.rank + 1) * share)
        size = self.view.preprocess.size
        image, valid = np.zeros((share, size, size, 3), np.uint8), np.zeros(share, np.bool_)
        for row, number in enumerate(mine):
            try:
                image[row] = self._pixels(fresh, replayed, number, [*seed, number])
                valid[row] = True
            except ImageError:  # of the train set: training has named it
                continue
        texts = [picture.query for picture in fresh] + [row.text for row in replayed]
        tokens = self.tokenize([texts[number] for number in mine], self.context_length)
        relevance, unknown = self._labels(fresh, replayed, meanings)
        return {
            "image": torch.from_numpy(image).permute(0, 3, 1, 2),
            "text": torch.from_numpy(tokens),
            "valid": torch.from_numpy(valid),
            "relevance": torch.from_numpy(relevance),
            "unknown": torch.from_numpy(unknown),
        }

    def _pixels(
        self, fresh: Sequence[FreshPicture], replayed: Sequence[ReplayRow], number: int, seed: Sequence[int]
    ) -> npt.NDArray[np.uint8]:
        if number < len(fresh):
            return self.view.pixels(fresh[number].data, f"picture of {fresh[number].query!r}", seed)
        dataset, image_id = self.memory.sources.image(replayed[number - len(fresh)].pair)
        return self.view.pixels(dataset.image_bytes(image_id), f"{dataset.path}: picture {image_id}", seed)

    def _labels(
        self, fresh: Sequence[FreshPicture], replayed: Sequence[ReplayRow], meanings: Meanings
    ) -> tuple[Bools, Bools]:
        """relevance and unknown, both bool (G, G): rows are pictures, columns are texts."""
        n, total = len(fresh), len(fresh) + len(replayed)
        relevance, unknown = np.zeros((total, total), np.bool_), np.zeros((total, total), np.bool_)
        asked = np.array([meanings.row(picture.query) for picture in fresh], np.int64)
        known = np.array([self.memory.number(picture.query) for picture in fresh], np.int64)
        own = np.array([self.memory.number(row.text) for row in replayed], np.int64)
        same = asked[:, None] == asked[None]
        relevance[:n, :n], unknown[:n, :n] = same, meanings.alike[asked][:, asked] & ~same
        same = known[:, None] == own[None]
        near = meanings.near[asked]  # (n, c)
        relevance[:n, n:], unknown[:n, n:] = same, near[:, meanings.columns[own]] & ~same
        labelled = known >= 0  # training has this query, so the labels of its pictures say
        for i, row in enumerate(replayed, start=n):
            relevance[i, n:] = np.isin(own, row.texts)
            relevance[i, :n] = labelled & np.isin(known, row.texts)
            unknown[i, :n] = ~labelled & near[:, meanings.columns[row.texts]].any(1)
        return relevance, unknown
