"""Picture addresses: what is written can be read, with every suffix real shops use."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crawler.practice_shop.addresses import BLANK, ICON, PictureAddress, picture_path, read_picture_path


@given(st.text(max_size=120), st.integers(0, 99999), st.sampled_from(["ok", "404", "small_2kb"]))
def test_an_address_says_what_was_put_into_it(query: str, number: int, kind: str) -> None:
    path = picture_path(query, number, kind)
    assert path.isascii() and read_picture_path(path) == PictureAddress(query, number, kind)


@pytest.mark.parametrize(
    ("extension", "suffix", "box", "webp"),
    [
        ("jpg", "", None, False),
        ("jpg", "_180x180.jpg", (180, 180), False),
        ("jpg", "_250x250.jpg_.webp", (250, 250), True),
        ("jpg", "_360x360q90.jpg_.webp", (360, 360), True),
        ("jpg", "_460x460Q90.jpg_.webp", (460, 460), True),
        ("png", "_460x460q90.jpg_.webp", (460, 460), True),
        ("jpg", "_q50.jpg_.webp", None, True),
        ("jpg", "_.webp", None, True),
        ("gif", "", None, False),
    ],
)
def test_size_suffixes(extension: str, suffix: str, box: tuple[int, int] | None, webp: bool) -> None:
    address = read_picture_path(picture_path("连衣裙", 7, extension=extension) + suffix)
    assert address == PictureAddress("连衣裙", 7, "ok", extension, box, webp)


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/imgextra/",
        BLANK,
        ICON,
        "/imgextra/i1/2/O1CN01%%%_!!1-ok.jpg",
        "/imgextra/i1/2/O1CN01gICA_!!1-ok.jpg",
    ],
)
def test_what_is_no_picture(path: str) -> None:
    assert read_picture_path(path) is None
