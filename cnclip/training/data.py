"""Batches of (picture, text) pairs for contrastive training, the same for every process that asks."""

from __future__ import annotations

import ctypes
import logging
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass
from itertools import islice, tee
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from cnclip.data.augment import augment, random_erase
from cnclip.data.auto_augment import auto_augment
from cnclip.data.dataset import IntArray, PairDataset
from cnclip.data.sampler import SamplerName, training_sampler
from cnclip.data.sources import PairSources
from cnclip.errors import InputError
from cnclip.image import PreprocessConfig, decode_image, resize_pixels
from cnclip.text import tokenize

logger = logging.getLogger(__name__)

Augmentation = Literal["light", "auto"]
Tokenize = Callable[[Sequence[str], int], IntArray]
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_ENOUGH_TO_JUDGE = 64  # pictures, before it is said that most are broken


class _Key(NamedTuple):
    """Pairs to decode together, and the epoch, which decides how they are augmented."""

    epoch: int
    pairs: IntArray


class _Decoded(NamedTuple):
    image: Tensor  # uint8 (n, R, R, 3)
    valid: Tensor  # bool (n,)
    problems: list[str]


@dataclass(frozen=True)
class TrainingView:
    """How a picture becomes pixels to learn from: resized, or changed at random.

    augmentation: "light" (`augment`), "auto" (`auto_augment`) or None. random_erasing: probability of
    `random_erase`.
    """

    preprocess: PreprocessConfig
    augmentation: Augmentation | None = None
    random_erasing: float = 0.0

    def pixels(self, data: bytes, name: str, seed: Sequence[int]) -> npt.NDArray[np.uint8]:
        """uint8 (R, R, 3). data: the encoded picture, `name` for messages. seed: of all that is random.

        Raises ImageError: it cannot be read.
        """
        size = self.preprocess.size
        image = decode_image(data, name=name, min_side=size)
        if self.augmentation is None and not self.random_erasing:
            return resize_pixels(image, self.preprocess)
        rng = np.random.default_rng(seed)
        if self.augmentation == "auto":
            red, green, blue = (round(255 * mean) for mean in self.preprocess.mean)
            pixels = auto_augment(image, rng, size, fill=(red, green, blue))
        elif self.augmentation == "light":
            pixels = augment(image, rng, size)
        else:
            pixels = resize_pixels(image, self.preprocess)
        return random_erase(pixels, rng, self.random_erasing)


@dataclass
class _Decoder(Dataset[_Decoded]):
    """Runs in the workers. Augmentation of a pair depends on seed, epoch and pair alone."""

    sources: PairSources
    view: TrainingView
    seed: int

    def __getitem__(self, key: _Key) -> _Decoded:
        size = self.view.preprocess.size
        image = np.zeros((len(key.pairs), size, size, 3), dtype=np.uint8)
        valid, problems = np.zeros(len(key.pairs), dtype=np.bool_), list[str]()
        for row, pair in enumerate(key.pairs.tolist()):
            try:
                image[row] = self._pixels(pair, key.epoch)
                valid[row] = True
            except InputError as error:
                problems.append(str(error))
        return _Decoded(torch.from_numpy(image), torch.from_numpy(valid), problems)

    def _pixels(self, pair: int, epoch: int) -> npt.NDArray[np.uint8]:
        dataset, image_id = self.sources.image(pair)
        data, name = dataset.image_bytes(image_id), f"{dataset.path}: picture {image_id}"
        return self.view.pixels(data, name, (self.seed, epoch, pair))


@dataclass
class PairBatches:
    """Endless batches of this process's share of every global batch; a pure function of (seed, step).

    A global batch of `world * accum * batch_size` pairs is decided by seed and step alone; process `rank`
    decodes its rows `rank * accum * batch_size` and following. So neither the number of processes nor that
    of workers changes what is learnt from, and a resumed run sees the batches it would have seen.

    Args:
        sources: the train sets.
        preprocess: how a picture becomes pixels.
        batch_size: rows of a sub-batch, which is what a worker decodes at a time.
        accum: sub-batches of a step.
        rank, world: number of this process, and of all.
        context_length: most tokens of a text.
        augmentation: "light" (`augment`), "auto" (`auto_augment`) or None.
        random_erasing: probability of `random_erase`.
        sampler: see `training_sampler`.
        workers: processes that decode; 0 decodes in this one.
        tokenize: from texts and the context length to ids, int64 (n, L), 0 = padding on the right.
        pin_memory: decoded pictures come in page-locked memory, from where they reach an accelerator sooner
            (with one sub-batch; several are joined in plain memory).

    Raises:
        InputError: too few pairs for a global batch.
    """

    sources: Sequence[PairDataset]
    preprocess: PreprocessConfig
    batch_size: int
    _: KW_ONLY
    accum: int = 1
    rank: int = 0
    world: int = 1
    context_length: int = 52
    augmentation: Augmentation | None = None
    random_erasing: float = 0.0
    sampler: SamplerName = "distinct"
    seed: int = 123
    workers: int = 0
    tokenize: Tokenize = tokenize
    pin_memory: bool = False

    def __post_init__(self) -> None:
        self._table = PairSources(self.sources)
        self._sampler = training_sampler(self.sampler, self._table, self.global_batch_size, seed=self.seed)
        self.view = TrainingView(self.preprocess, self.augmentation, self.random_erasing)
        self._reported: set[str] = set()
        self._rows = self._broken = 0

    @property
    def n_pairs(self) -> int:
        """Pairs of all sources."""
        return len(self._table)

    @property
    def global_batch_size(self) -> int:
        """Pairs of a step, of all processes together."""
        return self.world * self.accum * self.batch_size

    @property
    def steps_per_epoch(self) -> int:
        """Whole global batches of an epoch; what is left over is left out."""
        return len(self._sampler)

    def describe(self) -> list[str]:
        """What the train sets hold, wherever they are: number of pairs and a hash of ids and texts."""
        return [f"{len(dataset)} pairs, {dataset.digest()}" for dataset in self.sources]

    def duplicate_rate(self, epoch: int = 0, batches: int = 8) -> float:
        """Share of pairs with their picture or text in another row of their global batch, as far as an
        epoch's first batches tell."""
        drawn = islice(self._sampler.batches(epoch), batches)
        return float(np.mean([self._table.duplicate_rate(np.asarray(pairs)) for pairs in drawn]))

    def iterate(self, start_step: int) -> Iterator[dict[str, Any]]:
        """Local batches from `start_step` (0-based) on, epoch after epoch, without end.

        With b = accum * batch_size rows here, G = global_batch_size, R the side of a picture:
            image: uint8 (b, 3, R, R), raw 0..255, channels last in memory
            text: int64 (b, L), L the longest text of this batch, 0 = padding
            valid: bool (b,), false where the picture cannot be read; its pixels are 0
            relevance: bool (G, G) of the global batch, true where text j describes picture i by the labels
            image_id, text_id: lists of b

        A picture that cannot be read is named in the log, once. Workers end with the thread that first asks
        for a batch.

        Raises:
            InputError: most of the pictures cannot be read.
        """
        ahead, steps = tee(self._global_batches(start_step))  # the loader draws before we come to use
        decoded = iter(
            DataLoader(
                _Decoder(self._table, self.view, self.seed),
                sampler=self._sub_batches(ahead),
                batch_size=None,
                num_workers=self.workers,
                prefetch_factor=max(2, -(-self.accum // self.workers)) if self.workers else None,  # a step
                worker_init_fn=_follow_parent,
                pin_memory=self.pin_memory,
                generator=torch.Generator(),  # else a start draws from the global one, and a resume differs
            )
        )
        for key in steps:
            image, valid = self._join([next(decoded) for _ in range(self.accum)])
            pairs = key.pairs[self._local].tolist()
            rows = [self._table.text(pair) for pair in pairs]
            yield {
                "image": image.permute(0, 3, 1, 2),
                "text": self._tokens([row.text for row in rows]),
                "valid": valid,
                "relevance": torch.from_numpy(self._table.relevance(key.pairs)),
                "image_id": [self._table.image(pair)[1] for pair in pairs],
                "text_id": [row.text_id for row in rows],
            }

    @property
    def _local(self) -> slice:
        rows = self.accum * self.batch_size
        return slice(self.rank * rows, (self.rank + 1) * rows)

    def _global_batches(self, step: int) -> Iterator[_Key]:
        epoch, done = divmod(step, self.steps_per_epoch)
        while True:
            for pairs in islice(self._sampler.batches(epoch), done, None):
                yield _Key(epoch, np.asarray(pairs))
            epoch, done = epoch + 1, 0

    def _sub_batches(self, steps: Iterable[_Key]) -> Iterator[_Key]:
        for epoch, pairs in steps:
            for part in np.split(pairs[self._local], self.accum):
                yield _Key(epoch, part)

    def _join(self, parts: list[_Decoded]) -> tuple[Tensor, Tensor]:
        for problem in (problem for part in parts for problem in part.problems):
            if problem not in self._reported:
                self._reported.add(problem)
                logger.warning("left out of training: %s", problem)
        image = parts[0].image if len(parts) == 1 else torch.cat([part.image for part in parts])
        valid = torch.cat([part.valid for part in parts])
        self._rows += len(valid)
        self._broken += len(valid) - int(valid.sum())
        if self._rows >= _ENOUGH_TO_JUDGE and 2 * self._broken > self._rows:
            paths = ", ".join(str(dataset.path) for dataset in self.sources)
            raise InputError(f"{paths}: {self._broken} of the first {self._rows} pictures cannot be read")
        return image, valid

    def _tokens(self, texts: list[str]) -> Tensor:
        tokens = self.tokenize(texts, self.context_length)
        longest = int((tokens != 0).sum(1).max())
        return torch.from_numpy(tokens[:, :longest])


def _follow_parent(_worker: int) -> None:
    """A worker ends when its trainer does, and only then.

    A killed trainer would leave its workers decoding for a minute, and Ctrl-C or SIGTERM, which may go to
    all of them, would take away the batch that the trainer's last step waits for.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL))
