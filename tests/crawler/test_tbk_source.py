"""TbkSource against an endpoint on this machine that checks signatures by its own means."""

from __future__ import annotations

import hmac
import logging
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any

import httpx
import pytest

from crawler.errors import SettingsError
from crawler.pictures import PictureFetcher
from crawler.source import ImageSource
from crawler.sources.tbk import SignMethod, TbkSource, sign, tbk_from_environment
from crawler.types import PageState, Picture, Refused, SearchResult
from tests.crawler.picture_zoo import Reply, Zoo, encoded, product
from tests.crawler.tbk_endpoint import KEY, OK_NAME, SECRET, ZONE, Endpoint, error, hmac_of

NOW = 1_700_000_000.0  # 2023-11-14 22:13:20 UTC: the next day in China


class StillClock:
    def now(self) -> float:
        return NOW

    def monotonic(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        raise AssertionError(f"a source never sleeps ({seconds} s)")


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    running = Endpoint()
    running.start()
    yield running
    running.stop()


def source_at(endpoint: Endpoint, secret: str = SECRET, **more: Any) -> TbkSource:
    return TbkSource(KEY, secret, ZONE, endpoint=endpoint.url, clock=StillClock(), **more)


def searched(endpoint: Endpoint, query: str = "红裙 & co", limit: int = 8, **more: Any) -> SearchResult:
    source = source_at(endpoint, **more)
    try:
        return source.search(query, limit)
    finally:
        source.close()
        source.close()


def test_the_published_example_of_a_signature() -> None:
    """From the platform's documentation, docId 101617."""
    parameters = {
        "method": "taobao.item.seller.get",
        "app_key": "12345678",
        "session": "test",
        "timestamp": "2016-01-01 12:00:00",
        "format": "json",
        "v": "2.0",
        "sign_method": "md5",
        "fields": "num_iid,title,nick,price,num",
        "num_iid": "11223344",
    }
    assert sign(parameters, "helloworld", "md5") == "66987CB115214E59E6EC978214934FB8"


def test_the_hand_made_hmac_is_right() -> None:
    assert hmac_of({"a": "1"}) == hmac.new(SECRET.encode(), b"a1", "sha256").hexdigest().upper()


@pytest.mark.parametrize("method", ["md5", "hmac-sha256"])
def test_what_is_asked(endpoint: Endpoint, method: SignMethod) -> None:
    assert searched(endpoint, sign_method=method).state is PageState.EMPTY
    [form] = endpoint.forms
    assert len(form.pop("sign")) == (32 if method == "md5" else 64)
    china = datetime.fromtimestamp(NOW + 8 * 3600, timezone.utc).strftime("%Y-%m-%d %H:%M:%S")
    assert china == "2023-11-15 06:13:20"
    assert form == {
        "method": "taobao.tbk.dg.material.optional.upgrade",
        "app_key": KEY,
        "adzone_id": ZONE,
        "q": "红裙 & co",
        "page_no": "1",
        "page_size": "8",
        "timestamp": china,
        "format": "json",
        "v": "2.0",
        "sign_method": method,
    }


def test_nothing_of_it_is_in_the_address_and_no_cookie_comes_back(endpoint: Endpoint) -> None:
    source = source_at(endpoint)
    source.search("a", 1000)
    source.search("b", 0)
    source.close()
    assert endpoint.requests == [("POST /router/rest HTTP/1.1", "")] * 2
    assert [form["page_size"] for form in endpoint.forms] == ["100", "1"]


def nested(number: int, **more: Any) -> dict[str, Any]:
    info = {
        "title": f"<span class=H>连衣裙</span> A&amp;B {number}",
        "pict_url": f"//img.alicdn.com/{number}.jpg",
    }
    return {"item_id": f"abc-{number}", "item_basic_info": {**info, **more}, "publish_info": {}}


def answer(*items: Any, name: str = OK_NAME, total: int = 1) -> dict[str, Any]:
    return {name: {"result_list": {"map_data": list(items)}, "total_results": total, "request_id": "r"}}


def test_items_of_the_new_form(endpoint: Endpoint) -> None:
    small = {"string": ["https://img.alicdn.com/s1.jpg", "//img.alicdn.com/1.jpg"]}
    endpoint.answer = answer(nested(1, small_images=small), {"item_id": "no picture"}, "no item", nested(2))
    result = searched(endpoint)
    assert (result.state, result.layout, result.url) == (PageState.RESULTS, "tbk", endpoint.url)
    first, second = result.candidates
    assert (first.item_id, first.title, first.rank) == ("abc-1", "连衣裙 A&B 1", 0)
    assert first.image_urls == ("https://img.alicdn.com/1.jpg", "https://img.alicdn.com/s1.jpg")
    assert (second.item_id, second.rank, second.image_urls) == ("abc-2", 1, ("https://img.alicdn.com/2.jpg",))
    assert len(searched(endpoint, limit=1).candidates) == 1


def test_items_of_the_old_form(endpoint: Endpoint) -> None:
    flat = {"item_id": 601, "title": "裙子", "pict_url": "https://img.alicdn.com/f.jpg", "small_images": {}}
    endpoint.answer = answer(flat, name="tbk_dg_material_optional_response")
    [candidate] = searched(endpoint).candidates
    assert (candidate.item_id, candidate.title) == ("601", "裙子")
    assert candidate.image_urls == ("https://img.alicdn.com/f.jpg",)
    endpoint.answer = {OK_NAME: {"result_list": {"map_data": flat}}}  # a list of one, as some clients get it
    assert len(searched(endpoint).candidates) == 1


@pytest.mark.parametrize(
    ("content", "state"),
    [
        ({OK_NAME: {"total_results": 0, "request_id": "x"}}, PageState.EMPTY),
        ({OK_NAME: {"result_list": {"map_data": []}}}, PageState.EMPTY),
        ({OK_NAME: {"result_list": None}}, PageState.EMPTY),
        (error(15, "Remote service error", "50001", "无结果"), PageState.EMPTY),
        (answer({"item_id": "1", "picture": "moved"}, total=9), PageState.UNKNOWN),
        ({OK_NAME: {"total_results": 100}}, PageState.UNKNOWN),
        ({"something_else_response": {}}, PageState.UNKNOWN),
        (b"<html>log in to this wifi</html>", PageState.UNKNOWN),
        (b"[" * 100_000, PageState.UNKNOWN),
        (b"[]", PageState.UNKNOWN),
        (b"\xff", PageState.UNKNOWN),
        (b"[" + b" " * 6_000_000 + b"]", PageState.SERVER_ERROR),
        (error(7, "App Call Limited", "accesscontrol.limited-by-api-access-count"), PageState.THROTTLED),
        (error(7, "App Call Limited"), PageState.THROTTLED),
        (error(15, "Remote service error", "isp.call-limited"), PageState.THROTTLED),
        (error(15, "Remote service error", "isv.flow-limit"), PageState.THROTTLED),
        (error(15, "x", "ISP_FLOW_CONTROL_LIMIT"), PageState.THROTTLED),
        (error(15, "Remote service error", "isp.remote-service-timeout"), PageState.SERVER_ERROR),
        (error(10, "Service Currently Unavailable"), PageState.SERVER_ERROR),
        (error(41, "Invalid arguments:q"), PageState.UNKNOWN),
        (error(15, "Remote service error", "isv.invalid-parameter"), PageState.UNKNOWN),
        ({"error_response": {}}, PageState.UNKNOWN),
    ],
)
def test_what_an_answer_means(endpoint: Endpoint, content: Any, state: PageState) -> None:
    endpoint.answer = content
    result = searched(endpoint)
    assert (result.state, result.candidates) == (state, ())
    assert result.detail


@pytest.mark.parametrize(
    ("status", "state"),
    [
        *((500, PageState.SERVER_ERROR), (503, PageState.SERVER_ERROR), (429, PageState.THROTTLED)),
        *((403, PageState.UNKNOWN), (302, PageState.UNKNOWN)),
    ],
)
def test_http_errors(endpoint: Endpoint, status: int, state: PageState) -> None:
    endpoint.status = status
    endpoint.answer = answer(nested(1))
    assert searched(endpoint).state is state


def test_nobody_there(endpoint: Endpoint) -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError(f"no way to {request.url}")

    result = searched(endpoint, client=httpx.Client(transport=httpx.MockTransport(refuse)))
    assert (result.state, result.detail) == (PageState.SERVER_ERROR, "ConnectError")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (error(11, "Insufficient isv permissions", "isv.permission-api-package-limit"), "no permission"),
        (error(50, "Remote service error", "isv.permission-ip-whitelist-limit"), "no permission"),
        (error(25, "Invalid signature"), "signature is not valid"),
        (error(29, "Invalid app Key"), "app key is not valid"),
        (error(31, "Invalid timestamp"), "clock"),
        (error(40, "Missing required arguments", "", "adzone_id"), "adzone id is not valid"),
    ],
)
def test_what_only_the_user_can_mend(endpoint: Endpoint, content: Any, message: str) -> None:
    endpoint.answer = content
    with pytest.raises(SettingsError, match=message):
        searched(endpoint)


def test_a_wrong_secret(endpoint: Endpoint) -> None:
    endpoint.answer = answer(nested(1))
    with pytest.raises(SettingsError, match="signature is not valid"):
        searched(endpoint, secret="another")


def test_secrets_stay_secret(endpoint: Endpoint, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    source = source_at(endpoint)
    said = []
    for content in (answer(nested(1)), error(41, f"app {KEY}", "x", f"{SECRET} is wrong"), b"no"):
        endpoint.answer = content
        said.append(repr(source.search("红裙", 8)))
    endpoint.answer = error(25, "Invalid signature", "", f"for {KEY} with {SECRET}")
    with pytest.raises(SettingsError) as caught:
        source.search("红裙", 8)
    source.close()
    said += [caplog.text, str(caught.value), repr(caught.value.__cause__), repr(source), repr(vars(source))]
    signs = [form["sign"] for form in endpoint.forms]
    assert len(signs) == 4
    assert not [text for text in said for secret in (SECRET, *signs) if secret in text]
    assert not [text for text in said[:-1] if KEY in text]


def test_pictures_come_from_listed_hosts(endpoint: Endpoint) -> None:
    with Zoo() as zoo:
        url = zoo.add("/1.jpg", Reply(body=encoded(product(), "JPEG")))
        endpoint.answer = answer(nested(1, pict_url=url))
        own = PictureFetcher((zoo.host,), user_agent="test/1")
        source: ImageSource = source_at(endpoint, fetcher=own)
        source.open()
        source.ensure_session()
        [candidate] = source.search("红裙", 8).candidates
        assert isinstance(source.fetch(candidate, candidate.image_urls[0]), Picture)
        assert "referer" not in zoo.seen[0].headers
        source.close()
        source = source_at(endpoint)  # the real list
        assert isinstance(source.fetch(candidate, candidate.image_urls[0]), Refused)
        assert len(zoo.seen) == 1
        source.close()


def test_keys_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("CNCLIP_TBK_APP_KEY", "CNCLIP_TBK_SECRET", "CNCLIP_TBK_ADZONE_ID")
    for name, value in zip(names, (KEY, SECRET, ZONE), strict=True):
        monkeypatch.setenv(name, value)
    tbk_from_environment().close()
    for name in names:
        with monkeypatch.context() as without:
            without.setenv(name, " ")
            with pytest.raises(SettingsError, match=f"variable {name} is not set"):
                tbk_from_environment()
    monkeypatch.setenv(names[2], "mm_1_2_3")
    with pytest.raises(SettingsError, match="CNCLIP_TBK_ADZONE_ID: not a number") as caught:
        tbk_from_environment()
    assert SECRET not in str(caught.value)
