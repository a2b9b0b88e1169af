"""No query ever gets another query's picture, whatever they are called and in whatever order they come."""

from __future__ import annotations

import json
import os
import tempfile
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache.names import canonical, hashed_name
from cache.picture_cache import PictureCache
from cache.picture_health import Kind, verify
from cache.picture_prune import prune
from tests.cache.picture_kit import NOW, content, jpeg, put, snapshot

pytestmark = pytest.mark.usefixtures("no_sync")

ODD = [
    *(
        "",
        " ",
        "A B",
        "AB",
        "ab",
        "Ab",
        " AB",
        "AB。",
        "a/b",
        "../x",
        "..",
        ".",
        "x",
        "红 裙",
        "红裙",
        "“红裙”",
    ),
    *(
        "é",
        "e\u0301",
        "É",
        "ｆｆ",
        "ff",
        "ﬀ",
        "ss",
        "ß",
        "a\0b",
        "\ud800",
        "😀",
        "字" * 100,
        "con",
        "CON",
        "ab.",
    ),
    *(
        "q_0123456789abcdef",
        hashed_name("AB"),
        hashed_name("ab"),
        hashed_name("A B").upper(),
        ".locks",
        "0_1.jpg",
    ),
]
QUERIES = st.sampled_from(ODD) | st.text("aA 。./e\u0301红", max_size=4) | st.text(max_size=6)


def same_for_macos_or_windows(name: str) -> str:
    """An independent, rougher idea of which names are one there."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).lower()).rstrip(". ")


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_nobody_shares(data: st.DataObject) -> None:
    drawn = data.draw(st.lists(QUERIES, min_size=2, max_size=7))
    queries = list(dict.fromkeys(map(canonical, drawn)))
    actions = data.draw(
        st.lists(st.tuples(st.sampled_from(queries), st.sampled_from([1, 2, 0])), min_size=1, max_size=10)
    )
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "data" / "valid"
        expected: dict[tuple[str, int], bytes] = {}
        caches = [PictureCache(root), PictureCache(root)]  # as two processes would
        for turn, (query, number) in enumerate(actions):
            if number:
                expected[query, number] = put(caches[turn % 2], query, number, f"{turn}")
            else:
                caches[turn % 2].put_miss(query, "empty", "", now=NOW)
        for cache in (*caches, PictureCache(root)):
            for query in queries:
                for number in (1, 2):
                    assert content(cache, query, number) == expected.get((query, number))
        names = [path.name for path in root.iterdir()]
        assert len({same_for_macos_or_windows(name) for name in names}) == len(names)
        assert [path.name for path in root.parent.iterdir()] == ["valid"]
        assert [path.name for path in Path(folder).iterdir()] == ["data"]
        files = {path.name for path in root.rglob("*") if path.is_file() and path.parent.name != ".locks"}
        assert files <= {"meta.json", "1.jpg", "2.jpg"}


def test_the_first_to_store_has_the_plain_name(tmp_path: Path) -> None:
    for first, second in (("A B", "AB"), ("AB", "A B"), ("ab", "AB"), ("AB", "ab")):
        cache = PictureCache(tmp_path / f"{first}-{second}")
        assert cache.directory(second).name == second.replace(" ", "")
        put(cache, first)
        assert cache.directory(first).name == first.replace(" ", "")
        assert cache.directory(second).name == hashed_name(second)
        assert cache.get(second, 1) is None
        assert put(cache, second) == content(cache, second) != content(cache, first)


@pytest.mark.parametrize("first", ["A B", "AB"])
def test_a_folder_without_sidecar_is_read_by_each_until_one_stores(tmp_path: Path, first: str) -> None:
    cache = PictureCache(tmp_path)
    (tmp_path / "AB").mkdir()
    old = jpeg("old")
    (tmp_path / "AB" / "1.jpg").write_bytes(old)
    (second,) = {"A B", "AB"} - {first}
    assert content(cache, "A B") == content(cache, "AB") == old
    new = put(cache, first, 2)
    assert (content(cache, first), content(cache, first, 2)) == (old, new)
    assert cache.pictures(second) == {}
    assert put(cache, second) == content(cache, second)
    assert content(cache, first) == old


def test_folders_that_differ_in_case_stay_what_they_are(tmp_path: Path) -> None:
    """Online-CNCLIP's code makes both, where the file system lets it."""
    for name in ("ab", "AB"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.jpg").write_bytes(jpeg(name))
    if len(list(tmp_path.iterdir())) < 2:
        pytest.skip("a file system that ignores case")
    cache = PictureCache(tmp_path)
    for name in ("ab", "AB"):
        put(cache, name, 2)
        assert content(cache, name) == jpeg(name)
        assert cache.directory(name).name == name


def test_a_name_taken_behind_our_back(tmp_path: Path) -> None:
    """Another process makes the folder just after we listed the names, within one tick of the clock."""
    cache, other = PictureCache(tmp_path), PictureCache(tmp_path)
    put(cache, "x")
    put(other, "A B")
    cache._names._as_of = tmp_path.stat().st_mtime_ns
    data = put(cache, "AB")
    assert content(cache, "AB") == data
    assert content(cache, "A B") == content(other, "A B") == jpeg("A B 1")


def spoil(sidecar: Path, how: str) -> None:
    """Make a sidecar one that cannot be used."""
    written = sidecar.read_bytes()
    values = json.loads(written)
    sidecar.unlink()
    if how == "not a file":
        sidecar.mkdir()
    elif how == "a link that leads nowhere":
        sidecar.symlink_to("nothing")
    else:
        changed: dict[str, dict[str, object]] = {"newer": {"version": 2}, "wrong types": {"pictures": []}}
        full = json.dumps({**values, **changed.get(how, {})}).encode()
        sidecar.write_bytes({"truncated": written[:40], "garbage": b"\xff\0"}.get(how, full))


SPOILT = ["truncated", "garbage", "newer", "wrong types", "not a file", "a link that leads nowhere"]


@pytest.mark.parametrize("how", SPOILT)
@pytest.mark.parametrize("asked", ["AB", "A B", " A B", "ＡAB"])
def test_a_plain_folder_whose_sidecar_cannot_be_used_is_nobodys(
    tmp_path: Path, how: str, asked: str, caplog: pytest.LogCaptureFixture
) -> None:
    cache = PictureCache(tmp_path)
    put(cache, "A B")
    cache.put_miss("A B", "empty", "", now=NOW)
    folder = tmp_path / "AB"
    spoil(folder / "meta.json", how)
    before, listed = snapshot(folder), sorted(path.name for path in folder.iterdir())
    assert cache.get(asked, 1) is None and cache.pictures(asked) == {}
    assert cache.provenance(asked, 1) is None and cache.miss(asked, now=NOW) is None
    for store in (PictureCache(tmp_path), cache):
        store.put_miss(asked, "empty", "", now=NOW)
        assert store.miss(asked, now=NOW) is not None
        data = put(store, asked, 2)
        assert cache.pictures(asked) == {2: cache.directory(asked) / "2.jpg"}
        assert content(cache, asked, 2) == data
    if asked != "ＡAB":  # that one has a plain name of its own
        assert cache.directory(asked).name == hashed_name(asked)
    others = {"AB", "A B", " A B"} - {asked}
    assert all(cache.pictures(other) == {} for other in others)
    assert [p.path for p in verify(cache, now=NOW) if p.kind is Kind.SIDECAR] == [folder / "meta.json"]
    later = NOW + 9e8
    pruned = prune(cache, now=later, older_than_s=1.0, suspects=True)
    assert [problem.path for problem in pruned.left] == [folder / "meta.json"]
    assert snapshot(folder) == before and sorted(path.name for path in folder.iterdir()) == listed
    assert not caplog.records


@pytest.mark.parametrize("mended", [True, False])
def test_a_plain_folder_has_its_owner_again_when_its_sidecar_is_mended(tmp_path: Path, mended: bool) -> None:
    cache = PictureCache(tmp_path)
    data = put(cache, "A B")
    path = tmp_path / "AB" / "meta.json"
    written = path.read_bytes()
    path.write_bytes(written[:40])
    assert cache.pictures("A B") == {}
    if mended:
        path.write_bytes(written)
    else:
        path.unlink()  # and now it is like one of Online-CNCLIP's
    assert content(cache, "A B") == data
    assert content(cache, "AB") == (None if mended else data)


def test_a_sidecar_that_comes_while_it_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading needs no lock: a folder is not nobody's because its first sidecar is just being written."""
    cache = PictureCache(tmp_path)
    (tmp_path / "AB").mkdir()
    (tmp_path / "AB" / "1.jpg").write_bytes(jpeg("old"))
    other = PictureCache(tmp_path / "elsewhere")
    put(other, "A B", label="old")
    sidecar = tmp_path / "elsewhere" / "AB" / "meta.json"
    look = os.path.lexists

    def and_then_it_comes(path: Path) -> bool:
        if sidecar.exists():
            sidecar.replace(tmp_path / "AB" / "meta.json")
        return look(path)

    monkeypatch.setattr(os.path, "lexists", and_then_it_comes)
    assert content(cache, "A B") == jpeg("old")
    assert not sidecar.exists()


def test_a_hashed_folder_is_the_querys_own_even_without_its_sidecar(tmp_path: Path) -> None:
    cache = PictureCache(tmp_path)
    put(cache, "AB")
    put(cache, "A B")
    for folder in (cache.directory("AB"), cache.directory("A B")):
        (folder / "meta.json").write_text("{")
    assert content(cache, "A B") == jpeg("A B 1") and content(cache, "AB") is None
    for query in ("A B", "AB"):
        assert put(cache, query, 2) == content(cache, query, 2)
        assert cache.directory(query).name == hashed_name(query)
    assert content(cache, "A B") == jpeg("A B 1") and list(cache.pictures("AB")) == [2]
    assert (tmp_path / "AB" / "meta.json").read_text() == "{"
