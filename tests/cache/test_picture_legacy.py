"""Caches that Online-CNCLIP's code made, with all that its bugs left in them."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from cache.errors import CacheError
from cache.picture_cache import PictureCache
from cache.picture_content import Look, legacy_problem, look, placeholder_look
from tests.cache.picture_kit import (
    card,
    content,
    encoded,
    jpeg,
    origin,
    put,
    reference_read,
    reference_write,
)

FLAT = Image.new("RGB", (224, 224), (255, 255, 255))


@pytest.fixture
def cache(tmp_path: Path) -> PictureCache:
    return PictureCache(tmp_path / "valid")


def test_a_white_card_is_as_large_as_the_asset_of_the_reference() -> None:
    """assets/fail.jpg has 1,411 bytes: the reason to think it is flat."""
    assert len(encoded(FLAT, quality=75)) == 1411


def test_good_pictures_are_read(cache: PictureCache) -> None:
    downloads = [jpeg("a", size=(800, 600)), jpeg("b", size=(100, 300))]
    reference_write(cache.root, " “新款” 裙。", downloads, FLAT)
    assert list(cache.pictures(" “新款” 裙。")) == [1, 2]
    assert cache.provenance(" “新款” 裙。", 1) is None
    for number in (1, 2):
        data = content(cache, " “新款” 裙。", number)
        assert data is not None
        with Image.open(io.BytesIO(data)) as image:
            assert image.convert("RGB").tobytes() == reference_read(cache.root, "新款裙", number)


@pytest.mark.parametrize("colour", [(255, 255, 255), (128, 128, 128), (200, 30, 30), (0, 0, 0)])
def test_a_failed_download_is_no_picture(cache: PictureCache, colour: tuple[int, int, int]) -> None:
    reference_write(cache.root, "红", [None, jpeg("b")], Image.new("RGB", (300, 300), colour))
    assert (cache.root / "红" / "1.jpg").stat().st_size >= 500  # so the reference takes it for one
    assert list(cache.pictures("红")) == [2]
    assert put(cache, "红") == content(cache, "红")


def test_a_flat_card_with_noise_is_no_picture(cache: PictureCache) -> None:
    noisy = Image.effect_noise((224, 224), 6).convert("RGB")
    reference_write(cache.root, "红", [None], noisy)
    assert cache.pictures("红") == {}


def test_plain_products_are_pictures() -> None:
    """A small grey thing on white, a faint cup on grey: little contrast is not none."""
    small = Image.new("RGB", (224, 224), (255, 255, 255))
    ImageDraw.Draw(small).ellipse((90, 90, 130, 130), fill=(200, 200, 200))
    cup = Image.new("RGB", (224, 224), (128, 128, 128))
    ImageDraw.Draw(cup).rectangle((60, 60, 160, 160), fill=(134, 134, 134))
    for image in (small, cup):
        assert legacy_problem(encoded(image, quality=75), ()) == ""


@pytest.mark.parametrize("place", ["given", "beside the root", "working directory"])
def test_copies_of_a_known_placeholder_are_no_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    root = tmp_path / "data" / "valid"
    reference_write(root, "红", [None, jpeg("b")], card())
    monkeypatch.chdir(tmp_path)
    assert list(PictureCache(root).pictures("红")) == [1, 2]  # nothing tells what it is
    folder = {"given": tmp_path / "x", "beside the root": root.parent / "assets"}.get(
        place, tmp_path / "assets"
    )
    folder.mkdir()
    card().save(folder / "fail.jpg", quality=95)
    known = [placeholder_look(folder / "fail.jpg")] if place == "given" else []
    cache = PictureCache(root, placeholders=known)
    assert list(cache.pictures("红")) == [2]
    # What has a sidecar is what it is.
    cache.put("红", 1, encoded(card().resize((224, 224))), origin())
    assert list(cache.pictures("红")) == [1, 2]


@pytest.mark.parametrize("quality", [30, 75, 95])
@pytest.mark.parametrize("size", [(224, 224), (300, 300), (64, 64), (500, 400)])
def test_a_copy_is_known_at_any_size_and_quality(size: tuple[int, int], quality: int) -> None:
    known = look(card())
    with Image.open(io.BytesIO(encoded(card().resize(size), quality))) as copy:
        assert look(copy.convert("RGB")).is_like(known)
    for other in (
        card((20, 20, 60, 60)),
        card((60, 90, 160, 200)),
        card().transpose(Image.Transpose.ROTATE_90),
    ):
        assert not look(other).is_like(known)
    tinted = Image.blend(card(), Image.new("RGB", (300, 300), (255, 0, 0)), 0.1)
    assert not look(tinted).is_like(known)


def test_a_look_is_written_and_read_again() -> None:
    known = look(card())
    assert Look.parse(str(known)) == known
    for text in (
        "",
        "x",
        "0123456789abcdef",
        "0123456789abcdef-0102",
        "123-010203",
        "0123456789abcdeg-010203",
    ):
        with pytest.raises(CacheError, match="not the hash of a placeholder"):
            Look.parse(text)
    with pytest.raises(CacheError, match="not the hash of a placeholder: 'nonsense'"):
        PictureCache("x", placeholders=["nonsense"])


def test_placeholder_files_that_cannot_be_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(CacheError, match=r"gone.jpg: cannot be read: No such file"):
        placeholder_look(tmp_path / "gone.jpg")
    (tmp_path / "assets").mkdir()
    (tmp_path / "assets" / "fail.jpg").write_bytes(b"not a picture")
    with pytest.raises(CacheError, match=r"fail.jpg: cannot be decoded"):
        placeholder_look(tmp_path / "assets" / "fail.jpg")
    monkeypatch.chdir(tmp_path)
    reference_write(tmp_path / "valid", "红", [jpeg("a")], FLAT)
    assert PictureCache(tmp_path / "valid").get("红", 1)  # said, and gone on without it
    assert "fail.jpg: cannot be decoded" in caplog.text


def test_what_a_crash_of_the_reference_leaves(cache: PictureCache) -> None:
    folder = cache.root / "红"
    reference_write(cache.root, "红", [jpeg("a", size=(640, 480))[:-1000]], card())
    assert {path.name for path in folder.iterdir()} == {"0_1.jpg", "1.jpg"}
    assert cache.unfinished("红", 1)  # for ten minutes
    (folder / "2.jpg").write_bytes(b"")
    (folder / "3.jpg").write_bytes(jpeg("c")[:499])
    (folder / "4.jpg").write_bytes(b"<html>" + b"sorry " * 200)
    (folder / "5.jpg").write_bytes(
        jpeg("e", size=(640, 480))
    )  # before it was made small: the reference reads it
    assert list(cache.pictures("红")) == [5]


def test_other_formats_under_the_name_jpg_are_read(cache: PictureCache) -> None:
    folder = cache.root / "红"
    folder.mkdir(parents=True)
    with Image.open(io.BytesIO(jpeg("a"))) as image:
        for number, kind in enumerate(("PNG", "WEBP", "GIF", "BMP"), 1):
            image.save(folder / f"{number}.jpg", kind)
        image.save(folder / "5.jpg", "TIFF")
    assert list(cache.pictures("红")) == [1, 2, 3, 4]


def test_a_decompression_bomb_is_no_picture(cache: PictureCache) -> None:
    folder = cache.root / "红"
    folder.mkdir(parents=True)
    Image.new("1", (8000, 7000)).save(folder / "1.jpg", "PNG")
    assert (folder / "1.jpg").stat().st_size < 20_000
    assert cache.get("红", 1) is None
    assert legacy_problem((folder / "1.jpg").read_bytes(), ()) == "56000000 pixels"


def test_our_sidecar_leaves_the_others_pictures_alone(cache: PictureCache) -> None:
    reference_write(cache.root, "红", [jpeg("a"), None], FLAT)
    put(cache, "红", 2)
    assert list(cache.pictures("红")) == [1, 2]
    assert cache.provenance("红", 1) is None and cache.provenance("红", 2) == origin()
    for number in (1, 2):
        assert reference_read(cache.root, "红", number) is not None


def test_the_reference_may_fetch_anew_what_we_lost(cache: PictureCache) -> None:
    """A file that is not what the sidecar says is missing, until it is put again."""
    put(cache, "红")
    reference_write(cache.root, "红", [jpeg("theirs")], FLAT)
    assert cache.get("红", 1) is None
    assert put(cache, "红") == content(cache, "红")


def test_adopted_pictures_are_watched_like_legacy_ones(cache: PictureCache) -> None:
    """With an entry in the sidecar, but of unknown origin: a copy of a placeholder may yet be found out."""
    data = encoded(card())
    cache.adopt("红", 1, data)
    assert content(cache, "红") == data and cache.provenance("红", 1) is None
    knowing = PictureCache(cache.root, placeholders=[str(look(card()))])
    assert knowing.get("红", 1) is None
    (cache.root / "红" / "1.jpg").write_bytes(jpeg("x"))
    assert cache.get("红", 1) is None
