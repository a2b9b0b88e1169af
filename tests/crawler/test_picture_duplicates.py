"""dhash and is_duplicate: against a naive twin, on copies, and on real photos of products."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

from crawler.picture_checks import MAX_DHASH_DISTANCE, check_picture, dhash, is_duplicate
from crawler.types import Picture
from tests.crawler.picture_zoo import encoded, product


def naive(image: Image.Image) -> int:
    """The hash of a grey picture whose sides are multiples of 9 and 8."""
    pixels = np.asarray(image, dtype=np.float64)
    height, width = pixels.shape
    means = pixels.reshape(8, height // 8, 9, width // 9).mean(axis=(1, 3)).round()
    return int("".join("1" if bit else "0" for bit in (means[:, :-1] < means[:, 1:]).ravel()), 2)


def test_like_the_naive_one() -> None:
    for number in range(20):
        image = product((180, 160), number=number).convert("L")
        assert dhash(image) == naive(image)


def test_known_values() -> None:
    ramp = Image.fromarray(np.tile(np.arange(0, 252, 14, dtype=np.uint8), (16, 1)))
    assert dhash(ramp) == 2**64 - 1
    assert dhash(ramp.transpose(Image.Transpose.FLIP_LEFT_RIGHT)) == 0
    assert dhash(Image.new("RGB", (50, 50), "red")) == 0
    left = Image.new("L", (90, 80))
    left.paste(255, (10, 0, 20, 10))  # one light cell: the second of the first row
    assert dhash(left) == 1 << 63


def test_what_counts_as_the_same() -> None:
    assert is_duplicate(("a", 0), ("a", 2**64 - 1))
    assert is_duplicate(("a", 0b0000), ("b", 0b1111))
    assert not is_duplicate(("a", 0b00000), ("b", 0b11111))


def fingerprint(data: bytes) -> tuple[str, int]:
    picture = check_picture(data, "", "")
    assert isinstance(picture, Picture)
    return picture.sha256, picture.dhash


def test_copies_and_others() -> None:
    image = product((800, 800), number=5)
    original = fingerprint(encoded(image, "PNG"))
    small = image.copy()
    small.thumbnail((250, 250))
    for copy in (
        encoded(image, "JPEG", quality=60),
        encoded(small, "WEBP"),
        encoded(small, "JPEG", quality=40),
    ):
        assert is_duplicate(original, fingerprint(copy))
    for number in range(1, 12):
        if number != 5:
            assert not is_duplicate(original, fingerprint(encoded(product((800, 800), number=number), "PNG")))


def test_real_photos(shop_data: Path) -> None:
    """Different photos for one query stay apart, copies in other sizes and qualities are found.

    All 6,345 photos: 254 of 866,980 pairs of one query are within 4 bits (0.03 %; mostly T-shirts on the same
    bedspread), 99.4 % of thumbnails (180 pixels, quality 75) and of copies in quality 30.
    """
    photos = {}
    for line in (shop_data / "valid_imgs.tsv").read_text().splitlines():
        number, content = line.split("\t")
        photos[int(number)] = Image.open(io.BytesIO(base64.urlsafe_b64decode(content + "==="))).convert("RGB")
    hashes = {number: dhash(photo) for number, photo in photos.items()}
    pairs: set[tuple[int, int]] = set()
    for line in (shop_data / "valid_texts.jsonl").read_text(encoding="utf-8").splitlines():
        ids = sorted(set(json.loads(line)["image_ids"]) & set(photos))
        pairs.update((a, b) for i, a in enumerate(ids) for b in ids[i + 1 :])
    alike = sum((hashes[a] ^ hashes[b]).bit_count() <= MAX_DHASH_DISTANCE for a, b in pairs)
    assert len(pairs) > 5_000
    assert alike / len(pairs) < 0.001
    found = 0
    for key, photo in photos.items():
        photo.thumbnail((180, 180))
        copy = Image.open(io.BytesIO(encoded(photo, "JPEG", quality=75)))
        found += (hashes[key] ^ dhash(copy)).bit_count() <= MAX_DHASH_DISTANCE
    assert found / len(photos) > 0.98
