"""Which pairs go into which batch: seeded, exactly resumable, with few false negatives."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import Literal

import numpy as np

from cnclip.data.dataset import IntArray, Pairs
from cnclip.data.sources import PairSources
from cnclip.errors import InputError

SamplerName = Literal["distinct", "shuffle", "sequential", "debias"]


def epoch_order(n: int, *, seed: int, epoch: int) -> IntArray:
    """The order of one epoch: a permutation of 0..n-1, int64 (n,), the same for the same seed and epoch."""
    return np.random.default_rng([seed, epoch]).permutation(n)


class PairBatchSampler:
    """Batches of pair numbers for one epoch at a time; each pair comes exactly once per epoch.

    Two rows with one picture or one text are false negatives of each other in a contrastive batch, so a batch
    takes the first rows, in shuffled order, that share neither with those before them, looking `lookahead`
    batches ahead; rows passed over go first into the next batch. This is greedy and best effort: where the
    rows in sight cannot fill a batch (few texts with many pictures each), the oldest of those passed over
    fill it, so that batches keep their size. A loss with multi-positive targets treats such rows rightly.

    Args:
        pairs: of the dataset.
        batch_size: rows per batch; the last one of an epoch (of a group) may be shorter.
        seed: shuffles, together with the epoch.
        drop_last: leave out a short last batch.
        avoid_repeats: as above; False gives plain batches.
        lookahead: batches of rows in sight.
        shuffle: False keeps the order of the pairs; with `drop_last` an epoch goes on where the one before
            ended, so that no pair is left out for good.
        groups: int64 (n,), the group of each pair, 0, 1, ...; every batch is of one group, and the groups
            take turns at random, as often as they have batches. What tells two sources apart is then no help
            in telling two pairs apart (debiased sampling, Cui et al. 2022, "Contrastive Vision-Language
            Pre-training with Limited Resources", arXiv 2112.09331).

    `batches` is a pure function of seed and epoch: to go on after n batches of an epoch, skip n of them.
    """

    def __init__(
        self,
        pairs: Pairs,
        batch_size: int,
        *,
        seed: int = 0,
        drop_last: bool = False,
        avoid_repeats: bool = True,
        lookahead: int = 16,
        shuffle: bool = True,
        groups: IntArray | None = None,
    ) -> None:
        if batch_size < 1 or lookahead < 1:
            raise InputError("batch_size and lookahead must be at least 1")
        self.pairs, self.batch_size, self.seed, self.drop_last = pairs, batch_size, seed, drop_last
        self.avoid_repeats, self.shuffle = avoid_repeats, shuffle
        self._window = batch_size * lookahead
        self._groups = np.zeros(len(pairs.image), dtype=np.int64) if groups is None else groups
        rows = np.bincount(self._groups)
        self._turns = np.repeat(
            np.arange(len(rows)), rows // batch_size if drop_last else -(-rows // batch_size)
        )

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        return len(self._turns)

    def batches(self, epoch: int) -> Iterator[list[int]]:
        """All batches of one epoch."""
        order = self._order(epoch)
        group = self._groups[order]
        cut = self._distinct if self.avoid_repeats else self._plain
        streams = [cut(order[group == number]) for number in range(self._groups.max(initial=-1) + 1)]
        for number in np.random.default_rng([self.seed, epoch, 1]).permutation(self._turns):
            yield next(streams[number])

    def _order(self, epoch: int) -> IntArray:
        n = len(self.pairs.image)
        if self.shuffle:
            return epoch_order(n, seed=self.seed, epoch=epoch)
        return np.roll(np.arange(n), -epoch * (n - n % self.batch_size) if self.drop_last else 0)

    def _plain(self, order: IntArray) -> Iterator[list[int]]:
        size = self.batch_size
        return (order[start : start + size].tolist() for start in range(0, len(order), size))

    def _distinct(self, order: IntArray) -> Iterator[list[int]]:
        stream = self._described(order)
        waiting = deque[tuple[int, int, int]]()
        while True:
            waiting.extend(islice(stream, self._window - len(waiting)))
            if not waiting:
                return
            batch, passed = self._pick(waiting)
            waiting.extendleft(reversed(passed))
            while waiting and len(batch) < self.batch_size:
                batch.append(waiting.popleft()[0])
            yield batch

    def _described(self, order: IntArray) -> Iterator[tuple[int, int, int]]:
        """(pair, picture, text), a window at a time: millions of Python numbers at once would fill memory."""
        for start in range(0, len(order), self._window):
            rows = order[start : start + self._window]
            columns = (rows, self.pairs.image[rows], self.pairs.text[rows])
            yield from zip(*(column.tolist() for column in columns), strict=True)

    def _pick(self, waiting: deque[tuple[int, int, int]]) -> tuple[list[int], list[tuple[int, int, int]]]:
        """Take a batch without repeats from the front of `waiting`; also returns the rows passed over."""
        images: set[int] = set()
        texts: set[int] = set()
        batch: list[int] = []
        passed: list[tuple[int, int, int]] = []
        while waiting and len(batch) < self.batch_size:
            row, image, text = described = waiting.popleft()
            if image in images or text in texts:
                passed.append(described)
            else:
                batch.append(row)
                images.add(image)
                texts.add(text)
        return batch, passed


def training_sampler(
    name: SamplerName, sources: PairSources, batch_size: int, *, seed: int
) -> PairBatchSampler:
    """The global batches of a training run, all of one size.

    "distinct" avoids repeated pictures and texts, "shuffle" does not, "sequential" keeps the order of the
    files, "debias" is "distinct" with one source for each batch.

    Raises:
        InputError: fewer pairs than a batch takes, altogether or, for "debias", in one source.
    """
    few = f"fewer than the batch size {batch_size}"
    if name == "debias":
        for dataset in sources.datasets:
            if len(dataset) < batch_size:
                raise InputError(
                    f"{dataset.path}: {len(dataset)} pairs, {few}, and sampler debias takes every batch from "
                    "one source"
                )
    elif len(sources) < batch_size:
        paths = ", ".join(str(dataset.path) for dataset in sources.datasets)
        raise InputError(f"{paths}: {len(sources)} pairs, {few}")
    return PairBatchSampler(
        sources.pairs,
        batch_size,
        seed=seed,
        drop_last=True,
        avoid_repeats=name in ("distinct", "debias"),
        shuffle=name != "sequential",
        groups=sources.source if name == "debias" else None,
    )
