from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pytest

from cnclip.text import tokenize
from tests.service.conftest import MakeClient
from tests.service.dummy import (
    DIM,
    AppClient,
    DummyEncoder,
    error_of,
    picture,
    vector_of_pixels,
    vector_of_text,
)

PNG = "data:image/png;base64," + base64.b64encode(picture("蓝", size=70)).decode()


def test_texts_in_order(client: AppClient) -> None:
    texts = [f"文字{i}" for i in range(40)]
    body = client.post("/v1/embeddings", {"input": texts, "model": "dummy", "user": "someone"}).json()
    assert body["object"] == "list"
    assert body["model"] == "dummy"
    assert [entry["index"] for entry in body["data"]] == list(range(40))
    assert {entry["object"] for entry in body["data"]} == {"embedding"}
    vectors = np.array([entry["embedding"] for entry in body["data"]], dtype=np.float32)
    np.testing.assert_array_equal(vectors, np.stack([vector_of_text(text) for text in texts]))
    tokens = int((tokenize(texts) != 0).sum())
    assert body["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}


def test_base64_and_one_text(client: AppClient) -> None:
    body = client.post("/v1/embeddings", {"input": "红", "encoding_format": "base64"}).json()
    decoded = np.frombuffer(base64.b64decode(body["data"][0]["embedding"]), dtype="<f4")
    np.testing.assert_array_equal(decoded, vector_of_text("红"))


def test_texts_and_pictures_mixed(client: AppClient, encoder: DummyEncoder) -> None:
    body = client.post("/v1/embeddings", {"input": ["甲", PNG, "乙", PNG]}).json()
    image = vector_of_pixels(encoder.prepare_image(picture("蓝", size=70)))
    expected = [vector_of_text("甲"), image, vector_of_text("乙"), image]
    np.testing.assert_allclose([entry["embedding"] for entry in body["data"]], expected, atol=1e-6)
    assert body["usage"]["prompt_tokens"] == 6


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"input": []}, (422, "invalid_request")),
        ({"input": ""}, (422, "invalid_request")),
        ({"input": ["好", ""]}, (422, "invalid_request")),
        ({"input": [1, 2]}, (422, "invalid_request")),
        ({"input": "x" * 513}, (422, "text_too_long")),
        ({"input": ["x"] * 65}, (422, "invalid_request")),
        ({"input": "x", "model": "gpt"}, (404, "model_not_found")),
        ({"input": "x", "dimensions": DIM + 1}, (422, "invalid_request")),
        ({"input": "x", "encoding_format": "hex"}, (422, "invalid_request")),
        ({"input": "data:image/png;base64,!!!"}, (422, "image_unreadable")),
        ({"input": "data:image/png,abc"}, (422, "image_unreadable")),
        ({"input": "data:image/png;base64,AAAA"}, (422, "image_unreadable")),
    ],
)
def test_bad_requests(client: AppClient, body: Any, expected: tuple[int, str]) -> None:
    assert error_of(client.post("/v1/embeddings", body)) == expected


def test_many_pictures_do_not_fill_the_queue(make_client: MakeClient, encoder: DummyEncoder) -> None:
    client = make_client(max_image_batch=4, threads=1, queue_size=20, max_inputs=20)
    response = client.post("/v1/embeddings", {"input": [PNG] * 20, "dimensions": DIM})
    assert len(response.json()["data"]) == 20
    assert max(encoder.image_batches) <= 4
