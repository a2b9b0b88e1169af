"""The online worker: what it learns from, and what it publishes."""

from __future__ import annotations

import pytest

import cnclip
from tests.cnclip.online.worker_place import ORANGE, PURPLE, Place, memory_of, praise_both
from tests.cnclip.online.world import COLOURS, NEW, Shop


def test_with_nothing_to_learn_from_it_does_nothing(place: Place) -> None:
    with place.worker() as worker:
        assert worker.cycle() is None
    assert place.labels() == [] and place.opened == 0


def test_praise_and_fresh_pictures_become_a_version(place: Place) -> None:
    praise_both(place)
    place.inbox.log = [(7, PURPLE), (9, ORANGE), (12, "红色")]
    with place.worker() as worker:
        cycle = worker.cycle()
    assert cycle is not None and cycle.verdict == "kept" and cycle.version is not None
    assert cycle.record["source"] == "test shop" and place.opened == 1
    assert place.labels() == ["tiny/0001"] == [cycle.version.label]
    used = place.taught("tiny/0001")
    assert sorted((row["query"], row["number"]) for row in used) == sorted(
        [(name, number) for name in NEW for number in (0, 0, 1)]
    )
    praised = [row["origin"] for row in used if row["number"] == 0]
    assert {origin["source"] for origin in praised} == {"feedback"}
    assert {origin["item"] for origin in praised} == {f"{name}{n}" for name in NEW for n in range(2)}
    base = cnclip.load(str(place.folder / "base.safetensors"))
    assert cycle.version.parent is not None and cycle.version.parent.fingerprint == base.fingerprint
    assert cycle.version.summary["pairs"] == 6
    assert cycle.version.summary["taught mAP after"] > cycle.version.summary["taught mAP before"]
    assert cycle.version.file("online_report.html") and cycle.version.file("online_report.json")
    page = (cycle.version.folder / "online_report.html").read_text(encoding="utf-8")
    assert PURPLE in page
    assert cnclip.load(cycle.version.weights).fingerprint == cycle.version.fingerprint != base.fingerprint


@pytest.mark.usefixtures("helpful")
def test_the_next_round_goes_on_from_the_last_with_the_next_pictures(place: Place) -> None:
    place.inbox.log = [(1, PURPLE), (2, ORANGE)]
    with place.worker() as worker:
        for _ in range(2):
            assert worker.cycle() is not None
    with place.worker() as worker:  # the same in another process
        assert worker.cycle() is not None
    numbers = [sorted({row["number"] for row in place.taught(label)}) for label in place.labels()]
    assert numbers == [[1], [2], [3]]
    parents = [version.parent.version for version in place.versions.list() if version.parent]
    assert parents == [None, "0001", "0002"]
    with place.worker() as worker:
        cycles = [worker.cycle() for _ in range(3)]
    assert cycles[2] is None  # all five pictures have taught
    assert [cycle.record["round"] for cycle in cycles[:2] if cycle] == [3, 4]


def test_a_round_that_did_harm_is_not_published_and_not_tried_again(place: Place) -> None:
    place.settings = {"online_tolerance": 0.0, "online_lr": 0.05, "val_data": place.lmdb / "valid"}
    place.shop = Shop(sells=tuple(COLOURS), wrong=tuple(COLOURS))
    place.inbox.log = list(enumerate(COLOURS, 1))
    with place.worker() as worker:
        cycle = worker.cycle()
        assert cycle is not None and (cycle.verdict, cycle.version) == ("rolled back", None)
        after = worker.cycle()
    assert place.labels() == []
    assert after is not None and {row["number"] for row in after.record["pictures"]} == {2}
    assert after.record["steps"][0]["lr"] < cycle.record["steps"][0]["lr"]  # slower, after harm
    with memory_of(place) as state:
        assert state.round == 2 and state.pace < 1


@pytest.mark.usefixtures("helpful")
def test_pictures_of_one_query_are_numbered_by_the_memory(place: Place) -> None:
    """Queries at different numbers are asked for together, and each gets its own."""
    place.inbox.log = [(1, PURPLE), (2, ORANGE)]
    with place.worker() as worker:
        worker.cycle()
        place.inbox.log += [(3, "红色"), (4, "蓝色")]
        place.shop = Shop(sells=tuple(COLOURS))
        place.settings = {}
        cycle = worker.cycle()
    assert cycle is not None
    numbers = {row["query"]: row["number"] for row in cycle.record["pictures"]}
    assert numbers == {PURPLE: 2, ORANGE: 2, "红色": 1, "蓝色": 1}
    assert place.shop.asked[-1][1] == [1, 2]
