"""What happens when there is too much to do, or the model fails."""

from __future__ import annotations

import asyncio
import base64
import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest

from service.deps import Service
from service.gallery import Gallery
from tests.service.conftest import MakeClient
from tests.service.dummy import AppClient, DummyEncoder, error_of, picture

Call = tuple[str, str, dict[str, Any]]


def service_of(client: AppClient) -> Service:
    service: Service = client.app.state.service
    return service


def hold(encoder: DummyEncoder, client: AppClient) -> None:
    """Occupy the model until `encoder.gate` is set."""
    encoder.gate.clear()
    client.begin("POST", "/v1/search", json={"text": "占住"})
    assert encoder.entered.wait(30)


def gated(call: Callable[..., Any], gate: threading.Event) -> Callable[..., Any]:
    """`call` that waits for `gate` first."""

    def waiting(*args: Any, **kwargs: Any) -> Any:
        assert gate.wait(30)
        return call(*args, **kwargs)

    return waiting


def wait_for_depth(client: AppClient, depth: int) -> None:
    service = service_of(client)

    async def waiting() -> None:
        while service.embedder.batcher.depth < depth:
            await asyncio.sleep(0)

    client.run(waiting())


def test_a_full_queue_is_429_with_retry_after(make_client: MakeClient, encoder: DummyEncoder) -> None:
    client = make_client(queue_size=4, max_inputs=2)
    hold(encoder, client)
    waiting = [client.begin("POST", "/v1/search", json={"text": f"等待{i}"}) for i in range(4)]
    wait_for_depth(client, 4)
    for refused in (
        client.search("多余"),
        client.post("/v1/search/image", files={"file": picture()}),
        client.post("/v1/embeddings", {"input": ["a", "b"]}),
    ):
        assert error_of(refused) == (429, "overloaded")
        assert int(refused.headers["retry-after"]) >= 1
    assert client.search("圆", mode="keyword").status_code == 200, "needs no model"
    assert client.get("/readyz").status_code == 200
    encoder.gate.set()
    assert [future.result(30).status_code for future in waiting] == [200] * 4
    assert client.search("多余").status_code == 200


def test_past_the_deadline_is_504_and_is_not_encoded(make_client: MakeClient, encoder: DummyEncoder) -> None:
    client = make_client(deadline_ms=50)
    hold(encoder, client)
    late = client.together([("POST", "/v1/search", {"json": {"text": f"迟到{i}"}}) for i in range(5)])
    assert [error_of(response) for response in late] == [(504, "deadline_exceeded")] * 5
    encoder.gate.set()
    assert client.search("准时").status_code == 200
    assert [text for batch in encoder.batches for text in batch if "迟到" in text] == []


def test_work_for_the_gallery_is_bounded_too(
    make_client: MakeClient, gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Searches and reads, of which one runs and two wait; and writes likewise, on their own thread."""
    client = make_client(queue_size=2, max_inputs=1, threads=1)
    gate = threading.Event()
    for name in ("search", "get", "vectors", "delete"):
        monkeypatch.setattr(gallery, name, gated(getattr(gallery, name), gate))
    new = {"image": base64.b64encode(picture()).decode()}
    searches: list[Call] = [
        ("POST", "/v1/search", {"json": {"text": "圆", "mode": "keyword"}}),
        ("POST", "/v1/search", {"json": {"item_id": "红/circle"}}),
        ("GET", "/v1/items/红/circle", {}),
    ]
    writes: list[Call] = [
        ("DELETE", "/v1/items/红/circle", {}),
        ("PUT", "/v1/items/绿/circle", {"json": {"title": "改"}}),
        ("PUT", "/v1/items/new", {"json": new}),
        ("POST", "/v1/items:batch", {"json": {"items": [{"id": "b", **new}]}}),
    ]
    try:
        for calls in (searches, writes):
            waiting = [client.begin(method, path, **how) for method, path, how in calls[:1] * 3]
            for method, path, how in calls:
                refused = client.request(method, path, **how)
                assert error_of(refused) == (429, "overloaded")
                assert int(refused.headers["retry-after"]) >= 1
            gate.set()
            statuses = [future.result(30).status_code for future in waiting]
            assert statuses == ([200] * 3 if calls is searches else [204, 404, 404])
            gate.clear()
    finally:
        gate.set()
    assert client.get("/v1/items/绿/circle").json()["title"] == "绿色圆", "what was refused was not done"


def test_reading_an_item_has_a_deadline(
    make_client: MakeClient, gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = make_client(deadline_ms=50)
    gate = threading.Event()
    monkeypatch.setattr(gallery, "get", gated(gallery.get, gate))
    try:
        for path in ("/v1/items/红/circle", "/v1/items/红/circle/image"):
            assert error_of(client.get(path)) == (504, "deadline_exceeded")
    finally:
        gate.set()
    assert client.get("/v1/items/红/circle").status_code == 200


def test_a_poisoned_request_fails_alone(
    make_client: MakeClient, encoder: DummyEncoder, caplog: pytest.LogCaptureFixture
) -> None:
    client = make_client()
    hold(encoder, client)
    texts = ["红", "poison", "绿", "nan", "蓝"]
    futures = [client.begin("POST", "/v1/search", json={"text": text, "top_k": 1}) for text in texts]
    wait_for_depth(client, len(texts))
    with caplog.at_level(logging.CRITICAL):
        encoder.gate.set()
        answers = {text: future.result(30) for text, future in zip(texts, futures, strict=True)}
    for text in ("红", "绿", "蓝"):
        assert answers[text].json()["results"][0]["id"].startswith(text)
    for text in ("poison", "nan"):
        assert error_of(answers[text]) == (500, "internal_error")
        assert "secret" not in answers[text].text
    assert client.get("/readyz").status_code == 200


def test_an_unexpected_error_is_logged_with_its_request_id(
    client: AppClient, caplog: pytest.LogCaptureFixture
) -> None:
    response = client.request(
        "POST", "/v1/search", json={"text": "poison"}, headers={"X-Request-ID": "abc-1"}
    )
    assert response.headers["x-request-id"] == "abc-1"
    assert "secret" not in response.text
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "abc-1" in record.getMessage()
    assert record.exc_info is not None and "secret" in str(record.exc_info[1])


def test_a_dead_worker_is_not_ready(client: AppClient, caplog: pytest.LogCaptureFixture) -> None:
    assert client.get("/readyz").status_code == 200
    assert error_of(client.search("kill")) == (503, "not_ready")
    assert error_of(client.search("红")) == (503, "not_ready")
    assert error_of(client.get("/readyz")) == (503, "not_ready")
    assert client.get("/healthz").status_code == 200
    assert client.search("圆", mode="keyword").status_code == 200
    assert any(record.levelno == logging.CRITICAL for record in caplog.records)


def test_too_many_pictures_at_once_are_429(make_client: MakeClient, encoder: DummyEncoder) -> None:
    client = make_client(queue_size=2, max_inputs=1, threads=1)
    hold(encoder, client)
    futures = [client.begin("POST", "/v1/search/image", files={"file": picture(size=64)}) for _ in range(30)]
    wait_for_depth(client, 2)
    encoder.gate.set()
    assert {future.result(30).status_code for future in futures} == {200, 429}
