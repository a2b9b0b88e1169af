from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Any
from urllib.parse import quote

import httpx
import numpy as np
import pytest

from service.gallery import Gallery
from service.gallery.types import Vector
from service.writer import Writer
from tests.service.conftest import MakeClient
from tests.service.dummy import AppClient, DummyEncoder, error_of, picture, vector_of_pixels


def path_of(item_id: str) -> str:
    return f"/v1/items/{quote(item_id, safe='')}"


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


def put_json(client: AppClient, item_id: str, **body: Any) -> httpx.Response:
    return client.request("PUT", path_of(item_id), json=body)


def top(client: AppClient, text: str) -> str:
    return str(client.search(text, mode="keyword", top_k=1).json()["results"][0]["id"])


def test_put_json_then_get_search_and_delete(
    client: AppClient, encoder: DummyEncoder, gallery: Gallery
) -> None:
    data = picture("紫", "square", size=96)
    body = {"title": "紫水晶杯", "attributes": {"price": 9.5, "tags": ["杯", "新"]}}
    made = put_json(client, "new-1", image=base64_of(data), **body)
    assert made.status_code == 201
    assert made.json() == client.get("/v1/items/new-1").json()
    assert made.json() | body == made.json()
    np.testing.assert_array_equal(
        gallery.vectors(["new-1"])["new-1"], vector_of_pixels(encoder.prepare_image(data))
    )
    assert client.get(made.json()["image_url"]).content == data
    assert top(client, "水晶") == "new-1"
    assert client.request("DELETE", "/v1/items/new-1").status_code == 204
    for method in ("GET", "DELETE"):
        assert error_of(client.request(method, "/v1/items/new-1")) == (404, "not_found")
    assert error_of(client.get("/v1/items/new-1/image")) == (404, "not_found")


def test_put_multipart(client: AppClient) -> None:
    data = picture("蓝", "circle", format="WEBP")
    form = {"title": "蓝<b>盘子", "attributes": '{"price": 3}'}
    made = client.request("PUT", path_of("盘/1"), files={"file": ("a.webp", data)}, data=form)
    assert made.status_code == 201, made.text
    assert made.json()["title"] == "蓝<b>盘子"
    assert made.json()["attributes"] == {"price": 3}
    image = client.get(made.json()["image_url"])
    assert (image.content, image.headers["content-type"]) == (data, "image/webp")


def test_put_without_a_picture_keeps_it(client: AppClient, gallery: Gallery) -> None:
    before, vector = client.get(path_of("红/circle")).json(), gallery.vectors(["红/circle"])["红/circle"]
    after = put_json(client, "红/circle", title="改名字了")
    assert after.status_code == 200
    assert after.json() == {**before, "title": "改名字了", "attributes": {}}
    np.testing.assert_array_equal(gallery.vectors(["红/circle"])["红/circle"], vector)
    assert error_of(put_json(client, "nobody", title="x")) == (422, "image_required")


@pytest.mark.parametrize(
    "item_id",
    [
        "a/b",
        "a/image",
        "image",
        "x/image/image",
        "空 格",
        "100%",
        "a%2Fb",
        "?q=1",
        "#",
        "a//b",
        "/",
        "emoji🐈",
        "a:b",
    ],
)
def test_any_id_comes_back(client: AppClient, item_id: str) -> None:
    data = picture("绿", size=64)
    made = put_json(client, item_id, image=base64_of(data), title="t")
    assert made.status_code == 201, made.text
    assert client.get(path_of(item_id)).json()["id"] == item_id
    assert client.get(made.json()["image_url"]).content == data
    assert client.request("DELETE", path_of(item_id)).status_code == 204


def test_slashes_need_not_be_encoded_where_they_are_clear(client: AppClient) -> None:
    assert client.get("/v1/items/红/circle").json()["id"] == "红/circle"
    assert client.get("/v1/items/红/circle/image").headers["content-type"] == "image/png"


def test_servers_that_send_no_raw_path_work_too(client: AppClient) -> None:
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b""}

    scope = {
        "type": "http",
        "method": "GET",
        "path": "/v1/items/红/circle",
        "query_string": b"",
        "headers": [],
    }
    client.run(client.app(scope, receive, send))
    assert sent[0]["status"] == 200
    assert json.loads(sent[1]["body"])["id"] == "红/circle"


@pytest.mark.parametrize("path", ["%00", "a%0Ab", "%FF", "%2E%2E", "a" * 513])
def test_impossible_ids_are_refused(client: AppClient, path: str) -> None:
    response = client.request("PUT", f"/v1/items/{path}", json={"title": "x"})
    assert error_of(response)[0] in (404, 405, 422)  # a dot segment is resolved by the client already


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"image": "not base64!"}, "image must be base64"),
        ({"image": "http://127.0.0.1/x.jpg"}, "image must be base64"),
        ({"image": "data:text/html;base64,AAAA"}, "data URI must start with data:image/"),
        ({"image": base64_of(b"junk")}, "bad-1: not a picture"),
        ({"image": ""}, "bad-1: empty"),
        ({"title": 5}, "title: "),
        ({"title": "x" * 1001}, "title: "),
        ({"attributes": {"a": {"b": 1}}}, "attributes"),
        ({"attributes": {"": 1}}, "attributes"),
        ({"attributes": {str(i): 1 for i in range(65)}}, "attributes"),
        ({"colour": 1}, "colour: "),
    ],
)
def test_bad_bodies_are_refused(client: AppClient, gallery: Gallery, body: Any, message: str) -> None:
    response = put_json(client, "bad-1", **body)
    assert error_of(response)[0] == 422
    assert message in response.json()["error"]["message"]
    assert gallery.get("bad-1") is None


def test_other_bad_puts(client: AppClient) -> None:
    def put(**kwargs: Any) -> tuple[int, str]:
        return error_of(client.request("PUT", "/v1/items/x", **kwargs))

    assert put(content=b"{}", headers={"Content-Type": "text/plain"}) == (415, "unsupported_media_type")
    assert put(content=b"{}") == (415, "unsupported_media_type")
    assert put(content=b"{", headers={"Content-Type": "application/json"})[0] == 422
    assert put(content=b'{"title": "\\ud800"}', headers={"Content-Type": "application/json"})[0] == 422
    assert put(files={"file": picture()}, data={"attributes": "{"})[0] == 422
    assert put(files={"file": picture()}, data={"colour": "x"})[0] == 422
    assert put(files=[("file", picture(size=40)), ("file", picture(size=41))])[0] == 400
    assert put(files={"title": ("t.txt", b"text")})[0] == 422


def test_upload_limits(make_client: MakeClient) -> None:
    client = make_client(max_upload_bytes=2000)
    big = picture(size=1200, format="BMP")[:3000]
    assert error_of(put_json(client, "x", image=base64_of(big))) == (413, "payload_too_large")
    response = client.request("PUT", "/v1/items/x", files={"file": big})
    assert error_of(response) == (413, "payload_too_large")


def test_batch_reports_what_is_broken_and_stores_the_rest(client: AppClient, gallery: Gallery) -> None:
    good = base64_of(picture("黑", size=80))
    items = [
        {"id": "b1", "title": "一", "image": good},
        {"id": "b2", "image": base64_of(b"junk")},
        {"id": "b3", "image": "data:image/png;base64," + good},
        {"id": "b4", "title": "没有图片"},
        {"id": "红/circle", "title": "新标题"},
    ]
    answer = client.post("/v1/items:batch", {"items": items}).json()
    assert (answer["added"], answer["updated"], answer["unchanged"]) == (2, 1, 0)
    assert [(f["index"], f["id"], f["code"]) for f in answer["failed"]] == [
        (1, "b2", "image_unreadable"),
        (3, "b4", "image_required"),
    ]
    assert answer["failed"][0]["message"].startswith("b2: ")
    assert len(gallery) == 34
    again = client.post("/v1/items:batch", {"items": [items[0]]}).json()
    assert again == {"added": 0, "updated": 0, "unchanged": 1, "failed": []}
    nothing = client.post("/v1/items:batch", {"items": [items[1]]}).json()
    assert len(nothing["failed"]) == 1


def test_batch_limits(make_client: MakeClient, gallery: Gallery) -> None:
    client = make_client(max_inputs=3)
    item = {"image": base64_of(picture(size=40))}
    for items in (
        [],
        [{"id": str(i), **item} for i in range(4)],
        [{"id": "a", **item}] * 2,
        [{"id": "", **item}],
        [{"id": "..", **item}],
        [{"id": "a\nb", **item}],
        [{"id": 5, **item}],
    ):
        assert error_of(client.post("/v1/items:batch", {"items": items}))[0] == 422
    assert len(gallery) == 32


def test_large_batches_go_through_in_small_steps(make_client: MakeClient, encoder: DummyEncoder) -> None:
    client = make_client(max_image_batch=4, threads=1)
    items = [{"id": str(i), "image": base64_of(picture(size=33 + i))} for i in range(40)]
    assert client.post("/v1/items:batch", {"items": items}).json()["added"] == 40
    assert max(encoder.image_batches) <= 4


def test_concurrent_writes_all_arrive(client: AppClient, gallery: Gallery) -> None:
    body = {"image": base64_of(picture(size=50))}
    answers = client.together([("PUT", f"/v1/items/w{i}", {"json": body}) for i in range(20)])
    assert [answer.status_code for answer in answers] == [201] * 20
    assert len(gallery) == 52


@pytest.mark.parametrize("batch", [False, True], ids=["put", "batch"])
@pytest.mark.parametrize("other", ["picture", "delete"])
def test_a_title_undoes_no_other_write(
    client: AppClient, gallery: Gallery, monkeypatch: pytest.MonkeyPatch, batch: bool, other: str
) -> None:
    """Another write of the item comes in just when a new title has looked up the picture to keep."""
    item_id, blue = "红/circle", picture("蓝", size=70)
    put_json(client, "twin", image=base64_of(picture("红", "circle")))  # so that the old picture stays there
    body = {"json": {"image": base64_of(blue)}} if other == "picture" else {}
    begun: list[Future[httpx.Response]] = []
    looked_up, queued = threading.Event(), threading.Event()
    vectors, write = gallery.vectors, Writer._write

    def interrupted(ids: Iterable[str]) -> dict[str, Vector]:
        found = vectors(ids)
        if not looked_up.is_set():
            looked_up.set()
            begun.append(client.begin("PUT" if body else "DELETE", path_of(item_id), **body))
            assert queued.wait(30)
            client.run(asyncio.sleep(0))  # the event loop has handed the write to its thread
        return found

    async def announced(self: Writer, change: Callable[[], Any]) -> Any:
        if looked_up.is_set():
            queued.set()
        return await write(self, change)

    monkeypatch.setattr(gallery, "vectors", interrupted)
    monkeypatch.setattr(Writer, "_write", announced)
    if batch:
        titled = client.post("/v1/items:batch", {"items": [{"id": item_id, "title": "新"}]})
    else:
        titled = put_json(client, item_id, title="新")
    assert titled.status_code == 200
    assert begun[0].result(30).status_code == (200 if body else 204)
    row = gallery.get(item_id)
    if body:
        assert row is not None and row.image_sha256 == hashlib.sha256(blue).hexdigest()
    else:
        assert row is None


def test_pictures_are_cached_by_their_hash(client: AppClient) -> None:
    url = client.get(path_of("红/circle")).json()["image_url"]
    first = client.get(url)
    assert first.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert first.headers["x-content-type-options"] == "nosniff"
    plain = client.get(url.partition("?")[0])
    assert plain.headers["cache-control"] == "public, no-cache"
    again = client.get(url, headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    for stale in ("0" * 16, "", first.headers["etag"][1:5]):
        assert (
            client.get(f"{path_of('红/circle')}/image?v={stale}").headers["cache-control"]
            == "public, no-cache"
        )
