"""Random crops, the light augmentation, random erasing."""

from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image

from cnclip.data.augment import augment, random_erase, random_resized_crop


@pytest.fixture
def photo() -> Image.Image:
    """Red grows to the right, green downwards: a pixel tells where it was."""
    x, y = np.meshgrid(np.linspace(0, 255, 80), np.linspace(0, 255, 60))
    return Image.fromarray(np.stack([x, y, np.full_like(x, 128)], axis=-1).astype(np.uint8))


def test_a_crop_shows_the_share_it_was_asked_for(photo: Image.Image) -> None:
    rng = np.random.default_rng(0)
    shares = []
    for _ in range(200):
        pixels = np.asarray(random_resized_crop(photo, rng, 40, area=(0.3, 0.5)), dtype=float)
        seen = [np.ptp(pixels[..., channel]) / 255 for channel in (0, 1)]
        shares.append(math.prod(seen))
    assert 0.26 < min(shares) < 0.33 and 0.45 < max(shares) < 0.52


def test_light_is_decided_by_its_generator(photo: Image.Image) -> None:
    one, same, other = (augment(photo, np.random.default_rng(seed), 32) for seed in (5, 5, 6))
    assert one.shape == (32, 32, 3) and one.dtype == np.uint8
    assert np.array_equal(one, same) and not np.array_equal(one, other)


def test_light_without_jitter_is_a_crop_maybe_mirrored(photo: Image.Image) -> None:
    for seed in range(8):
        plain = np.asarray(random_resized_crop(photo, np.random.default_rng(seed), 32))
        result = augment(photo, np.random.default_rng(seed), 32, jitter=0)
        assert np.array_equal(result, plain) or np.array_equal(result, plain[:, ::-1])
    mirrored = [augment(photo, np.random.default_rng(seed), 32, jitter=0) for seed in range(100)]
    assert 30 < sum(pixels[0, 0, 0] > pixels[0, -1, 0] for pixels in mirrored) < 70


def rectangle(changed: np.ndarray) -> tuple[int, int]:
    """Height and width of the box around the changed pixels, all of which but a few must have changed."""
    rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
    box = changed[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    assert box.mean() > 0.99  # noise may hit the old colour
    return box.shape


def test_an_erased_rectangle_has_the_paper_s_sizes() -> None:
    rng = np.random.default_rng(1)
    grey = np.full((100, 140, 3), 128, np.uint8)
    areas, aspects, centres = [], [], []
    for _ in range(600):
        erased = random_erase(grey, rng, 1.0)
        changed = (erased != 128).any(-1)
        height, width = rectangle(changed)
        areas.append(height * width / changed.size)
        aspects.append(height / width)
        centres.append(np.argwhere(changed).mean(0) / changed.shape)
    assert 0.015 < min(areas) < 0.035 and 0.3 < max(areas) < 0.345
    # Uniform from 2 % to 33 %: a quarter of the boxes in each quarter of that range.
    quarters = np.histogram(areas, np.linspace(0.02, 1 / 3, 5))[0] / len(areas)
    assert np.allclose(quarters, 0.25, atol=0.06)
    assert 0.27 < min(aspects) < 0.4 and 2.5 < max(aspects) < 3.7
    assert abs(np.median(np.log(aspects))) < 0.15  # as often lying as standing
    assert np.allclose(np.mean(centres, 0), 0.5, atol=0.03)
    noise = random_erase(grey, rng, 1.0)
    values = noise[(noise != 128).any(-1)]
    assert values.min() < 5 and values.max() > 250 and abs(values.mean() - 127.5) < 5


def test_erasing_happens_as_often_as_asked_and_leaves_its_input() -> None:
    rng = np.random.default_rng(2)
    grey = np.full((50, 50, 3), 128, np.uint8)
    grey.flags.writeable = False
    hits = [random_erase(grey, rng, 0.3) is not grey for _ in range(500)]
    assert 0.24 < np.mean(hits) < 0.36
    assert not any(random_erase(grey, rng, 0.0) is not grey for _ in range(50))
    assert (grey == 128).all()
    thin = np.zeros((2, 500, 3), np.uint8)
    assert random_erase(thin, rng, 1.0).shape == thin.shape
