"""Which rounds are kept."""

from __future__ import annotations

import numpy as np
import pytest

from cnclip.data.muge import TextRow
from cnclip.evaluation.evaluator import Embedded
from cnclip.online.verdict import Balance, Change, decide, split_change


def change(before: float, after: float) -> Change:
    return Change(10, {"mAP": before}, {"mAP": after})


@pytest.mark.parametrize(
    "taught, others, canary, kept, word",
    [
        ((0.2, 0.4), (0.8, 0.8), (0.9, 0.9), True, "gained 20.00"),
        ((0.2, 0.4), (0.8, 0.796), (0.9, 0.9), True, "others -0.40"),
        ((0.2, 0.4), (0.8, 0.78), (0.9, 0.9), False, "others lost 2.00"),
        ((0.2, 0.4), (0.8, 0.9), (0.9, 0.88), False, "canary lost 2.00"),
        ((0.2, 0.19), (0.8, 0.9), (0.9, 0.9), False, "it taught lost 1.00"),
        ((0.2, 0.2), (0.8, 0.8), (0.9, 0.9), False, "may be chance"),
        ((0.2, 0.2015), (0.8, 0.9), (0.9, 0.9), False, "gained 0.15 points of mAP, which may be chance"),
        ((0.2, 0.2021), (0.8, 0.8), (0.9, 0.9), True, "gained 0.21"),
    ],
)
def test_decisions(
    taught: tuple[float, float],
    others: tuple[float, float],
    canary: tuple[float, float],
    kept: bool,
    word: str,
) -> None:
    guarded = {"canary": change(*canary), "others": change(*others)}
    keep, why, harm = decide(change(*taught), guarded, Balance(), 0.005)
    assert keep == kept and word in why
    assert harm == ("lost" in why)  # only then are smaller steps called for


def test_small_losses_add_up() -> None:
    balance = Balance()
    loss = {"others": change(0.9, 0.897)}
    assert decide(None, loss, balance, 0.005).keep
    balance.keep({"others": loss["others"].gain})
    keep, why, _ = decide(None, loss, balance, 0.005)
    assert not keep and "0.60 with the rounds before" in why
    balance.keep({"others": 0.5})  # a gain makes good what was lost, and is not saved up
    assert balance.totals["others"] == 0.0
    assert decide(None, loss, balance, 0.005).keep
    assert decide(None, {"others": change(0.9, 0.91)}, Balance({"others": -0.02}), 0.005).keep


def test_the_canary_may_lose_twice_as_much() -> None:
    lost = change(0.9, 0.892)
    assert decide(None, {"canary": lost}, Balance(), 0.005).keep
    assert not decide(None, {"canary": lost}, Balance(), 0.0039).keep
    assert not decide(None, {"others": lost}, Balance(), 0.005).keep


def test_groups_against_counting_by_hand() -> None:
    texts = [TextRow(i, name, []) for i, name in enumerate(["红裙", "“杯子”", "鞋"])]
    images = np.eye(4, dtype=np.float32)
    scores = np.array([[4, 3, 2, 1], [1, 4, 3, 2], [4, 3, 2, 1]], np.float32)
    later = np.array([[1, 4, 3, 2], [4, 3, 2, 1], [1, 2, 3, 4]], np.float32)
    relevant = [np.array([0]), np.array([1, 3]), np.array([3])]
    embedded = [
        Embedded("x", texts, list("abcd"), s / np.float32(10), images, relevant) for s in (scores, later)
    ]
    taught, others = split_change(embedded[0], embedded[1], {"红裙", '"杯子"'})
    assert taught is not None and others is not None and (taught.n_queries, others.n_queries) == (2, 1)
    assert taught.before["mAP"] == pytest.approx((1 + (1 + 2 / 3) / 2) / 2)
    assert taught.after is not None and others.after is not None
    assert taught.after["mAP"] == pytest.approx((1 / 4 + (1 / 2 + 2 / 4) / 2) / 2)
    assert (others.before["mAP"], others.after["mAP"]) == (pytest.approx(1 / 4), pytest.approx(1.0))
    assert split_change(embedded[0], None, set())[0] is None
