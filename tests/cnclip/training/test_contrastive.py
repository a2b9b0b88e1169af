"""The contrastive objective against plain, whole-batch code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cnclip.model.config import VisionConfig
from cnclip.model.dual_encoder import DualEncoder
from cnclip.model.pixels import Normalizer
from cnclip.training.contrastive import Contrastive, LossName
from cnclip.training.loop import FitConfig, optimizer_of
from cnclip.training.parallel import Parallel
from cnclip.training.step import Laps, NonFiniteError, Precision, StepContext, train_step
from cnclip.training.teacher import Teacher
from tests.cnclip.training.conftest import build_tiny_model

Build = Callable[[], DualEncoder]
SEED = 99


def make_batch(rows: int, *, same_text: bool = True, seed: int = 0) -> dict[str, Any]:
    """Noise pictures; texts of different lengths, every fourth the same, labelled so."""
    g = torch.Generator().manual_seed(seed)
    text = torch.randint(1, 1000, (rows, 8), generator=g)
    for row in range(rows):
        text[row, 3 + row % 5 :] = 0
    group = torch.arange(rows)
    if same_text:
        group[::4] = 0
        text[::4] = text[0].clone()
    return {
        "image": torch.randint(0, 256, (rows, 3, 32, 32), dtype=torch.uint8, generator=g),
        "text": text,
        "valid": torch.ones(rows, dtype=torch.bool),
        "relevance": group[:, None] == group[None, :],
    }


def objective_of(model: DualEncoder, **options: Any) -> Contrastive:
    pixels = Normalizer(model.config.preprocess, torch.device("cpu"))
    return Contrastive(Parallel(model), pixels, **options)


def gradients(
    model: DualEncoder, objective: Contrastive, batch: dict[str, Any]
) -> tuple[dict[str, Tensor], float]:
    model.train()
    model.zero_grad()
    values = objective.backward(model, batch, StepContext(Precision(), SEED, Laps()))
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return found, float(values["loss"].detach())


def trimmed(ids: Tensor) -> Tensor:
    """Without columns that are padding only; dropout draws by shape."""
    return ids[:, ids.any(0)]


def encode_naively(
    model: DualEncoder, batch: dict[str, Any], parts: int, mask_ratio: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Every part with its own random numbers and its graph kept: what must be equalled, in any memory."""
    mean, std = (
        torch.tensor(v).view(1, 3, 1, 1) for v in (model.config.preprocess.mean, model.config.preprocess.std)
    )
    images, texts = [], []
    for number, (pixels, ids) in enumerate(
        zip(batch["image"].chunk(parts), batch["text"].chunk(parts), strict=True)
    ):
        torch.manual_seed(SEED * 1_000_003 + number)
        images.append(
            model.encode_image(
                (pixels / 255 - mean) / std, **({"mask_ratio": mask_ratio} if mask_ratio else {})
            )
        )
        texts.append(model.encode_text(trimmed(ids)))
    return torch.cat(images), torch.cat(texts)


def naive_loss(loss: LossName, image: Tensor, text: Tensor, scale: Tensor, relevance: Tensor) -> Tensor:
    logits = scale * image @ text.T
    n = len(logits)
    if loss == "info-nce":
        return (F.cross_entropy(logits, torch.arange(n)) + F.cross_entropy(logits.T, torch.arange(n))) / 2
    total = torch.zeros(())
    if loss == "dual-softmax":  # as Online-CNCLIP has it
        for s in (logits, logits.T):
            total = total - torch.log_softmax(s * torch.softmax(s / 1000, dim=0) * n, dim=-1).diag().mean()
        return total
    for s, wanted in ((logits, relevance), (logits.T, relevance.T)):
        for row in range(n):
            log_p = torch.log_softmax(s[row], 0)
            total = total - log_p[wanted[row]].mean() / n / 2
    return total


@pytest.mark.parametrize("loss", ["multi-positive", "info-nce", "dual-softmax"])
@pytest.mark.parametrize("parts", [1, 4])
def test_gradient_is_that_of_the_whole_batch(tiny_model: Build, loss: LossName, parts: int) -> None:
    """With dropout: sub-batches draw the same masks in both passes."""
    model, batch = tiny_model(), make_batch(16)
    got, value = gradients(model, objective_of(model, loss=loss, sub_batches=parts), batch)
    model.zero_grad()
    image, text = encode_naively(model, batch, parts)
    expected = naive_loss(loss, image, text, model.logit_scale.exp(), batch["relevance"])
    expected.backward()
    assert value == pytest.approx(float(expected.detach()), rel=1e-6)
    wanted = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    whole = torch.stack([g.norm() for g in wanted.values()]).norm()
    assert got.keys() == wanted.keys()
    for name, gradient in wanted.items():  # a key's bias cancels in the softmax: its gradient is all rounding
        error = (got[name] - gradient).norm() / gradient.norm().clamp(min=1e-3 * whole)
        assert error <= 1e-5, (name, float(error))


@pytest.mark.slow
def test_1024_pairs_in_parts_of_64(tiny_model: Build) -> None:
    model, batch = tiny_model(), make_batch(1024)
    got, _ = gradients(model, objective_of(model, sub_batches=16, mask_ratio=0.5), batch)
    model.zero_grad()
    image, text = encode_naively(model, batch, 16, mask_ratio=0.5)
    naive_loss("multi-positive", image, text, model.logit_scale.exp(), batch["relevance"]).backward()
    whole = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    ours = torch.cat([got[n].flatten() for n, _ in model.named_parameters()])
    assert (ours - whole).norm() / whole.norm() <= 1e-5


def test_dropout_and_masking_are_on(tiny_model: Build) -> None:
    """The equalities above say nothing if nothing is random."""
    model, batch = tiny_model(), make_batch(8)
    model.train()
    first, second = (encode_naively(model, batch, 1, mask_ratio=0.5) for _ in range(2))
    torch.manual_seed(1)
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])
    other = model.encode_text(batch["text"])
    assert not torch.allclose(first[1], other)


def test_unreadable_pictures_take_no_part(tiny_model: Build) -> None:
    """Rows that are not valid: loss and gradient as if they were not there."""
    model = tiny_model().eval()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if hasattr(module, "dropout_p"):
            module.dropout_p = 0.0
    batch = make_batch(12)
    batch["valid"][[2, 7]] = False
    batch["image"][[2, 7]] = 0
    kept = [i for i in range(12) if i not in (2, 7)]
    smaller = {name: value[kept] for name, value in batch.items()}
    smaller["relevance"] = batch["relevance"][kept][:, kept]
    for options in ({}, {"sub_batches": 2}, {"loss": "dual-softmax"}):
        got, loss = gradients(model, objective_of(model, **options), batch)
        expected, wanted = gradients(
            model, objective_of(model, loss=options.get("loss", "multi-positive")), smaller
        )
        assert loss == pytest.approx(wanted, rel=1e-6)
        for name, value in expected.items():
            torch.testing.assert_close(got[name], value, rtol=1e-4, atol=1e-6)


def test_teacher_of_the_same_width_and_of_another(tiny_model: Build) -> None:
    model, batch = tiny_model(), make_batch(8)
    other = tiny_model()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    pixels = Normalizer(model.config.preprocess, torch.device("cpu"))
    plain, loss = gradients(model, objective_of(model), batch)
    got, with_teacher = gradients(
        model, objective_of(model, teacher=Teacher(other, pixels), kd_weight=2.0), batch
    )
    assert with_teacher > loss and not torch.equal(got["visual.proj"], plain["visual.proj"])
    torch.manual_seed(SEED * 1_000_003)
    image = model.encode_image(pixels.normalize(batch["image"]))
    taught = other.eval().encode_image(pixels.normalize(batch["image"]))
    assert with_teacher - loss == pytest.approx(
        2.0 * float((1 - (image * taught).sum(1).mean()).detach()), rel=1e-2
    )
    assert all(p.grad is None for p in other.parameters())


def test_a_loss_that_is_not_finite_leaves_no_gradient(tiny_model: Build) -> None:
    model, batch = tiny_model(), make_batch(4)
    with torch.no_grad():
        model.text_projection.fill_(torch.nan)
    with pytest.raises(NonFiniteError, match="loss is nan"):
        gradients(model, objective_of(model), batch)
    assert all(p.grad is None for p in model.parameters())


def build_resnet() -> DualEncoder:
    """A tiny ResNet, which has BatchNorm, with the tiny BERT."""
    tiny = build_tiny_model().config
    vision = VisionConfig(16, 32, (1, 1, 1, 1), 8, tower="resnet")
    torch.manual_seed(3)
    return DualEncoder(replace(tiny, vision=vision))


def statistics(model: DualEncoder) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in model.named_buffers() if "running" in name}


def test_statistics_move_once_per_sub_batch() -> None:
    """Not in the pass that only collects features."""
    model, other, batch = build_resnet(), build_resnet(), make_batch(8)
    gradients(model, objective_of(model, sub_batches=4), batch)
    other.train()
    pixels = Normalizer(other.config.preprocess, torch.device("cpu"))
    for part in batch["image"].chunk(4):
        other.encode_image(pixels.normalize(part))
    expected = statistics(other)
    assert expected
    for name, value in statistics(model).items():
        torch.testing.assert_close(value, expected[name])


def test_frozen_tower_gets_no_gradient_and_keeps_its_statistics() -> None:
    model, batch = build_resnet(), make_batch(8)
    model.visual.requires_grad_(False)
    before = statistics(model)
    optimizer = optimizer_of(model, FitConfig(1, 1e-3))
    objective = objective_of(model, sub_batches=2)
    train_step(model, batch, objective, optimizer, lr=1e-3, precision=Precision())
    assert all(parameter.grad is None for parameter in model.visual.parameters())
    assert all(torch.equal(value, before[name]) for name, value in statistics(model).items())
    assert model.text_projection.grad is not None
