"""The online worker: nothing is lost or learnt twice, whoever is killed when."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

import cnclip
from cnclip.errors import InputError
from cnclip.online.versions import ModelVersions, Version
from cnclip.online.worker import DONE_FILE
from cnclip.online.worker_state import WorkerState
from tests.cnclip.online.worker_place import ORANGE, PURPLE, Place, praise_both
from tests.cnclip.online.world import NEW


def interrupted(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.usefixtures("helpful")
def test_feedback_is_learnt_from_once(place: Place) -> None:
    praise_both(place)
    with place.worker() as worker:
        assert worker.cycle() is not None
        assert worker.cycle() is None
    with place.worker() as worker:
        assert worker.cycle() is None
    place.inbox.praise(PURPLE, f"{PURPLE}2")
    place.inbox.praise(ORANGE, f"{ORANGE}2")
    with place.worker() as worker:
        assert worker.cycle() is not None
    assert {row["origin"]["item"] for row in place.taught("tiny/0002")} == {f"{PURPLE}2", f"{ORANGE}2"}


@pytest.mark.usefixtures("helpful")
def test_killed_before_publishing_it_takes_the_feedback_up_again(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    praise_both(place)
    with monkeypatch.context() as patch, place.worker() as worker:
        patch.setattr(ModelVersions, "publish", interrupted)
        with pytest.raises(KeyboardInterrupt):
            worker.cycle()
    assert place.labels() == []
    with place.worker() as worker:
        cycle = worker.cycle()
    assert cycle is not None and cycle.record["round"] == 0
    assert len(place.taught("tiny/0001")) == 4


@pytest.mark.usefixtures("helpful")
def test_killed_after_publishing_it_does_not_learn_the_same_again(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    praise_both(place)
    place.inbox.log = [(1, PURPLE), (2, ORANGE)]
    with monkeypatch.context() as patch, place.worker() as worker:
        patch.setattr(WorkerState, "commit", interrupted)
        with pytest.raises(KeyboardInterrupt):
            worker.cycle()
    assert place.labels() == ["tiny/0001"]
    with place.worker() as worker:
        assert worker.cycle() is not None
    used = [[(row["query"], row["number"]) for row in place.taught(label)] for label in place.labels()]
    assert sorted(used[0]) == sorted([(name, n) for name in NEW for n in (0, 0, 1)])
    assert sorted(used[1]) == sorted([(name, 2) for name in NEW])


@pytest.mark.usefixtures("helpful")
def test_a_lost_memory_is_made_again_from_the_versions(place: Place) -> None:
    praise_both(place)
    place.inbox.log = [(1, PURPLE), (2, ORANGE)]
    with place.worker() as worker:
        worker.cycle()
    shutil.rmtree(place.home)
    with place.worker() as worker:
        cycle = worker.cycle()
    assert cycle is not None and cycle.record["round"] == 1
    assert sorted((row["query"], row["number"]) for row in place.taught("tiny/0002")) == sorted(
        (name, 2) for name in NEW
    )


@pytest.mark.usefixtures("helpful")
def test_what_rounds_may_cost_goes_with_the_version(place: Place) -> None:
    place.inbox.log = [(1, PURPLE), (2, ORANGE)]
    with place.worker() as worker:
        cycle = worker.cycle()
        assert cycle is not None and cycle.version is not None
    path = cycle.version.file(DONE_FILE)
    assert path is not None
    values = json.loads(path.read_text(encoding="utf-8"))
    values["balance"] = {"canary": -0.9, "others": -0.9}
    path.write_text(json.dumps(values), encoding="utf-8")
    with place.worker() as worker:
        cycle = worker.cycle()
    assert cycle is not None and cycle.version is not None and (made := cycle.version.file(DONE_FILE))
    assert json.loads(made.read_text(encoding="utf-8"))["balance"]["others"] < -0.3
    path.write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match=r"worker\.json: damaged"), place.worker():
        pass


@pytest.mark.usefixtures("helpful")
def test_weights_are_those_of_one_process_that_was_never_stopped(place: Place) -> None:
    """A version is the model itself: a restart loads what the process before had in memory."""
    place.inbox.log = [(1, PURPLE), (2, ORANGE)]
    with place.worker() as worker:
        worker.cycle()
        kept = worker._pupil
        assert kept is not None and kept[0] == "tiny/0001"
        stored = cnclip.load(place.versions.get("tiny", "0001").weights, dtype="float32").model.state_dict()
        for name, tensor in kept[1].model.state_dict().items():
            assert torch.equal(stored[name], tensor), name


@pytest.mark.usefixtures("helpful")
def test_after_a_rollback_elsewhere_it_goes_on_from_what_is_in_use(place: Place) -> None:
    place.inbox.log = [(1, PURPLE), (2, ORANGE)]
    in_use: list[Version | None] = [None]
    with place.worker(lambda: in_use[0]) as worker:
        first = worker.cycle()
        assert first is not None and first.version is not None
        in_use[0] = first.version
        worker.cycle()  # learnt from 0001, and not activated
        third = worker.cycle()
        in_use[0] = None
        fourth = worker.cycle()
    assert third is not None and third.version is not None and third.version.parent is not None
    assert third.version.parent.version == "0001"
    assert fourth is not None and fourth.version is not None and fourth.version.parent is not None
    assert fourth.version.parent.version is None
