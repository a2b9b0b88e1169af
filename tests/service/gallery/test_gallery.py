"""Galleries on disk: create, open, upsert, delete, reopen, damage."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cnclip.errors import InputError, ModelMismatchError
from service.gallery import Gallery, GalleryError, GalleryLocked, Item, StoredImage, UpsertResult
from tests.service.gallery.helpers import (
    DIM,
    FINGERPRINT,
    ROOT,
    blobs,
    make_gallery,
    make_items,
    picture,
    unit_vectors,
)


def contents(gallery: Gallery) -> dict[str, Any]:
    rows = [gallery.get(item_id) for item_id in gallery.ids()]
    return {row.id: (row.title, row.attributes, row.image_sha256) for row in rows if row is not None}


def best(gallery: Gallery, vector: Any, k: int = 3) -> list[tuple[str, float]]:
    return [(hit.row.id, round(hit.score, 5)) for hit in gallery.search(vector, k)]


def test_upsert_get_search_delete_reopen(tmp_path: Path) -> None:
    path, items = tmp_path / "g", make_items(10, images=True)
    with make_gallery(path) as gallery:
        assert gallery.upsert(items) == UpsertResult(10, 0, 0)
        row = gallery.get("i3")
        assert row is not None and (row.title, row.attributes, row.image_mime) == (
            "标题3",
            {"n": 3},
            "image/png",
        )
        image_path = gallery.image_path(row)
        assert image_path is not None and image_path.read_bytes() == picture(3) == gallery.read_image(row)
        assert best(gallery, items[4].vector, 1) == [("i4", 1.0)]
        assert gallery.get("nope") is None and gallery.vectors(["nope"]) == {}
        np.testing.assert_array_equal(gallery.vectors(["i2", "x"])["i2"], items[2].vector)
        assert gallery.delete(["i4", "nope", "i4"]) == 1
        before, found = contents(gallery), best(gallery, items[4].vector)
        assert "i4" not in before and len(gallery) == 9 == gallery.stats()["items"]
    for read_only in (False, True):
        with Gallery.open(path, fingerprint=FINGERPRINT, read_only=read_only) as gallery:
            assert contents(gallery) == before and best(gallery, items[4].vector) == found
            assert gallery.manifest.items == 9 and gallery.manifest.dim == DIM
            assert gallery.read_only is read_only


def test_upsert_counts_and_replaces(tmp_path: Path) -> None:
    (item,) = make_items(1, images=True)
    other = unit_vectors(1, seed=50)[0]
    with make_gallery(tmp_path / "g") as gallery:
        assert gallery.upsert([item, item]) == UpsertResult(1, 0, 1)
        revision = gallery.stats()["revision"]
        # The same picture, title and attributes: unchanged, and the vector stays.
        assert gallery.upsert([dataclasses.replace(item, vector=other)]) == UpsertResult(0, 0, 1)
        assert gallery.stats()["revision"] == revision
        np.testing.assert_array_equal(gallery.vectors(["i0"])["i0"], item.vector)
        num = gallery.get("i0").num  # type: ignore[union-attr]
        for change in ({"title": "新"}, {"attributes": {"n": True}}, {"image": picture(77)}, {"image": None}):
            item = dataclasses.replace(item, **change)  # type: ignore[arg-type]
            assert gallery.upsert([item]) == UpsertResult(0, 1, 0), change
        assert gallery.upsert([dataclasses.replace(item, vector=other)]) == UpsertResult(0, 1, 0)
        assert best(gallery, other, 5) == [("i0", 1.0)]
        row = gallery.get("i0")
        assert row is not None and (row.num, row.image, gallery.image_path(row)) == (num, None, None)
        assert blobs(tmp_path / "g") == set()


def test_numbers_are_never_used_again(tmp_path: Path) -> None:
    (item,) = make_items(1)
    nums = []
    with make_gallery(tmp_path / "g") as gallery:
        for _ in range(3):
            gallery.upsert([item])
            nums.append(gallery.get("i0").num)  # type: ignore[union-attr]
            gallery.delete(["i0"])
    assert len(set(nums)) == 3


def test_one_file_per_picture_and_none_without_item(tmp_path: Path) -> None:
    path, vectors = tmp_path / "g", unit_vectors(3)
    with make_gallery(path) as gallery:
        gallery.upsert([Item(f"i{n}", vectors[n], image=picture(0)) for n in range(3)])
        assert len(blobs(path)) == 1
        gallery.delete(["i0", "i1"])
        assert len(blobs(path)) == 1
        kept = gallery.get("i2")
        assert kept is not None
        # A stored picture can be handed on without its bytes.
        gallery.upsert([Item("i9", vectors[0], image=kept.image)], delete=["i2"])
        assert len(blobs(path)) == 1 and gallery.ids() == ["i9"]
        gallery.upsert([Item("i9", vectors[0], image=picture(1))])
        assert blobs(path) == {gallery.get("i9").image_sha256}  # type: ignore[union-attr]
        with pytest.raises(GalleryError, match="missing"):
            gallery.upsert([Item("x", vectors[0], image=StoredImage("0" * 64, "image/png"))])
        # Put, but not referred to: kept until released.
        image = gallery.put_image(picture(2))
        gallery.delete(["i9"])
        assert blobs(path) == {image.sha256}
        gallery.release_image(image)
        assert blobs(path) == set()


BAD_ITEMS: list[tuple[dict[str, Any], str]] = [
    ({"id": ""}, "id must be"),
    ({"id": "x" * 600}, "id must be"),
    ({"id": "a\nb"}, "control character"),
    ({"id": "\ud800"}, "Unicode"),
    ({"id": 3}, "id must be"),
    ({"title": 3}, "title must be"),
    ({"title": "x" * 10_001}, "title: 10,001"),
    ({"attributes": {"": 1}}, "attribute ''"),
    ({"attributes": {"a": {"b": 1}}}, "attribute 'a': must be a text"),
    ({"attributes": {"a": [[1]]}}, "attribute 'a'"),
    ({"attributes": {"a": float("inf")}}, "attribute 'a': inf"),
    ({"attributes": {"a": 2**70}}, "64 bits"),
    ({"vector": np.ones(DIM, np.float32)}, "unit length"),
    ({"vector": np.full(DIM, np.nan, np.float32)}, "finite"),
    ({"vector": np.ones(DIM + 1, np.float32)}, "shape"),
    ({"vector": np.ones((1, DIM), np.float32)}, "shape"),
    ({"vector": np.ones(DIM, np.int64)}, "int64"),
    ({"vector": np.array(["x"] * DIM)}, "vector"),
]


@pytest.mark.parametrize(("change", "message"), BAD_ITEMS)
def test_refuses_what_it_cannot_hold(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    good, item = make_items(2)
    with make_gallery(tmp_path / "g") as gallery:
        with pytest.raises(InputError, match="item ") as raised:
            gallery.upsert([good, dataclasses.replace(item, **change)])
        assert message in str(raised.value) and "\n" not in str(raised.value)
        assert len(gallery) == 0, "all or nothing"


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"k": 0}, "k must be"),
        ({"vector": None}, "needs a query vector"),
        ({"mode": "keyword"}, "needs a query text"),
        ({"mode": "hybrid"}, "needs a query text"),
        ({"mode": "fuzzy"}, "unknown mode"),
        ({"vector": np.ones(DIM, np.float32)}, "unit length"),
        ({"vector": np.ones(3, np.float32)}, "shape"),
    ],
)
def test_refuses_broken_queries(tmp_path: Path, how: dict[str, Any], message: str) -> None:
    with make_gallery(tmp_path / "g") as gallery:
        arguments = {"vector": unit_vectors(1)[0], "k": 3, **how}
        with pytest.raises(InputError, match=message):
            gallery.search(**arguments)


def test_empty_large_k_and_min_relevance(tmp_path: Path) -> None:
    items = make_items(5)
    query = items[0].vector
    with make_gallery(tmp_path / "g") as gallery:
        assert gallery.search(query, 5) == [] and len(gallery) == 0
        gallery.upsert(items)
        hits = gallery.search(query, 1000)
        assert len(hits) == 5
        cosines = [float(item.vector @ query) for item in items]
        limit = sorted(cosines)[2]
        above = gallery.search(query, 1000, min_relevance=limit - 1e-4)
        assert [hit.row.id for hit in above] == [hit.row.id for hit in hits[:3]]
        assert all(hit.score == hit.cosine for hit in above)
        assert gallery.search(-query, 5, min_relevance=1.0) == []


def test_create_refuses_what_is_there(tmp_path: Path) -> None:
    with make_gallery(tmp_path / "g"), pytest.raises(GalleryLocked):
        make_gallery(tmp_path / "g")
    with pytest.raises(GalleryError, match="already"):
        make_gallery(tmp_path / "g")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").touch()
    with pytest.raises(GalleryError, match=r"cat\.jpg"):
        make_gallery(tmp_path / "photos")
    with pytest.raises(GalleryError, match="cannot be made"):
        make_gallery(tmp_path / "photos" / "cat.jpg")
    make_gallery(tmp_path / "deep" / "er").close()


def test_creation_that_was_killed_can_be_repeated(tmp_path: Path) -> None:
    make_gallery(tmp_path / "g").close()
    (tmp_path / "g" / "manifest.json").unlink()
    (tmp_path / "g" / "catalog.sqlite").write_bytes(b"half of a database")
    with pytest.raises(GalleryError, match="no gallery here"):
        Gallery.open(tmp_path / "g")
    with make_gallery(tmp_path / "g") as gallery:
        assert gallery.upsert(make_items(2)).added == 2


def test_other_model_is_refused_naming_both(tmp_path: Path) -> None:
    make_gallery(tmp_path / "g", model_name="lite").close()
    with pytest.raises(ModelMismatchError) as raised:
        Gallery.open(tmp_path / "g", fingerprint="a" * 64, model_name="ViT-B-16")
    message = str(raised.value)
    assert all(part in message for part in ("'lite'", "'ViT-B-16'", FINGERPRINT[:12], "a" * 12))
    with pytest.raises(ModelMismatchError):
        Gallery.open(tmp_path / "g", fingerprint="a" * 64, read_only=True)


def test_second_writer_is_refused_and_readers_are_not(tmp_path: Path) -> None:
    path = tmp_path / "g"
    with make_gallery(path) as gallery:
        gallery.upsert(make_items(3))
        with pytest.raises(GalleryLocked, match="another process is writing"):
            Gallery.open(path)
        with Gallery.open(path, read_only=True) as reader:
            assert len(reader) == 3
            gallery.upsert(make_items(2, first=3))
            assert len(reader) == 5, "a reader sees what was committed since"
            assert best(reader, make_items(5)[4].vector, 1) == [("i4", 1.0)]
            gallery.delete(["i4"])
            assert reader.refresh() == gallery.refresh() and len(reader) == 4
            for write in (
                lambda: reader.upsert([]),
                lambda: reader.delete(["i0"]),
                lambda: reader.put_image(b""),
            ):
                with pytest.raises(GalleryError, match="read-only"):
                    write()
    Gallery.open(path).close()


def test_may_be_closed_in_another_thread_and_twice(tmp_path: Path) -> None:
    gallery = make_gallery(tmp_path / "g")
    gallery.upsert(make_items(2))
    thread = threading.Thread(target=gallery.close)
    thread.start()
    thread.join()
    gallery.close()
    with pytest.raises(GalleryError, match="closed"):
        gallery.get("i0")
    with pytest.raises(GalleryError, match="closed"):
        gallery.upsert(make_items(1))
    Gallery.open(tmp_path / "g").close()


def test_copy_is_a_gallery_of_its_own(tmp_path: Path) -> None:
    items = make_items(20, images=True)
    with make_gallery(tmp_path / "a") as gallery:
        gallery.upsert(items)
        expected = contents(gallery)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    shutil.rmtree(tmp_path / "a")
    with Gallery.open(tmp_path / "b") as copy:
        assert contents(copy) == expected and best(copy, items[7].vector, 1) == [("i7", 1.0)]
        row = copy.get("i7")
        assert row is not None and copy.read_image(row) == picture(7)
        copy.delete(["i7"])


@pytest.mark.parametrize("damage", ["truncated", "no folder", "no header", "of another copy", "junk"])
def test_index_is_rebuilt_when_it_cannot_be_trusted(tmp_path: Path, damage: str) -> None:
    path, items = tmp_path / "g", make_items(30)
    with make_gallery(path) as gallery:
        gallery.upsert(items)
    index = path / "index"
    (segment,) = index.glob("*.faiss")
    if damage == "truncated":
        segment.write_bytes(segment.read_bytes()[:100])
    elif damage == "no folder":
        shutil.rmtree(index)
    elif damage == "no header":
        (index / "index.json").unlink()
    elif damage == "junk":
        (index / "index.json").write_text('{"files": {}, "schema": 1}')
    else:
        shutil.copytree(index, tmp_path / "newer")
        with Gallery.open(path) as gallery:
            gallery.delete(["i0"])
            gallery.upsert(make_items(1, first=40))
        shutil.rmtree(index)
        shutil.copytree(tmp_path / "newer", index)
        items = items[1:] + make_items(1, first=40)
    for read_only in (True, False):
        with Gallery.open(path, read_only=read_only) as gallery:
            assert len(gallery) == 30
            for item in items:
                assert best(gallery, item.vector, 1) == [(item.id, 1.0)]
    header = json.loads((index / "index.json").read_text())
    assert header["revision"] == 1 + 2 * (damage == "of another copy"), "the writer saved a new one"


def test_saved_index_is_used_and_brought_up_to_date(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, items = tmp_path / "g", make_items(30)
    with make_gallery(path) as gallery:
        gallery.upsert(items[:20])
    saved = {file: file.read_bytes() for file in (path / "index").iterdir()}
    with Gallery.open(path) as gallery:
        gallery.upsert(items[20:])
        gallery.delete(["i5"])
        # As if killed: nothing is saved.
        monkeypatch.setattr("service.gallery.live_index.save_index", lambda *_: pytest.fail("saved"))
        monkeypatch.setattr(gallery, "_save", lambda: None)
    assert {file: file.read_bytes() for file in (path / "index").iterdir()} == saved
    monkeypatch.undo()
    with Gallery.open(path) as gallery:
        assert len(gallery) == 29 and gallery._index._changed_rows == 11, "11 changes, not 29 rows, were read"
        assert best(gallery, items[25].vector, 1) == [("i25", 1.0)]


def test_damage_is_one_clear_line(tmp_path: Path) -> None:
    path = tmp_path / "g"
    with pytest.raises(GalleryError, match="no gallery here"):
        Gallery.open(path)
    with make_gallery(path) as gallery:
        gallery.upsert(make_items(3))
    manifest = path / "manifest.json"
    good = manifest.read_text()

    def refused(match: str) -> None:
        for read_only in (True, False):
            with pytest.raises(GalleryError, match=match) as raised:
                Gallery.open(path, read_only=read_only)
            assert "\n" not in str(raised.value) and str(path) in str(raised.value)

    for text, match in [
        ("{", r"manifest\.json: cannot be read"),
        ("[]", "not a JSON object"),
        (good.replace(f'"dim": {DIM}', '"dim": "x"'), "field dim"),
        (good.replace('"schema": 1', '"schema": 99'), "newer"),
        (good.replace('"gallery_id": "', '"gallery_id": "0'), "different galleries"),
    ]:
        manifest.write_text(text)
        refused(match)
    manifest.write_text(good)
    catalog = path / "catalog.sqlite"
    data = catalog.read_bytes()
    catalog.write_bytes(b"not a database at all" * 100)
    refused(r"catalog\.sqlite: file is not a database")
    catalog.write_bytes(data[:4096])
    refused(r"catalog\.sqlite")
    catalog.unlink()
    refused(r"catalog\.sqlite: missing")


def test_pictures_left_by_a_killed_writer_are_swept(tmp_path: Path) -> None:
    path = tmp_path / "g"
    gallery = make_gallery(path)
    gallery.upsert(make_items(2, images=True))
    orphan = gallery.put_image(picture(55))
    gallery.close()
    assert orphan.sha256 in blobs(path), "close() does not know whether an item was to come"
    (path / "images" / orphan.sha256[:2] / ".tmp-abc").touch()
    with Gallery.open(path) as gallery:
        assert len(blobs(path)) == 2
        assert all(gallery.image_path(gallery.get(i)) for i in gallery.ids())  # type: ignore[arg-type]
    assert not (path / ".unclean").exists()


READ_ONLY_SCRIPT = """
import os, sys
from pathlib import Path
from service.gallery import Gallery, GalleryError
import service.gallery.keyword
service.gallery.keyword.warm_up()
if os.getuid() == 0:
    os.setgid(65534); os.setuid(65534)
path = Path(sys.argv[1])
try:
    (path / "x").touch()
    sys.exit("the directory can be written")
except PermissionError:
    pass
with Gallery.open(path, read_only=True) as gallery:
    row = gallery.get("i3")
    hits = gallery.search(gallery.vectors(["i3"])["i3"], 2, filter={"n": {"gte": 2}})
    words = gallery.search(None, 2, text="标题", mode="keyword")
    print(len(gallery), hits[0].row.id, len(words), len(gallery.read_image(row)) > 0)
try:
    Gallery.open(path)
except GalleryError as error:
    print(error)
"""


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
@pytest.mark.parametrize("log", ["merged", "left behind"])
def test_opens_in_a_directory_that_cannot_be_written(tmp_path: Path, log: str) -> None:
    path = tmp_path / "g"
    with make_gallery(path) as gallery:
        gallery.upsert(make_items(5, images=True))
        if log == "left behind":
            copy = tmp_path / "copy"
            shutil.copytree(path, copy)  # with the log, as a kill leaves it
            (copy / "catalog.sqlite-shm").unlink()
            path = copy
    nested = [*path.rglob("*"), path]
    for entry in nested:
        entry.chmod(0o555 if entry.is_dir() else 0o444)
    ours = [parent for parent in path.parents if parent.name.startswith("pytest-") or parent == tmp_path]
    modes = {parent: parent.stat().st_mode for parent in ours}
    for parent, mode in modes.items():
        parent.chmod(mode | 0o055)
    try:
        done = subprocess.run(
            [sys.executable, "-c", READ_ONLY_SCRIPT, str(path)],
            capture_output=True,
            text=True,
            check=False,
            cwd=ROOT,
        )
    finally:
        for parent, mode in modes.items():
            parent.chmod(mode)
        for entry in reversed(nested):
            entry.chmod(0o755 if entry.is_dir() else 0o644)
    if log == "merged":
        assert done.stdout.splitlines()[0] == "5 i3 2 True", done.stderr
        assert "cannot be written" in done.stdout.splitlines()[1]
    else:
        assert "write-ahead log that cannot be read here" in done.stderr


def test_full_disk_is_a_gallery_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with make_gallery(tmp_path / "g") as gallery:
        gallery.upsert(make_items(2))

        def full(*_: Any) -> Any:
            raise sqlite3.OperationalError("database or disk is full")

        with monkeypatch.context() as patch:
            patch.setattr("service.gallery.gallery.write_items", full)
            with pytest.raises(GalleryError, match="disk is full"):
                gallery.upsert(make_items(5))
        assert gallery.upsert(make_items(5)) == UpsertResult(3, 0, 2), "and it goes on"
