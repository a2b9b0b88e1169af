"""A switch that is interrupted, killed or looked at from elsewhere, and what a gallery remembers of it."""

from __future__ import annotations

import shutil
import signal
import sqlite3
from pathlib import Path

import pytest

from cnclip.errors import InputError
from service.gallery import Gallery, GalleryError, ModelChanged, ModelRef, find_model
from service.gallery import switching as module
from service.gallery.index import FlatIndex
from service.gallery.model_ref import HISTORY, healed
from tests.service.gallery.helpers import (
    best,
)
from tests.service.gallery.switch_kit import NUMBERS, A, B, C, change, check_whole, stage_all, tables
from tests.service.gallery.test_concurrency import run


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
from tests.service.gallery.switch_kit import A, B, stage_all

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
