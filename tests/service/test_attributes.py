"""Attributes of items, and ranges of their pictures."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.service.dummy import AppClient, error_of, picture
from tests.service.test_items import base64_of, path_of, put_json


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        (
            {"a": 123456789012345678901},
            "attributes: attribute 'a': 123456789012345678901 does not fit 64 bits",
        ),
        ({"a": [-(2**63) - 1]}, "does not fit 64 bits"),
        ({"a": {"b": 1}}, "attribute 'a': must be a text, number, boolean or a list of these, not dict"),
        ({"a": [None]}, "not NoneType"),
        ({"a": "x" * 1001}, "'a': a text may have at most 1,000 characters"),
        ({"a": [1] * 1001}, "'a': at most 1,000 values"),
        ({"x" * 101: 1}, "the name of a field must have 1 to 100 characters"),
        ([], "attributes: must be a JSON object"),
    ],
)
def test_bad_attributes_are_one_clear_line(client: AppClient, attributes: Any, message: str) -> None:
    body = {"image": base64_of(picture()), "attributes": attributes}
    in_batch = client.post("/v1/items:batch", {"items": [{"id": "bad-1", **body}]})
    form = {"attributes": json.dumps(attributes)}
    in_form = client.request("PUT", "/v1/items/bad-1", files={"file": picture()}, data=form)
    for response in (put_json(client, "bad-1", **body), in_batch, in_form):
        assert error_of(response) == (422, "invalid_request")
        text = response.json()["error"]["message"]
        assert message in text and "more)" not in text and "\n" not in text


def test_attributes_keep_their_types_and_lose_nulls(client: AppClient) -> None:
    kept = {"big": 2**63 - 1, "small": -(2**63), "f": 1.5, "yes": True, "s": "1", "l": [1, "a", False]}
    made = put_json(client, "n", image=base64_of(picture(size=50)), attributes={**kept, "none": None})
    assert made.json()["attributes"] == kept
    assert made.json()["attributes"]["yes"] is True


def test_ranges_of_a_picture(client: AppClient) -> None:
    path = f"{path_of('红/circle')}/image"
    whole = client.get(path)
    part = client.get(path, headers={"Range": "bytes=5-8"})
    assert (part.status_code, part.content) == (206, whole.content[5:9])
    assert client.get(path, headers={"Range": "bytes=-3"}).content == whole.content[-3:]
    for ignored in ("bytes=5-2", "bytes=-", "bytes=x-", "lines=1-2", "nonsense", "bytes=1", "bytes=0-1,5-2"):
        response = client.get(path, headers={"Range": ignored})
        assert (response.status_code, response.content) == (200, whole.content), ignored
    for outside in (f"bytes={len(whole.content)}-", "bytes=-0"):
        response = client.get(path, headers={"Range": outside})
        assert error_of(response) == (416, "range_not_satisfiable")
        assert response.headers["content-range"] == f"bytes */{len(whole.content)}"
    other = {"Range": "bytes=9999999-", "If-Range": '"another"'}
    assert client.get(path, headers=other).content == whole.content
