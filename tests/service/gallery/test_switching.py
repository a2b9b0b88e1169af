"""Changing the model of a gallery: nothing is lost, nothing is mixed, and the way back is short."""

from __future__ import annotations

import shutil
import signal
import sqlite3
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from cnclip.errors import InputError, ModelMismatchError
from service.gallery import Gallery, GalleryError, Item, ModelChanged, ModelRef, find_model
from service.gallery import switching as module
from service.gallery.index import FlatIndex
from service.gallery.model_ref import HISTORY, healed
from service.gallery.switching import Switch
from tests.service.gallery.helpers import (
    DIM,
    DummyEncoder,
    Vectors,
    best,
    make_gallery,
    picture,
    unit_vectors,
)
from tests.service.gallery.test_concurrency import run


class Model(DummyEncoder):
    """One of several models: each sees pictures in its own way."""

    def __init__(self, number: int) -> None:
        super().__init__(f"{number:064x}")
        self._matrix = np.roll(self._matrix, 7 * number, axis=1) * (1.0 + number)
        self._matrix[: number * 50] *= -1
        self.ref = ModelRef(f"model-{number}", self.fingerprint, f"tiny/{number:04d}", f"{number + 900:064x}")
        self.embedded: list[bytes] = []

    def __call__(self, pictures: Sequence[bytes]) -> Vectors:
        self.embedded += pictures
        return self.encode_images(list(pictures))

    def of(self, number: int) -> Vectors:
        """The vector of `picture(number)`."""
        (vector,) = self.encode_images([picture(number)])
        return vector

    def item(self, number: int, shown: int | None = None) -> Item:
        shown = number if shown is None else shown
        return Item(f"i{number}", self.of(shown), f"标题{number}", {}, picture(shown))


A, B, C = Model(0), Model(1), Model(2)


@pytest.fixture
def gallery(tmp_path: Path) -> Gallery:
    gallery = make_gallery(tmp_path / "g", fingerprint=A.fingerprint, model_name=A.ref.model)
    gallery.upsert([A.item(number) for number in range(10)])
    return gallery


def stage_all(switch: Switch, model: Model) -> list[str]:
    asked: list[str] = []
    for page in switch.pictures():
        asked += page
        vectors = model([switch.picture(digest) for digest in page])
        switch.stage(dict(zip(page, vectors, strict=True)))
    return asked


def change(gallery: Gallery, old: Model, new: Model, *, back: bool = False) -> list[str]:
    """All of a switch; the pictures that had to be embedded before `commit`."""
    switch = gallery.switch_to(new.ref, current=old.ref, back=back)
    asked = stage_all(switch, new)
    switch.commit(new)
    switch.clean_up()
    return asked


def check_whole(gallery: Gallery, model: Model, shown: dict[str, int]) -> None:
    """Every item has the vector that `model` gives its picture, in the catalogue and in the index."""
    assert gallery.models().active.fingerprint == gallery.manifest.fingerprint == model.fingerprint
    assert sorted(gallery.ids()) == sorted(shown) and len(gallery) == len(shown)
    vectors = gallery.vectors(shown)
    for item_id, number in shown.items():
        np.testing.assert_allclose(vectors[item_id], model.of(number), atol=1e-5)
        hits = gallery.search(model.of(number), len(shown), model=model.fingerprint)
        same = {other for other, n in shown.items() if n == number}
        assert {hit.row.id for hit in hits[: len(same)]} == same
        assert hits[0].score == pytest.approx(1.0, abs=1e-5)
        exact = sorted((float(model.of(n) @ model.of(number)) for n in shown.values()), reverse=True)
        assert [hit.score for hit in hits] == pytest.approx(exact, abs=1e-5)


NUMBERS = {f"i{number}": number for number in range(10)}


def test_after_a_switch_all_is_of_the_new_model(gallery: Gallery) -> None:
    path = gallery.path
    revision = gallery.refresh()
    check_whole(gallery, A, NUMBERS)
    assert len(change(gallery, A, B)) == 10
    check_whole(gallery, B, NUMBERS)
    assert gallery.refresh() == revision + 1
    row = gallery.get("i3")
    assert row is not None and row.title == "标题3" and gallery.read_image(row) == picture(3)
    state = gallery.models()
    assert (state.active, state.base, state.history) == (B.ref, A.ref, (A.ref,))
    assert state.pending is None
    gallery.close()
    for read_only in (True, False):
        with Gallery.open(path, fingerprint=B.fingerprint, read_only=read_only) as opened:
            check_whole(opened, B, NUMBERS)
    with pytest.raises(ModelMismatchError, match="model-1"):
        Gallery.open(path, fingerprint=A.fingerprint)


def test_until_the_commit_nothing_is_seen(gallery: Gallery) -> None:
    switch = gallery.switch_to(B.ref, current=A.ref)
    stage_all(switch, B)
    switch.index()
    check_whole(gallery, A, NUMBERS)
    gallery.upsert([A.item(10)])
    check_whole(gallery, A, {**NUMBERS, "i10": 10})
    switch.commit(B)
    check_whole(gallery, B, {**NUMBERS, "i10": 10})


def test_what_is_made_with_the_old_model_is_refused_after_the_switch(gallery: Gallery) -> None:
    change(gallery, A, B)
    with pytest.raises(ModelChanged):
        gallery.search(A.of(1), 3, model=A.fingerprint)
    with pytest.raises(ModelChanged):
        gallery.search(None, 3, text="标题", mode="keyword", model=A.fingerprint)
    with pytest.raises(ModelChanged):
        gallery.vectors(["i1"], model=A.fingerprint)
    with pytest.raises(ModelChanged):
        gallery.upsert([A.item(11)], model=A.fingerprint)
    assert gallery.get("i11") is None and not gallery._pictures._pinned
    gallery.upsert([B.item(11)], model=B.fingerprint)
    check_whole(gallery, B, {**NUMBERS, "i11": 11})


@pytest.mark.parametrize("when", ["staging", "staged", "indexed"])
def test_writes_in_between_are_kept_and_are_of_the_new_model(gallery: Gallery, when: str) -> None:
    def write() -> None:
        gallery.upsert([A.item(20), A.item(3, shown=33), A.item(4, shown=44)], delete=["i5", "i6"])
        gallery.upsert([A.item(21), A.item(4, shown=45)], delete=["i20"])
        gallery.upsert([A.item(6, shown=66), A.item(7)])
        title = gallery.vectors(["i8"])["i8"]
        row = gallery.get("i8")
        assert row is not None
        gallery.upsert([Item("i8", title, "新标题", {}, row.image)])

    switch = gallery.switch_to(B.ref, current=A.ref)
    for page in switch.pictures():
        vectors = B([switch.picture(digest) for digest in page])
        if when == "staging":
            when = ""
            write()  # after these pictures were read, before they are stored
        switch.stage(dict(zip(page, vectors, strict=True)))
    if when == "staged":
        write()
    switch.index()
    if when == "indexed":
        write()
        stage_all(switch, B)
    switch.commit(B)
    shown = {**NUMBERS, "i21": 21, "i3": 33, "i4": 45, "i6": 66}
    del shown["i5"]
    check_whole(gallery, B, shown)
    row = gallery.get("i8")
    assert row is not None and row.title == "新标题"
    gallery.close()
    with Gallery.open(gallery.path) as opened:
        check_whole(opened, B, shown)


def test_writers_and_searchers_all_the_time(gallery: Gallery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAGE", 3)
    shown, stop, problems = dict(NUMBERS), threading.Event(), []
    models = {model.fingerprint: model for model in (A, B)}
    served: set[str] = set()

    def write() -> None:
        number = 100
        while not stop.is_set():
            number += 1
            item_id = f"i{number % 12}"
            active = models[gallery.models().active.fingerprint]
            try:
                gallery.upsert(
                    [Item(item_id, active.of(number), "", {}, picture(number))], model=active.fingerprint
                )
            except ModelChanged:
                continue
            shown[item_id] = number

    def search() -> None:
        while not stop.is_set():
            active = models[gallery.models().active.fingerprint]
            try:
                (hit,) = gallery.search(active.of(9), 1, model=active.fingerprint)
            except ModelChanged:
                continue
            served.add(active.fingerprint)
            if hit.score > 1.0001:
                problems.append(hit)

    threads = [threading.Thread(target=work) for work in (write, search, search)]
    for thread in threads:
        thread.start()
    for _ in range(2):
        change(gallery, A, B)
        change(gallery, B, A, back=True)
    change(gallery, A, B)
    stop.set()
    for thread in threads:
        thread.join()
    check_whole(gallery, B, shown)
    assert not problems and served <= set(models)


def test_items_with_one_picture_are_embedded_once(gallery: Gallery) -> None:
    gallery.upsert([A.item(10 + number, shown=number % 2) for number in range(6)])
    B.embedded.clear()
    assert len(change(gallery, A, B)) == 10
    assert sorted(B.embedded) == sorted(picture(number) for number in range(10))
    check_whole(gallery, B, {**NUMBERS, **{f"i{10 + number}": number % 2 for number in range(6)}})


def test_the_way_back_embeds_only_what_changed(gallery: Gallery) -> None:
    change(gallery, A, B)
    assert change(gallery, B, A, back=True) == []
    check_whole(gallery, A, NUMBERS)
    state = gallery.models()
    assert (state.active, state.base, state.history) == (A.ref, A.ref, ())
    assert change(gallery, A, B) == []
    gallery.upsert([B.item(2, shown=22), B.item(10)], delete=["i7"])
    assert len(change(gallery, B, A, back=True)) == 2
    shown = {**NUMBERS, "i2": 22, "i10": 10}
    del shown["i7"]
    check_whole(gallery, A, shown)
    gallery.close()
    with Gallery.open(gallery.path) as opened:
        check_whole(opened, A, shown)
        assert change(opened, A, B) == []
        check_whole(opened, B, shown)


def tables(gallery: Gallery) -> set[str]:
    with sqlite3.connect(gallery.path / "catalog.sqlite") as connection:
        names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    connection.close()
    return {name for (name,) in names if name.startswith("vectors")}


def test_vectors_of_one_model_before_are_kept_and_no_more(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.vector_sets, "CHUNK_ROWS", 3)
    change(gallery, A, B)
    assert tables(gallery) == {"vectors", f"vectors_{A.ref.image_fingerprint}"}
    change(gallery, B, C)
    assert tables(gallery) == {"vectors", f"vectors_{B.ref.image_fingerprint}"}
    assert gallery.models().history == (A.ref, B.ref)
    assert change(gallery, C, B, back=True) == []
    assert len(change(gallery, B, A, back=True)) == 10
    check_whole(gallery, A, NUMBERS)


def test_another_text_tower_changes_no_vectors(gallery: Gallery) -> None:
    text_only = ModelRef("model-7", "7" * 64, "tiny/0007", A.ref.image_fingerprint)
    gallery.upsert([Item("no picture", unit_vectors(1)[0])])
    revision, before = gallery.refresh(), gallery.vectors(gallery.ids())
    switch = gallery.switch_to(text_only, current=A.ref)
    assert switch.same_vectors and switch.without_picture() == 0
    assert list(switch.pictures()) == [] and (switch.done, switch.total) == (0, 0)
    assert len(switch.index()) == 11
    switch.commit(B)
    assert gallery.refresh() == revision + 1 and gallery.manifest.fingerprint == "7" * 64
    after = gallery.vectors(gallery.ids(), model="7" * 64)
    assert all(np.array_equal(after[item_id], before[item_id]) for item_id in before)
    assert best(gallery, A.of(4), 1) == [("i4", 1.0)]
    assert tables(gallery) == {"vectors"}
    with pytest.raises(ModelChanged):
        gallery.search(A.of(4), 1, model=A.fingerprint)


def test_items_without_a_picture_stop_it(gallery: Gallery) -> None:
    gallery.upsert([Item("bare", unit_vectors(1)[0])])
    switch = gallery.switch_to(B.ref, current=A.ref)
    assert switch.without_picture() == 1
    stage_all(switch, B)
    with pytest.raises(GalleryError, match="10 items, the gallery has 11"):
        switch.commit(B)
    switch.abandon()
    assert gallery.models().active.fingerprint == A.fingerprint
    assert tables(gallery) == {"vectors"}
    gallery.delete(["bare"])
    check_whole(gallery, A, NUMBERS)


def test_a_picture_that_cannot_be_read_stops_it_by_name(gallery: Gallery) -> None:
    row = gallery.get("i4")
    assert row is not None and row.image_sha256 is not None
    switch = gallery.switch_to(B.ref, current=A.ref)
    for page in switch.pictures():
        good = [digest for digest in page if digest != row.image_sha256]
        vectors = B([switch.picture(digest) for digest in good])
        bad = dict.fromkeys(set(page) - set(good), "truncated")
        switch.stage(dict(zip(good, vectors, strict=True)), bad)
    with pytest.raises(GalleryError, match=r"pictures of 1 items .*'i4': truncated"):
        switch.commit(B)
    check_whole(gallery, A, NUMBERS)
    gallery.delete(["i4"])  # nobody has it any more
    switch.commit(B)
    check_whole(gallery, B, {item_id: n for item_id, n in NUMBERS.items() if item_id != "i4"})


def test_vectors_that_are_none_are_not_staged(gallery: Gallery) -> None:
    switch = gallery.switch_to(B.ref, current=A.ref)
    (page,) = switch.pictures()
    for bad in (np.full(DIM, np.nan, np.float32), 2 * unit_vectors(1)[0], unit_vectors(1)[0][:-1]):
        with pytest.raises(InputError, match=page[0][:16]):
            switch.stage({page[0]: bad})
    assert switch.done == 0


def test_progress_counts_items(gallery: Gallery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAGE", 4)
    gallery.upsert([A.item(10, shown=0)])
    switch = gallery.switch_to(B.ref, current=A.ref)
    assert (switch.done, switch.total) == (0, 11)
    seen = []
    for page in switch.pictures():
        switch.stage(dict(zip(page, B([switch.picture(digest) for digest in page]), strict=True)))
        seen.append(switch.done)
    assert seen == [5, 9, 11]


def test_an_interrupted_switch_goes_on_where_it_was(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PAGE", 4)
    switch = gallery.switch_to(B.ref, current=A.ref)
    pages = switch.pictures()
    page = next(pages)
    switch.stage(dict(zip(page, B([switch.picture(digest) for digest in page]), strict=True)))
    gallery.close()
    with Gallery.open(gallery.path, fingerprint=A.fingerprint) as opened:
        state = opened.models()
        assert (state.pending, state.back) == (B.ref, False)
        opened.upsert([A.item(0, shown=50)])  # by `cnclip index`, say
        assert len(change(opened, A, B)) == 7
        check_whole(opened, B, {**NUMBERS, "i0": 50})


def test_an_abandoned_switch_leaves_nothing(gallery: Gallery) -> None:
    switch = gallery.switch_to(B.ref, current=A.ref)
    stage_all(switch, B)
    switch.abandon()
    assert tables(gallery) == {"vectors"} and gallery.models().pending is None
    change(gallery, A, B)
    back = gallery.switch_to(A.ref, current=B.ref, back=True)
    back.abandon()
    assert tables(gallery) == {"vectors", f"vectors_{A.ref.image_fingerprint}"}, "kept for the way back"
    check_whole(gallery, B, NUMBERS)


def test_a_reader_in_another_process_sees_all_of_it_at_once(gallery: Gallery) -> None:
    with Gallery.open(gallery.path, read_only=True) as reader:
        assert best(reader, A.of(1), 1) == [("i1", 1.0)]
        change(gallery, A, B)
        assert best(reader, B.of(1), 1) == [("i1", 1.0)]
        assert reader.models().active == B.ref
        with pytest.raises(ModelChanged):
            reader.search(A.of(1), 1, model=A.fingerprint)
        assert len(reader._index._snapshot.index) == 10
        gallery.upsert([B.item(1, shown=99)])
        assert best(reader, B.of(99), 1) == [("i1", 1.0)]
        with pytest.raises(GalleryError, match="read-only"):
            reader.switch_to(A.ref, current=B.ref)


def test_an_index_saved_before_the_switch_is_not_used_after_it(tmp_path: Path, gallery: Gallery) -> None:
    gallery.close()
    shutil.copytree(gallery.path / "index", tmp_path / "index")
    with Gallery.open(gallery.path) as opened:
        stamp = opened._catalog._writer
        assert stamp is not None
        (old_stamp,) = stamp.execute("SELECT value FROM meta WHERE key = 'index_stamp'").fetchone()
        change(opened, A, B)
    shutil.rmtree(gallery.path / "index")
    shutil.copytree(tmp_path / "index", gallery.path / "index")
    with sqlite3.connect(gallery.path / "catalog.sqlite") as connection:
        connection.execute("UPDATE meta SET value = ? WHERE key = 'index_stamp'", (old_stamp,))
    connection.close()
    with Gallery.open(gallery.path) as opened:
        check_whole(opened, B, NUMBERS)


def test_a_manifest_that_lags_is_healed(gallery: Gallery) -> None:
    manifest = gallery.path / "manifest.json"
    before = manifest.read_bytes()
    assert b'"schema": 1' in before
    change(gallery, A, B)
    gallery.close()
    after = manifest.read_bytes()
    assert b'"schema": 2' in after and b'"model_version": "tiny/0001"' in after
    manifest.write_bytes(before)  # as a kill right after the transaction leaves it
    with Gallery.open(gallery.path, read_only=True, fingerprint=B.fingerprint) as reader:
        assert reader.manifest.fingerprint == B.fingerprint
        assert manifest.read_bytes() == before
    Gallery.open(gallery.path).close()
    assert manifest.read_bytes() == after
    manifest.write_bytes(
        before.replace(b'"model_version": "",', b"").replace(b',\n  "model_version": ""', b"")
    )
    assert b"model_version" not in manifest.read_bytes()  # as before there were versions
    Gallery.open(gallery.path).close()
    assert manifest.read_bytes() == after


def test_a_catalogue_that_was_never_switched_must_fit_its_manifest(gallery: Gallery) -> None:
    gallery.close()
    manifest = gallery.path / "manifest.json"
    manifest.write_text(manifest.read_text().replace(A.fingerprint, B.fingerprint))
    with pytest.raises(GalleryError, match="fingerprint differs"):
        Gallery.open(gallery.path)


def test_history_is_bounded(gallery: Gallery) -> None:
    refs = [ModelRef(f"m{n}", f"{n:064x}", "", A.ref.image_fingerprint) for n in range(HISTORY + 5)]
    for old, new in zip([A.ref, *refs[1:]], refs[1:], strict=False):
        gallery.switch_to(new, current=old).commit(A)
    assert gallery.models().history == tuple(refs[4:-1])
    assert gallery.models().base == A.ref


def test_where_a_model_is_found(tmp_path: Path, gallery: Gallery) -> None:
    path = gallery.path
    assert find_model(path, ModelRef("lite", "f")) == "lite"
    assert find_model(path, ModelRef("/srv/own.pt", "f")) == "/srv/own.pt"
    inside = ModelRef("models/tiny/0001/model.safetensors", "f", "tiny/0001")
    with pytest.raises(InputError, match=r"version tiny/0001 .*--model FILE") as raised:
        find_model(path, inside)
    assert "\n" not in str(raised.value)
    for folder in (tmp_path / "other" / "tiny" / "0001", path / "models" / "tiny" / "0001"):
        folder.mkdir(parents=True)
        (folder / "model.safetensors").touch()
        found = find_model(path, inside, tmp_path / "other")
        assert found == str(folder / "model.safetensors")
    outside = ModelRef("/gone/tiny/0001/model.safetensors", "f", "tiny/0001")
    assert find_model(path, outside) == str(path / "models/tiny/0001/model.safetensors")
    gallery.close()
    shutil.move(path, tmp_path / "moved")
    assert find_model(tmp_path / "moved", inside) == str(
        tmp_path / "moved" / "models/tiny/0001/model.safetensors"
    )
    labels = [ModelRef(name, "f").label for name in ("lite", "ViT-B-16", "/a/b/own.pt", "own.v2.safetensors")]
    assert labels == ["lite", "ViT-B-16", "own", "own.v2"]


def test_healing_keeps_what_is_right(gallery: Gallery) -> None:
    assert healed(gallery.manifest, A.ref) is gallery.manifest


def test_only_fingerprints_become_names_of_tables(gallery: Gallery) -> None:
    evil = ModelRef("x", "f" * 64, "", 'x"; DROP TABLE items; --')
    with pytest.raises(GalleryError, match="not the fingerprint"):
        gallery.switch_to(evil, current=A.ref)
    with pytest.raises(GalleryError, match="not the fingerprint"):
        gallery.switch_to(B.ref, current=ModelRef("y", A.fingerprint))
    with pytest.raises(GalleryError, match="another model by now"):
        gallery.switch_to(B.ref, current=C.ref)


KILLED = """
import os, signal, sys
from service.gallery import Gallery
from service.gallery import switching, vector_sets
from service.gallery.live_index import LiveIndex
from tests.service.gallery.test_switching import A, B, stage_all

def die(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)

where, path = sys.argv[1:]
gallery = Gallery.open(path)
switching.PAGE = 4
pages = 0
def die_later(*args, **kwargs):
    global pages
    pages += 1
    if pages == 2:
        die()
    return real(*args, **kwargs)
if where == "staging":
    real, switching.vector_sets.stage = vector_sets.stage, die_later
switch = gallery.switch_to(B.ref, current=A.ref)
if where == "begun":
    die()
stage_all(switch, B)
switch.index()
if where == "exchanged":
    switching.write_state = die
elif where == "committed":
    switch._committed = die
switch.commit(B)
if where == "cleaning":
    vector_sets.CHUNK_ROWS = 4
    switching.vector_sets._write_sets = die
    real_drop = switching.drop_sets
    real_drop(gallery._catalog, keep=set())
die()
"""


@pytest.mark.parametrize("where", ["begun", "staging", "exchanged", "committed", "cleaning", "done"])
def test_killed_anywhere_it_is_of_one_model(gallery: Gallery, where: str) -> None:
    gallery.close()
    process = run(KILLED, where, str(gallery.path))
    _, errors = process.communicate()
    assert process.returncode == -signal.SIGKILL, errors
    old, new = (A, B) if where in ("begun", "staging", "exchanged") else (B, A)
    for read_only in (True, False):
        with Gallery.open(gallery.path, fingerprint=old.fingerprint, read_only=read_only) as opened:
            check_whole(opened, old, NUMBERS)
            assert (opened.models().pending == B.ref) is (old is A)
    with Gallery.open(gallery.path) as opened:
        asked = change(opened, old, new, back=new is A)
        assert len(asked) == {"begun": 10, "staging": 6, "cleaning": 8}.get(where, 0)
        check_whole(opened, new, NUMBERS)
    with Gallery.open(gallery.path) as opened:
        check_whole(opened, new, NUMBERS)


def test_the_index_is_not_copied_by_looking_at_it(gallery: Gallery) -> None:
    switch = gallery.switch_to(B.ref, current=A.ref)
    stage_all(switch, B)
    index = switch.index()
    assert isinstance(index, FlatIndex) and switch.index() is index
    scores, nums = index.search(B.of(5)[None], 1)
    assert scores[0][0] == pytest.approx(1.0, abs=1e-5) and len(nums) == 1
