"""Learning-rate schedules: pure functions of the step."""

from __future__ import annotations

import math


def warmup_cosine(step: int, *, base_lr: float, warmup: int, total: int, floor: float = 0.0) -> float:
    """Learning rate of 0-based `step`: linear warm-up over `warmup` steps, then cosine to `floor` at `total`.

    Same curve as Chinese-CLIP's cosine_lr when floor is 0.
    """
    if step < warmup:
        return base_lr * (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    return floor + (base_lr - floor) * 0.5 * (1 + math.cos(math.pi * progress))
