"""What holds for every route: errors, headers, metrics, documentation, start and stop."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from pathlib import Path
from typing import Any

import httpx
import pytest

import cnclip
from cnclip.errors import InputError, ModelMismatchError
from service import lifecycle
from service.app import create_app
from service.gallery import Gallery, GalleryError
from service.routes.pages import STATIC
from service.settings import ServiceSettings
from tests.service.conftest import MakeClient
from tests.service.dummy import AppClient, DummyEncoder, error_of, picture

ROUTES = """
DELETE /v1/items/{id} -> 204
GET /healthz -> 200
GET /metrics -> 200
GET /readyz -> 200
GET /v1/items/{id} -> 200
GET /v1/items/{id}/image ? v -> 200
GET /v1/models -> 200
GET /v1/search ? filter item_id k min_relevance mode q -> 200
POST /v1/embeddings { dimensions encoding_format input model } -> 200
POST /v1/feedback { item_id query relevant } -> 201
POST /v1/items:batch { items } -> 200
POST /v1/models:activate { name version } -> 200 202
POST /v1/models:cancel -> 202
POST /v1/models:rollback -> 202
POST /v1/search { filter item_id min_relevance mode text top_k } -> 200
POST /v1/search/image { file filter min_relevance top_k } -> 200
PUT /v1/items/{id} { attributes image title } -> 200 201
""".strip()


def summary_of(spec: dict[str, Any]) -> str:
    """One line per operation: parameters, fields of the body, good answers."""
    lines = []
    for path, operations in spec["paths"].items():
        for method, operation in operations.items():
            query = sorted(p["name"] for p in operation.get("parameters", []) if p["in"] == "query")
            content = operation.get("requestBody", {}).get("content", {})
            schema = next(iter(content.values()))["schema"] if content else {}
            if "$ref" in schema:
                schema = spec["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]]
            fields = sorted(schema.get("properties", {}))
            good = [status for status in sorted(operation["responses"]) if status.startswith("2")]
            parts = [method.upper(), path.replace(":path", "")]
            parts += ["?", *query] if query else []
            parts += ["{", *fields, "}"] if fields else []
            lines.append(" ".join([*parts, "->", *good]))
    return "\n".join(sorted(lines))


def test_the_routes_are_those_of_the_contract(client: AppClient) -> None:
    assert summary_of(client.get("/openapi.json").json()) == ROUTES


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/nowhere", (404, "not_found")),
        ("GET", "/v1/", (404, "not_found")),
        ("GET", "/v1/search/", (404, "not_found")),
        ("GET", "/static/../app.py", (404, "not_found")),
        ("GET", "/static/%2e%2e/app.py", (404, "not_found")),
        ("GET", "/static/", (404, "not_found")),
        ("PATCH", "/v1/search", (405, "method_not_allowed")),
        ("DELETE", "/", (405, "method_not_allowed")),
        ("POST", "/static/style.css", (405, "method_not_allowed")),
        ("BREW", "/coffee", (404, "not_found")),
    ],
)
def test_errors_have_one_shape(client: AppClient, method: str, path: str, expected: tuple[int, str]) -> None:
    assert error_of(client.request(method, path)) == expected


@pytest.mark.parametrize("given", ["", "a b", "x" * 65, "a\tb", "<script>", "é"])
def test_strange_request_ids_are_replaced(client: AppClient, given: str) -> None:
    answer = client.get("/healthz", headers={b"X-Request-ID": given.encode()})
    assert re.fullmatch("[0-9a-f]{32}", answer.headers["x-request-id"])


def test_request_ids_are_echoed(client: AppClient) -> None:
    assert client.get("/healthz", headers={"X-Request-ID": "Ab.1_-z"}).headers["x-request-id"] == "Ab.1_-z"
    ids = {client.get("/healthz").headers["x-request-id"] for _ in range(10)}
    assert len(ids) == 10


def test_an_exception_nobody_expected(
    client: AppClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("password=hunter2")

    monkeypatch.setattr(Gallery, "search", broken)
    response = client.search("红")
    assert error_of(response) == (500, "internal_error")
    assert "hunter2" not in response.text
    assert response.headers["content-security-policy"]
    assert "hunter2" in caplog.text


def test_gallery_errors_tell_no_paths(client: AppClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise GalleryError("/srv/secret/catalog.sqlite: disk I/O error")

    monkeypatch.setattr(Gallery, "search", broken)
    response = client.search("红")
    assert error_of(response) == (500, "gallery_error")
    assert "/srv" not in response.text


def test_pages_are_self_contained(client: AppClient) -> None:
    for path in ("/", "/docs"):
        page = client.get(path)
        assert page.headers["content-type"].startswith("text/html")
        policy = page.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert client.request("HEAD", path).status_code == 200
        for link in re.findall(r'(?:src|href)="([^"#]+)"', page.text):
            assert link.startswith("/"), f"{link} leaves this server"
            assert client.get(link).status_code == 200
    for file in STATIC.rglob("*.*"):
        text = file.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert "://" not in text, f"{file.name} names another host"
        assert "innerHTML" not in text
        served = client.get(f"/static/{file.relative_to(STATIC).as_posix()}")
        assert served.headers["cache-control"] == "no-cache"
        again = client.get(served.request.url.path, headers={"If-None-Match": served.headers["etag"]})
        assert again.status_code == 304


def test_metrics_count_stages_routes_and_batches(client: AppClient) -> None:
    client.search("红")
    client.search("红")
    client.post("/v1/search/image", files={"file": picture()})
    client.get("/v1/items/" + "x%2Fy")
    client.get("/static/style.css")
    client.get("/no/such/1")
    client.get("/no/such/2")
    client.request("BREW", "/coffee")
    samples = dict(line.rsplit(" ", 1) for line in client.get("/metrics").text.splitlines() if line[0] != "#")
    requests = {
        key: float(value) for key, value in samples.items() if key.startswith("cnclip_requests_total")
    }
    assert requests == {
        'cnclip_requests_total{method="POST",route="/v1/search",status="200"}': 2,
        'cnclip_requests_total{method="POST",route="/v1/search/image",status="200"}': 1,
        'cnclip_requests_total{method="GET",route="/v1/items/{id:path}",status="404"}': 1,
        'cnclip_requests_total{method="GET",route="/static",status="200"}': 1,
        'cnclip_requests_total{method="GET",route="unmatched",status="404"}': 2,
        'cnclip_requests_total{method="OTHER",route="unmatched",status="404"}': 1,
    }
    # The warm-up has decoded one picture and encoded two inputs; the second search was in the cache.
    for stage, count in {"decode": 2, "queue": 4, "encode": 4, "search": 3}.items():
        assert float(samples[f'cnclip_stage_seconds_count{{stage="{stage}"}}']) == count
    assert float(samples['cnclip_embedding_cache_lookups_total{result="hit"}']) == 1
    assert float(samples["cnclip_gallery_items"]) == 32
    assert float(samples["cnclip_queue_depth"]) == 0
    assert float(samples['cnclip_batch_size_count{kind="text"}']) == 2


def test_apps_do_not_share_metrics(make_client: MakeClient) -> None:
    first, second = make_client(), make_client()
    first.search("红")
    assert 'route="/v1/search"' in first.get("/metrics").text
    assert 'route="/v1/search"' not in second.get("/metrics").text


def test_the_access_log_is_off_unless_wanted(
    make_client: MakeClient, caplog: pytest.LogCaptureFixture
) -> None:
    def lines() -> list[str]:
        return [record.getMessage() for record in caplog.records if record.name == "service.middleware"]

    caplog.set_level(logging.INFO, "service.middleware")
    make_client().search("红")
    assert lines() == []
    make_client(access_log=True).search("红")
    (line,) = lines()
    assert re.fullmatch(r"POST /v1/search 200 [\d.]+ ms [0-9a-f]{32}", line)


def test_the_app_opens_and_closes_what_it_is_not_given(
    gallery_path: Path, encoder: DummyEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "load_encoder", lambda _: encoder)
    app = create_app(ServiceSettings(gallery=gallery_path))
    with AppClient(app) as client:
        assert client.search("红").status_code == 200
    with Gallery.open(gallery_path) as gallery:  # the lock is free again
        assert len(gallery) == 32


def test_not_ready_outside_the_lifespan(gallery: Gallery, encoder: DummyEncoder) -> None:
    app = create_app(ServiceSettings(gallery=gallery.path), encoder, gallery)

    async def ask(path: str) -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as http:
            return await http.get(path)

    assert error_of(asyncio.run(ask("/readyz"))) == (503, "not_ready")
    assert error_of(asyncio.run(ask("/v1/search?q=x"))) == (503, "not_ready")
    assert asyncio.run(ask("/healthz")).status_code == 200


def test_the_wrong_model_and_a_missing_gallery_are_refused(
    tmp_path: Path, gallery_path: Path, encoder: DummyEncoder
) -> None:
    with pytest.raises(InputError, match="cnclip index PICTURES --gallery"):
        lifecycle.load_encoder(ServiceSettings(gallery=tmp_path / "none"))
    encoder.fingerprint = "ff" * 32
    with pytest.raises(ModelMismatchError, match="dummy"):
        lifecycle.open_gallery(ServiceSettings(gallery=gallery_path), encoder)


def test_the_model_is_the_one_that_made_the_gallery(
    gallery_path: Path, encoder: DummyEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def load(name: str) -> DummyEncoder:
        asked.append(name)
        return encoder

    monkeypatch.setitem(vars(cnclip), "load", load)  # not setattr: that would import torch
    assert lifecycle.load_encoder(ServiceSettings(gallery=gallery_path)) is encoder
    assert lifecycle.load_encoder(ServiceSettings(gallery=gallery_path, model="other.pt")) is encoder
    assert asked == ["dummy", "other.pt"]


def test_openapi_is_plain_json(client: AppClient) -> None:
    spec = client.get("/openapi.json").json()
    assert json.loads(json.dumps(spec)) == spec
    assert "ErrorResponse" in spec["components"]["schemas"]
