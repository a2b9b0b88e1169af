"""A real server whose model is changed under load, or that is killed while it is."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import psutil
import pytest

from service.gallery import Gallery
from service.journal import Journal
from tests.service.dummy import picture
from tests.service.dummy_models import COLORS, answer_of, first_color, load, publish
from tests.service.dummy_server import ServerProcess, dummy_server
from tests.service.kill_points import POINTS

pytestmark = pytest.mark.slow

KINDS = {"dummy": (0, 0), "dummy/0001": (1, 2), "dummy/0002": (3, 6)}
ANY_ANSWER = ("--canary-margin", "1")


@pytest.fixture
def gallery_path(gallery_path: Path) -> Path:
    for image, text in list(KINDS.values())[1:]:
        publish(gallery_path / "models", image, text)
    return gallery_path


def outcome(http: httpx.Client) -> dict[str, Any]:
    end = time.monotonic() + 120
    while time.monotonic() < end:
        activation: dict[str, Any] | None = http.get("/v1/models").json()["activation"]
        if activation is not None and activation["outcome"] != "running":
            return activation
        time.sleep(0.02)
    raise AssertionError("the activation does not end")


def models_that_answer(http: httpx.Client) -> set[str]:
    """Ask for every colour; each answer must be that of the model that it names."""
    names = set()
    for color in COLORS:
        body = http.post("/v1/search", json={"text": f"{color}色", "top_k": 1}).json()
        names.add(body["model"]["name"])
        assert first_color(body) == answer_of(color, *KINDS[body["model"]["name"]])
    return names


def answers_of_one_model(http: httpx.Client) -> str:
    """The only model that answers."""
    (name,) = models_that_answer(http)
    return name


class Load:
    """Clients that ask all the time, and judge every answer."""

    def __init__(self, url: str, clients: int) -> None:
        self.problems: list[str] = []
        self.by_model: dict[str, int] = {}
        self._url = url
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._ask, args=(i,)) for i in range(clients)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, number: int) -> None:
        with httpx.Client(base_url=self._url, timeout=60) as http:
            i = 0
            while not self._stop.is_set():
                i += 1
                color = COLORS[(number + i) % len(COLORS)]
                response = http.post("/v1/search", json={"text": f"{color}{number}-{i}", "top_k": 3})
                self._judge(color, response)

    def _judge(self, color: str, response: httpx.Response) -> None:
        name = response.json()["model"]["name"] if response.status_code == 200 else ""
        right = name in KINDS and first_color(response.json()) == answer_of(color, *KINDS[name])
        with self._lock:
            self.by_model[name] = self.by_model.get(name, 0) + 1
            if not right:
                self.problems.append(f"{response.status_code} {color} {response.text[:300]}")


def test_every_answer_under_load_is_of_one_model(gallery_path: Path) -> None:
    with (
        dummy_server(gallery_path, *ANY_ANSWER, DUMMY_EMBED_S="0.05") as server,
        httpx.Client(base_url=server.url, timeout=60) as http,
        Load(server.url, 12) as load,
    ):
        for version in ("0001", "0002"):
            assert http.post("/v1/models:activate", json={"version": version}).status_code == 202
            assert outcome(http)["outcome"] == "done"
        assert http.post("/v1/models:rollback").status_code == 202
        assert outcome(http)["outcome"] == "done"
    assert load.problems == []
    assert set(load.by_model) == set(KINDS), load.by_model
    with Gallery.open(gallery_path) as gallery:
        assert gallery.models().active.version == "dummy/0001"


def check_whole(gallery_path: Path) -> None:
    """Every vector is the one that the active model gives the item's picture."""
    with Gallery.open(gallery_path, read_only=True) as gallery:
        encoder = load(gallery_path / gallery.models().active.model)
        vectors = gallery.vectors(gallery.ids(), model=encoder.fingerprint)
        assert len(vectors) == len(gallery)
        for item_id, vector in vectors.items():
            row = gallery.get(item_id)
            assert row is not None
            (expected,) = encoder.encode_images([gallery.read_image(row) or b""])
            assert vector == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("point", POINTS)
def test_killed_at_any_moment_it_serves_whole(gallery_path: Path, point: str) -> None:
    with (
        dummy_server(gallery_path, *ANY_ANSWER, DUMMY_KILL_AT=point) as server,
        httpx.Client(base_url=server.url, timeout=60) as http,
    ):
        http.post("/v1/models:activate", json={"version": "0001"})
        assert server.process.wait(60) == -signal.SIGKILL
    check_whole(gallery_path)
    new = point in ("committed", "installing", "cleaning")
    with (
        dummy_server(gallery_path, *ANY_ANSWER) as server,
        httpx.Client(base_url=server.url, timeout=60) as http,
    ):
        if not new:
            resumed = outcome(http)
            assert (resumed["outcome"], resumed["resumed"]) == ("done", True)
        else:
            assert http.get("/v1/models").json()["activation"] is None
        assert answers_of_one_model(http) == "dummy/0001"
        assert http.post("/v1/models:rollback").status_code == 202
        assert outcome(http)["outcome"] == "done"
        assert answers_of_one_model(http) == "dummy"
        assert server.stop()[0] == 0
    check_whole(gallery_path)


def test_killed_at_random_with_writes_in_between(gallery_path: Path) -> None:
    rng, acknowledged = random.Random(5), {}
    for _ in range(3):
        with (
            dummy_server(gallery_path, *ANY_ANSWER, DUMMY_EMBED_S="0.02") as server,
            httpx.Client(base_url=server.url, timeout=60) as http,
        ):
            state = http.get("/v1/models").json()
            if state["activation"] is None or state["activation"]["outcome"] != "running":
                body = {"version": "0002" if state["active"]["name"] != "dummy/0002" else "base"}
                http.post("/v1/models:activate", json=body)
            models_that_answer(http)
            for _ in range(rng.randint(1, 12)):
                color = rng.choice(COLORS)
                item_id, data = f"{color}-{len(acknowledged)}", picture(color, size=200 + len(acknowledged))
                answer = http.put(f"/v1/items/{quote(item_id)}", files={"file": data})
                assert answer.status_code == 201
                acknowledged[item_id] = data
            server.stop(signal.SIGKILL)
        check_whole(gallery_path)
    with Gallery.open(gallery_path, read_only=True) as gallery:
        for item_id, data in acknowledged.items():
            row = gallery.get(item_id)
            assert row is not None and gallery.read_image(row) == data


def children(server: ServerProcess) -> list[psutil.Process]:
    return [child for child in psutil.Process(server.process.pid).children() if child.is_running()]


def wait_for(condition: Callable[[], Any]) -> Any:
    end = time.monotonic() + 60
    while not (value := condition()):
        assert time.monotonic() < end
        time.sleep(0.02)
    return value


@pytest.fixture
def busy(gallery_path: Path) -> Iterator[tuple[ServerProcess, httpx.Client, psutil.Process]]:
    """A server with an activation that would take an hour, and the process that embeds for it."""
    with (
        dummy_server(gallery_path, *ANY_ANSWER, DUMMY_EMBED_S="450") as server,
        httpx.Client(base_url=server.url, timeout=60) as http,
    ):
        http.post("/v1/models:activate", json={"version": "0001"})
        (worker,) = wait_for(lambda: children(server))
        wait_for(lambda: worker.nice() > psutil.Process(server.process.pid).nice())
        yield server, http, worker


def gone(worker: psutil.Process) -> bool:
    return not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_process_that_embeds_ends_with_the_server(
    busy: tuple[ServerProcess, httpx.Client, psutil.Process], gallery_path: Path, number: int
) -> None:
    server, _, worker = busy
    code, errors = server.stop(number)
    assert code == (0 if number == signal.SIGTERM else -number), errors
    wait_for(lambda: gone(worker))
    with Gallery.open(gallery_path) as gallery:
        assert gallery.models().pending is not None, "it goes on at the next start"


def test_a_cancelled_activation_ends_its_process(
    busy: tuple[ServerProcess, httpx.Client, psutil.Process],
) -> None:
    _, http, worker = busy
    assert answers_of_one_model(http) == "dummy"
    assert http.post("/v1/models:cancel").status_code == 202
    assert outcome(http)["outcome"] == "cancelled"
    wait_for(lambda: gone(worker))
    assert answers_of_one_model(http) == "dummy"


def test_an_embedding_process_that_is_killed_is_told(
    busy: tuple[ServerProcess, httpx.Client, psutil.Process],
) -> None:
    _, http, worker = busy
    worker.kill()
    refused = outcome(http)
    assert refused["outcome"] == "refused" and "exit code -9" in refused["error"]
    assert answers_of_one_model(http) == "dummy"


def test_feedback_that_was_acknowledged_survives_a_kill(gallery_path: Path) -> None:
    taken: list[int] = []
    with (
        dummy_server(gallery_path, "--query-log") as server,
        httpx.Client(base_url=server.url, timeout=60) as http,
    ):
        for i in range(20):
            body = {"query": f"红{i}", "item_id": "红/circle", "relevant": i % 2 == 0}
            answer = http.post("/v1/feedback", json=body)
            assert answer.status_code == 201
            taken.append(answer.json()["id"])
        http.post("/v1/search", json={"text": "最后一个"})
        server.stop(signal.SIGKILL)
    stored = {feedback.id: feedback for feedback in Journal(gallery_path / "journal.sqlite").feedback()}
    assert sorted(stored) == taken
    assert [stored[number].query for number in taken] == [f"红{i}" for i in range(20)]
    assert [stored[number].relevant for number in taken] == [i % 2 == 0 for i in range(20)]
