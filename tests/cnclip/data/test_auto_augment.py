"""AutoAugment: each operation against its definition in numpy, the policy against the paper."""

from __future__ import annotations

from typing import get_args

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from cnclip.data.auto_augment import POLICY, Op, apply, auto_augment

FILL = (123, 117, 104)
Floats = npt.NDArray[np.float64]


@pytest.fixture(scope="module")
def noise() -> Image.Image:
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(20, 200, (31, 31, 3), dtype=np.uint8))


def run(image: Image.Image, op: Op, level: int, sign: int = 1) -> Floats:
    return np.asarray(apply(image, op, level, sign=1 if sign > 0 else -1, fill=FILL), dtype=np.float64)


def grey(pixels: Floats) -> Floats:
    """ITU-R 601 luma."""
    return np.rint(pixels @ [0.299, 0.587, 0.114])


def smooth(pixels: Floats) -> Floats:
    """3 x 3 mean in which the middle counts five times; the border stays."""
    out = pixels.copy()
    windows = [pixels[1 + y : 30 + y, 1 + x : 30 + x] for y in (-1, 0, 1) for x in (-1, 0, 1)]
    out[1:-1, 1:-1] = (sum(windows) + 4 * pixels[1:-1, 1:-1]) / 13
    return out


@pytest.mark.parametrize("level", range(11))
def test_colour_operations_are_their_formulas(noise: Image.Image, level: int) -> None:
    before = np.asarray(noise, dtype=np.float64)
    bits = 4 + level * 4 // 10
    assert np.array_equal(run(noise, "Posterize", level), before // 2 ** (8 - bits) * 2 ** (8 - bits))
    threshold = level * 256 // 10
    assert np.array_equal(run(noise, "Solarize", level), np.where(before < threshold, before, 255 - before))
    assert np.array_equal(run(noise, "Invert", level), 255 - before)
    factor = 0.1 + 0.18 * level
    weakest: dict[Op, Floats] = {
        "Color": np.broadcast_to(grey(before)[..., None], before.shape),
        "Contrast": np.full_like(before, np.rint(grey(before).mean())),
        "Sharpness": smooth(before),
    }
    for op, none in weakest.items():
        expected = np.clip(none + factor * (before - none), 0, 255)
        assert np.abs(run(noise, op, level) - expected).max() <= 2, op  # rounding on the way


def test_contrast_and_histogram_are_stretched(noise: Image.Image) -> None:
    before = np.asarray(noise, dtype=np.float64)
    low, high = before.min((0, 1)), before.max((0, 1))
    expected = (before - low) * 255 / (high - low)
    assert np.abs(run(noise, "AutoContrast", 5) - expected).max() <= 1
    rng = np.random.default_rng(1)
    skewed = (255 * rng.random((300, 300, 3)) ** 3).astype(np.uint8)
    after = run(Image.fromarray(skewed), "Equalize", 5)
    for channel in range(3):
        values = skewed[..., channel].ravel()
        below = np.searchsorted(np.sort(values), values) / values.size  # share of darker pixels
        assert np.abs(after[..., channel].ravel() - 255 * below).max() < 5


@pytest.mark.parametrize(("sign", "level"), [(1, 9), (-1, 9), (1, 3), (1, 0)])
def test_rotate_turns_about_the_middle(sign: int, level: int) -> None:
    pixels = np.zeros((101, 101, 3), np.uint8)
    pixels[49:52, 89:92] = 255  # 40 to the right of the middle
    after = run(Image.fromarray(pixels), "Rotate", level, sign)
    weight = np.where(after[..., 0] > 180, after[..., 0], 0)
    y, x = (np.arange(101) @ weight.sum(axis) / weight.sum() - 50 for axis in (1, 0))
    angle = np.radians(sign * 3 * level)
    assert np.allclose([x, y], [40 * np.cos(angle), -40 * np.sin(angle)], atol=0.7)  # counter-clockwise
    assert level == 0 or np.array_equal(after[0, 0], FILL)


@pytest.mark.parametrize(("sign", "level"), [(1, 5), (-1, 5), (1, 10), (1, 0)])
def test_shear_moves_each_row_by_its_height(sign: int, level: int) -> None:
    pixels = np.zeros((61, 121, 3), np.uint8)
    pixels[:, 60] = 255
    after = run(Image.fromarray(pixels), "ShearX", level, sign)
    for y in (0, 20, 60):
        moved = (after[y, :, 0] > 60) & (after[y] != FILL).any(-1)
        weight = np.where(moved, after[y, :, 0], 0)
        expected = 60 - sign * 0.03 * level * (y + 0.5)
        assert np.arange(121) @ weight / weight.sum() == pytest.approx(expected, abs=0.6)


def test_the_policy_is_the_paper_s() -> None:
    """A second, independent writing down of the table: first letters, probability in tenths, level."""
    table = (
        "Po4-8 Ro6-9, So6-5 Au6-5, Eq8-8 Eq6-3, Po6-7 Po6-6, Eq4-7 So2-4, Eq4-4 Ro8-8, So6-3 Eq6-7, "
        "Po8-5 Eq10-2, Ro2-3 So6-8, Eq6-8 Po4-6, Ro8-8 Co4-0, Ro4-9 Eq6-2, Eq0-7 Eq8-8, In6-4 Eq10-8, "
        "Co6-4 Ct10-8, Ro8-8 Co10-2, Co8-8 So8-7, Sp4-7 In6-8, Sx6-5 Eq10-9, Co4-0 Eq6-3, Eq4-7 So2-4, "
        "So6-5 Au6-5, In6-4 Eq10-8, Co6-4 Ct10-8, Eq8-8 Eq6-3"
    )
    short = {"Contrast": "Ct", "Sharpness": "Sp", "ShearX": "Sx"}
    ours = ", ".join(
        " ".join(f"{short.get(op, op[:2])}{10 * share:.0f}-{level}" for op, share, level in pair)
        for pair in POLICY
    )
    assert ours == table and len(POLICY) == 25
    assert {op for pair in POLICY for op, _, _ in pair} == set(get_args(Op))


def test_auto_augment_is_decided_by_its_generator_and_varied() -> None:
    x, y = np.meshgrid(np.arange(80), np.arange(60))
    photo = Image.fromarray(np.stack([x * 3, y * 4, (x + y) * 1.8], -1).astype(np.uint8))
    results = [auto_augment(photo, np.random.default_rng(seed), 48, fill=FILL) for seed in range(60)]
    assert all(pixels.shape == (48, 48, 3) and pixels.dtype == np.uint8 for pixels in results)
    again = [auto_augment(photo, np.random.default_rng(seed), 48, fill=FILL) for seed in range(60)]
    assert all(np.array_equal(a, b) for a, b in zip(results, again, strict=True))
    assert len({pixels.tobytes() for pixels in results}) > 45


def test_operations_come_as_often_as_the_policy_says(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Op, int, int]] = []

    def spy(image: Image.Image, op: Op, level: int, *, sign: int, fill: object) -> Image.Image:
        assert fill == FILL
        seen.append((op, level, sign))
        return image

    monkeypatch.setattr("cnclip.data.auto_augment.apply", spy)
    monkeypatch.setattr(
        "cnclip.data.auto_augment.POLICY",
        ((("Rotate", 1.0, 9), ("Color", 0.4, 3)), (("ShearX", 0.8, 5), ("Invert", 0.0, 1))),
    )
    photo, rng = Image.new("RGB", (20, 20)), np.random.default_rng(0)
    for _ in range(1000):
        auto_augment(photo, rng, 16, fill=FILL)
    share = {op: sum(o == op for o, _, _ in seen) / 1000 for op in ("Rotate", "Color", "ShearX", "Invert")}
    assert list(share.values()) == pytest.approx([0.5, 0.2, 0.4, 0.0], abs=0.05)
    assert {level for op, level, _ in seen if op == "Rotate"} == {9}
    assert np.mean([sign for *_, sign in seen]) == pytest.approx(0, abs=0.1)


def test_without_operations_a_crop_of_nearly_everything_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = tuple(
        ((first, 0.0, level), (second, 0.0, other)) for (first, _, level), (second, _, other) in POLICY
    )
    monkeypatch.setattr("cnclip.data.auto_augment.POLICY", nothing)
    x, y = np.meshgrid(np.linspace(0, 255, 80), np.linspace(0, 255, 60))
    photo = Image.fromarray(np.stack([x, y, x], -1).astype(np.uint8))
    mirrored = 0
    for seed in range(100):
        pixels = auto_augment(photo, np.random.default_rng(seed), 40, fill=FILL).astype(float)
        share = np.ptp(pixels[..., 0]) * np.ptp(pixels[..., 1]) / 255**2
        assert 0.84 < share <= 1.0  # the outermost pixels are means of their neighbours
        mirrored += int(pixels[20, 0, 0] > pixels[20, -1, 0])
    assert 30 < mirrored < 70
