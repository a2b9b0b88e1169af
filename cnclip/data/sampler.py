"""Which pairs go into which batch: seeded, exactly resumable, with few false negatives."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import TypedDict

import numpy as np

from cnclip.data.dataset import IntArray, Pairs
from cnclip.errors import InputError


class SamplerState(TypedDict):
    """Where a sampler stands: `position` batches of epoch `epoch` have been handed out."""

    seed: int
    epoch: int
    position: int


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
        batch_size: rows per batch; the last one of an epoch may be shorter.
        seed: shuffles, together with the epoch.
        drop_last: leave out a short last batch.
        avoid_repeats: as above; False gives plain shuffled batches.
        lookahead: batches of rows in sight.

    Iterating yields the rest of the current epoch; the next iteration is the next epoch. `state_dict` can be
    taken after any batch, and `load_state_dict` continues with exactly the batch that would have come next.
    Batches fetched ahead of the training step count as handed out, so a loop that prefetches keeps its own
    `position`.
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
    ) -> None:
        if batch_size < 1 or lookahead < 1:
            raise InputError("batch_size and lookahead must be at least 1")
        self.batch_size, self.seed, self.drop_last = batch_size, seed, drop_last
        self._image, self._text = pairs.image.tolist(), pairs.text.tolist()
        self._window = batch_size * lookahead if avoid_repeats else 0
        self.epoch = self.position = 0

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        rows = len(self._image)
        return rows // self.batch_size if self.drop_last else -(-rows // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        epoch, start, batches = self.epoch, self.position, len(self)
        for number, batch in enumerate(self._batches(epoch), start=1):
            if number > start:
                last = number == batches
                self.epoch, self.position = (epoch + 1, 0) if last else (epoch, number)
                yield batch

    def state_dict(self) -> SamplerState:
        """What `load_state_dict` needs to go on."""
        return {"seed": self.seed, "epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: SamplerState) -> None:
        """Go on where `state` was taken; the sampler must be over the same pairs and batch size."""
        self.seed, self.epoch, self.position = state["seed"], state["epoch"], state["position"]

    def _batches(self, epoch: int) -> Iterator[list[int]]:
        order = epoch_order(len(self._image), seed=self.seed, epoch=epoch).tolist()
        for batch in self._distinct(order) if self._window else self._plain(order):
            if len(batch) == self.batch_size or not self.drop_last:
                yield batch

    def _plain(self, order: list[int]) -> Iterator[list[int]]:
        return (order[start : start + self.batch_size] for start in range(0, len(order), self.batch_size))

    def _distinct(self, order: list[int]) -> Iterator[list[int]]:
        stream, waiting = iter(order), deque[int]()
        while True:
            for row in stream:
                waiting.append(row)
                if len(waiting) >= self._window:
                    break
            if not waiting:
                return
            batch, passed = self._pick(waiting)
            waiting = deque(passed)
            while waiting and len(batch) < self.batch_size:
                batch.append(waiting.popleft())
            yield batch

    def _pick(self, waiting: deque[int]) -> tuple[list[int], list[int]]:
        """Split the rows in sight into a batch without repeats and the rest, both in order."""
        images: set[int] = set()
        texts: set[int] = set()
        batch: list[int] = []
        passed: list[int] = []
        for row in waiting:
            image, text = self._image[row], self._text[row]
            if len(batch) == self.batch_size or image in images or text in texts:
                passed.append(row)
            else:
                batch.append(row)
                images.add(image)
                texts.add(text)
        return batch, passed
