"""Requests that are on their way while the model is changed: one model answers each, and none fails."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import httpx
import pytest

import cnclip
from service import activation
from service.app import create_app
from service.gallery import Gallery
from service.gallery.switching import Switch
from service.settings import ServiceSettings
from tests.service.conftest import MakeClient
from tests.service.dummy import AppClient, DummyEncoder, error_of, picture
from tests.service.dummy_models import (
    COLORS,
    InProcess,
    activate,
    answer_of,
    first_color,
    load,
    models_of,
    publish,
    settled,
)
from tests.service.test_items import path_of

Begin = Callable[[], list[Future[httpx.Response]]]


@pytest.fixture(autouse=True)
def dummies(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(vars(cnclip), "load", load)
    monkeypatch.setattr(activation, "EmbeddingProcess", InProcess)
    monkeypatch.setattr(InProcess, "asked", [])
    yield


@pytest.fixture
def models(gallery_path: Path) -> Path:
    return gallery_path / "models"


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def change_under(
    client: AppClient, encoder: DummyEncoder, begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> list[httpx.Response]:
    """Activate 0001, with the requests of `begin` held in the old model while it happens."""
    held: list[Future[httpx.Response]] = []
    commit = Switch.commit

    def slow_commit(self: Switch, embed: Any) -> None:
        encoder.gate.clear()
        encoder.entered.clear()
        held.extend(begin())
        assert encoder.entered.wait(30)
        commit(self, embed)

    monkeypatch.setattr(Switch, "commit", slow_commit)
    assert client.post("/v1/models:activate", {"version": "0001"}).status_code == 202
    assert settled(client)["outcome"] == "done"
    encoder.gate.set()
    return [future.result(30) for future in held]


def repeated(client: AppClient) -> float:
    lines = client.get("/metrics").text.splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("cnclip_requests_repeated_total"))


@pytest.mark.parametrize(("image", "text"), [(1, 2), (0, 3)])
def test_a_query_of_the_old_model_is_never_looked_up_among_the_new_vectors(
    make_client: MakeClient,
    encoder: DummyEncoder,
    models: Path,
    monkeypatch: pytest.MonkeyPatch,
    image: int,
    text: int,
) -> None:
    publish(models, image, text)
    client = make_client(canary_margin=1)
    texts = [f"{color}{i}" for i, color in enumerate(COLORS)]

    def begin() -> list[Future[httpx.Response]]:
        return [client.begin("POST", "/v1/search", json={"text": one, "top_k": 3}) for one in texts]

    for one, response in zip(texts, change_under(client, encoder, begin, monkeypatch), strict=True):
        body = response.json()
        assert response.status_code == 200 and body["model"]["name"] == "dummy/0001"
        assert first_color(body) == answer_of(one[0], image, text)
    assert 1 <= repeated(client) <= len(texts)


def test_pictures_and_writes_that_were_embedded_before_are_embedded_again(
    make_client: MakeClient,
    encoder: DummyEncoder,
    models: Path,
    gallery: Gallery,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    publish(models, 1, 2)
    client = make_client(canary_margin=1)
    new = picture("紫", "hexagon", 210)

    def begin() -> list[Future[httpx.Response]]:
        return [
            client.begin("POST", "/v1/search/image", files={"file": picture("绿", "circle", 220)}),
            client.begin("PUT", path_of("新/one"), files={"file": new}, data={"title": "新品"}),
            client.begin("POST", "/v1/embeddings", json={"input": ["红", "蓝"]}),
        ]

    by_image, put, embeddings = change_under(client, encoder, begin, monkeypatch)
    assert first_color(by_image.json()) == "绿" and by_image.json()["model"]["name"] == "dummy/0001"
    assert put.status_code == 201
    (mine,) = load(models / "dummy/0001/model.safetensors").encode_images([new])
    assert gallery.vectors(["新/one"])["新/one"] == pytest.approx(mine, abs=1e-6)
    # Vectors alone are of the model that they name; nothing is looked up with them.
    vectors = [one["embedding"] for one in embeddings.json()["data"]]
    assert embeddings.json()["model"] == "dummy"
    assert vectors == [pytest.approx(row) for row in load("dummy").encode_texts(["红", "蓝"])]


def test_titles_that_are_written_while_it_happens(
    make_client: MakeClient, models: Path, gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An item keeps its picture; the vector that the writer looked up is of the old model by then."""
    version = publish(models, 1, 2)
    client = make_client(canary_margin=1)
    looked_up, go_on = threading.Event(), threading.Event()
    vectors = Gallery.vectors

    def slow_vectors(self: Gallery, ids: Any, **how: Any) -> Any:
        found = vectors(self, ids, **how)
        if threading.current_thread().name.startswith("write") and not looked_up.is_set():
            looked_up.set()
            assert go_on.wait(30)
        return found

    monkeypatch.setattr(Gallery, "vectors", slow_vectors)
    put = client.begin("PUT", path_of("红/circle"), json={"title": "新标题"})
    assert looked_up.wait(30)
    assert activate(client, "0001")["outcome"] == "done"
    go_on.set()
    assert put.result(30).status_code == 200
    row = gallery.get("红/circle")
    assert row is not None and row.title == "新标题"
    stored = vectors(gallery, ["红/circle"], model=version.fingerprint)["红/circle"]
    (mine,) = load(version.weights).encode_images([picture("红", "circle")])
    assert stored == pytest.approx(mine, abs=1e-6)


def test_searches_all_the_time_while_models_come_and_go(make_client: MakeClient, models: Path) -> None:
    kinds = {"dummy": (0, 0)}
    for image, text in ((1, 2), (1, 5), (3, 6)):
        kinds[publish(models, image, text).label] = (image, text)
    client = make_client(canary_margin=1)
    stop, seen, wrong = threading.Event(), set(), []

    def ask(number: int) -> None:
        i = 0
        while not stop.is_set():
            i += 1
            color = COLORS[(number + i) % len(COLORS)]
            text = f"{color}{number}-{i}" if i % 2 else color  # every other one is in the cache
            response = client.search(text, top_k=2, mode="vector" if i % 3 else "hybrid")
            body = response.json()
            name = body.get("model", {}).get("name", "")
            seen.add(name)
            if response.status_code != 200 or (i % 3 and first_color(body) != answer_of(color, *kinds[name])):
                wrong.append((color, body))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for version in ("0001", "0002", "0003", "0001", "base", "0003"):
        assert activate(client, version)["outcome"] == "done"
    client.post("/v1/models:rollback")
    assert settled(client)["outcome"] == "done"
    stop.set()
    for thread in threads:
        thread.join()
    assert not wrong
    assert seen == set(kinds)


def test_models_that_are_not_used_any_more_end(make_client: MakeClient, models: Path) -> None:
    publish(models, 1, 2)
    client = make_client(canary_margin=1)

    def workers() -> int:
        return sum(thread.name == "encoder" for thread in threading.enumerate())

    before = workers()
    for version in ("0001", "base", "0001"):
        assert activate(client, version)["outcome"] == "done"
    wait_until(lambda: workers() == before)


def test_the_deadline_holds_for_the_repetition_too(
    make_client: MakeClient, encoder: DummyEncoder, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(models, 0, 3)
    client = make_client(canary_margin=1, deadline_ms=100)

    def begin() -> list[Future[httpx.Response]]:
        return [client.begin("POST", "/v1/search", json={"text": "红晚"})]

    (late,) = change_under(client, encoder, begin, monkeypatch)
    assert late.status_code == 200 or error_of(late) == (504, "deadline_exceeded")


def test_a_read_only_server_follows_the_one_that_writes(
    make_client: MakeClient, models: Path, gallery: Gallery
) -> None:
    publish(models, 1, 2)
    writer = make_client(canary_margin=1)
    settings = ServiceSettings(gallery=gallery.path, read_only=True)
    with (
        Gallery.open(gallery.path, read_only=True) as copy,
        AppClient(create_app(settings, load("dummy"), copy)) as reader,
    ):
        assert first_color(reader.search("红").json()) == "红"
        activate(writer, "0001")
        answers = reader.together([("POST", "/v1/search", {"json": {"text": f"红{i}"}}) for i in range(5)])
        for answer in answers:
            assert answer.json()["model"]["name"] == "dummy/0001"
            assert first_color(answer.json()) == answer_of("红", 1, 2)
        assert models_of(reader)["active"]["name"] == "dummy/0001"
        assert reader.get("/readyz").json()["model"]["name"] == "dummy/0001"


def test_a_read_only_server_that_cannot_follow_says_so(
    make_client: MakeClient, models: Path, gallery: Gallery
) -> None:
    version = publish(models, 1, 2)
    writer = make_client(canary_margin=1)
    settings = ServiceSettings(gallery=gallery.path, read_only=True)
    with (
        Gallery.open(gallery.path, read_only=True) as copy,
        AppClient(create_app(settings, load("dummy"), copy)) as reader,
    ):
        activate(writer, "0001")
        weights = version.weights.rename(version.weights.with_name("hidden"))
        assert error_of(reader.search("红")) == (503, "not_ready")
        weights.rename(version.weights)
        assert reader.search("红").json()["model"]["name"] == "dummy/0001"
