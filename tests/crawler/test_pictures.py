"""PictureFetcher against an image host that misbehaves in every way, each refused for its own reason."""

from __future__ import annotations

import gzip
import hashlib
import io
import random
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate

import pytest
from PIL import Image

from crawler.pictures import MAX_REDIRECTS, PictureFetcher
from crawler.types import Picture, Refusal, Refused
from tests.crawler.picture_zoo import KINDS, Reply, Zoo, encoded, product

NOW = 1_700_000_000.0
JPEG = encoded(product(), "JPEG")


class StillClock:
    """Its wall clock stands at NOW; deadlines are real."""

    def now(self) -> float:
        return NOW

    def monotonic(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        raise AssertionError(f"a fetcher never sleeps ({seconds} s)")


@pytest.fixture
def zoo() -> Iterator[Zoo]:
    with Zoo() as running:
        yield running


Fetch = Callable[..., Picture | Refused]


@pytest.fixture
def fetch(zoo: Zoo) -> Iterator[Fetch]:
    """Fetches from the zoo, which is the only host on the list."""
    fetcher = PictureFetcher((zoo.host,), user_agent="test/1", timeout_s=20, clock=StillClock())
    yield fetcher.fetch
    fetcher.close()


def refused(result: Picture | Refused) -> Refused:
    assert isinstance(result, Refused), result
    return result


@pytest.mark.parametrize("kind", KINDS)
def test_good_pictures_of_every_kind(zoo: Zoo, fetch: Fetch, kind: str) -> None:
    data = encoded(product((640, 480)), kind)
    url = zoo.add("/good", Reply(body=data, mime="image/jpeg"))
    picture = fetch(url, "http://shop.example/search?q=x")
    assert isinstance(picture, Picture), picture
    assert (picture.width, picture.height, picture.url) == (640, 480, url)
    assert picture.sha256 == hashlib.sha256(data).hexdigest()
    assert picture.mime == f"image/{kind.lower()}"  # what it is, not what it was declared as
    with Image.open(io.BytesIO(picture.jpeg)) as stored:
        assert (stored.format, stored.mode, stored.size) == ("JPEG", "RGB", (224, 224))


def test_what_is_sent(zoo: Zoo, fetch: Fetch) -> None:
    fetch(zoo.add("/a", Reply(body=JPEG)), "http://shop.example/search?q=红裙 1")
    fetch(zoo.add("/b", Reply(body=JPEG)))
    first, second = (seen.headers for seen in zoo.seen)
    assert first["user-agent"] == "test/1"
    assert first["accept"] == "image/*"
    assert first["accept-encoding"] == "identity"
    assert first["referer"] == "http://shop.example/search?q=%E7%BA%A2%E8%A3%99%201"
    assert "referer" not in second
    assert not {"cookie", "authorization"} & {*first, *second}


def test_addresses_reach_the_server_as_they_are(zoo: Zoo, fetch: Fetch) -> None:
    zoo.replies["/i4/O1CN!!0;a=1/红%E8%A3%99.jpg_q50.jpg_.webp"] = Reply(body=JPEG)
    fetch(zoo.url("/i4/O1CN!!0;a=1/红%E8%A3%99.jpg_q50.jpg_.webp?x=1&y=a b#part"))
    assert [seen.path for seen in zoo.seen] == [
        "/i4/O1CN!!0;a=1/%E7%BA%A2%E8%A3%99.jpg_q50.jpg_.webp?x=1&y=a%20b"
    ]


def bad_replies() -> dict[str, tuple[Reply, Refusal]]:
    noise = random.Random(0).randbytes(2000)
    pixel = encoded(Image.new("RGB", (1, 1), "red"), "BMP") + bytes(600)
    return {
        "404": (Reply(404), Refusal.GONE),
        "410": (Reply(410), Refusal.GONE),
        "403 without Referer": (Reply(body=JPEG, needs_referer=True), Refusal.STATUS),
        "500": (Reply(500, JPEG), Refusal.STATUS),
        "204": (Reply(204, mime=""), Refusal.STATUS),
        "206": (Reply(206, JPEG), Refusal.STATUS),
        "302 to nowhere": (Reply(302), Refusal.STATUS),
        "429": (Reply(429), Refusal.THROTTLED),
        "503": (Reply(503), Refusal.THROTTLED),
        "HTML with 200": (Reply(body=b"<html>" + bytes(900), mime="text/html"), Refusal.NOT_IMAGE),
        "HTML as image/jpeg": (Reply(body=b"<!doctype html><p>" * 60), Refusal.NOT_IMAGE),
        "a picture as text": (Reply(body=JPEG, mime="text/plain"), Refusal.NOT_IMAGE),
        "no type": (Reply(body=JPEG, mime=""), Refusal.NOT_IMAGE),
        "noise": (Reply(body=noise), Refusal.NOT_IMAGE),
        "300 bytes": (Reply(body=JPEG[:300]), Refusal.TOO_FEW_BYTES),
        "empty": (Reply(), Refusal.TOO_FEW_BYTES),
        "1 x 1": (Reply(body=pixel, mime="image/bmp"), Refusal.TOO_SMALL),
        "flat grey": (Reply(body=encoded(Image.new("RGB", (300, 300), "#ccc"), "JPEG")), Refusal.FLAT),
        "half of what was announced": (Reply(body=JPEG[:2000], length=len(JPEG)), Refusal.TRUNCATED),
        "half, unannounced": (Reply(body=JPEG[:2000], length=None), Refusal.TRUNCATED),
        "all, but more was announced": (Reply(body=JPEG, length=len(JPEG) + 9), Refusal.TRUNCATED),
        "announces too much": (Reply(body=JPEG, length=10_000_001), Refusal.TOO_MANY_BYTES),
        "50 megapixels": (
            Reply(body=encoded(Image.new("1", (10000, 5000)), "PNG"), mime="image/png"),
            Refusal.TOO_MANY_PIXELS,
        ),
        "gzip bomb": (
            Reply(body=gzip.compress(bytes(50_000_000)), headers={"Content-Encoding": "gzip"}),
            Refusal.NOT_IMAGE,
        ),
        "connection reset": (Reply(body=JPEG[:2000], length=len(JPEG), ending="reset"), Refusal.NETWORK),
        "to a file": (Reply(302, headers={"Location": "file:///etc/passwd"}), Refusal.HOST),
        "to data": (Reply(302, headers={"Location": "data:image/png;base64,AAAA"}), Refusal.HOST),
        "to a user": (Reply(302, headers={"Location": "//a:b@127.0.0.1/x"}), Refusal.HOST),
        "to a foreign host": (Reply(302, headers={"Location": "//foreign.invalid/x.jpg"}), Refusal.HOST),
        "to no address": (Reply(302, headers={"Location": "http://[x/"}), Refusal.NETWORK),
        "in circles": (Reply(302, headers={"Location": "/bad"}), Refusal.STATUS),
    }


@pytest.mark.parametrize("name", bad_replies())
def test_each_is_refused_for_its_own_reason(zoo: Zoo, fetch: Fetch, name: str) -> None:
    reply, reason = bad_replies()[name]
    url = zoo.add("/bad", reply)
    result = refused(fetch(url))
    assert (result.reason, result.url) == (reason, url), result
    assert len(zoo.seen) == (1 + MAX_REDIRECTS if name == "in circles" else 1)
    assert name != "gzip bomb" or result.detail == "content-encoding gzip"


def test_small_but_good(zoo: Zoo, fetch: Fetch) -> None:
    data = encoded(product((120, 100)), "JPEG")
    assert 1000 < len(data) < 3000
    assert isinstance(fetch(zoo.add("/small", Reply(body=data))), Picture)
    assert isinstance(fetch(zoo.add("/shy", Reply(body=data, needs_referer=True)), zoo.url("/")), Picture)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7.0),
        (formatdate(NOW + 90, usegmt=True), 90.0),
        (formatdate(NOW - 90, usegmt=True), 0.0),
        ("soon", None),
        ("-5", None),
        ("9" * 5000, None),
        ("Mon, 99 Foo 2023 00:00:00 GMT", None),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
def test_retry_after(zoo: Zoo, fetch: Fetch, status: int, value: str, seconds: float | None) -> None:
    result = refused(fetch(zoo.add("/busy", Reply(status, headers={"Retry-After": value}))))
    assert (result.reason, result.retry_after) == (Refusal.THROTTLED, seconds)


def test_redirects_are_followed_on_listed_hosts_only(zoo: Zoo, fetch: Fetch) -> None:
    zoo.add("/end", Reply(body=JPEG))
    hops = [301, 302, 303, 307, 308]
    for number, status in enumerate(hops):
        target = f"/hop{number + 1}" if number + 1 < len(hops) else zoo.url("/end")
        zoo.add(f"/hop{number}", Reply(status, headers={"Location": target}))
    picture = fetch(zoo.url("/hop0"), "http://shop.example/")
    assert isinstance(picture, Picture)
    assert picture.url == zoo.url("/hop0")
    assert [seen.headers["referer"] for seen in zoo.seen] == ["http://shop.example/"] * 6
    with Zoo() as foreign:
        there = foreign.add("/x.jpg", Reply(body=JPEG))
        result = refused(fetch(zoo.add("/away", Reply(302, headers={"Location": there}))))
        assert (result.reason, result.detail) == (Refusal.HOST, there)
        assert refused(fetch(there)).reason is Refusal.HOST
        assert foreign.seen == []


def test_cookies_are_neither_kept_nor_sent(zoo: Zoo, fetch: Fetch) -> None:
    cookie = {"Set-Cookie": "track=1; Path=/; Max-Age=99999"}
    zoo.add("/picture", Reply(body=JPEG, headers=cookie))
    zoo.add("/redirect", Reply(302, headers={**cookie, "Location": "/picture"}))
    for _ in range(2):
        assert isinstance(fetch(zoo.url("/redirect")), Picture)
    assert len(zoo.seen) == 4
    assert not any("cookie" in seen.headers for seen in zoo.seen)


def test_a_proxy_in_the_environment_is_not_used(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    fetcher = PictureFetcher((zoo.host,), user_agent="test/1")
    assert isinstance(fetcher.fetch(zoo.add("/a", Reply(body=JPEG))), Picture)
    fetcher.close()


def test_placeholders_of_the_profile(zoo: Zoo) -> None:
    fetcher = PictureFetcher(
        (zoo.host,), user_agent="test/1", placeholder_sha256=[hashlib.sha256(JPEG).hexdigest()]
    )
    assert refused(fetcher.fetch(zoo.add("/a", Reply(body=JPEG)))).reason is Refusal.PLACEHOLDER
    fetcher.close()
    fetcher.close()  # twice is fine


@pytest.mark.parametrize(
    "url",
    [
        "",
        "/relative.jpg",
        "//127.0.0.1/x.jpg",
        "file:///etc/passwd",
        "ftp://127.0.0.1/x.jpg",
        "http://user@{host}/x.jpg",
        "http://{host}.evil.example/x.jpg",
        "http://evil.example\\@{host}/x.jpg",
        "http://evil.example#@{host}/x.jpg",
        "http://{host}0/x.jpg",
        "http://[::1/x.jpg",
        "http:///x.jpg",
    ],
)
def test_other_addresses_are_never_asked(zoo: Zoo, fetch: Fetch, url: str) -> None:
    assert refused(fetch(url.replace("{host}", zoo.host))).reason is Refusal.HOST
    assert zoo.seen == []
