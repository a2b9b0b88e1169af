"""The online worker: what becomes of praise, rejections and misses."""

from __future__ import annotations

import time
from collections.abc import Sequence

import pytest

from cnclip.online.source import Answer, Miss
from tests.cnclip.online.worker_place import ORANGE, PURPLE, Place, memory_of, praise_both
from tests.cnclip.online.world import NEW, Shop


@pytest.mark.usefixtures("helpful")
def test_too_few_pairs_wait_for_company(place: Place) -> None:
    place.settings = {"online_min_pairs": 3}
    place.inbox.praise(PURPLE, f"{PURPLE}0", f"{PURPLE}1")
    with place.worker() as worker:
        cycle = worker.cycle()
        assert cycle is not None and (cycle.verdict, cycle.version) == ("skipped", None)
    place.inbox.praise(ORANGE, f"{ORANGE}0")
    with place.worker() as worker:
        assert worker.cycle() is not None
    assert len(place.taught("tiny/0001")) == 3


@pytest.mark.usefixtures("helpful")
def test_what_was_refused_is_done_with_even_if_no_step_was_taken(place: Place) -> None:
    place.settings = {"online_min_pairs": 3}
    place.inbox.praise(PURPLE, f"{PURPLE}0", "broken")
    place.inbox.items["broken"] = b"no picture at all"
    with place.worker() as worker:
        worker.cycle()
    with memory_of(place) as state:
        assert [said.item_id for said in state.praise()] == [f"{PURPLE}0"]


@pytest.mark.usefixtures("helpful")
def test_a_rejection_undoes_praise_and_keeps_the_picture_away(place: Place) -> None:
    """The last word counts, for this query alone, however the picture comes."""
    place.shop = Shop(each=1)
    rejected = place.shop.fetch([PURPLE], [1], time.monotonic())[PURPLE][0].data
    place.inbox.items["same look"] = rejected
    place.inbox.praise(PURPLE, f"{PURPLE}0", f"{PURPLE}1")
    place.inbox.praise(PURPLE, f"{PURPLE}0", relevant=False)
    place.inbox.praise(PURPLE, "same look", relevant=False)
    place.inbox.praise(ORANGE, f"{ORANGE}0")
    place.inbox.log = [(1, PURPLE), (2, ORANGE)]
    with place.worker() as worker:
        cycle = worker.cycle()
    assert cycle is not None
    taught = sorted((row["query"], row["origin"].get("item", "")) for row in place.taught("tiny/0001"))
    assert taught == sorted([(PURPLE, f"{PURPLE}1"), (ORANGE, f"{ORANGE}0"), (ORANGE, "")])
    assert cycle.record["queries"]["with pictures"] == 2


@pytest.mark.usefixtures("helpful")
def test_praise_after_a_rejection_counts_again(place: Place) -> None:
    place.inbox.praise(PURPLE, f"{PURPLE}0", relevant=False)
    place.inbox.praise(PURPLE, f"{PURPLE}0")
    place.inbox.praise(ORANGE, f"{ORANGE}0")
    with place.worker() as worker:
        assert worker.cycle() is not None
    assert {row["origin"]["item"] for row in place.taught("tiny/0001")} == {f"{PURPLE}0", f"{ORANGE}0"}


@pytest.mark.usefixtures("helpful")
def test_a_source_that_fails_or_hangs_costs_no_praise(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    class Bad(Shop):
        def fetch(self, *_: object) -> dict[str, Answer]:  # type: ignore[override]
            raise OSError("the browser is gone")

    place.shop = Bad()
    place.inbox.log = [(1, PURPLE), (2, ORANGE)]
    praise_both(place)
    with place.worker() as worker:
        cycle = worker.cycle()
        assert cycle is not None and cycle.verdict == "kept"
        assert cycle.record["queries"]["missed"] == {}
    assert len(place.taught("tiny/0001")) == 4
    place.shop = Shop()
    with place.worker() as worker:  # the queries have lost nothing either
        worker.cycle()
    assert sorted((row["query"], row["number"]) for row in place.taught("tiny/0002")) == sorted(
        (name, 1) for name in NEW
    )

    class Hangs(Shop):
        def fetch(self, *_: object) -> dict[str, Answer]:  # type: ignore[override]
            time.sleep(3)
            return {}

    monkeypatch.setattr("cnclip.online.fetching.GRACE_S", 0.1)
    place.shop, place.settings = Hangs(), {"online_budget": 0.1}
    place.inbox.praise(PURPLE, f"{PURPLE}2", f"{PURPLE}3")
    with place.worker() as worker:
        cycle = worker.cycle()
        assert cycle is not None and cycle.verdict == "skipped"
    with memory_of(place) as state:
        assert len(state.praise()) == 2  # not offered, not lost


@pytest.mark.usefixtures("helpful")
def test_misses_are_asked_for_again_in_time(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    class Picky(Shop):
        def fetch(
            self,
            queries: Sequence[str],
            numbers: Sequence[int],
            deadline: float,  # noqa: ARG002
        ) -> dict[str, Answer]:
            answers: dict[str, Answer] = {PURPLE: Miss("empty"), ORANGE: Miss("deadline")}
            self.asked.append((list(queries), list(numbers)))
            return {query: answers[query] for query in queries}

    place.shop = Picky()
    place.inbox.log = [(1, PURPLE), (2, ORANGE)]
    with place.worker() as worker:
        for _ in range(2):
            worker.cycle()
        now = time.time()
        monkeypatch.setattr("time.time", lambda: now + 25 * 3600)
        worker.cycle()
    assert [sorted(queries) for queries, _ in place.shop.asked] == [
        sorted([PURPLE, ORANGE]), [ORANGE], sorted([PURPLE, ORANGE]),
    ]  # fmt: skip
