"""What keeps a model from forgetting: training pairs to replay, and a canary set that nothing touches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cnclip.data.dataset import IntArray, PairDataset
from cnclip.data.muge import TextRow
from cnclip.data.sources import PairSources
from cnclip.text import normalize

_MOST_OF_A_SET = 0.1  # a canary set is never more of the training pictures than this
_FEWEST = 8


@dataclass
class Canary:
    """Some training pictures and all texts that describe them, as a split to measure on."""

    image_ids: list[str]
    texts: list[TextRow]
    _pictures: dict[str, tuple[PairDataset, str]]

    def image_bytes(self, image_id: str) -> bytes:
        """The encoded bytes of one picture."""
        dataset, own_id = self._pictures[image_id]
        return dataset.image_bytes(own_id)

    def relevance(self) -> list[IntArray]:
        """For each text, the positions of its pictures in `image_ids`."""
        index = {image_id: row for row, image_id in enumerate(self.image_ids)}
        return [np.array([index[i] for i in row.image_ids], np.int64) for row in self.texts]


class ReplayRow(NamedTuple):
    """A training pair. texts: numbers of all texts that the labels give its picture; see `Memory.texts`."""

    pair: int
    text: str
    texts: IntArray


class Memory:
    """The training pairs, divided once and for all into a canary set and what may be replayed.

    texts: every distinct training text, normalised; rows are its numbers.

    Args:
        datasets: the train sets.
        canary: pictures to keep aside; at most a tenth of all.
        seed: decides which; the same sets and seed give the same division.
    """

    def __init__(self, datasets: Sequence[PairDataset], canary: int, seed: int) -> None:
        self.sources = PairSources(datasets)
        pairs = self.sources.pairs
        self.texts = self._distinct_texts()
        pictures = np.unique(pairs.image)
        most = max(_FEWEST, int(_MOST_OF_A_SET * len(pictures)))
        order = np.random.default_rng([seed, 0x63616E]).permutation(pictures)
        self._kept_aside = np.sort(order[: min(canary, most)])
        replayable = np.flatnonzero(~np.isin(pairs.image, self._kept_aside))
        by_text = replayable[np.argsort(pairs.text[replayable], kind="stable")]
        _, starts = np.unique(pairs.text[by_text], return_index=True)
        self._parts = np.split(by_text, starts[1:])  # pairs of each text

    def _distinct_texts(self) -> list[str]:
        pairs = self.sources.pairs
        numbers, first = np.unique(pairs.text, return_index=True)
        texts = [""] * (int(numbers.max()) + 1)
        for number, pair in zip(numbers.tolist(), first.tolist(), strict=True):
            texts[number] = normalize(self.sources.text(pair).text)
        return texts

    @cached_property
    def canary(self) -> Canary:
        """The pictures that are kept aside, and their texts."""
        pairs = self.sources.pairs
        chosen = np.flatnonzero(np.isin(pairs.image, self._kept_aside))
        pictures: dict[str, tuple[PairDataset, str]] = {}
        by_text: dict[int, list[str]] = {}
        for pair in chosen.tolist():
            name = str(pairs.image[pair])
            pictures[name] = self.sources.image(pair)
            by_text.setdefault(int(pairs.text[pair]), []).append(name)
        texts = [
            TextRow(str(number), self.texts[number], list(dict.fromkeys(ids)))
            for number, ids in sorted(by_text.items())
        ]
        return Canary(list(pictures), texts, pictures)

    def draw(self, n: int, seed: Sequence[int]) -> list[ReplayRow]:
        """`n` pairs to replay, text by text so that rare ones come as often as common ones; without repeats
        as far as there are enough. seed: of the draw."""
        rng = np.random.default_rng(seed)
        pictures = self.sources.pairs.image
        rows: list[int] = []
        while len(rows) < n:  # once, unless there are fewer than n
            waiting: dict[int, list[int]] = {}  # pairs of each text that was looked at
            taken: set[int] = set()
            texts = np.arange(len(self._parts))
            while len(texts) and len(rows) < n:
                empty = []
                for text in rng.permutation(texts)[: n - len(rows)].tolist():
                    if text not in waiting:
                        waiting[text] = rng.permutation(self._parts[text]).tolist()
                    pairs = [pair for pair in waiting[text] if int(pictures[pair]) not in taken]
                    waiting[text] = pairs[1:]
                    if not pairs:
                        empty.append(text)
                        continue
                    taken.add(int(pictures[pairs[0]]))
                    rows.append(pairs[0])
                texts = np.setdiff1d(texts, empty)
        return [self._row(pair) for pair in rows]

    def _row(self, pair: int) -> ReplayRow:
        number = int(self.sources.pairs.text[pair])
        return ReplayRow(pair, self.texts[number], self.sources.labels(int(self.sources.pairs.image[pair])))

    def share_pictures(self, texts: IntArray) -> npt.NDArray[np.bool_]:
        """bool (n, n): which of these texts describe a common picture."""
        pairs = self.sources.pairs
        column = np.full(len(self.texts), -1, np.int64)
        column[texts] = np.arange(len(texts))
        kept = column[pairs.text] >= 0
        pictures, row = np.unique(pairs.image[kept], return_inverse=True)
        shown = np.zeros((len(pictures), len(texts)), np.float32)
        shown[row, column[pairs.text[kept]]] = 1.0
        together: npt.NDArray[np.bool_] = shown.T @ shown > 0
        return together

    def number(self, text: str) -> int:
        """The number of a text, or -1 where training does not have it."""
        return self._numbers.get(normalize(text), -1)

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {text: number for number, text in enumerate(self.texts)}

    def sample(self, limit: int = 512) -> IntArray:
        """Numbers of some training texts, ascending, evenly spread over all."""
        step = max(1, len(self.texts) // limit)
        return np.arange(0, len(self.texts), step)[:limit]
