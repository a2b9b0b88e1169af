"""The label in drawn pictures: readable after whatever a crawler does to them, and never by accident."""

from __future__ import annotations

import hashlib
import io
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from crawler.practice_shop import art
from crawler.practice_shop.art import draw
from crawler.practice_shop.label import label_of, paint_label, read_label


def as_jpeg(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file)


@pytest.mark.parametrize("quality", [75, 85, 95])
@pytest.mark.parametrize("shape", [(224, 224), (800, 800), (180, 180), (300, 224)])
def test_the_label_survives_squashing_and_jpeg(quality: int, shape: tuple[int, int]) -> None:
    for number, query in enumerate(["连衣裙", "a/b", "苹" * 100, "😀", "。，！", "A B"]):
        picture = as_jpeg(draw(query, number).resize(shape, Image.Resampling.BICUBIC), quality)
        assert read_label(picture) == (hashlib.sha256(query.encode()).hexdigest()[:12], number)


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=20), st.integers(0, 65535))
def test_every_label_is_read_as_it_was_painted(query: str, number: int) -> None:
    image = Image.new("RGB", (224, 224), (127, 127, 127))
    paint_label(image, query, number)
    assert read_label(as_jpeg(image, 75)) == (label_of(query), number)


def test_labels_of_similar_queries_differ() -> None:
    queries = ["AB", "A B", "ab", "ＡＢ", "红裙", "红 裙", ""]
    assert len({label_of(query) for query in queries}) == len(queries)


def test_other_pictures_have_no_label() -> None:
    whole = draw("连衣裙", 3)
    upper = whole.crop((0, 0, 800, 600))
    flipped = whole.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    noise = Image.effect_noise((224, 224), 90)
    black = Image.new("RGB", (224, 224))
    for image in (upper, flipped, noise, black, draw("连衣裙", 3, "flat"), draw("连衣裙", 3, "one_pixel")):
        assert read_label(image) is None


def test_a_damaged_label_is_not_guessed() -> None:
    image = draw("连衣裙", 3)
    image.paste((0, 0, 0), (0, 640, 400, 680))
    assert read_label(image) is None


def test_no_two_pictures_of_a_query_look_alike() -> None:
    """By difference hash, as the crawler tells duplicates: far apart for every pair of a page."""

    def dhash(image: Image.Image) -> int:
        grey = image.convert("L").resize((9, 8), Image.Resampling.LANCZOS).tobytes()
        return sum(
            (grey[row * 9 + x] > grey[row * 9 + x + 1]) << (row * 8 + x) for row in range(8) for x in range(8)
        )

    hashes = [dhash(draw("红色连衣裙", number)) for number in range(24)]
    assert min((a ^ b).bit_count() for a, b in itertools.combinations(hashes, 2)) > 10


def test_letters_become_blocks_where_there_is_no_font(monkeypatch: pytest.MonkeyPatch) -> None:
    with_font = draw("连衣裙", 1).tobytes()
    monkeypatch.setattr(art, "_font", lambda _: None)
    drawn = {query: draw(query, 1) for query in ("连衣裙", "连衣帽")}
    assert drawn["连衣裙"].tobytes() != with_font
    captions = {image.crop((40, 500, 700, 620)).convert("1").tobytes() for image in drawn.values()}
    assert len(captions) == 2
    assert all(read_label(image) == (label_of(query), 1) for query, image in drawn.items())
