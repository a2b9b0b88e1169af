"""Content-addressed files."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

from cache.blob_store import BlobStore
from cache.errors import CacheError


def files(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file()]


def test_put_get_remove(tmp_path: Path) -> None:
    store = BlobStore(tmp_path / "blobs")
    assert list(store) == [] and store.sweep(lambda _: True) == 0
    digests = {store.put(data): data for data in (b"", b"a", b"b", b"a")}
    assert set(store) == set(digests) == {hashlib.sha256(data).hexdigest() for data in (b"", b"a", b"b")}
    for digest, data in digests.items():
        assert store.get(digest) == data and digest in store
        assert store.path(digest) == tmp_path / "blobs" / digest[:2] / digest
    assert len(files(tmp_path)) == 3
    assert (store.remove(digest), store.remove(digest), digest in store) == (True, False, False)


def test_damage_is_found_and_healed(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    digest = store.put(b"picture")
    store.path(digest).write_bytes(b"pictur")
    with pytest.raises(CacheError, match="damaged"):
        store.get(digest)
    assert store.put(b"picture") == digest and store.get(digest) == b"picture"
    store.remove(digest)
    with pytest.raises(CacheError, match="cannot be read"):
        store.get(digest)


@pytest.mark.parametrize(
    "digest", ["", "ab", "../../etc/passwd", "A" * 64, "g" * 64, "a" * 65, "a" * 64 + "\n"]
)
def test_only_digests_are_names(tmp_path: Path, digest: str) -> None:
    store = BlobStore(tmp_path)
    for ask in (store.get, store.path, store.remove, store.__contains__):
        with pytest.raises(CacheError, match="digest"):
            ask(digest)


@pytest.mark.parametrize("call", ["fsync", "replace", "fdopen"])
def test_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    store = BlobStore(tmp_path)

    def full(*_: Any) -> Any:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        with pytest.raises(CacheError, match="No space left"):
            store.put(b"picture")
    assert files(tmp_path) == []


def test_crash_before_the_rename_leaves_no_blob(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = BlobStore(tmp_path)
    kept = store.put(b"kept")
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", lambda *_: pytest.fail("crash"))
        patch.setattr(os, "unlink", lambda *_: None)  # as a kill: nobody cleans up
        with pytest.raises(pytest.fail.Exception):
            store.put(b"lost")
    assert list(store) == [kept] and len(files(tmp_path)) == 2
    assert store.sweep(lambda digest: digest == kept) == 1
    assert [path.name for path in files(tmp_path)] == [kept]
    assert store.sweep(lambda _: False) == 1 and files(tmp_path) == []
