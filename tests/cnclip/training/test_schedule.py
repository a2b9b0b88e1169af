from __future__ import annotations

import math

import pytest

from cnclip.errors import InputError
from cnclip.training.schedule import Schedule, default_hyperparameters, epoch_of, scaled_lr


def reference_lr(step: int, base_lr: float, warmup: int, total: int, decay_steps: int | None = None) -> float:
    """Chinese-CLIP's cosine_lr, and with decay_steps Online-CNCLIP's, from their formulas."""
    if step < warmup:
        return base_lr * (step + 1) / warmup
    lr = base_lr * (1 + math.cos(math.pi * (step - warmup) / (total - warmup))) / 2
    return lr if decay_steps is None else lr / 10 ** math.floor(step / decay_steps)


@pytest.mark.parametrize("warmup", [0, 1, 7])
def test_cosine_is_chinese_clips(warmup: int) -> None:
    schedule = Schedule("cosine", 5e-5, warmup, 40)
    for step in range(40):
        assert schedule.lr(step) == pytest.approx(reference_lr(step, 5e-5, warmup, 40), rel=1e-12)


def test_steps_are_online_cnclips() -> None:
    """Counted from the first step of the run; the warm-up itself is not divided."""
    schedule = Schedule("step", 1e-3, warmup=12, total=45, decay_steps=10)
    for step in range(45):
        assert schedule.lr(step) == pytest.approx(reference_lr(step, 1e-3, 12, 45, 10), rel=1e-12)
    assert schedule.lr(20) < schedule.lr(19) / 9
    halved = Schedule("step", 1.0, warmup=0, total=10**9, decay_steps=5, decay_factor=2.0)
    assert [round(halved.lr(step), 6) for step in (0, 4, 5, 9, 10)] == [1.0, 1.0, 0.5, 0.5, 0.25]


def test_constant_stays_after_the_warmup() -> None:
    schedule = Schedule("constant", 2.0, warmup=4, total=10)
    assert [schedule.lr(step) for step in range(6)] == [0.5, 1.0, 1.5, 2.0, 2.0, 2.0]
    assert schedule.lr(10**6) == 2.0


def test_the_floor_is_a_share_of_the_peak_and_stays() -> None:
    cosine = Schedule("cosine", 2.0, warmup=10, total=110, floor=0.1)
    assert cosine.lr(0) == pytest.approx(0.2) and cosine.lr(9) == cosine.lr(10) == 2.0
    assert cosine.lr(60) == pytest.approx(1.1)
    assert cosine.lr(110) == cosine.lr(500) == cosine.lr(10**6) == pytest.approx(0.2)
    assert all(cosine.lr(s) >= cosine.lr(s + 1) for s in range(10, 120))
    step = Schedule("step", 2.0, warmup=10, total=110, floor=0.1, decay_steps=20)
    assert all(0.2 <= step.lr(s) <= cosine.lr(s) for s in range(10, 200))


@pytest.mark.parametrize("kind", ["cosine", "constant", "step"])
@pytest.mark.parametrize("total", [1, 5])
def test_a_warmup_longer_than_the_run_is_cut_to_it(kind: str, total: int) -> None:
    schedule = Schedule(kind, 1.0, warmup=500, total=total)  # type: ignore[arg-type]
    assert schedule.warmup_steps == total
    assert [schedule.lr(step) for step in range(total)] == [(step + 1) / total for step in range(total)]
    assert all(0 <= schedule.lr(step) <= 1 for step in range(total, total + 3))


def test_no_schedule_ever_leaves_its_bounds() -> None:
    for kind in ("cosine", "constant", "step"):
        for warmup in (0, 3, 20):
            schedule = Schedule(kind, 1.0, warmup, 20, floor=0.05, decay_steps=4)  # type: ignore[arg-type]
            assert all(0.05 <= schedule.lr(step) <= 1.0 for step in range(60))


def test_settings_out_of_range_are_said() -> None:
    with pytest.raises(InputError, match="unknown schedule 'linear'; known: cosine, constant, step"):
        Schedule("linear", 1.0, 0, 10)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"share of 0 to 1, not 1\.5"):
        Schedule("cosine", 1.0, 0, 10, floor=1.5)
    with pytest.raises(InputError, match="at least 1 step"):
        Schedule("step", 1.0, 0, 10, decay_steps=0)


def test_linear_scaling() -> None:
    assert scaled_lr(5e-5, 1024) == 5e-5
    assert scaled_lr(5e-5, 128) == pytest.approx(5e-5 / 8)
    assert scaled_lr(1e-3, 512, base=256) == pytest.approx(2e-3)


def test_epochs_count_from_one_and_end_with_their_last_step() -> None:
    assert [epoch_of(step, 3) for step in range(8)] == [0, 1, 1, 1, 2, 2, 2, 3]
    assert [epoch_of(step, 1) for step in range(3)] == [0, 1, 2]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("RN50", (5e-4, 0.9, 0.999, 1e-8)),
        ("ViT-B-32", (5e-4, 0.9, 0.98, 1e-6)),
        ("ViT-B-16", (5e-4, 0.9, 0.98, 1e-6)),
        ("ViT-H-14", (5e-4, 0.9, 0.98, 1e-6)),
        ("ViT-L-14", (4e-4, 0.9, 0.98, 1e-6)),
        ("ViT-L-14-336", (4e-4, 0.9, 0.98, 1e-6)),
        ("EfficientNet-Lite0", (2e-5, 0.9, 0.98, 1e-6)),
    ],
)
def test_defaults_by_image_tower(name: str, expected: tuple[float, ...]) -> None:
    assert default_hyperparameters(name) == expected
