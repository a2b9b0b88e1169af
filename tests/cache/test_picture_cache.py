"""Storing and finding pictures and misses."""

from __future__ import annotations

import errno
import io
import json
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from cache.errors import CacheError
from cache.picture_cache import PictureCache
from cache.picture_meta import DAY_S, EXPIRY_DAYS
from tests.cache.picture_kit import NOW, age, content, encoded, jpeg, origin, put, reference_read


@pytest.fixture
def cache(tmp_path: Path) -> PictureCache:
    return PictureCache(tmp_path / "valid")


def test_what_is_put_is_got(cache: PictureCache) -> None:
    data = put(cache, "红色 连衣裙", 2)
    path = cache.root / "红色连衣裙" / "2.jpg"
    assert cache.get("红色 连衣裙", 2) == path
    assert path.read_bytes() == data
    assert cache.pictures("红色 连衣裙") == {2: path}
    assert cache.provenance("红色 连衣裙", 2) == origin()
    assert cache.get("红色 连衣裙", 1) is None
    assert cache.provenance("红色 连衣裙", 1) is None
    assert PictureCache(cache.root).get("红色 连衣裙", 2) == path
    sidecar = json.loads((path.parent / "meta.json").read_text("utf-8"))
    assert sidecar["version"] == 1 and sidecar["query"] == "红色 连衣裙" and sidecar["miss"] is None
    assert sidecar["pictures"]["2"]["source"] == "shop" and len(sidecar["pictures"]["2"]["sha256"]) == 64


def test_reading_makes_nothing(cache: PictureCache) -> None:
    assert cache.get("红", 1) is None
    assert cache.pictures("红") == {}
    assert cache.miss("红") is None
    assert not cache.unfinished("红", 1)
    assert cache.directory("红") == cache.root / "红"
    assert not cache.root.exists()
    with pytest.raises(CacheError, match="valid: cannot be read: No such file"):
        list(cache.queries())


def test_the_reference_reads_what_we_write(cache: PictureCache) -> None:
    for query in ("便携 果汁杯", " “新款”裙（夏）", "iPhone 14"):
        for number in range(1, 6):
            with Image.open(io.BytesIO(put(cache, query, number))) as image:
                assert reference_read(cache.root, query, number) == image.tobytes()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "0 bytes"),
        (b"\xff\xd8" + b"\0" * 600, "not a JPEG"),
        (jpeg("x", size=(225, 224)), "225 x 224 RGB, not 224 x 224 RGB"),
        (jpeg("x")[:-2000], "not a JPEG"),
        (encoded(Image.new("L", (224, 224))), "224 x 224 L"),
    ],
)
def test_other_content_is_refused(cache: PictureCache, data: bytes, reason: str) -> None:
    with pytest.raises(CacheError, match=reason) as error:
        cache.put("红", 1, data, origin())
    assert "picture 1 of '红'" in str(error.value)
    stream = io.BytesIO()
    Image.new("RGB", (224, 224)).save(stream, "PNG")
    with pytest.raises(CacheError, match=r"not a JPEG|bytes"):
        cache.put("红", 1, stream.getvalue() + b"\0" * 600, origin())
    assert not cache.root.exists()


@pytest.mark.parametrize("number", [0, -1, 1000])
def test_bad_numbers_are_refused(cache: PictureCache, number: int) -> None:
    with pytest.raises(CacheError, match="numbers go from 1 to 999"):
        put(cache, "红", number)


def test_a_provenance_that_could_not_be_read_again_is_refused(cache: PictureCache) -> None:
    with pytest.raises(
        CacheError, match=r"meta.json: field pictures.1.fetched_at: not a time with its offset"
    ):
        cache.put("红", 1, jpeg("x"), replace(origin(), fetched_at="yesterday"))
    assert cache.get("红", 1) is None
    put(cache, "红")
    assert cache.get("红", 1)


@pytest.mark.parametrize("damage", ["cut", "other picture", "empty", "gone", "one bit"])
def test_a_damaged_picture_is_missing(cache: PictureCache, damage: str) -> None:
    data = put(cache, "红")
    put(cache, "红", 2)
    path = cache.root / "红" / "1.jpg"
    if damage == "gone":
        path.unlink()
    else:
        flipped = data[:3000] + bytes([data[3000] ^ 1]) + data[3001:]
        path.write_bytes({"cut": data[:5000], "other picture": jpeg("y"), "empty": b""}.get(damage, flipped))
    assert cache.get("红", 1) is None and cache.provenance("红", 1) is None
    assert list(cache.pictures("红")) == [2]
    assert put(cache, "红") == content(cache, "红")


def test_a_picture_can_be_replaced(cache: PictureCache) -> None:
    put(cache, "红", label="old")
    data = jpeg("new")
    cache.put("红", 1, data, replace(origin(), source="other"))
    assert content(cache, "红") == data
    found = cache.provenance("红", 1)
    assert found is not None and found.source == "other"
    assert json.loads((cache.root / "红" / "meta.json").read_bytes())["previous"] == {}


@pytest.mark.parametrize("reason", EXPIRY_DAYS)
def test_a_miss_lasts_as_long_as_its_reason_says(cache: PictureCache, reason: str) -> None:
    days = {"empty": 7, "no_good_picture": 1, "load_failed": 1, "unusable_query": 30}[reason]
    miss = cache.put_miss("红", reason, "nothing there", now=NOW)
    assert (miss.reason, miss.detail, miss.recorded_at) == (
        reason,
        "nothing there",
        "2027-01-15T08:00:00+00:00",
    )
    again = PictureCache(cache.root)
    assert again.miss("红", now=NOW + days * DAY_S - 1) == miss
    assert again.miss("红", now=NOW + days * DAY_S) is None
    assert again.miss("红 ", now=NOW) is None
    assert list(again.pictures("红")) == []


def test_a_miss_is_of_this_moment_by_default(cache: PictureCache) -> None:
    cache.put_miss("红", "empty", "", now=time.time())
    assert cache.miss("红") is not None
    cache.put_miss("红", "empty", "", now=time.time() - 8 * DAY_S)
    assert cache.miss("红") is None
    with pytest.raises(ValueError, match="not a reason"):
        cache.put_miss("红", "bored", "", now=NOW)


def test_a_put_clears_the_miss_and_a_miss_keeps_the_pictures(cache: PictureCache) -> None:
    cache.put_miss("红", "empty", "", now=NOW)
    data = put(cache, "红")
    assert cache.miss("红", now=NOW) is None
    cache.put_miss("红", "no_good_picture", "only one", now=NOW)
    assert cache.miss("红", now=NOW) is not None
    assert content(cache, "红") == data


def test_links_that_lead_out_are_refused(cache: PictureCache, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "1.jpg").write_bytes(jpeg("secret"))
    cache.root.mkdir()
    (cache.root / "红").symlink_to(outside)
    assert cache.get("红", 1) is None and cache.directory("红") != cache.root / "红"
    data = put(cache, "红")
    assert content(cache, "红") == data
    assert [path.name for path in outside.iterdir()] == ["1.jpg"]
    (cache.root / "蓝").mkdir()
    (cache.root / "蓝" / "1.jpg").symlink_to(outside / "1.jpg")
    assert cache.get("蓝", 1) is None
    assert put(cache, "蓝") == content(cache, "蓝")
    assert (outside / "1.jpg").read_bytes() == jpeg("secret")
    (outside / "meta.json").write_text("{}")
    (cache.root / "绿").mkdir()
    (cache.root / "绿" / "meta.json").symlink_to(outside / "meta.json")
    (cache.root / "绿" / "1.jpg").write_bytes(jpeg("whose?"))
    assert cache.get("绿", 1) is None
    assert put(cache, "绿") == content(cache, "绿")  # elsewhere
    assert (cache.root / "绿" / "1.jpg").read_bytes() == jpeg("whose?")
    assert (outside / "meta.json").read_text() == "{}"
    problem = next(entry.problem for entry in cache.queries() if entry.folder.name == "绿")
    assert problem.endswith("绿/meta.json: cannot be read, or is not a file of this cache")


def test_links_within_the_cache_are_followed(cache: PictureCache, tmp_path: Path) -> None:
    cache.root.mkdir()
    (cache.root / "红").mkdir()
    (cache.root / "红" / "1.jpg").write_bytes(jpeg("x"))
    (cache.root / "红" / "2.jpg").symlink_to("1.jpg")
    assert list(cache.pictures("红")) == [1, 2]
    (tmp_path / "link").symlink_to(cache.root)  # the root itself may be one
    assert content(PictureCache(tmp_path / "link"), "红") == jpeg("x")


def test_what_is_no_file_is_missing(cache: PictureCache) -> None:
    folder = cache.root / "红"
    folder.mkdir(parents=True)
    os.mkfifo(folder / "1.jpg")  # would be read for ever
    (folder / "2.jpg").mkdir()
    (folder / "3.jpg").symlink_to("3.jpg")
    assert cache.pictures("红") == {}
    (cache.root / "蓝").write_text("a file where a folder should be")
    assert cache.get("蓝", 1) is None
    assert put(cache, "蓝") == content(cache, "蓝")


def test_marks_of_another_tool(cache: PictureCache) -> None:
    folder = cache.root / "红"
    folder.mkdir(parents=True)
    mark = folder / "0_1.jpg"
    mark.write_bytes(jpeg("card"))
    assert cache.unfinished("红", 1) and not cache.unfinished("红", 2)
    assert cache.get("红", 1) is None
    age(mark, 601)
    assert not cache.unfinished("红", 1)
    age(mark, -7200)  # a clock that is ahead
    assert not cache.unfinished("红", 1)
    put(cache, "红")
    assert not mark.exists()


def test_queries_lists_everything(cache: PictureCache) -> None:
    put(cache, "A B", 1)
    put(cache, "AB", 1)
    put(cache, "AB", 3)
    cache.put_miss("红", "empty", "", now=NOW)
    (cache.root / "旧").mkdir()
    (cache.root / "旧" / "1.jpg").write_bytes(jpeg("old"))
    (cache.root / "坏").mkdir()
    (cache.root / "坏" / "meta.json").write_text("{")
    (cache.root / "notes.txt").write_text("not a folder")
    entries = {entry.query or entry.folder.name: entry for entry in cache.queries()}
    assert set(entries) == {"A B", "AB", "红", "旧", "坏"}
    assert entries["AB"].numbers == (1, 3)
    assert entries["红"].numbers == () and entries["红"].meta is not None
    assert entries["旧"].query is None and entries["旧"].numbers == (1,)
    assert "坏/meta.json: not JSON" in entries["坏"].problem


def test_a_full_disk(cache: PictureCache, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("cache.picture_cache.write_durably", full)
    with pytest.raises(CacheError, match="valid: cannot be written: No space left on device"):
        put(cache, "红")
    assert cache.get("红", 1) is None
    monkeypatch.undo()
    assert put(cache, "红") == content(cache, "红")


def test_a_root_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "valid").write_text("a file")
    with pytest.raises(CacheError, match=r"cannot be written: (Not a directory|File exists)"):
        put(PictureCache(tmp_path / "valid"), "红")
