"""Who may do what: read-only galleries, this machine, API keys."""

from __future__ import annotations

import json

import pytest

from service.gallery import Gallery
from tests.service.conftest import MakeClient
from tests.service.dummy import AppClient, error_of, picture
from tests.service.test_items import base64_of, path_of, put_json

KEY = "correct horse"


def test_read_only(make_client: MakeClient, gallery: Gallery) -> None:
    client = make_client(read_only=True)
    body = {"items": [{"id": "x", "image": base64_of(picture())}]}
    assert error_of(client.request("DELETE", path_of("红/circle"))) == (403, "read_only")
    assert error_of(put_json(client, "x", title="x")) == (403, "read_only")
    assert error_of(client.post("/v1/items:batch", body)) == (403, "read_only")
    assert client.get("/readyz").json()["writable"] is False
    assert client.search("红").status_code == 200
    assert len(gallery) == 32


def test_without_a_key_only_this_machine_may_write(make_client: MakeClient) -> None:
    delete = ("DELETE", path_of("红/circle"))
    outside = make_client(host="0.0.0.0")
    assert error_of(outside.request(*delete)) == (403, "api_key_required")
    assert outside.search("红").status_code == 200
    local = make_client("http://localhost:8000")
    assert error_of(local.request(*delete, headers={"Origin": "http://evil.example"})) == (
        403,
        "api_key_required",
    )
    assert error_of(local.request(*delete, headers={"Origin": "null"})) == (403, "api_key_required")
    assert local.request(*delete, headers={"Origin": "http://localhost:8000"}).status_code == 204


@pytest.mark.parametrize("host", ["evil.example:8000", "127.0.0.1.evil.example", "[::1", "user@evil.example"])
def test_a_name_pointed_at_this_machine_reads_and_writes_nothing(client: AppClient, host: str) -> None:
    rebound = {"Host": host}
    for method, path in (
        ("GET", "/v1/search?q=红"),
        ("GET", path_of("红/circle")),
        ("GET", f"{path_of('红/circle')}/image"),
        ("DELETE", path_of("红/circle")),
        ("GET", "/v1/none"),
    ):
        response = client.request(method, path, headers=rebound)
        assert error_of(response) == (403, "forbidden_host")
        assert "CNCLIP_API_KEY" in response.json()["error"]["message"]
    assert client.get("/", headers=rebound).status_code == 200
    for own in ("localhost:8000", "LOCALHOST", "127.0.0.1", "[::1]:8000"):
        assert client.get("/v1/search?q=红", headers={"Host": own}).status_code == 200


def test_other_names_are_for_servers_that_others_may_reach(make_client: MakeClient) -> None:
    name = {"Host": "shop.example"}
    assert make_client(host="0.0.0.0").get("/v1/search?q=红", headers=name).status_code == 200
    key = {"X-API-Key": KEY}
    assert make_client(api_key=KEY).get("/v1/search?q=红", headers={**name, **key}).status_code == 200


def test_a_broken_origin_may_not_write(client: AppClient) -> None:
    response = client.request("DELETE", path_of("红/circle"), headers={"Origin": "http://[::1"})
    assert error_of(response) == (403, "api_key_required")


def test_api_key(make_client: MakeClient) -> None:
    client = make_client("http://shop.example", host="0.0.0.0", api_key=KEY)
    for headers in (
        {},
        {"X-API-Key": "wrong horse"},
        {"X-API-Key": KEY[:-1]},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Basic {KEY}"},
        {"Authorization": KEY},
        {"X-API-Key": "é"},
    ):
        for method, path in (
            ("GET", "/v1/search?q=红"),
            ("DELETE", path_of("红/circle")),
            ("GET", "/v1/none"),
        ):
            encoded = {name: value.encode() for name, value in headers.items()}
            response = client.request(method, path, headers=encoded)
            assert error_of(response) == (401, "unauthorized")
            assert response.headers["www-authenticate"] == "Bearer"
    for path in ("/", "/healthz", "/readyz", "/metrics", "/docs", "/openapi.json", "/static/style.css"):
        assert client.get(path).status_code == 200
    assert client.get("/v1/search?q=红", headers={"X-API-Key": KEY}).status_code == 200
    bearer = {"Authorization": f"bearer {KEY}"}
    image = client.get(f"{path_of('红/circle')}/image", headers=bearer)
    assert image.headers["cache-control"] == "private, no-cache"
    assert client.request("DELETE", path_of("红/circle"), headers=bearer).status_code == 204
    assert KEY not in json.dumps(client.get("/openapi.json").json()) + client.get("/metrics").text


@pytest.mark.parametrize(
    "hosts",
    [
        ["[::"],
        ["[::]"],
        [""],
        ["localhost:x"],
        ["x@localhost"],
        ["localhost/x"],
        ["localhost", "evil.example"],
    ],
)
def test_malformed_and_doubled_hosts_are_refused(client: AppClient, hosts: list[str]) -> None:
    headers = [("Host", host) for host in hosts]
    for method in ("GET", "PUT", "DELETE"):
        response = client.request(method, path_of("红/circle"), headers=headers)
        assert error_of(response) == (403, "forbidden_host")
