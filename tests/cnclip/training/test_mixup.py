"""Mixup in the contrastive objective against its definition."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cnclip.model.pixels import Normalizer
from cnclip.training.contrastive import Mix, partners
from tests.cnclip.training.test_contrastive import SEED, Build, gradients, make_batch, objective_of, trimmed


@pytest.mark.parametrize("missing", [None, 2])
@pytest.mark.parametrize("side", ["image", "text"])
def test_mixup_against_its_definition(
    tiny_model: Build, side: str, missing: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """lam x loss to the own row + (1 - lam) x loss to the partner's, for the side that is mixed. The partner
    of an unreadable picture, which takes no part, is left to itself."""
    model, batch, share = tiny_model(), make_batch(8, same_text=False), 0.3
    model.train()
    if missing is not None:
        batch["valid"][missing], batch["image"][missing] = False, 0
    mix = Mix(side, share)  # type: ignore[arg-type]
    monkeypatch.setattr(Mix, "draw", classmethod(lambda *_: mix))
    got, value = gradients(model, objective_of(model, loss="info-nce", mixup_beta=0.1, sub_batches=2), batch)
    model.zero_grad()
    partner = torch.arange(8) ^ 1
    if missing is not None:
        partner[missing], partner[missing ^ 1] = missing, missing ^ 1
    images, texts = [], []
    pixels = Normalizer(model.config.preprocess, torch.device("cpu")).normalize(batch["image"])
    for number, rows in enumerate(torch.arange(8).chunk(2)):
        torch.manual_seed(SEED * 1_000_003 + number)
        seen = pixels[rows]
        if side == "image":
            seen = share * pixels[rows] + (1 - share) * pixels[partner[rows]]
        images.append(model.encode_image(seen))
        options = {"mix": (partner[rows] - rows[0], share)} if side == "text" else {}
        texts.append(model.encode_text(trimmed(batch["text"][rows]), **options))
    kept = batch["valid"].nonzero().flatten()
    logits = (model.logit_scale.exp() * torch.cat(images) @ torch.cat(texts).T)[kept][:, kept]
    own, other = torch.arange(len(kept)), torch.searchsorted(kept, partner[kept])
    expected = sum(
        (share * F.cross_entropy(s, own) + (1 - share) * F.cross_entropy(s, other)) / 2
        for s in (logits, logits.T)
    )
    assert isinstance(expected, Tensor)
    assert value == pytest.approx(float(expected.detach()), rel=1e-5)
    expected.backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(got[name], parameter.grad, rtol=1e-4, atol=1e-6)


def test_nothing_is_mixed_with_the_labels_of_an_unreadable_picture(
    tiny_model: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, batch = tiny_model(), make_batch(8)  # rows 0 and 4 share their text
    batch["valid"][4], batch["image"][4] = False, 0
    unlabelled = {**batch, "relevance": torch.eye(8, dtype=torch.bool)}
    monkeypatch.setattr(Mix, "draw", classmethod(lambda *_: Mix("image", 0.3)))
    losses = [gradients(model, objective_of(model, mixup_beta=0.1), b)[1] for b in (batch, unlabelled)]
    assert losses[0] == losses[1]


def test_coins_and_shares_follow_the_seed() -> None:
    drawn = [Mix.draw(0.1, seed) for seed in range(400)]
    assert drawn == [Mix.draw(0.1, seed) for seed in range(400)] and Mix.draw(0.0, 1) is None
    sides = [mix.side for mix in drawn if mix is not None]
    assert 150 < sides.count("image") < 250
    extreme = [mix for mix in drawn if mix is not None and not 0.1 < mix.share < 0.9]
    assert len(extreme) > 250  # Beta(0.1, 0.1) has most of its mass at the ends


def test_partners_are_neighbours_that_can_be_read() -> None:
    valid = torch.tensor([True, True, True, False, True])
    assert partners(valid).tolist() == [1, 0, 2, 3, 4]
