"""Whole rounds on the tiny world: what they teach, what they refuse, and that they can be taken back."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from cnclip.data.dataset import PairDataset
from cnclip.model.dual_encoder import DualEncoder
from cnclip.online import fetching
from cnclip.online.source import FreshPicture
from cnclip.training.validation import measure_split
from tests.cnclip.online.world import COLOURS, KNOWN, NEW, SETTINGS, Shop, make_round, make_task

Taught = Callable[[], tuple[DualEncoder, torch.optim.Optimizer]]


def state_of(model: DualEncoder) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_rounds_teach_new_colours_and_keep_the_old(
    taught: Taught, train: PairDataset, valid: PairDataset
) -> None:
    model, optimizer = taught()
    online = make_round(model, train, Shop())
    before = measure_split(online.parallel, valid)
    records = [online.take(make_task(online, valid, n), optimizer).record for n in range(6)]
    kept = [record for record in records if record["decision"] == "kept"]
    assert kept
    first = kept[0]
    assert first["taught"]["n_queries"] == len(NEW) and first["others"]["n_queries"] == len(KNOWN)
    assert first["queries"] == {"asked": 6, "with pictures": 2, "missed": {"empty": 4}}
    for record in kept:
        assert record["taught"]["after"]["mAP"] >= record["taught"]["before"]["mAP"]
    after = measure_split(online.parallel, valid)
    assert after.result["text_to_image"]["mAP"] > before.result["text_to_image"]["mAP"] + 0.05
    assert online.balance.totals["others"] >= -SETTINGS.tolerance
    assert online.balance.totals["canary"] >= -SETTINGS.tolerance


def test_wrong_pictures_are_taken_back_bit_for_bit(
    taught: Taught, train: PairDataset, valid: PairDataset
) -> None:
    """All pictures wrong, so that nothing stands out: only measuring afterwards can tell."""
    model, optimizer = taught()
    online = make_round(model, train, Shop(sells=tuple(COLOURS), wrong=tuple(COLOURS)))
    weights, moments = state_of(model), optimizer.state_dict()
    moments = {key: {k: v.clone() for k, v in value.items()} for key, value in moments["state"].items()}
    outcome = online.take(make_task(online, valid), optimizer)
    assert outcome.record["decision"] == "rolled back"
    assert outcome.record["steps"] and outcome.record["distance"] > 0
    assert same(state_of(model), weights)
    now = optimizer.state_dict()["state"]
    assert all(torch.equal(now[k][name], v) for k, state in moments.items() for name, v in state.items())
    assert outcome.after is not None and outcome.optimizer is None
    assert outcome.record["labelled"]["after"] != outcome.record["labelled"]["before"]


def test_same_seed_and_pictures_same_weights(taught: Taught, train: PairDataset, valid: PairDataset) -> None:
    found = []
    for seed in (3, 3, 4):
        model, optimizer = taught()
        online = make_round(model, train, Shop(), replace(SETTINGS, seed=seed, tolerance=1.0))
        online.take(make_task(online, valid), optimizer)
        found.append(state_of(model))
    assert same(found[0], found[1]) and not same(found[0], found[2])


def test_without_pictures_nothing_moves(taught: Taught, train: PairDataset, valid: PairDataset) -> None:
    model, optimizer = taught()
    online = make_round(model, train, Shop(sells=()))
    weights, task = state_of(model), make_task(online, valid)
    outcome = online.take(task, optimizer)
    assert outcome.record["decision"] == "skipped" and not outcome.record["steps"]
    assert outcome.after is task.before and same(state_of(model), weights)
    assert outcome.record["queries"] == {"asked": 6, "with pictures": 0, "missed": {"empty": 6}}


def test_too_few_pairs_make_no_step(taught: Taught, train: PairDataset, valid: PairDataset) -> None:
    model, optimizer = taught()
    online = make_round(model, train, Shop(each=1))  # two queries, one picture each
    outcome = online.take(make_task(online, valid), optimizer)
    assert outcome.record["decision"] == "skipped" and outcome.record["steps_skipped"] == 1
    assert "fewer than 4 pairs" in outcome.record["why"]


class Hanging(Shop):
    def fetch(self, queries: Sequence[str], numbers: Sequence[int], deadline: float) -> dict[str, Any]:
        time.sleep(2.5)
        return super().fetch(queries, numbers, deadline)


class Dying(Shop):
    def prefetch(self, queries: Sequence[str]) -> None:
        raise SystemExit(f"the crawler is gone, {len(queries)} queries are lost")


@pytest.mark.parametrize("source, reason", [(Hanging(), fetching.HANGS), (Dying(), fetching.FAILED)])
def test_a_source_that_hangs_or_dies_costs_its_budget(
    taught: Taught,
    train: PairDataset,
    valid: PairDataset,
    monkeypatch: pytest.MonkeyPatch,
    source: Shop,
    reason: str,
) -> None:
    monkeypatch.setattr(fetching, "GRACE_S", 0.1)
    model, optimizer = taught()
    online = make_round(model, train, source, replace(SETTINGS, budget_s=0.2))
    outcome = online.take(make_task(online, valid), optimizer)
    assert outcome.record["decision"] == "skipped"
    assert outcome.record["queries"]["missed"] == {reason: 6}
    assert outcome.record["seconds"]["fetch"] < 1.5
    again = online.take(make_task(online, valid, 1), optimizer)  # also while the first call still hangs
    assert again.record["queries"]["missed"] == {reason: 6}


def test_pictures_of_the_gallery_never_teach(taught: Taught, train: PairDataset, valid: PairDataset) -> None:
    """Not as they are, and not scaled and compressed anew."""
    import io

    from PIL import Image

    class Cheat(Shop):
        def _pictures(self, query: str, numbers: Sequence[int]) -> list[FreshPicture]:
            row = next(row for row in valid.texts if row.text == query)
            pictures = []
            for n in numbers:
                data = valid.image_bytes(row.image_ids[n - 1])
                if n % 2:
                    buffer = io.BytesIO()
                    Image.open(io.BytesIO(data)).resize((224, 224)).save(buffer, "JPEG", quality=70)
                    data = buffer.getvalue()
                pictures.append(FreshPicture(query, n, data))
            return pictures

    model, optimizer = taught()
    online = make_round(model, train, Cheat())
    outcome = online.take(make_task(online, valid), optimizer)
    assert {row["outcome"] for row in outcome.record["pictures"]} == {"in the gallery"}
    assert outcome.record["decision"] == "skipped"


def test_a_round_without_labels_goes_by_the_canary(
    taught: Taught, train: PairDataset, valid: PairDataset
) -> None:
    for tolerance, decision in ((1.0, "kept"), (0.0, "rolled back")):
        model, optimizer = taught()
        online = make_round(model, train, Shop(), replace(SETTINGS, tolerance=tolerance, lr=0.02, replay=0))
        task = replace(make_task(online, valid), before=None, measure=None)
        outcome = online.take(task, optimizer)
        assert outcome.record["decision"] == decision and outcome.record["labelled"] is None
        assert outcome.record["canary"]["n_gallery"] == SETTINGS.canary


def test_scopes_move_only_their_weights(taught: Taught, train: PairDataset, valid: PairDataset) -> None:
    moved = {}
    for scope in ("all", "text", "projection"):
        model, optimizer = taught()
        settings = replace(SETTINGS, scope=scope, tolerance=1.0)  # type: ignore[arg-type]
        online = make_round(model, train, Shop(), settings)
        before = state_of(model)
        task = replace(make_task(online, valid), before=None, measure=None)
        assert online.take(task, optimizer).kept
        after = state_of(model)
        moved[scope] = {name for name in before if not torch.equal(before[name], after[name])}
        assert all(parameter.requires_grad for parameter in model.parameters())
    assert moved["text"] == {n for n in moved["all"] if n.startswith(("bert.", "text_projection"))}
    assert moved["projection"] == {"visual.proj", "text_projection"}
    assert any(n.startswith("visual.transformer") for n in moved["all"])


def test_numbers_of_pictures_take_turns() -> None:
    settings = replace(SETTINGS, pictures=1)
    assert [settings.numbers(n) for n in range(6)] == [[1], [2], [3], [4], [5], [1]]
    assert replace(SETTINGS, pictures=2).numbers(4) == [5, 1]
    assert sorted(replace(SETTINGS, pictures=9).numbers(2)) == [1, 2, 3, 4, 5]
    assert np.ndim(settings.lr) == 0
