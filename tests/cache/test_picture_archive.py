"""Carrying pictures to another machine: export, import, and import once more."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tarfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache.errors import CacheError
from cache.names import canonical, hashed_name
from cache.picture_archive import export_archive
from cache.picture_cache import PictureCache
from cache.picture_health import verify
from cache.picture_import import Imported, import_archive
from cache.picture_meta import DAY_S
from tests.cache.picture_kit import NOW, card, content, jpeg, origin, put, reference_write
from tests.cache.test_picture_sharing import QUERIES

pytestmark = pytest.mark.usefixtures("no_sync")

ROOT = Path(__file__).resolve().parents[2]
QUERY_NAMES = ("A B", "AB", "ab", "红 裙", "../x", "")


def fill(data_path: Path) -> list[PictureCache]:
    """valid and test, with sidecars and without, with misses and with damage."""
    valid, test = PictureCache(data_path / "valid"), PictureCache(data_path / "test")
    for query in QUERY_NAMES:
        put(valid, query)
        for number in range(1, 6):
            put(test, query, number)
    reference_write(valid.root, "旧的", [jpeg("l1", size=(400, 300)), None, jpeg("l3")], card())
    reference_write(test.root, "红 裙", [None], card())  # over ours
    put(valid, "mixed", 2)
    (valid.root / "mixed" / "7.jpg").write_bytes(jpeg("mixed 7"))
    valid.put_miss("nothing", "empty", "no such thing", now=NOW)
    valid.put_miss("红 裙", "no_good_picture", "only one", now=NOW)
    put(valid, "cut", 1)
    (valid.root / "cut" / "1.jpg").write_bytes(b"x" * 800)
    return [valid, test]


def pictures(cache: PictureCache) -> dict[tuple[str, int], bytes]:
    """Everything good, by query or, where nobody knows it, by folder."""
    found = {}
    for entry in cache.queries():
        for number in entry.numbers:
            picture = entry.folder.picture(number, entry.meta, cache.placeholders)
            if picture.problem == "":
                found[entry.query or f"folder {entry.folder.name}", number] = picture.data
    return found


def export(caches: list[PictureCache], out: Path) -> Path:
    export_archive(caches, out)
    return out


def load(archive: Path, data_path: Path) -> Imported:
    return import_archive(archive, data_path, now=NOW + DAY_S / 2)


def test_everything_good_arrives(tmp_path: Path) -> None:
    caches = fill(tmp_path / "here")
    archive = tmp_path / "crawl.tar"
    exported = export_archive(caches, archive)
    assert exported.splits == {
        "test": {"queries": 6, "pictures": 29, "misses": 0},
        "valid": {"queries": 8, "pictures": 11, "misses": 2},
    }
    assert exported.bytes == archive.stat().st_size
    imported = load(archive, tmp_path / "there")
    assert imported.splits == {
        "test": {"added": 29, "kept": 0, "replaced": 0, "refused": 0, "misses": 0},
        "valid": {"added": 11, "kept": 0, "replaced": 0, "refused": 0, "misses": 2},
    }
    for cache in caches:
        there = PictureCache(tmp_path / "there" / cache.root.name)
        assert pictures(there) == pictures(cache)
        assert verify(there, now=NOW) == []
        for query in QUERY_NAMES:
            assert there.provenance(query, 1) == cache.provenance(query, 1)
    valid = PictureCache(tmp_path / "there" / "valid")
    assert valid.miss("nothing", now=NOW) == caches[0].miss("nothing", now=NOW)
    assert valid.provenance("mixed", 7) is None
    again = load(archive, tmp_path / "there")
    assert again.splits["valid"] == {"added": 0, "kept": 11, "replaced": 0, "refused": 0, "misses": 0}
    assert again.splits["test"]["kept"] == 29


def test_the_layout_of_the_archive(tmp_path: Path) -> None:
    valid = PictureCache(tmp_path / "valid")
    put(valid, "红", 2)
    put(valid, "AB")
    put(valid, "A B", 10)
    put(valid, "A B", 9)
    with tarfile.open(export([valid], tmp_path / "x.tar"), "r:") as tar:
        hashed = hashed_name("A B")
        assert tar.getnames() == [
            *("valid/AB/meta.json", "valid/AB/1.jpg"),
            *(f"valid/{hashed}/{name}" for name in ("meta.json", "9.jpg", "10.jpg")),
            *("valid/红/meta.json", "valid/红/2.jpg", "manifest.json"),
        ]
        assert {(m.mtime, m.uid, m.gid, m.uname, m.mode) for m in tar} == {(0, 0, 0, "", 0o644)}
        manifest = json.load(tar.extractfile("manifest.json") or pytest.fail())
    assert manifest["version"] == 1 and len(manifest["files"]) == 7
    assert manifest["splits"] == {"valid": {"queries": 3, "pictures": 4, "misses": 0}}


def test_the_same_pictures_give_the_same_bytes(tmp_path: Path) -> None:
    first = export(fill(tmp_path / "a"), tmp_path / "a.tar").read_bytes()
    assert export(fill(tmp_path / "b"), tmp_path / "b.tar").read_bytes() == first
    assert export(list(reversed(fill(tmp_path / "a"))), tmp_path / "a.tar").read_bytes() == first


def test_what_is_here_and_good_stays(tmp_path: Path) -> None:
    archive = export(fill(tmp_path / "here"), tmp_path / "x.tar")
    valid = PictureCache(tmp_path / "there" / "valid")
    mine = put(valid, "ab", 1, "mine")
    put(valid, "../x", 1, "will be damaged")
    valid.get("../x", 1).write_bytes(b"x" * 600)
    valid.put_miss("nothing", "load_failed", "mine", now=NOW)
    valid.put_miss("红 裙", "empty", "mine", now=NOW)
    (valid.root / "旧的").mkdir()
    (valid.root / "旧的" / "1.jpg").write_bytes(jpeg("mine too"))
    imported = load(archive, tmp_path / "there")
    # 旧的: 1 is here, 2 and 3 come.
    assert imported.splits["valid"] == {"added": 8, "kept": 2, "replaced": 1, "refused": 0, "misses": 0}
    assert content(valid, "ab") == mine and content(valid, "AB") == jpeg("AB 1")
    assert content(valid, "../x") == jpeg("../x 1")
    assert valid.miss("nothing", now=NOW).detail == "mine"
    assert content(valid, "红 裙") == jpeg("红 裙 1") and valid.miss("红 裙", now=NOW) is None
    assert (valid.root / "旧的" / "1.jpg").read_bytes() == jpeg("mine too")
    # ab has the plain name here, so the others of that name got another.
    assert valid.directory("ab").name == "ab"
    assert valid.directory("AB").name == hashed_name("AB")


def test_an_expired_miss_does_not_travel_into_the_cache(tmp_path: Path) -> None:
    valid = PictureCache(tmp_path / "valid")
    valid.put_miss("红", "empty", "", now=NOW - 8 * DAY_S)
    imported = load(export([valid], tmp_path / "x.tar"), tmp_path / "there")
    assert imported.splits["valid"]["misses"] == 0
    assert not (tmp_path / "there" / "valid" / "红").exists()


def test_pictures_of_nobody_knows_whom(tmp_path: Path) -> None:
    """Without a sidecar they go to a folder that is nobody's, never to one that is some query's own."""
    here, there = PictureCache(tmp_path / "valid"), PictureCache(tmp_path / "there" / "valid")
    for name in ("AB", "cd", "free"):
        reference_write(here.root, name, [jpeg(name)], card())
    put(there, "A B", 2)
    put(there, "CD", 2)
    imported = load(export([here], tmp_path / "x.tar"), tmp_path / "there")
    assert imported.splits["valid"] == {"added": 1, "kept": 0, "replaced": 0, "refused": 2, "misses": 0}
    assert imported.refused == {"without sidecar, and the folder's name is taken here": 2}
    assert list(there.pictures("A B")) == [2] and list(there.pictures("free")) == [1]
    assert there.get("AB", 1) is None


def test_own_pictures_arrive_before_those_of_nobody_knows_whom(tmp_path: Path) -> None:
    here = PictureCache(tmp_path / "valid")
    put(here, "AB")
    put(here, "A B")
    (here.root / "AB" / "meta.json").unlink()
    assert here.directory("A B").name == hashed_name("A B")
    there = PictureCache(tmp_path / "there" / "valid")
    load(export([here], tmp_path / "x.tar"), tmp_path / "there")
    assert content(there, "A B") == jpeg("A B 1")
    assert there.get("AB", 1) is None


def test_placeholders_stay_behind_and_are_refused(tmp_path: Path) -> None:
    from cache.picture_content import placeholder_look

    card().save(tmp_path / "fail.png")
    known = [placeholder_look(tmp_path / "fail.png")]
    reference_write(tmp_path / "valid", "红", [None, jpeg("a")], card())
    innocent = export([PictureCache(tmp_path / "valid")], tmp_path / "x.tar")
    imported = import_archive(innocent, tmp_path / "there", now=NOW, placeholders=known)
    assert imported.refused == {"a copy of the placeholder": 1}
    exported = export_archive([PictureCache(tmp_path / "valid", placeholders=known)], tmp_path / "y.tar")
    assert exported.left_out == {"a copy of the placeholder": 1}
    assert exported.splits["valid"]["pictures"] == 1


@settings(max_examples=25, deadline=None)
@given(st.lists(QUERIES, min_size=1, max_size=6), st.lists(QUERIES, max_size=4))
def test_nobody_shares_after_an_import(
    tmp_path_factory: pytest.TempPathFactory, sent: list[str], there_already: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("x")
    here, there = PictureCache(folder / "valid"), PictureCache(folder / "there" / "valid")
    expected = {canonical(query): put(here, query, 1, f"sent {query}") for query in sent}
    expected |= {canonical(query): put(there, query, 1, f"had {query}") for query in there_already}
    load(export([here], folder / "x.tar"), folder / "there")
    assert {query: content(there, query) for query in expected} == expected
    assert verify(there, now=NOW) == []
    shutil.rmtree(folder)


@pytest.mark.slow
def test_an_import_that_was_killed_is_completed(tmp_path: Path) -> None:
    caches = fill(tmp_path / "here")
    archive = export(caches, tmp_path / "x.tar")
    script = (
        "import os, signal, sys; from pathlib import Path; from cache.picture_import import import_archive\n"
        "def stop(done, total): done == int(sys.argv[3]) and os.kill(os.getpid(), signal.SIGKILL)\n"
        f"import_archive(Path(sys.argv[1]), Path(sys.argv[2]), now={NOW}, on_progress=stop)"
    )
    counts: Counter[str] = Counter()
    for step in (2, 5, 8, 11, 14):
        command = [sys.executable, "-c", script, str(archive), str(tmp_path / "there"), str(step)]
        assert subprocess.run(command, cwd=ROOT, check=False).returncode == -9
        counts[str(len(list((tmp_path / "there").rglob("*.jpg"))))] += 1
    assert len(counts) == 5  # each time further than the last
    load(archive, tmp_path / "there")
    for cache in caches:
        assert pictures(PictureCache(tmp_path / "there" / cache.root.name)) == pictures(cache)


def test_an_export_is_complete_or_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    caches = fill(tmp_path)
    out = tmp_path / "out" / "x.tar"
    with pytest.raises(CacheError, match=r"out/x.tar: cannot be written: No such file"):
        export(caches, out)
    out.parent.mkdir()
    out.write_bytes(b"the last good one")

    def interrupt(*_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_archive(caches, out, interrupt)
    monkeypatch.setattr("cache.picture_archive.MAX_FILES", 5)
    with pytest.raises(CacheError, match="more than 5 files"):
        export(caches, out)
    assert [path.name for path in out.parent.iterdir()] == ["x.tar"]
    assert out.read_bytes() == b"the last good one"


def test_what_cannot_be_exported_is_said(tmp_path: Path) -> None:
    caches = fill(tmp_path / "a")
    (tmp_path / "b" / "valid").mkdir(parents=True)
    with pytest.raises(CacheError, match=r"b/valid: a second split called valid"):
        export([*caches, PictureCache(tmp_path / "b" / "valid")], tmp_path / "x.tar")
    with pytest.raises(CacheError, match=r"gone: cannot be read: No such file"):
        export([PictureCache(tmp_path / "gone")], tmp_path / "x.tar")
    (caches[0].root / "AB" / "meta.json").write_text("{}")
    with pytest.raises(CacheError, match=r"AB/meta.json: field version: missing"):
        export(caches, tmp_path / "x.tar")
    assert not (tmp_path / "x.tar").exists()
    odd = caches[0].root / "a\nb"
    odd.mkdir()
    (odd / "1.jpg").write_bytes(jpeg("x"))
    (caches[0].root / "AB" / "meta.json").unlink()
    assert export_archive(caches, tmp_path / "x.tar").left_out["name that cannot travel"] == 1
    cache = PictureCache(tmp_path / "c" / "valid")
    cache.put("红", 1, jpeg("x"), origin())
