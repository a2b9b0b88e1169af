from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cnclip.training.losses import cosine_distillation, multi_positive_info_nce, similarity_distillation


def unit(rows: int, dim: int = 8, seed: int = 0) -> Tensor:
    return F.normalize(torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed)), dim=1)


def naive(
    images: np.ndarray,
    texts: np.ndarray,
    scale: float,
    relevance: np.ndarray,
    ignore: np.ndarray,
    weight: float,
) -> float:
    """The definition, one term at a time."""

    def direction(queries: np.ndarray, keys: np.ndarray, positive: np.ndarray, unknown: np.ndarray) -> float:
        losses = []
        for i, query in enumerate(queries):
            if not positive[i].any():
                continue
            kept = [j for j in range(len(keys)) if positive[i, j] or not unknown[i, j]]
            logits = {j: scale * float(query @ keys[j]) for j in kept}
            total = np.log(sum(np.exp(v) for v in logits.values()))
            terms = [total - logits[j] for j in kept if positive[i, j]]
            losses.append(sum(terms) / len(terms))
        return sum(losses) / len(losses)

    i2t = direction(images, texts, relevance, ignore)
    t2i = direction(texts, images, relevance.T, ignore.T)
    return (1 - weight) * i2t + weight * t2i


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_multi_positive_equals_its_definition(weight: float) -> None:
    rng = np.random.default_rng(3)
    images, texts = unit(6, seed=1), unit(9, seed=2)
    relevance = rng.random((6, 9)) < 0.25
    relevance[np.arange(6), np.arange(6)] = True
    relevance[:, 8] = False  # a text that only serves as a negative
    ignore = rng.random((6, 9)) < 0.2
    got = multi_positive_info_nce(
        images,
        texts,
        torch.tensor(14.0),
        torch.from_numpy(relevance),
        ignore=torch.from_numpy(ignore),
        text_to_image_weight=weight,
    )
    expected = naive(images.numpy(), texts.numpy(), 14.0, relevance, ignore, weight)
    assert float(got) == pytest.approx(expected, rel=1e-5)


def test_one_positive_each_is_clips_loss() -> None:
    images, texts = unit(5, seed=1), unit(5, seed=2)
    logits = 20 * images @ texts.T
    clip = (F.cross_entropy(logits, torch.arange(5)) + F.cross_entropy(logits.T, torch.arange(5))) / 2
    got = multi_positive_info_nce(images, texts, torch.tensor(20.0), torch.eye(5, dtype=torch.bool))
    assert float(got) == pytest.approx(float(clip), rel=1e-6)


def test_repeated_caption_is_no_negative() -> None:
    """Two pictures of one caption: the perfect model has the lowest loss, which plain InfoNCE denies it."""
    images = texts = F.one_hot(torch.tensor([0, 0, 1])).float()
    same = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 0, 1]], dtype=torch.bool)
    perfect = multi_positive_info_nce(images, texts, torch.tensor(100.0), same)
    plain = multi_positive_info_nce(images, texts, torch.tensor(100.0), torch.eye(3, dtype=torch.bool))
    assert float(perfect) == pytest.approx(2 / 3 * np.log(2), rel=1e-5)  # the entropy of the shared targets
    gradient = images.clone().requires_grad_()
    multi_positive_info_nce(gradient, texts, torch.tensor(100.0), same).backward()
    assert gradient.grad is not None and gradient.grad.abs().max() < 1e-4
    assert float(plain) == pytest.approx(float(perfect), rel=1e-5)


def test_losses_stay_in_full_precision_under_autocast() -> None:
    images, texts = unit(16, 64, seed=1), unit(16, 64, seed=2)
    relevance = torch.eye(16, dtype=torch.bool)
    outside = multi_positive_info_nce(images, texts, torch.tensor(50.0), relevance)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = multi_positive_info_nce(images, texts, torch.tensor(50.0), relevance)
    assert torch.equal(inside, outside)


def test_distillation_losses_vanish_at_the_teacher_and_only_there() -> None:
    teacher, other = unit(12, seed=4), unit(12, seed=5)
    assert float(cosine_distillation(teacher, teacher)) == pytest.approx(0, abs=1e-6)
    assert float(similarity_distillation(teacher, teacher)) == pytest.approx(0, abs=1e-6)
    assert float(similarity_distillation(other, teacher)) > 0.1
    rotation, _ = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(6)))
    assert float(similarity_distillation(teacher @ rotation, teacher)) == pytest.approx(0, abs=1e-4)
