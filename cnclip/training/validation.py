"""Validation inside training: recall over the full gallery, and the in-batch numbers Chinese-CLIP logs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import torch
import torch.distributed as dist

from cnclip.data.dataset import PairDataset
from cnclip.errors import ImageError
from cnclip.evaluation.evaluator import Embedded, LabelledSplit, embed, embed_texts, score
from cnclip.evaluation.ranks import FloatArray
from cnclip.model.encoder import Encoder
from cnclip.training.distributed import World
from cnclip.training.losses import multi_positive_info_nce
from cnclip.training.parallel import Parallel

if TYPE_CHECKING:
    from cnclip.training.run_state import RunState

_SHOWN = 20  # lines about unreadable pictures


class Measured(NamedTuple):
    """A split under the weights of one moment. result: what `evaluation.evaluate` returns, "in_batch" (see
    `in_batch_metrics`) and "problems": a line for some of the pictures that cannot be read."""

    result: dict[str, Any]
    embedded: Embedded


class Learner(Protocol):
    """Learns from the queries of a validation split, after they were measured."""

    def learn(
        self, state: RunState, split: PairDataset, before: Measured, *, step: int, epoch: int
    ) -> tuple[dict[str, Any], Measured]:
        """Change the model in place, or leave it. Every process calls.

        Returns a record of what was done, and the measurement of the weights as they are now.
        """
        ...

    def finish(self) -> None:
        """The run is over: tell what there is to tell. Rank 0 calls."""
        ...


@dataclass
class SharedEncoder:
    """An Encoder whose work is divided among the processes; each gets all of the result. Every process must
    make the same calls."""

    encoder: Encoder
    world: World

    @property
    def name(self) -> str:
        return self.encoder.name

    @property
    def dim(self) -> int:
        return self.encoder.dim

    def encode_texts(self, texts: Sequence[str], *, batch_size: int = 256) -> FloatArray:
        """See Encoder."""
        mine = texts[self.world.rank :: self.world.size]
        return self._collect(self.encoder.encode_texts(mine, batch_size=batch_size), len(texts))

    def encode_images(
        self,
        images: Sequence[Any],
        *,
        batch_size: int = 32,
        on_error: str = "raise",
        skipped: list[tuple[int, ImageError]] | None = None,
    ) -> FloatArray:
        """See Encoder."""
        mine = images[self.world.rank :: self.world.size]
        broken: list[tuple[int, ImageError]] = []
        vectors = self.encoder.encode_images(mine, batch_size=batch_size, on_error="skip", skipped=broken)
        rows = np.full((len(mine), self.dim), np.nan, dtype=np.float32)
        rows[np.setdiff1d(np.arange(len(mine)), [i for i, _ in broken])] = vectors
        complete = self._collect(rows, len(images))
        found = self._all([(self.world.rank + i * self.world.size, str(error)) for i, error in broken])
        if found and on_error == "raise":
            raise ImageError(found[0][1])
        if skipped is not None:
            skipped.extend((i, ImageError(message)) for i, message in found)
        return np.delete(complete, [i for i, _ in found], axis=0)

    def _collect(self, rows: FloatArray, total: int) -> FloatArray:
        """Rows dealt out in turn, back in order. Processes with fewer rows pad; padding is dropped again."""
        if self.world.size == 1:
            return rows
        most = -(-total // self.world.size)
        padded = torch.full((most, self.dim), torch.nan)
        padded[: len(rows)] = torch.from_numpy(rows)
        gathered = self.world.gather(padded.to(self.world.device)).cpu().numpy()
        in_turn: FloatArray = (
            gathered.reshape(self.world.size, most, self.dim).swapaxes(0, 1).reshape(-1, self.dim)
        )
        whole: FloatArray = in_turn[:total]
        return whole

    def _all(self, found: list[tuple[int, str]]) -> list[tuple[int, str]]:
        if self.world.size == 1:
            return found
        lists: list[list[tuple[int, str]]] = [[] for _ in range(self.world.size)]
        dist.all_gather_object(lists, found)
        return sorted(item for items in lists for item in items)


def shared_encoder(parallel: Parallel, *, bf16: bool = False) -> SharedEncoder:
    """The model in training as an encoder whose work all processes share. Every process must call."""
    parallel.share_buffers()
    # A sharded model's layers are put together in every forward pass: all processes must make the same ones.
    world = World(device=parallel.world.device) if parallel.sharded else parallel.world
    return SharedEncoder(Encoder.of_training_model(parallel.model, bf16=bf16), world)


def measure_split(
    parallel: Parallel,
    split: LabelledSplit,
    *,
    batch_size: int = 64,
    bf16: bool = False,
    seed: int = 0,
    pictures: Embedded | None = None,
) -> Measured:
    """Full-gallery metrics of the model in training. Every process must call.

    pictures: an earlier measurement of the split, if the image side is as it was then.

    Raises: InputError if the split has no usable text or picture.
    """
    encoder = shared_encoder(parallel, bf16=bf16)
    if pictures is None:
        embedded = embed(encoder, split, batch_size=batch_size)
    else:
        embedded = replace(pictures, text_vectors=embed_texts(encoder, split.texts, max(batch_size, 256)))
    result = score(embedded)
    result["problems"] = embedded.problems[:_SHOWN]
    result["in_batch"] = in_batch_metrics(embedded, encoder.encoder.logit_scale, batch_size, seed)
    return Measured(result, embedded)


def in_batch_metrics(
    embedded: Embedded, logit_scale: float, batch_size: int, seed: int = 0
) -> dict[str, float]:
    """Loss and accuracies within shuffled batches of pairs, as Chinese-CLIP's validation line shows.

    They depend on the batch size and say little about search: 80 % here can be 18 % recall. Pair i of a batch
    counts as found when text i is the nearest to picture i. The last batch may be smaller; nothing is padded.

    Returns: {"loss", "i2t_acc", "t2i_acc", "batch_size"}; accuracies as fractions.
    """
    image = np.concatenate(embedded.relevant)
    text = np.repeat(np.arange(len(embedded.relevant)), [len(r) for r in embedded.relevant])
    order = np.random.default_rng(seed).permutation(len(image))
    totals = np.zeros(3)
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        images = torch.from_numpy(embedded.image_vectors[image[rows]])
        texts = torch.from_numpy(embedded.text_vectors[text[rows]])
        own = torch.eye(len(rows), dtype=torch.bool)
        loss = multi_positive_info_nce(images, texts, torch.tensor(logit_scale), own)
        similarity, each = images @ texts.T, torch.arange(len(rows))
        found = [(similarity.argmax(axis) == each).sum().item() for axis in (1, 0)]
        totals += [float(loss) * len(rows), *found]
    loss_mean, i2t, t2i = (totals / len(order)).tolist()
    return {
        "loss": loss_mean,
        "i2t_acc": i2t,
        "t2i_acc": t2i,
        "batch_size": float(min(batch_size, len(order))),
    }
