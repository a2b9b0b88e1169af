"""How `lite` is made: both towers trained together on shop photos, emoji pictures and a large list of words.

Starting points: EfficientNet-Lite0 with its ImageNet weights, whose classifier becomes a projection into the
text space, and the distilled text tower. Every step sees photos, emoji and corpus texts, so that the towers
meet without forgetting what pictures or words outside the shop look like.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from cnclip.data.augment import augment
from cnclip.data.dataset import PairDataset
from cnclip.errors import InputError
from cnclip.image import decode_image
from cnclip.model.dual_encoder import DualEncoder
from cnclip.model.efficientnet import EfficientNetLite
from cnclip.text import tokenize
from cnclip.training.losses import (
    cosine_distillation,
    full_precision,
    multi_positive_info_nce,
    similarity_distillation,
)
from cnclip.training.step import Batch
from cnclip.training.text_space import Corpus

_SAME_MEANING = 0.6  # cosine of two texts above which one is no negative of the other's picture
_NEAR_QUERY = 0.5  # cosine to a query above which a word follows it
_SCALE = 20.0  # factor on cosines for the ImageNet distribution


def load_imagenet_tower(tower: EfficientNetLite, weights: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Copy the public EfficientNet-Lite weights in; returns the classifier (1000, 1280), (1000,).

    Both sides list their layers in order of use, so tensors correspond by position.
    """
    weights = dict(weights)
    classifier = weights.pop("_fc.weight").float(), weights.pop("_fc.bias").float()
    own = {k: v for k, v in tower.state_dict().items() if not k.startswith("proj.")}
    renamed = {}
    for (name, value), (source, given) in zip(own.items(), weights.items(), strict=True):
        if value.shape != given.shape:
            raise ValueError(f"{source} {tuple(given.shape)} does not fit {name} {tuple(value.shape)}")
        renamed[name] = given
    tower.load_state_dict(renamed, strict=False)
    return classifier


@torch.no_grad()
def project_classifier(
    tower: EfficientNetLite, classifier: tuple[Tensor, Tensor], class_vectors: Tensor, ridge: float = 0.1
) -> None:
    """Set the projection so that a picture's cosine to a class name follows the classifier's logit.

    Ridge regression: the embedding e whose products with the class vectors T (1000, D) come nearest to the
    logits W f + b is e = (T'T + ridge I)^-1 T' (W f + b).
    """
    weight, bias = (c - c.mean(0) for c in classifier)
    t = class_vectors.float()
    inverse = torch.linalg.solve(t.T @ t + ridge * torch.eye(t.shape[1]), t.T)  # (D, 1000)
    tower.proj.weight.copy_(inverse @ weight)
    tower.proj.bias.copy_(inverse @ bias)


class Pictures(Dataset[tuple[np.ndarray[Any, np.dtype[np.uint8]], int]]):
    """Photos of a PairDataset, then emoji files. Item key: (index, seed of its augmentation)."""

    def __init__(self, photos: PairDataset, emoji: list[tuple[str, str]], size: int) -> None:
        self.photos, self.emoji, self.size = photos, emoji, size

    def __len__(self) -> int:
        return len(self.photos.image_ids) + len(self.emoji)

    def digest(self) -> str:
        """Names the pictures and their order."""
        names = [*self.photos.image_ids, *(title for _, title in self.emoji)]
        return hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]

    def encoded(self, index: int) -> bytes | str:
        """Encoded bytes of a photo, or the path of an emoji picture."""
        n = len(self.photos.image_ids)
        return (
            self.photos.image_bytes(self.photos.image_ids[index]) if index < n else self.emoji[index - n][0]
        )

    def __getitem__(self, key: tuple[int, int]) -> tuple[np.ndarray[Any, np.dtype[np.uint8]], int]:
        index, seed = key
        image = decode_image(self.encoded(index), name=f"training picture {index}")
        return augment(image, np.random.default_rng((seed, index)), self.size), index


@dataclass
class LiteBatches:
    """Batches of photos, emoji and corpus texts.

    Each: image (B, 3, R, R) normalised float, the photos first; class_probs (B, 1000); texts of three kinds:
    query_ids with query_targets (all Q queries), title_ids (one per emoji of the batch), corpus_ids with
    corpus_targets (N, D), half of them near a query; relevance (photos, Q).
    """

    pictures: Pictures
    corpus: Corpus
    class_probs: Tensor
    class_vectors: Tensor
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    photos_per_batch: int = 52
    emoji_per_batch: int = 12
    texts_per_batch: int = 384
    seed: int = 0
    workers: int = 1

    def __post_init__(self) -> None:
        photos = self.pictures.photos
        self.query_ids = torch.from_numpy(tokenize([row.text for row in photos.texts]))
        self.relevance = torch.zeros(len(photos.image_ids), len(photos.texts), dtype=torch.bool)
        self.relevance[torch.from_numpy(photos.pairs.image), torch.from_numpy(photos.pairs.text)] = True
        self.labelled = self.relevance.any(1).nonzero().flatten()
        rows = {text: row for row, text in enumerate(self.corpus.texts)}
        missing = [row.text for row in photos.texts if row.text not in rows]
        if missing:
            raise InputError(f"{photos.path}: query {missing[0]!r} is not in the text corpus; build it anew")
        self.query_targets = self.corpus.targets[[rows[row.text] for row in photos.texts]].float()
        best = [(t.float() @ self.query_targets.T).amax(1) for t in torch.split(self.corpus.targets, 65_536)]
        self.near = (torch.cat(best) > _NEAR_QUERY).nonzero().flatten()

    @property
    def steps_per_epoch(self) -> int:
        return len(self.labelled) // self.photos_per_batch

    @property
    def global_batch_size(self) -> int:
        return self.photos_per_batch

    def iterate(self, start_step: int) -> Iterator[Batch]:
        keys = self._keys(start_step)
        loader = DataLoader(
            self.pictures,
            batch_sampler=keys,
            num_workers=self.workers,
            collate_fn=_collate,
            generator=torch.Generator(),  # else each start draws from the global one, and a resume differs
            prefetch_factor=4,
        )
        for step, (pixels, indices) in enumerate(loader, start=start_step):
            yield self._batch(pixels, indices, torch.Generator().manual_seed(self.seed * 1_000_003 + step))

    def _keys(self, step: int) -> Iterator[list[tuple[int, int]]]:
        n = len(self.pictures.photos.image_ids)
        while True:
            epoch, offset = divmod(step, self.steps_per_epoch)
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            photos = self.labelled[torch.randperm(len(self.labelled), generator=generator)].tolist()
            emoji = torch.randint(
                len(self.pictures.emoji), (self.steps_per_epoch, self.emoji_per_batch), generator=generator
            )
            for i in range(offset, self.steps_per_epoch):
                chosen = photos[i * self.photos_per_batch : (i + 1) * self.photos_per_batch]
                chosen += [n + int(e) for e in emoji[i]]
                yield [(index, self.seed * 1_000_003 + step) for index in chosen]
                step += 1

    def _batch(self, pixels: Tensor, indices: Tensor, texts: torch.Generator) -> Batch:
        mean = torch.tensor(self.mean).view(1, 3, 1, 1) * 255
        std = torch.tensor(self.std).view(1, 3, 1, 1) * 255
        photos = indices[indices < len(self.pictures.photos.image_ids)]
        emoji = indices[len(photos) :] - len(self.pictures.photos.image_ids)
        half = self.texts_per_batch // 2
        anywhere = torch.randint(len(self.corpus.texts), (half,), generator=texts)
        near = self.near[torch.randint(len(self.near), (half,), generator=texts)]
        corpus = self.corpus.batch(torch.cat([anywhere, near]))
        return {
            "image": (pixels.permute(0, 3, 1, 2).float() - mean) / std,
            "class_probs": self.class_probs[indices].float(),
            "class_vectors": self.class_vectors,
            "relevance": self.relevance[photos],
            "query_ids": self.query_ids,
            "query_targets": self.query_targets,
            "title_ids": torch.from_numpy(tokenize([self.pictures.emoji[int(e)][1] for e in emoji])),
            "corpus_ids": corpus["text"],
            "corpus_targets": corpus["target"],
        }


def _collate(items: list[tuple[Any, int]]) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(np.stack([p for p, _ in items])), torch.tensor([i for _, i in items])


@full_precision
def class_distillation(image_features: Tensor, class_vectors: Tensor, class_probs: Tensor) -> Tensor:
    """KL from the ImageNet classifier's distribution to that over class names in the text space."""
    log_p = F.log_softmax(_SCALE * image_features.float() @ class_vectors.float().T, 1)
    return F.kl_div(log_p, class_probs, reduction="batchmean")


def lite_objective(model: DualEncoder, batch: Batch) -> dict[str, Tensor]:
    """Contrast pictures with queries, titles and words; keep the words and the ImageNet classes in place."""
    images = model.encode_image(batch["image"])
    parts = [model.encode_text(batch[name]) for name in ("query_ids", "title_ids", "corpus_ids")]
    queries, titles, words = parts
    texts = torch.cat(parts)
    relevance, ignore = _open_vocabulary(batch["relevance"], len(titles), texts)
    contrastive = multi_positive_info_nce(
        images, texts, model.logit_scale.exp(), relevance, ignore=ignore, text_to_image_weight=0.3
    )
    classes = class_distillation(images, batch["class_vectors"], batch["class_probs"])
    targets = follow_queries(batch["corpus_targets"], batch["query_targets"], queries.detach())
    cosine = cosine_distillation(words, targets)
    neighbours = similarity_distillation(words, targets)
    return {
        "loss": contrastive + 0.3 * classes + cosine + neighbours,
        "contrastive": contrastive,
        "classes": classes,
        "cosine": 1 - cosine,
        "scale": model.logit_scale.exp(),
    }


@full_precision
def follow_queries(targets: Tensor, query_targets: Tensor, queries: Tensor) -> Tensor:
    """Teacher targets (N, D), moved along with the queries they are near to.

    Pictures pull the queries (Q, D) away from where the teacher puts them (query_targets). Words of like
    meaning must come along, or 洋芋 stays behind when 土豆 moves: each takes on the mean displacement of the
    queries nearest to it, wholly from a cosine of 0.9, not at all below 0.5.
    """
    similarity = targets.float() @ query_targets.float().T  # (N, Q)
    share = ((similarity.amax(1, keepdim=True) - _NEAR_QUERY) / (0.9 - _NEAR_QUERY)).clamp(0, 1)
    displacement = (30.0 * similarity).softmax(1) @ (queries.float() - query_targets.float())
    return F.normalize(targets.float() + share * displacement, dim=1)


@torch.no_grad()
def _open_vocabulary(photo_relevance: Tensor, n_emoji: int, texts: Tensor) -> tuple[Tensor, Tensor]:
    """Relevance and unknowns of all pictures against queries, titles and words, both bool (B, T).

    Photos are fully labelled on the queries. Elsewhere a text that means nearly the same as one of the
    picture's own texts is unknown, every other one is a negative.
    """
    n_photos, n_queries = photo_relevance.shape
    relevance = torch.zeros(n_photos + n_emoji, len(texts), dtype=torch.bool)
    relevance[:n_photos, :n_queries] = photo_relevance
    relevance[n_photos + torch.arange(n_emoji), n_queries + torch.arange(n_emoji)] = True
    alike = (texts.float() @ texts.float().T > _SAME_MEANING).float()
    ignore = (relevance.float() @ alike) > 0
    ignore[:n_photos, :n_queries] = False
    return relevance, ignore & ~relevance
