from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from service.batcher import Batcher, Kind, QueueFullError, WorkerDiedError

Vectors = npt.NDArray[np.float32]


class Model:
    """Encodes a number as itself; holds each batch until `gate` is open; remembers what it was asked."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.entered = threading.Semaphore(0)
        self.calls: list[tuple[Kind, list[float]]] = []
        self.refuse: Callable[[list[float]], BaseException | None] = lambda _: None

    def __call__(self, kind: Kind, payloads: list[Any]) -> Vectors:
        self.calls.append((kind, payloads))
        self.entered.release()
        assert self.gate.wait(30)
        if error := self.refuse(payloads):
            raise error
        return np.array([[payload] for payload in payloads], dtype=np.float32)


@contextmanager
def running(model: Model, max_batch: int = 4, queue_size: int = 100) -> Iterator[Batcher]:
    batcher = Batcher(
        model,
        max_batch={"text": max_batch, "image": 2},
        queue_size=queue_size,
        observe=lambda *_: None,
    )
    batcher.start()
    try:
        yield batcher
    finally:
        model.gate.set()
        batcher.close()


@contextmanager
def occupied(model: Model, **options: int) -> Iterator[Batcher]:
    """A batcher whose worker is held inside a first batch, so that what is submitted waits."""
    with running(model, **options) as batcher:
        batcher.submit("text", [-1.0])
        assert model.entered.acquire(timeout=30)
        yield batcher


def test_an_idle_batcher_answers_at_once() -> None:
    model = Model()
    model.gate.set()
    with running(model) as batcher:
        (future,) = batcher.submit("text", [7.0])
        encoded = future.result(30)
    assert encoded.vector.tolist() == [7.0]
    assert encoded.queue_s >= 0
    assert encoded.encode_s >= 0
    assert model.calls == [("text", [7.0])]


def test_batches_form_from_what_waits_and_keep_the_order() -> None:
    model = Model()
    with occupied(model) as batcher:
        futures = [batcher.submit("text", [float(i)])[0] for i in range(10)]
        assert batcher.depth == 10
        model.gate.set()
        assert [future.result(30).vector[0] for future in futures] == list(range(10))
    assert [len(payloads) for _, payloads in model.calls] == [1, 4, 4, 2]


def test_kinds_are_not_mixed_and_none_starves() -> None:
    model = Model()
    with occupied(model) as batcher:
        futures = [batcher.submit("image" if i % 2 else "text", [float(i)])[0] for i in range(6)]
        model.gate.set()
        assert [future.result(30).vector[0] for future in futures] == list(range(6))
    assert model.calls[1:] == [("text", [0.0, 2.0, 4.0]), ("image", [1.0, 3.0]), ("image", [5.0])]


def test_a_full_queue_refuses_all_or_nothing() -> None:
    model = Model()
    with occupied(model, queue_size=3) as batcher:
        batcher.submit("text", [1.0, 2.0])
        with pytest.raises(QueueFullError):
            batcher.submit("text", [3.0, 4.0])
        assert batcher.depth == 2
        batcher.submit("text", [3.0])


def test_cancelled_jobs_are_skipped() -> None:
    model = Model()
    with occupied(model) as batcher:
        futures = [batcher.submit("text", [float(i)])[0] for i in range(4)]
        assert futures[0].cancel()
        assert futures[2].cancel()
        model.gate.set()
        assert futures[3].result(30).vector[0] == 3
    assert model.calls[1:] == [("text", [1.0, 3.0])]


def test_a_poisoned_batch_fails_only_the_poison() -> None:
    model = Model()
    model.refuse = lambda payloads: ValueError("poison") if 2.0 in payloads else None
    with occupied(model) as batcher:
        futures = [batcher.submit("text", [float(i)])[0] for i in range(4)]
        model.gate.set()
        with pytest.raises(ValueError, match="poison"):
            futures[2].result(30)
        assert [futures[i].result(30).vector[0] for i in (0, 1, 3)] == [0, 1, 3]
        assert batcher.alive


@pytest.mark.parametrize("wrong", [np.full((1, 1), np.nan), np.zeros((2, 1))], ids=["nan", "two rows"])
def test_a_wrong_answer_is_a_failure(wrong: Vectors) -> None:
    batcher = Batcher(lambda *_: wrong, max_batch={"text": 4}, queue_size=9, observe=lambda *_: None)
    batcher.start()
    (future,) = batcher.submit("text", [1.0])
    with pytest.raises(ValueError, match="vectors"):
        future.result(30)
    assert batcher.alive
    batcher.close()


def test_a_dead_worker_fails_everything_and_says_so() -> None:
    model = Model()
    model.refuse = lambda _: SystemExit("gone")
    with occupied(model) as batcher:
        futures = [batcher.submit("text", [float(i)])[0] for i in range(10)]
        assert futures[9].cancel()
        model.gate.set()
        for future in futures[:9]:
            with pytest.raises(WorkerDiedError):
                future.result(30)
        assert not batcher.alive
        with pytest.raises(WorkerDiedError):
            batcher.submit("text", [1.0])


def test_close_finishes_what_waits_and_takes_no_more() -> None:
    model = Model()
    with occupied(model) as batcher:
        futures = [batcher.submit("text", [float(i)])[0] for i in range(10)]
        closer = threading.Thread(target=batcher.close)
        closer.start()
        model.gate.set()
        closer.join(30)
        assert [future.result(0).vector[0] for future in futures] == list(range(10))
        with pytest.raises(WorkerDiedError):
            batcher.submit("text", [1.0])
