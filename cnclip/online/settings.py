"""Settings of online learning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Scope = Literal["all", "text", "projection"]

PICTURES = 5  # pictures of a query that are counted: Online-CNCLIP's cache has 1.jpg to 5.jpg


@dataclass(frozen=True)
class OnlineSettings:
    """How rounds of online learning go. The defaults are what tests/benchmarks/bench_online.py found to work.

    pictures: of a query in one round. budget_s: seconds a round waits for pictures. batch_size: queries of a
    step. lr: learning rate of a step, at most. scope: the weights that learn: all that the run trains, the
    text side, or the projections. replay: training pairs mixed into each step. pull: how strongly weights are
    drawn back to where the run began (L2-SP). keep: how strongly known texts are kept where they are.
    min_pairs: fewer make no step. tolerance: mAP that other queries may lose by all kept rounds together;
    the canary twice that. canary: training pictures kept aside. gate: whether pictures are judged at all.
    seed: of everything random.
    """

    pictures: int = 1
    budget_s: float = 600.0
    batch_size: int = 64
    lr: float = 3e-4
    scope: Scope = "text"
    replay: int = 64
    pull: float = 0.0
    keep: float = 20.0
    min_pairs: int = 4
    tolerance: float = 0.01
    canary: int = 512
    gate: bool = True
    seed: int = 123

    def numbers(self, round_number: int) -> list[int]:
        """The pictures that round `round_number` (from 0) asks for: round % 5 + 1, and those after it."""
        return [(round_number + i) % PICTURES + 1 for i in range(min(self.pictures, PICTURES))]
