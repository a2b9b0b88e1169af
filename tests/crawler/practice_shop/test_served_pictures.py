"""Every kind of picture is served as its name says."""

from __future__ import annotations

import io
from typing import get_args

import httpx
import pytest
from PIL import Image

from crawler.practice_shop import PracticeShop, label_of, read_label
from crawler.practice_shop.addresses import picture_path
from crawler.practice_shop.settings import BadPicture
from tests.crawler.practice_shop.visitor import SOON, Visitor

LABEL = label_of("连衣裙")


def fetch(
    visitor: Visitor, kind: str, suffix: str = "", *, number: int = 3, **options: httpx.Timeout
) -> httpx.Response:
    extension = kind if kind in ("png", "gif") else "jpg"
    url = visitor.shop.image_origin + picture_path("连衣裙", number, kind, extension) + suffix
    return visitor.client.get(url, follow_redirects=False, **options)  # type: ignore[arg-type]


def decoded(answer: httpx.Response) -> Image.Image:
    assert answer.status_code == 200
    image = Image.open(io.BytesIO(answer.content))
    image.load()
    return image


@pytest.mark.parametrize(
    ("kind", "form"),
    [("ok", "JPEG"), ("png", "PNG"), ("gif", "GIF"), ("webp", "WEBP"), ("small_2kb", "JPEG")],
)
def test_good_pictures(visitor: Visitor, kind: str, form: str) -> None:
    answer = fetch(visitor, kind)
    image = decoded(answer)
    assert image.format == form and answer.headers["content-type"] == f"image/{form.lower()}"
    assert min(image.size) >= 100 and len(answer.content) >= 500
    assert read_label(image.convert("RGB").resize((224, 224))) == (LABEL, 3)
    if kind == "small_2kb":
        assert 1500 < len(answer.content) < 3000


@pytest.mark.parametrize(
    ("suffix", "size", "form"),
    [
        ("_180x180.jpg", 180, "JPEG"),
        ("_360x360q90.jpg_.webp", 360, "WEBP"),
        ("_q50.jpg_.webp", 800, "WEBP"),
        ("_.webp", 800, "WEBP"),
    ],
)
def test_the_same_picture_in_other_sizes(visitor: Visitor, suffix: str, size: int, form: str) -> None:
    image = decoded(fetch(visitor, "ok", suffix))
    assert image.size == (size, size) and image.format == form
    assert read_label(image) == (LABEL, 3)


@pytest.mark.parametrize(("kind", "status"), [("404", 404), ("410", 410), ("500", 500), ("429", 429)])
def test_bad_answers(visitor: Visitor, kind: str, status: int) -> None:
    answer = fetch(visitor, kind)
    assert answer.status_code == status
    assert ("retry-after" in answer.headers) == (kind == "429")


def test_no_referer_is_forbidden(visitor: Visitor) -> None:
    assert fetch(visitor, "no_referer_403").status_code == 403
    visitor.client.headers["referer"] = visitor.shop.search_origin
    assert read_label(decoded(fetch(visitor, "no_referer_403"))) == (LABEL, 3)


def test_a_truncated_picture_is_a_whole_answer_with_half_a_file(visitor: Visitor) -> None:
    answer = fetch(visitor, "truncated")
    assert int(answer.headers["content-length"]) == len(answer.content) > 5000
    with pytest.raises(OSError, match="truncated"):
        decoded(answer)


def test_a_cut_off_picture_is_half_an_answer(visitor: Visitor) -> None:
    with pytest.raises(httpx.RemoteProtocolError, match="without sending complete"):
        fetch(visitor, "cut_off")


def test_html_that_calls_itself_a_picture(visitor: Visitor) -> None:
    answer = fetch(visitor, "html")
    assert answer.headers["content-type"] == "image/jpeg" and len(answer.content) >= 500
    assert answer.text.startswith("<!doctype html>")


def test_few_bytes_few_pixels_one_colour_too_many_pixels(visitor: Visitor) -> None:
    tiny = fetch(visitor, "tiny_body")
    assert len(tiny.content) <= 300 and min(decoded(tiny).size) >= 100
    one = fetch(visitor, "one_pixel")
    assert len(one.content) >= 500 and decoded(one).size == (1, 1)
    flat = decoded(fetch(visitor, "flat")).convert("L").getextrema()
    assert flat[0] == flat[1]
    bomb = fetch(visitor, "bomb")
    with Image.open(io.BytesIO(bomb.content)) as image:
        assert image.width * image.height == 50_000_000 and len(bomb.content) < 100_000
    assert decoded(fetch(visitor, "placeholder")).size == (2, 2)


@pytest.mark.parametrize(("kind", "least"), [("endless", 300_000), ("drip", 2)])
def test_streams_do_not_end(visitor: Visitor, kind: str, least: int) -> None:
    received = 0
    url = visitor.shop.image_origin + picture_path("连衣裙", 3, kind)
    with visitor.client.stream("GET", url) as answer:
        assert answer.status_code == 200 and "content-length" not in answer.headers
        for chunk in answer.iter_raw():
            received += len(chunk)
            if received >= least:
                break


def test_a_hanging_picture_says_nothing(visitor: Visitor) -> None:
    with pytest.raises(httpx.ReadTimeout):
        fetch(visitor, "hang", timeout=SOON)


def test_a_redirect_leads_to_another_host_that_notes_who_follows(
    shop: PracticeShop, visitor: Visitor
) -> None:
    answer = fetch(visitor, "foreign_redirect")
    assert answer.status_code == 302 and answer.headers["location"].startswith(shop.login_origin)
    assert not [visit for visit in shop.log("image") if visit.origin == "login"]
    visitor.client.get(answer.headers["location"])
    assert [visit.query for visit in shop.log("image") if visit.origin == "login"] == ["连衣裙"]


def test_the_same_bytes_at_another_address(shop: PracticeShop, visitor: Visitor) -> None:
    shop.set(bad_pictures=("duplicate_bytes", "404"))
    assert fetch(visitor, "duplicate_bytes", number=0).content == fetch(visitor, "ok", number=2).content
    assert fetch(visitor, "ok", number=3).content != fetch(visitor, "ok", number=2).content


def test_every_kind_of_the_settings_is_on_the_page_in_its_place(shop: PracticeShop, visitor: Visitor) -> None:
    kinds = get_args(BadPicture)
    shop.set(bad_pictures=kinds, items_per_page=len(kinds) + 2, url_forms="plain")
    images = [image["src"] for image in visitor.cards("连衣裙").all("img")]
    assert len(images) == len(kinds) + 2
    for kind, source in zip(kinds, images, strict=False):
        assert f"-{kind}." in source or kind == "duplicate_item"
    assert all("-ok." in source for source in images[len(kinds) :])


def test_what_is_no_picture(visitor: Visitor) -> None:
    for path in ("/", "/imgextra/x.jpg", "/search?q=1", "/_control", "/static/shop.css"):
        assert visitor.client.get(visitor.shop.image_origin + path).status_code == 404
