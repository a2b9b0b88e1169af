"""What goes into a gallery and comes out: upsert, get, search, delete."""

from __future__ import annotations

import dataclasses
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cnclip.errors import InputError
from service.gallery import Gallery, GalleryError, Item, StoredImage, UpsertResult
from tests.service.gallery.helpers import (
    DIM,
    FINGERPRINT,
    best,
    blobs,
    contents,
    make_gallery,
    make_items,
    picture,
    unit_vectors,
)


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
            item = dataclasses.replace(item, **change)
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


def test_picture_stays_pinned_while_others_refer_to_it_otherwise(tmp_path: Path) -> None:
    path, vector = tmp_path / "g", unit_vectors(1)[0]
    with make_gallery(path) as gallery:
        gallery.upsert([Item("a", vector, "before", image=picture(0))])
        image, again = gallery.put_image(picture(0)), gallery.put_image(picture(0))
        own = gallery.get("a").image  # type: ignore[union-attr]
        assert own == image == again
        gallery.upsert([Item("a", vector, "after", image=own)])  # its own picture, not what was put
        gallery.upsert([Item("c", vector, image=picture(0))])  # put and taken by the call itself
        gallery.delete(["a", "c"])
        assert blobs(path) == {image.sha256}
        gallery.upsert([Item("b", vector, image=image)])
        gallery.upsert([Item("b", vector, "twice", image=image)])  # its pin was taken; the other stays
        gallery.delete(["b"])
        assert blobs(path) == {image.sha256}
        gallery.release_image(image)
        assert blobs(path) == {image.sha256}
        gallery.release_image(again)
        assert blobs(path) == set()


BAD_ITEMS: list[tuple[dict[str, Any], str]] = [
    ({"id": ""}, "id must be"),
    ({"id": "x" * 600}, "id must be"),
    ({"id": "a\nb"}, "control character"),
    ({"id": "\ud800"}, "Unicode"),
    ({"title": "a\0b"}, "title: holds a NUL character"),
    ({"attributes": {"c": "a\0b"}}, "attribute 'c': holds a NUL character"),
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
