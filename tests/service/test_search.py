from __future__ import annotations

import io
import json
import subprocess
import sys
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from cnclip.image import MAX_PIXELS
from service.gallery import Gallery, Item
from tests.service.conftest import MakeClient
from tests.service.dummy import AppClient, DummyEncoder, error_of, picture, vector_of_pixels, vector_of_text


def ids(response: httpx.Response) -> list[str]:
    assert response.status_code == 200, response.text
    return [result["id"] for result in response.json()["results"]]


def test_text_finds_its_pictures_in_the_order_of_the_cosine(client: AppClient, gallery: Gallery) -> None:
    answer = client.search("红色的东西", top_k=6).json()
    vectors = gallery.vectors(gallery.ids())
    query = vector_of_text("红色的东西")
    expected = sorted(vectors, key=lambda item_id: -float(vectors[item_id] @ query))[:6]
    assert [result["id"] for result in answer["results"]] == expected
    assert {result["id"][0] for result in answer["results"][:4]} == {"红"}
    for result in answer["results"]:
        assert result["score"] == pytest.approx(float(vectors[result["id"]] @ query), abs=1e-5)
        assert set(result) == {"id", "score", "title", "image_url", "attributes"}
    assert answer["no_match"] is False
    assert answer["model"] == {"name": "dummy", "fingerprint": "d0" * 32}
    assert set(answer["took_ms"]) == {"queue", "encode", "search", "total"}
    assert answer["took_ms"]["total"] >= answer["took_ms"]["search"] > 0


def test_200_concurrent_requests_each_get_their_own_answer(
    encoder: DummyEncoder, gallery: Gallery, make_client: MakeClient
) -> None:
    texts = [f"第{i}种东西" for i in range(200)]
    gallery.upsert([Item(text, vector_of_text(text), text) for text in texts])
    client = make_client(queue_size=400)
    answers = client.together(
        [("POST", "/v1/search", {"json": {"text": text, "top_k": 1}}) for text in texts]
        + [("GET", "/v1/search", {"params": {"q": text, "k": 1}}) for text in texts]
    )
    assert [ids(answer) for answer in answers] == [[text] for text in texts] * 2
    assert max(map(len, encoder.batches)) > 1, "nothing was batched"
    assert encoder.threads == {"encoder"}


def test_a_query_asked_again_is_not_encoded_again(client: AppClient, encoder: DummyEncoder) -> None:
    first, second = client.search("Red 红"), client.search("red 红")  # the same to the model
    assert ids(first) == ids(second)
    assert encoder.batches == [["Red 红"]]
    assert second.json()["took_ms"]["encode"] == 0


def test_get_does_the_same_as_post(client: AppClient) -> None:
    options: dict[str, Any] = {"mode": "hybrid", "min_relevance": 0.1}
    condition = {"shape": {"in": ["circle", "square"]}, "price": {"gte": 20}}
    post = client.search("绿色方块", top_k=5, filter=condition, **options)
    params = {"q": "绿色方块", "k": 5, "filter": json.dumps(condition), **options}
    get = client.get("/v1/search", params=params)
    assert ids(post) == ids(get)
    assert ids(post)[0] == "绿/square"


def test_filter_and_keyword_mode(client: AppClient, encoder: DummyEncoder) -> None:
    found = ids(client.search("蓝", filter={"shape": "hexagon"}, top_k=50))
    assert len(found) == 8
    assert all(item_id.endswith("/hexagon") for item_id in found)
    encoder.batches.clear()
    assert set(ids(client.search("六边形", mode="keyword"))) == {f"{c}/hexagon" for c in "红橙黄绿蓝紫白黑"}
    assert encoder.batches == [], "keyword search needs no model"


def test_min_relevance_and_no_match(client: AppClient) -> None:
    answer = client.search("红", min_relevance=0.99999).json()
    assert answer["results"] == []
    assert answer["no_match"] is True
    assert client.search("没有这个词", mode="keyword").json()["no_match"] is True


def test_by_item_leaves_the_item_out(client: AppClient) -> None:
    found = ids(client.post("/v1/search", {"item_id": "红/circle", "top_k": 3}))
    assert len(found) == 3
    assert {item_id[0] for item_id in found} == {"红"}
    assert "红/circle" not in found
    assert ids(client.get("/v1/search", params={"item_id": "红/circle", "k": 3})) == found
    assert error_of(client.post("/v1/search", {"item_id": "nobody"})) == (404, "not_found")


def test_by_image(client: AppClient, encoder: DummyEncoder, gallery: Gallery) -> None:
    data = picture("紫", "circle", format="JPEG")
    answer = client.post(
        "/v1/search/image",
        files={"file": ("我的照片.jpg", data, "image/jpeg")},
        data={"top_k": 4, "filter": '{"price": {"gt": 0}}'},
    )
    query = vector_of_pixels(encoder.prepare_image(data))
    vectors = gallery.vectors(gallery.ids())
    assert ids(answer) == sorted(vectors, key=lambda item_id: -float(vectors[item_id] @ query))[:4]
    assert set(answer.json()["took_ms"]) == {"decode", "queue", "encode", "search", "total"}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"text": ""}, "text: "),
        ({"text": "   "}, "text: "),
        ({"text": "字" * 513}, "at most 512"),
        ({"text": "红", "top_k": 0}, "top_k: "),
        ({"text": "红", "top_k": 201}, "top_k: at most 200"),
        ({"text": "红", "top_k": "many"}, "top_k: "),
        ({"text": "红", "mode": "magic"}, "mode: "),
        ({"text": "红", "colour": "red"}, "colour: "),
        ({"text": "红", "item_id": "红/circle"}, "either text or item_id"),
        ({"item_id": "红/circle", "mode": "keyword"}, "mode vector"),
        (
            {"text": "红", "mode": "keyword", "min_relevance": 0.5},
            "min_relevance needs mode vector or hybrid",
        ),
        ({"text": "红", "filter": {"price": {"in": list(range(1001))}}}, "filter"),
        ({"text": "红", "filter": {"shape": {"in": ["长" * 999] * 70}}}, "at most 65,536 characters"),
        ({}, "either text or item_id"),
        ([], ""),
        ({"text": "红", "filter": {"shape": {"like": "x"}}}, "'like'"),
        ({"text": "红", "filter": {"shape": {"in": "x"}}}, "list"),
        ({"text": "红", "filter": {"shape": [{"in": ["x"]}]}}, "filter"),
        ({"text": "红", "filter": {"a": {"in": [{"b": {"c": "d"}}]}}}, "filter"),
        ({"text": "红", "filter": {f"f{i}": 1 for i in range(17)}}, "filter"),
        ({"text": "红", "filter": []}, "filter: must be a JSON object"),
        ({"text": "红", "filter": {"a": {"bool": 1}}}, "filter: field 'a': unknown operator 'bool' (known: "),
        ({"text": "红", "filter": {"a": {"gt": 10**20}}}, "filter: field 'a': 100000000000000000000 does"),
        ({"text": "红", "filter": {"a": None}}, "filter: field 'a': must be a text, number"),
    ],
)
def test_bad_requests_are_refused_in_one_line(client: AppClient, body: Any, message: str) -> None:
    response = client.post("/v1/search", body)
    assert error_of(response)[0] == 422, response.text
    text = response.json()["error"]["message"]
    assert message in text
    assert "\n" not in text
    assert "more)" not in text


@pytest.mark.parametrize(
    "raw",
    [b"", b"{", b"null", b'"x"', b'{"text": "\\ud800"}', b'{"text": NaN}', b"\xff\xfe", b"[" * 100_000],
    ids=lambda raw: repr(raw[:12]),
)
def test_broken_json_is_refused(client: AppClient, raw: bytes) -> None:
    response = client.request("POST", "/v1/search", content=raw, headers={"Content-Type": "application/json"})
    assert error_of(response) == (422, "invalid_request")
    if raw not in (b"", b"null", b'"x"') and b"text" not in raw:
        assert response.json()["error"]["message"] == "the body is not valid JSON"


def test_limits_follow_the_settings(make_client: MakeClient) -> None:
    client = make_client(max_text_length=3, max_top_k=20)
    assert len(ids(client.search("红绿蓝", top_k=20))) == 20
    assert error_of(client.search("红绿蓝紫")) == (422, "text_too_long")
    assert error_of(client.search("红", top_k=21)) == (422, "invalid_request")
    bad = client.post("/v1/search/image", files={"file": picture()}, data={"top_k": 21})
    assert error_of(bad) == (422, "invalid_request")


@pytest.mark.parametrize(
    "data",
    [b"", b"not a picture", b"GIF89a", picture(format="JPEG")[:600], b"<svg onload='alert(1)'></svg>"],
    ids=["empty", "text", "cut gif", "cut jpeg", "svg"],
)
def test_garbage_pictures_get_one_clear_line(client: AppClient, data: bytes) -> None:
    response = client.post("/v1/search/image", files={"file": ("杯子.jpg", data, "image/jpeg")})
    assert error_of(response) == (422, "image_unreadable")
    assert response.json()["error"]["message"].startswith("杯子.jpg: ")


def test_the_name_of_an_upload_stays_on_one_line(client: AppClient) -> None:
    name = "a\u2028b" + "长" * 500 + ".jpg"
    response = client.post("/v1/search/image", files={"file": (name, b"junk")})
    message = response.json()["error"]["message"]
    assert message.startswith("ab长长")
    assert len(message) < 250
    assert len(message.splitlines()) == 1


def test_pictures_over_the_limits(make_client: MakeClient) -> None:
    client = make_client(max_pixels=240 * 240 - 1, max_upload_bytes=100_000)
    response = client.post("/v1/search/image", files={"file": picture()})
    assert error_of(response) == (422, "image_unreadable")
    assert "57,599 pixels" in response.json()["error"]["message"]
    noise = np.random.default_rng(0).bytes(150_000)
    assert error_of(client.post("/v1/search/image", files={"file": noise})) == (413, "payload_too_large")
    assert error_of(client.post("/v1/search/image", files={"file": noise * 4})) == (413, "payload_too_large")


def test_the_limit_of_pixels_may_be_raised(make_client: MakeClient) -> None:
    out = io.BytesIO()
    Image.new("1", (6400, 6400)).save(out, "PNG")
    assert MAX_PIXELS < 6400 * 6400
    files = {"file": out.getvalue()}
    assert error_of(make_client().post("/v1/search/image", files=files)) == (422, "image_unreadable")
    raised = make_client(max_pixels=6400 * 6400).post("/v1/search/image", files=files)
    assert raised.status_code == 200, raised.text


def test_links_obey_the_same_rules(client: AppClient) -> None:
    response = client.get("/v1/search", params={"q": "红", "mode": "keyword", "min_relevance": 0.5})
    assert error_of(response) == (422, "invalid_request")
    assert "vector or hybrid" in response.json()["error"]["message"]


def test_a_body_without_a_length_is_counted(make_client: MakeClient) -> None:
    client = make_client(max_upload_bytes=1024)

    async def chunks() -> Any:
        for _ in range(100):
            yield b" " * 10_000

    headers = {"Content-Type": "application/json"}
    for path in ("/v1/search", "/v1/items:batch"):
        response = client.request("POST", path, content=chunks(), headers=headers)
        assert error_of(response) == (413, "payload_too_large")


def test_the_form_is_checked(client: AppClient) -> None:
    assert error_of(client.post("/v1/search/image"))[0] == 422
    assert error_of(client.post("/v1/search/image", data={"file": "text"}))[0] == 422
    files = {"file": picture()}
    for data in (
        {"filter": "{"},
        {"filter": "[" * 100_000},
        {"filter": "[1]"},
        {"top_k": "0"},
        {"min_relevance": "nan"},
    ):
        assert error_of(client.post("/v1/search/image", files=files, data=data))[0] == 422
    broken = {"Content-Type": "multipart/form-data"}
    assert error_of(client.request("POST", "/v1/search/image", content=b"x", headers=broken))[0] == 400


def test_titles_come_back_as_they_are(client: AppClient, gallery: Gallery) -> None:
    title = "<img src=x onerror=alert(1)>\"'&\u2028</script>"
    gallery.upsert([Item("evil", vector_of_text("恶"), title, {"<b>": "</b>"})])
    response = client.search("恶", top_k=1)
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.json()["results"][0]["title"] == title
    assert response.json()["results"][0]["image_url"] is None


def test_the_package_imports_no_torch() -> None:
    probe = "import sys, service.app; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
