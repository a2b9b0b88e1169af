"""A catalogue without its manifest: what a killed creation left is replaced, everything else is kept."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import pytest

from service.gallery import Gallery, GalleryError
from tests.service.gallery.helpers import make_gallery, make_items


def test_creation_that_was_killed_can_be_repeated(tmp_path: Path) -> None:
    make_gallery(tmp_path / "g").close()
    (tmp_path / "g" / "manifest.json").unlink()
    catalog = tmp_path / "g" / "catalog.sqlite"
    for killed in ("nothing written", "no tables", "some tables"):
        catalog.unlink()
        with contextlib.closing(sqlite3.connect(catalog)) as connection:
            if killed != "nothing written":
                connection.execute("PRAGMA journal_mode = WAL")
            if killed == "some tables":
                connection.execute("CREATE TABLE meta (key, value)")
        with pytest.raises(GalleryError, match="no gallery here"):
            Gallery.open(tmp_path / "g")
        with make_gallery(tmp_path / "g") as gallery:
            assert gallery.upsert(make_items(2)).added == 2
        (tmp_path / "g" / "manifest.json").unlink()
        with pytest.raises(GalleryError, match="catalogue with items"):
            make_gallery(tmp_path / "g")


@pytest.mark.parametrize("damage", ["no header", "a page", "truncated", "emptied", "locked"])
def test_catalogue_that_cannot_be_read_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    """Without the manifest it looks like a creation that was killed; its items may still be saved."""
    path, catalog = tmp_path / "g", tmp_path / "g" / "catalog.sqlite"
    with make_gallery(path) as gallery:
        gallery.upsert(make_items(50))
    (path / "manifest.json").unlink()
    data = catalog.read_bytes()
    monkeypatch.setattr("service.gallery.catalog._BUSY_TIMEOUT_S", 0.0)
    with contextlib.closing(sqlite3.connect(catalog, isolation_level=None)) as other:
        if damage == "no header":
            catalog.write_bytes(b"x" * 100 + data[100:])
        elif damage == "a page":
            catalog.write_bytes(data[:100] + b"x" * 500 + data[600:])
        elif damage == "truncated":
            catalog.write_bytes(data[:1000])
        elif damage == "emptied":
            catalog.write_bytes(b"")
            catalog.with_name("catalog.sqlite-wal").write_bytes(b"what was not merged yet")
        else:
            other.execute("PRAGMA journal_mode = DELETE")
            other.execute("BEGIN EXCLUSIVE")
        left = {file.name: file.read_bytes() for file in path.glob("catalog.sqlite*")}
        with pytest.raises(GalleryError, match="not overwritten") as raised:
            make_gallery(path)
        assert str(catalog) in str(raised.value) and "\n" not in str(raised.value)
    assert left.items() <= {file.name: file.read_bytes() for file in path.glob("catalog.sqlite*")}.items()


def test_unfinished_catalogue_is_renamed_with_its_logs(tmp_path: Path) -> None:
    catalog = tmp_path / "g" / "catalog.sqlite"
    catalog.parent.mkdir()
    with contextlib.closing(sqlite3.connect(catalog)) as connection:
        connection.execute("CREATE TABLE mine (value)")
    catalog.with_name("catalog.sqlite-shm").write_bytes(b"stale")
    kept = catalog.read_bytes()
    make_gallery(catalog.parent).close()
    (aside,) = (file for file in catalog.parent.glob("catalog.sqlite.*") if not file.name.endswith("-shm"))
    assert aside.read_bytes() == kept
    with make_gallery(tmp_path / "h") as gallery:
        names = {file.name for file in gallery.path.iterdir()}
    assert not [name for name in names if "unfinished" in name]
