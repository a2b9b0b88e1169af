"""Several train sets as one table of (picture, text) pairs. No torch needed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from cnclip.data.dataset import IntArray, PairDataset, Pairs
from cnclip.data.muge import TextRow
from cnclip.errors import InputError
from cnclip.text import normalize


class PairSources:
    """The pairs of several splits, one split after the other. Picklable, as its splits are.

    Pictures are numbered through all splits: equal ids of two splits are two pictures. Texts are numbered by
    what they say: rows with one normalised text are one text, whichever split they are in.

    Attributes:
        datasets: the splits.
        pairs: picture and text number of each pair, int64 (n,) each.
        source: number of each pair's split, int64 (n,).

    Raises:
        InputError: a split without pairs.
    """

    def __init__(self, datasets: Sequence[PairDataset]) -> None:
        for dataset in datasets:
            if not len(dataset):
                raise InputError(f"{dataset.path}: no text of it names a picture, nothing to learn")
        self.datasets = list(datasets)
        self._first = np.cumsum([0, *map(len, datasets)])  # number of each split's first pair
        first_image = np.cumsum([0, *(len(dataset.image_ids) for dataset in datasets)])
        numbers: dict[str, int] = {}
        image, text = [], []
        for dataset, offset in zip(datasets, first_image, strict=False):
            by_row = [numbers.setdefault(normalize(row.text), len(numbers)) for row in dataset.texts]
            image.append(dataset.pairs.image + offset)
            text.append(np.asarray(by_row, dtype=np.int64)[dataset.pairs.text])
        self.pairs = Pairs(np.concatenate(image), np.concatenate(text))
        self.source = np.repeat(np.arange(len(self.datasets)), np.diff(self._first))
        labels = np.unique(self.pairs.image * len(numbers) + self.pairs.text)
        labelled, self._labels = np.divmod(labels, len(numbers))  # texts of picture 0, of picture 1, ...
        self._label_starts = np.searchsorted(labelled, np.arange(first_image[-1] + 1))

    def __len__(self) -> int:
        return len(self.source)

    def image(self, pair: int) -> tuple[PairDataset, str]:
        """The split of a pair, and the id of its picture there."""
        dataset, row = self._place(pair)
        return dataset, dataset.image_ids[int(dataset.pairs.image[row])]

    def text(self, pair: int) -> TextRow:
        """The text of a pair, as its split has it."""
        dataset, row = self._place(pair)
        return dataset.texts[int(dataset.pairs.text[row])]

    def _place(self, pair: int) -> tuple[PairDataset, int]:
        number = int(self.source[pair])
        return self.datasets[number], pair - int(self._first[number])

    def labels(self, image: int) -> IntArray:
        """Numbers of all texts that describe picture number `image`, ascending."""
        return self._labels[self._label_starts[image] : self._label_starts[image + 1]]

    def relevance(self, pairs: IntArray) -> npt.NDArray[np.bool_]:
        """bool (G, G) for G pair numbers: whether any split labels text j as describing picture i.

        Costs what there is of true entries, not G x G look-ups: the labels of each picture are spread over
        the columns that have their text.
        """
        image, text = self.pairs.image[pairs], self.pairs.text[pairs]
        by_text = np.argsort(text, kind="stable")  # columns, those of one text side by side
        distinct, first, size = np.unique(text[by_text], return_index=True, return_counts=True)
        starts = self._label_starts[image]
        counts = self._label_starts[image + 1] - starts
        row = np.repeat(np.arange(len(pairs)), counts)
        nth = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
        label = self._labels[starts[row] + nth]
        slot = np.searchsorted(distinct, label).clip(max=len(distinct) - 1)
        shown = distinct[slot] == label
        row, slot = row[shown], slot[shown]
        relevance = np.zeros((len(pairs), len(pairs)), dtype=np.bool_)
        for nth_column in range(size.max(initial=0)):
            relevance[row, by_text[first[slot] + nth_column]] = True
            more = size[slot] > nth_column + 1
            row, slot = row[more], slot[more]
        return relevance

    def duplicate_rate(self, pairs: IntArray) -> float:
        """Share of these pairs that have their picture or their text in common with another of them."""
        shared = np.zeros(len(pairs), dtype=np.bool_)
        for column in self.pairs:
            _, group, count = np.unique(column[pairs], return_inverse=True, return_counts=True)
            shared |= count[group] > 1
        return float(shared.mean())
