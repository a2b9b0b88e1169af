"""Folders of pictures into a gallery."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from cache.blob_store import BlobStore
from cnclip.errors import InputError, ModelMismatchError
from service.gallery import Item
from service.gallery.ingest import IngestReport, ingest
from service.gallery.sources import SourceItem
from tests.service.gallery.helpers import (
    DummyEncoder,
    add_source,
    blobs,
    counts,
    files_of,
    make_gallery,
    picture,
    unit_vectors,
)


def test_folder_and_again(tmp_path: Path, photos: Path) -> None:
    encoder = DummyEncoder()
    with make_gallery(tmp_path / "g") as gallery:
        assert counts(add_source(gallery, photos, encoder)) == (10, 0, 0, 0)
        assert len(gallery) == 10 == len(blobs(tmp_path / "g")) == encoder.encoded
        assert counts(add_source(gallery, photos, encoder)) == (0, 0, 10, 0)
        assert encoder.encoded == 10, "what is there is not encoded again"
        (vector,) = encoder.encode_images([photos / "1" / "图7.png"])
        (hit,) = gallery.search(vector, 1)
        assert (hit.row.title, hit.row.attributes) == ("图7", {"files": ["photos/1/图7.png"]})
        assert hit.row.id == BlobStore.digest(picture(7))[:16]
        assert hit.score == pytest.approx(1, abs=1e-5)
        assert gallery.search(None, 3, text="图7", mode="keyword")[0].row.title == "图7"
    assert not (tmp_path / "g" / ".unclean").exists()


def test_same_picture_under_many_names_is_one_item(tmp_path: Path, photos: Path) -> None:
    for name in ("a copy.png", "9/z.png"):
        (photos / name).parent.mkdir(exist_ok=True)
        (photos / name).write_bytes(picture(4))
    other = tmp_path / "elsewhere"
    shutil.copytree(photos, other / "photos")
    encoder = DummyEncoder()
    with make_gallery(tmp_path / "g") as gallery:
        report = add_source(gallery, photos, encoder)
        assert counts(report) == (10, 0, 0, 2) and report.problems == []
        assert report.dropped == Counter({"same picture under another name": 2})
        assert files_of(gallery)["a copy"] == ["photos/a copy.png", "photos/1/图4.png", "photos/9/z.png"]
        assert counts(add_source(gallery, photos, encoder)) == (0, 0, 10, 2)
        # Another folder of the same name has another label, and no item is lost or doubled.
        assert counts(add_source(gallery, other / "photos", encoder)) == (0, 0, 0, 12)
        assert len(files_of(gallery)["a copy"]) == 6 and len(gallery) == 10
        assert "photos-2/1/图4.png" in files_of(gallery)["a copy"]
    assert not (tmp_path / "g" / ".unclean").exists()


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_state_follows_the_folder(tmp_path: Path, batch_size: int) -> None:
    """Random edits and copies of files: the gallery always has one item per picture that a file has, with the
    names of all its files."""
    folder, random = tmp_path / "p", np.random.default_rng(batch_size)
    folder.mkdir()
    with make_gallery(tmp_path / "g") as gallery:
        for _ in range(12):
            for name in random.choice(list("abcdefgh"), 4):
                (folder / f"{name}.png").write_bytes(picture(int(random.integers(0, 6))))
            report = add_source(gallery, folder, batch_size=batch_size)
            assert report.problems == []
            now = {f"p/{file.name}": BlobStore.digest(file.read_bytes())[:16] for file in folder.iterdir()}
            names: dict[str, set[str]] = {}
            for name, item_id in now.items():
                names.setdefault(item_id, set()).add(name)
            rows = {item_id: gallery.get(item_id) for item_id in gallery.ids()}
            assert {i: set(row.attributes["files"]) for i, row in rows.items() if row is not None} == names
            assert len(blobs(tmp_path / "g")) == len(names)
            encoder = DummyEncoder()
            for item_id, row in rows.items():
                assert row is not None and row.title == Path(row.attributes["files"][0]).stem
                data = gallery.read_image(row)
                (vector,) = encoder.encode_images([data])
                np.testing.assert_allclose(gallery.vectors([item_id])[item_id], vector, atol=1e-5)


def test_changed_file_replaces_its_picture(tmp_path: Path, photos: Path) -> None:
    with make_gallery(tmp_path / "g") as gallery:
        add_source(gallery, photos)
        (photos / "0" / "图3.png").write_bytes(picture(333))
        report = add_source(gallery, photos)
        assert counts(report) == (0, 1, 9, 0) and report.removed == 1
        assert len(gallery) == 10 == len(blobs(tmp_path / "g"))


def test_attribute_called_files_is_the_users_own(tmp_path: Path, photos: Path) -> None:
    path = tmp_path / "shop.jsonl"
    path.write_text(json.dumps({"id": "a", "image": "photos/0/图0.png", "files": ["photos/1/图1.png"]}))
    with make_gallery(tmp_path / "g") as gallery:
        add_source(gallery, path)
        assert add_source(gallery, photos).added == 10
        assert gallery.get("a").attributes == {"files": ["photos/1/图1.png"]}  # type: ignore[union-attr]


@pytest.mark.usefixtures("photos")
def test_attributes_that_are_equal_but_stored_differently_are_updated(tmp_path: Path) -> None:
    path = tmp_path / "shop.jsonl"
    with make_gallery(tmp_path / "g") as gallery:
        for value, expected in ((1, (1, 0, 0, 0)), (True, (0, 1, 0, 0)), (True, (0, 0, 1, 0))):
            path.write_text(json.dumps({"id": "a", "image": "photos/0/图0.png", "sold": [value]}))
            assert counts(add_source(gallery, path)) == expected
            row = gallery.get("a")
            assert row is not None and row.attributes["sold"][0] is value


@pytest.mark.parametrize("change", ["deleted", "another picture"])
def test_item_that_changes_after_it_was_prepared_is_written_whole(tmp_path: Path, change: str) -> None:
    encoder = DummyEncoder()
    source = [SourceItem(name, partial(picture, n), name, name) for n, name in enumerate("abcdef")]

    def interfere(report: IngestReport) -> None:
        if report.seen == 1 and change == "deleted":
            gallery.delete(list("abcdef"))
        elif report.seen == 1:
            gallery.upsert([Item("f", unit_vectors(1)[0], "f", image=picture(50))])

    with make_gallery(tmp_path / "g") as gallery:
        ingest(gallery, encoder, source, workers=1)
        report = ingest(gallery, encoder, source, workers=1, batch_size=10, progress=interfere)
        assert counts(report) == ((5, 0, 1, 0) if change == "deleted" else (0, 1, 5, 0))
        row = gallery.get("f")
        assert row is not None and gallery.read_image(row) == picture(5)
        (vector,) = encoder.encode_images([picture(5)])
        np.testing.assert_allclose(gallery.vectors(["f"])["f"], vector, atol=1e-5)
        assert len(blobs(tmp_path / "g")) == len(gallery)


def test_wrong_model_and_sizes_are_refused(tmp_path: Path, photos: Path) -> None:
    with make_gallery(tmp_path / "g") as gallery:
        with pytest.raises(ModelMismatchError, match="dummy"):
            add_source(gallery, photos, DummyEncoder("0" * 64))
        for batch_size, workers in ((0, 1), (1, 0)):
            with pytest.raises(InputError, match="at least 1"):
                ingest(gallery, DummyEncoder(), [], batch_size=batch_size, workers=workers)


def test_look_ahead_is_bounded_and_progress_is_durable(tmp_path: Path) -> None:
    loaded, committed = 0, 0

    def load() -> bytes:
        nonlocal loaded
        loaded += 1
        assert loaded <= committed + 2 * 5 + 5 + 2
        return picture(loaded)

    def progress(report: IngestReport) -> None:
        nonlocal committed
        committed = report.added
        assert len(gallery) == report.added

    with make_gallery(tmp_path / "g") as gallery:
        source = (SourceItem(f"i{n}", load, f"i{n}") for n in range(60))
        ingest(gallery, DummyEncoder(), source, batch_size=5, workers=2, progress=progress)
        assert loaded == committed == 60


def test_lost_picture_file_is_stored_again(tmp_path: Path, photos: Path) -> None:
    with make_gallery(tmp_path / "g") as gallery:
        add_source(gallery, photos)
        before = blobs(tmp_path / "g")
        for file in list((tmp_path / "g" / "images").rglob("*"))[:15]:
            if file.is_file():
                file.unlink()
        assert blobs(tmp_path / "g") < before
        assert counts(add_source(gallery, photos)) == (0, 0, 10, 0)
        assert blobs(tmp_path / "g") == before
    assert not (tmp_path / "g" / ".unclean").exists()
