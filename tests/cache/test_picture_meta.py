"""The sidecar: what is written is read, and what is broken is named by file and field."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache.errors import CacheError
from cache.names import canonical, hashed_name
from cache.picture_cache import PictureCache
from cache.picture_meta import (
    EXPIRY_DAYS,
    ForeignSidecarError,
    Meta,
    Miss,
    Provenance,
    Stored,
    dump_meta,
    parse_meta,
    timestamp,
)
from tests.cache.picture_kit import NOW, content, jpeg, origin, put, snapshot

GARBAGE = [b"", b"{", b"null", b'{"version": 1, "query": 3, "pictures": {}}', b'{"version": 0}']
TEXT = st.text(st.characters(), max_size=10).map(canonical)  # half surrogate pairs too
DIGESTS = st.binary(min_size=32, max_size=32).map(bytes.hex)
PROVENANCE = st.builds(
    Provenance,
    **dict.fromkeys(("source", "item_id", "image_url", "page_url", "title", "layout", "dhash"), TEXT),
    fetched_at=st.datetimes(timezones=st.timezones()).map(lambda time: time.isoformat().partition("[")[0]),
    original_sha256=DIGESTS,
    width=st.integers(0, 10**6),
    height=st.integers(0, 10**6),
)
PICTURES = st.dictionaries(
    st.integers(1, 999), st.builds(Stored, DIGESTS, st.none() | PROVENANCE), max_size=3
)
MISSES = st.builds(Miss.new, st.sampled_from(sorted(EXPIRY_DAYS)), TEXT, st.floats(0, 4e9))


@given(st.builds(Meta, TEXT, PICTURES, PICTURES, st.none() | MISSES))
def test_what_is_written_is_read(meta: Meta) -> None:
    data = dump_meta(meta)
    assert parse_meta("meta.json", data) == meta
    assert dump_meta(parse_meta("meta.json", data)) == data
    data.decode("utf-8")


def hashed(root: Path) -> tuple[PictureCache, Path]:
    """A cache in which "A B" has its hashed folder, and the sidecar there."""
    cache = PictureCache(root)
    put(cache, "AB")
    put(cache, "A B")
    assert cache.directory("A B").name == hashed_name("A B")
    return cache, cache.directory("A B") / "meta.json"


def good() -> dict[str, Any]:
    miss = Miss.new("empty", "", NOW)
    meta = Meta("红", {1: Stored("0" * 64, origin())}, {}, miss)
    values: dict[str, Any] = json.loads(dump_meta(meta))
    return values


def broken(where: str, value: object) -> bytes:
    """A good sidecar with one value replaced, or removed where it is `...`."""
    values = good()
    *path, last = where.split(".")
    table = values
    for name in path:
        table = table[name]
    if value is ...:
        del table[last]
    else:
        table[last] = value
    return json.dumps(values).encode()


WRONG = [
    ("version", "1", "not a whole number"),
    ("version", True, "not a whole number"),
    ("version", 0, "unknown: 0"),
    ("version", ..., "missing"),
    ("query", ..., "missing"),
    ("query", None, "not a text"),
    ("pictures", ..., "missing"),
    ("pictures", [], "not a JSON object"),
    ("pictures.0", {}, "not the number of a picture"),
    ("pictures.01", {}, "not the number of a picture"),
    ("pictures.1000", {}, "not the number of a picture"),
    ("pictures.1", "x", "not a JSON object"),
    ("pictures.1.sha256", "x", "not a SHA-256 digest"),
    ("pictures.1.sha256", "A" * 64, "not a SHA-256 digest"),
    ("pictures.1.source", 3, "not a text"),
    ("pictures.1.title", ..., "missing"),
    ("pictures.1.width", 1.5, "not a whole number"),
    ("pictures.1.height", -1, "negative"),
    ("pictures.1.fetched_at", "2026-12-01T10:00:00", "not a time with its offset"),
    ("previous", 3, "not a JSON object"),
    ("miss", [], "not a JSON object"),
    ("miss.reason", "bored", "not a known reason"),
    ("miss.expires_at", "soon", "not a time with its offset"),
    ("miss.detail", ..., "missing"),
]


@pytest.mark.parametrize(("where", "value", "reason"), WRONG)
def test_what_is_wrong_is_named(where: str, value: object, reason: str) -> None:
    with pytest.raises(CacheError) as error:
        parse_meta("d/meta.json", broken(where, value))
    assert str(error.value).startswith(f"d/meta.json: field {where}: {reason}")
    assert not isinstance(error.value, ForeignSidecarError)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe\xfd", "not JSON"),
        (b"[1]", "not a JSON object"),
        (b"[" * 100_000, "not JSON"),
        (b'{"version": ' + b"9" * 5000 + b"}", "not JSON"),
        (b" " * 1_000_001, "more than 1,000,000 bytes"),
    ],
)
def test_what_is_no_sidecar_at_all(data: bytes, reason: str) -> None:
    with pytest.raises(CacheError, match=f"^meta.json: {reason}") as error:
        parse_meta("meta.json", data)
    assert "\n" not in str(error.value)


def test_a_newer_version_in_the_querys_own_folder_is_left_alone(tmp_path: Path) -> None:
    cache, path = hashed(tmp_path)
    path.write_bytes(broken("version", 2))
    before = snapshot(tmp_path)
    assert content(cache, "A B") == jpeg("A B 1")  # as without a sidecar
    with pytest.raises(
        ForeignSidecarError, match=r"meta.json: field version: 2 is newer than this program's 1"
    ):
        put(cache, "A B", 2)
    with pytest.raises(ForeignSidecarError):
        cache.put_miss("A B", "empty", "", now=NOW)
    assert snapshot(tmp_path) == before


def test_what_is_no_file_in_the_querys_own_folder_is_left_alone(tmp_path: Path) -> None:
    cache, path = hashed(tmp_path)
    path.unlink()
    path.mkdir()
    assert content(cache, "A B") == jpeg("A B 1")
    with pytest.raises(ForeignSidecarError, match=r"meta.json: cannot be read, or is not a file"):
        put(cache, "A B", 2)
    assert path.is_dir() and list(cache.pictures("A B")) == [1]


@pytest.mark.parametrize("data", GARBAGE)
def test_garbage_in_the_querys_own_folder_counts_as_none(
    tmp_path: Path, data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    cache, path = hashed(tmp_path)
    (path.parent / "3.jpg").write_bytes(b"x" * 600)  # by content, this is none
    path.write_bytes(data)
    kept = jpeg("A B 1")
    assert cache.pictures("A B") == {1: path.parent / "1.jpg"} and content(cache, "A B") == kept
    assert cache.provenance("A B", 1) is None and cache.miss("A B", now=NOW) is None
    assert path.read_bytes() == data
    put(cache, "A B", 2)
    assert "meta.json" in caplog.text
    assert parse_meta(path, path.read_bytes()).query == "A B"
    assert list(cache.pictures("A B")) == [1, 2] and content(cache, "A B") == kept
    assert content(cache, "AB") == jpeg("AB 1")


def test_unknown_fields_are_passed_over() -> None:
    assert parse_meta("x", broken("colour", "red")) == parse_meta("x", json.dumps(good()).encode())
    without = broken("previous", ...)
    assert parse_meta("x", without).previous == {}


def test_times() -> None:
    assert timestamp("1970-01-01T00:00:10Z") == timestamp("1970-01-01T01:00:10+01:00") == 10.0
    for text in ("", "10", "1970-01-01T00:00:10", "1970-13-01T00:00:10+00:00"):
        with pytest.raises(ValueError):
            timestamp(text)
