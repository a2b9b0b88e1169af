from __future__ import annotations

from typing import Any

import pytest

from crawler.image_urls import picture_addresses
from crawler.snapshot import Image
from tests.crawler.snapshot_builders import TAOBAO, URL, image

BLANK = "https://img.alicdn.com/imgextra/i2/O1CN01CYtPWu1MUBqQAUK9D_!!6000000001437-2-tps-2-2.png"


def addresses(*images: Image, base: str = URL) -> tuple[str, ...]:
    return picture_addresses(images, base, TAOBAO.pictures)


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        # what is shown is large enough: it, then the original
        ("https://i/a.jpg_360x360q90.jpg_.webp", ["https://i/a.jpg_360x360q90.jpg_.webp", "https://i/a.jpg"]),
        ("https://i/a.png_460x460Q90.jpg_.webp", ["https://i/a.png_460x460Q90.jpg_.webp", "https://i/a.png"]),
        ("https://i/a.jpg_224x224.jpg", ["https://i/a.jpg_224x224.jpg", "https://i/a.jpg"]),
        # too small, or of no known size: the original first
        ("https://i/a.jpg_223x223.jpg", ["https://i/a.jpg", "https://i/a.jpg_223x223.jpg"]),
        ("https://i/a.jpg_180x180.jpg", ["https://i/a.jpg", "https://i/a.jpg_180x180.jpg"]),
        ("https://i/a.jpeg_60x60q90.jpg_.webp", ["https://i/a.jpeg", "https://i/a.jpeg_60x60q90.jpg_.webp"]),
        ("https://i/a.jpg_q50.jpg_.webp", ["https://i/a.jpg", "https://i/a.jpg_q50.jpg_.webp"]),
        ("https://i/a.gif_.webp", ["https://i/a.gif", "https://i/a.gif_.webp"]),
        # nothing to cut off
        ("https://i/O1CN01_!!0-item_pic.jpg", ["https://i/O1CN01_!!0-item_pic.jpg"]),
        ("https://i/a_300x300.jpg", ["https://i/a_300x300.jpg"]),
        ("https://i/a.webp", ["https://i/a.webp"]),
    ],
)
def test_size_rule(shown: str, expected: list[str]) -> None:
    assert addresses(image(shown)) == tuple(expected)


@pytest.mark.parametrize(
    ("raw", "base", "expected"),
    [
        ("//img.alicdn.com/a.jpg", "https://s.taobao.com/search?q=x", "https://img.alicdn.com/a.jpg"),
        ("//127.0.0.3:81/a.jpg", "http://127.0.0.1:80/search", "http://127.0.0.3:81/a.jpg"),
        ("/i/a.jpg", "http://127.0.0.1:8000/search/x?q=1", "http://127.0.0.1:8000/i/a.jpg"),
        ("a.jpg", "http://h/search/x", "http://h/search/a.jpg"),
        ("../a.jpg", "http://h/x/y/z", "http://h/x/a.jpg"),
        ("https://other/a.jpg#top", "http://h/", "https://other/a.jpg"),
        ("  //h/a.jpg\n", "http://h/", "http://h/a.jpg"),
    ],
)
def test_addresses_are_absolute(raw: str, base: str, expected: str) -> None:
    assert addresses(image(raw), base=base) == (expected,)


@pytest.mark.parametrize(
    "raw",
    [
        "",
        "   ",
        BLANK,
        "//g.alicdn.com/s.gif",
        "https://g.alicdn.com/s.gif?t=1",
        "https://img.alicdn.com/imgextra/i1/O1CN01_!!60-2-tps-42-27.png",
        "https://img.alicdn.com/imgextra/i1/O1CN01_!!60-2-tps-200-60.png",
        "data:image/gif;base64,R0lGODlhAQABAAAAACw=",
        "blob:https://s.taobao.com/1",
        "javascript:alert(1)",
        "ftp://h/a.jpg",
        "file:///etc/passwd",
        "http://[bad/a.jpg",
    ],
)
def test_no_product_picture(raw: str) -> None:
    assert addresses(image(raw)) == ()
    assert addresses(image(raw, data_src="//h/good.jpg")) == ("https://h/good.jpg",)


def test_a_large_tps_picture_is_one() -> None:
    assert addresses(image("https://h/x-0-tps-800-800.jpg")) == ("https://h/x-0-tps-800-800.jpg",)


def test_order_of_attributes() -> None:
    everything: dict[str, Any] = {
        "data_src": "//h/1.jpg",
        "data_ks_lazyload": "//h/2.jpg",
        "data_lazy_src": "//h/3.jpg",
        "currentSrc": "//h/4.jpg",
        "srcset": "//h/6.jpg 2x",
    }
    for best in ("1", "2", "3", "4"):
        assert addresses(image("//h/5.jpg", **everything)) == (f"https://h/{best}.jpg",)
        everything.pop(next(iter(everything)))
    assert addresses(image("//h/5.jpg", srcset="//h/6.jpg 2x")) == ("https://h/5.jpg",)
    assert addresses(image(srcset="//h/6.jpg 2x")) == ("https://h/6.jpg",)


@pytest.mark.parametrize(
    ("srcset", "best"),
    [
        ("//h/a.jpg", "a"),
        ("//h/a.jpg 1x, //h/b.jpg 2x", "b"),
        ("//h/b.jpg 2x, //h/a.jpg", "b"),
        ("//h/a.jpg 300w,//h/b.jpg 1200w , //h/c.jpg 600w", "b"),
        ("//h/a.jpg 1.5x, //h/b.jpg 1.25x", "a"),
        ("\n //h/a.jpg 100w 50h,\n //h/b.jpg 200w 90h,", "b"),
        ("data:image/gif;base64,AA== 9x, //h/a.jpg 1x", "a"),
        (f"{BLANK} 4x, //h/a.jpg 2x", "a"),
        (",,, ,", None),
    ],
)
def test_srcset(srcset: str, best: str | None) -> None:
    assert addresses(image(srcset=srcset)) == ((f"https://h/{best}.jpg",) if best else ())


def test_a_comma_may_be_part_of_an_address() -> None:
    assert addresses(image(srcset="//h/a,b.jpg 1x, //h/c,d.jpg 2x")) == ("https://h/c,d.jpg",)


def test_the_picture_drawn_largest_is_the_product() -> None:
    badge = image("//h/badge.png", natural=120, size=60)
    main = image("//h/main.jpg", natural=400, size=220)
    assert addresses(badge, main) == addresses(main, badge) == ("https://h/main.jpg",)


def test_badges_are_no_products_even_alone() -> None:
    assert addresses(image("//h/badge.png", natural=300, size=40)) == ()  # drawn small
    assert addresses(image("//h/icon.png", natural=64, size=120)) == ()  # and small by nature
    small_version = image("//h/a.jpg_60x60.jpg", natural=60, size=120)
    assert addresses(small_version)[0] == "https://h/a.jpg"  # but there is a larger one


def test_a_picture_that_is_not_loaded_counts() -> None:
    assert addresses(image("//h/a.jpg", natural=0, size=0)) == ("https://h/a.jpg",)


def test_no_images_no_addresses() -> None:
    assert addresses() == ()
