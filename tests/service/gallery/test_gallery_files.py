"""Galleries on disk: create, open, lock, copy, damage."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from cnclip.errors import ModelMismatchError
from service.gallery import Gallery, GalleryError, GalleryLocked
from tests.service.gallery.helpers import (
    DIM,
    FINGERPRINT,
    ROOT,
    best,
    blobs,
    contents,
    make_gallery,
    make_items,
    picture,
)


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


def test_pictures_without_item_are_removed(tmp_path: Path) -> None:
    path, killed = tmp_path / "g", tmp_path / "killed"
    with make_gallery(path) as gallery:
        gallery.upsert(make_items(2, images=True))
        orphan = gallery.put_image(picture(55))
        shutil.copytree(path, killed)  # the state that a kill leaves now
    assert len(blobs(path)) == 2 and not (path / ".unclean").exists()

    assert orphan.sha256 in blobs(killed)
    (killed / "images" / orphan.sha256[:2] / ".tmp-abc").touch()
    with Gallery.open(killed) as gallery:
        assert blobs(killed) == blobs(path)
        assert all(gallery.image_path(gallery.get(i)) for i in gallery.ids())  # type: ignore[arg-type]
    assert not (killed / ".unclean").exists()


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
