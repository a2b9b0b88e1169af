"""Validation inside training against naive counts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cnclip.data.dataset import PairDataset
from cnclip.evaluation.evaluator import embed, evaluate
from cnclip.model.dual_encoder import DualEncoder
from cnclip.model.encoder import Encoder
from cnclip.training.distributed import World
from cnclip.training.parallel import Parallel
from cnclip.training.validation import SharedEncoder, in_batch_metrics, measure_split

Build = Callable[[], DualEncoder]


def test_full_gallery_numbers_are_those_of_evaluate(tiny_model: Build, colours: PairDataset) -> None:
    model = tiny_model().train()
    result, embedded = measure_split(Parallel(model), colours)
    assert len(embedded.image_vectors) == result["n_gallery"]
    expected = evaluate(Encoder.of_training_model(model), colours)
    assert {name: result[name] for name in expected} == expected
    assert model.training  # as it was


@pytest.mark.parametrize("batch_size", [5, 7, 100])
def test_in_batch_numbers_count_no_padding(tiny_model: Build, colours: PairDataset, batch_size: int) -> None:
    embedded = embed(Encoder.of_training_model(tiny_model()), colours)
    got = in_batch_metrics(embedded, 14.0, batch_size, seed=3)
    pairs = [(i, t) for t, rows in enumerate(embedded.relevant) for i in rows]
    order = np.random.default_rng(3).permutation(len(pairs))
    losses, i2t, t2i = 0.0, 0, 0
    for start in range(0, len(order), batch_size):
        rows = [pairs[i] for i in order[start : start + batch_size]]
        logits = 14.0 * torch.tensor(
            [[float(embedded.image_vectors[i] @ embedded.text_vectors[t]) for _, t in rows] for i, _ in rows]
        )
        own = torch.arange(len(rows))
        losses += float(F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2 * len(rows)
        i2t += int((logits.argmax(1) == own).sum())
        t2i += int((logits.argmax(0) == own).sum())
    assert got["loss"] == pytest.approx(losses / len(pairs), rel=1e-5)
    # texts repeat, so ties may fall either way
    assert abs(got["i2t_acc"] * len(pairs) - i2t) <= 2 and abs(got["t2i_acc"] * len(pairs) - t2i) <= 2


def test_divided_work_comes_back_in_order(tiny_model: Build, colours: PairDataset, tmp_path: Path) -> None:
    """Three pretended processes, one of the pictures broken: the rows are those of one process."""
    encoder = Encoder.of_training_model(tiny_model())
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    images: list[Any] = [colours.image_bytes(i) for i in colours.image_ids[:10]]
    images[4] = tmp_path / "broken.jpg"
    skipped: list[tuple[int, Any]] = []
    expected = encoder.encode_images(images, on_error="skip", skipped=skipped)
    size, sent = 3, dict[int, torch.Tensor]()

    class Pretended(World):
        """Collects what each process would send; the last one gets all of it."""

        def gather(self, local: torch.Tensor) -> torch.Tensor:
            sent[self.rank] = local
            return torch.cat([sent.get(rank, torch.zeros_like(local)) for rank in range(size)])

    class Shared(SharedEncoder):
        def _all(self, found: list[tuple[int, str]]) -> list[tuple[int, str]]:
            errors.extend(found)
            return sorted(errors)

    errors: list[tuple[int, str]] = []
    for rank in range(size):
        found: list[tuple[int, Any]] = []
        got = Shared(encoder, Pretended(rank, size)).encode_images(images, on_error="skip", skipped=found)
    np.testing.assert_allclose(got, expected, atol=1e-6)
    assert [i for i, _ in found] == [i for i, _ in skipped] == [4]
    sent.clear()
    texts = ["红色", "绿色", "蓝色", "黄色"]
    for rank in range(size):
        vectors = Shared(encoder, Pretended(rank, size)).encode_texts(texts)
    np.testing.assert_allclose(vectors, encoder.encode_texts(texts), atol=1e-6)
