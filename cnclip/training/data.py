"""Batches of (picture, text) pairs for contrastive training."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from cnclip.data.augment import augment
from cnclip.data.dataset import PairDataset
from cnclip.data.sampler import PairBatchSampler
from cnclip.errors import ImageError, InputError
from cnclip.image import PreprocessConfig, decode_image, resize_pixels
from cnclip.text import normalize, tokenize
from cnclip.training.step import Batch

logger = logging.getLogger(__name__)

Pixels = npt.NDArray[np.uint8]


class _PairPixels(Dataset[tuple[Pixels | ImageError, int]]):
    """Decoded pictures of pairs, or why not. Item key: (pair index, seed of its augmentation)."""

    def __init__(self, dataset: PairDataset, preprocess: PreprocessConfig, use_augment: bool) -> None:
        self.dataset, self.preprocess, self.use_augment = dataset, preprocess, use_augment

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Pixels | ImageError, int]:
        pair, seed = key
        image_id = self.dataset.image_ids[int(self.dataset.pairs.image[pair])]
        data, size = self.dataset.image_bytes(image_id), self.preprocess.size
        try:
            image = decode_image(data, name=f"{self.dataset.path}: picture {image_id}", min_side=size)
        except ImageError as error:
            return error, pair
        if self.use_augment:
            return augment(image, np.random.default_rng((seed, pair)), size), pair
        return resize_pixels(image, self.preprocess), pair


@dataclass
class PairBatches:
    """Shuffled epochs of pairs; a pure function of (seed, step), so a resumed run sees the same batches.

    Rows that share a picture or a text are kept out of one batch where there are others to take.

    Each batch: image (B, 3, R, R) normalised float32, text int64 (B, L), relevance bool (B, B): true wherever
    the split labels text j as describing picture i, which covers repeated texts and pictures;
    image_id, text_id: lists of B.

    A pair whose picture cannot be read is left out of its batch and named in the log, once; when less than
    half of a batch is left, InputError is raised.
    """

    dataset: PairDataset
    preprocess: PreprocessConfig
    batch_size: int
    context_length: int = 52
    use_augment: bool = False
    seed: int = 123
    workers: int = 0

    def __post_init__(self) -> None:
        if len(self.dataset) < self.batch_size:
            raise InputError(
                f"{self.dataset.path}: {len(self.dataset)} pairs, fewer than the batch size {self.batch_size}"
            )
        self._reported: set[str] = set()
        canonical: dict[str, int] = {}
        by_text = [canonical.setdefault(normalize(row.text), len(canonical)) for row in self.dataset.texts]
        self._text = np.asarray(by_text, dtype=np.int64)
        self._n_texts = len(canonical)
        image, text = self.dataset.pairs
        self._labels = np.unique(image * self._n_texts + self._text[text])

    @property
    def steps_per_epoch(self) -> int:
        return len(self.dataset) // self.batch_size

    def iterate(self, start_step: int) -> Iterator[Batch]:
        loader = DataLoader(
            _PairPixels(self.dataset, self.preprocess, self.use_augment),
            batch_sampler=self._keys(start_step),
            num_workers=self.workers,
            collate_fn=_collate,
            generator=torch.Generator(),  # else each start draws from the global one, and a resume differs
        )
        mean = torch.tensor(self.preprocess.mean).view(1, 3, 1, 1) * 255
        std = torch.tensor(self.preprocess.std).view(1, 3, 1, 1) * 255
        for decoded, drawn in loader:
            pixels, pairs = self._readable(decoded, drawn)
            rows = [self.dataset.texts[int(self.dataset.pairs.text[p])] for p in pairs]
            yield {
                "image": (pixels.permute(0, 3, 1, 2).float() - mean) / std,
                "text": torch.from_numpy(tokenize([row.text for row in rows], self.context_length)),
                "relevance": self.relevance(pairs),
                "image_id": [self.dataset.image_ids[int(self.dataset.pairs.image[p])] for p in pairs],
                "text_id": [row.text_id for row in rows],
            }

    def _readable(
        self, decoded: list[Pixels | ImageError], drawn: list[int]
    ) -> tuple[Tensor, npt.NDArray[np.int64]]:
        good = [(d, p) for d, p in zip(decoded, drawn, strict=True) if not isinstance(d, ImageError)]
        for result in decoded:
            if isinstance(result, ImageError) and str(result) not in self._reported:
                self._reported.add(str(result))
                logger.warning("left out of training: %s", result)
        if 2 * len(good) < len(drawn):
            raise InputError(
                f"{self.dataset.path}: {len(drawn) - len(good)} of {len(drawn)} pictures are broken"
            )
        return torch.from_numpy(np.stack([d for d, _ in good])), np.asarray([p for _, p in good])

    def relevance(self, pairs: npt.NDArray[np.int64]) -> Tensor:
        """bool (B, B): whether text j of these pairs describes picture i, by the labels of the split."""
        image, text = self.dataset.pairs.image[pairs], self._text[self.dataset.pairs.text[pairs]]
        asked = image[:, None] * self._n_texts + text[None, :]
        found = np.searchsorted(self._labels, asked).clip(max=len(self._labels) - 1)
        return torch.from_numpy(self._labels[found] == asked)

    def _keys(self, step: int) -> Iterator[list[tuple[int, int]]]:
        sampler = PairBatchSampler(self.dataset.pairs, self.batch_size, drop_last=True)
        while True:
            epoch, offset = divmod(step, self.steps_per_epoch)
            sampler.load_state_dict({"seed": self.seed, "epoch": epoch, "position": offset})
            for pairs in sampler:
                yield [(pair, self.seed * 1_000_003 + epoch) for pair in pairs]
            step = (epoch + 1) * self.steps_per_epoch


def _collate(items: list[tuple[Pixels | ImageError, int]]) -> tuple[list[Pixels | ImageError], list[int]]:
    return [pixels for pixels, _ in items], [pair for _, pair in items]
