"""Changing the model of a gallery: nothing is lost, nothing is mixed, and the way back is short."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from cnclip.errors import InputError, ModelMismatchError
from service.gallery import Gallery, GalleryError, Item, ModelChanged, ModelRef
from service.gallery import switching as module
from tests.service.gallery.helpers import (
    DIM,
    best,
    picture,
    unit_vectors,
)
from tests.service.gallery.switch_kit import NUMBERS, A, B, C, change, check_whole, stage_all, tables


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
