"""Archives that are damaged, or made to do harm: refused before anything is written, in one line."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache.errors import CacheError
from cache.picture_archive import export_archive
from cache.picture_cache import PictureCache
from cache.picture_import import import_archive
from cache.picture_meta import Meta, Stored, dump_meta
from tests.cache.archive_kit import build, count, digest, sidecar
from tests.cache.picture_kit import NOW, content, jpeg, origin, put

pytestmark = pytest.mark.usefixtures("no_sync")


def refused(archive: Path, reason: str) -> str:
    """The message, after making sure that nothing was written."""
    target = archive.parent / "target"
    with pytest.raises(CacheError) as error:
        import_archive(archive, target, now=NOW)
    message = str(error.value)
    assert reason in message and message.startswith(f"{archive}: ") and "\n" not in message
    assert not target.exists()
    return message


GOOD = {"valid/红/meta.json": sidecar("红", "a"), "valid/红/1.jpg": jpeg("a")}


def test_a_good_one_is_taken(tmp_path: Path) -> None:
    imported = import_archive(build(tmp_path / "x.tar", GOOD), tmp_path / "target", now=NOW)
    assert imported.splits["valid"]["added"] == 1
    assert content(PictureCache(tmp_path / "target" / "valid"), "红") == jpeg("a")


@pytest.mark.parametrize(
    "name",
    [
        *(
            "/etc/1.jpg",
            "/valid/红/1.jpg",
            "../x/1.jpg",
            "valid/../1.jpg",
            "valid/红/../../1.jpg",
            "valid/./1.jpg",
        ),
        *(
            "valid/红/x/1.jpg",
            "valid/1.jpg",
            "1.jpg",
            "valid/红/0_1.jpg",
            "valid/红/01.jpg",
            "valid/红/1.JPG",
        ),
        *("valid/红/1.py", "valid/.locks/1.jpg", ".ssh/红/1.jpg", "valid/a\\b/1.jpg", "valid/a\nb/1.jpg"),
        *(
            "valid//1.jpg",
            "valid/红/1000.jpg",
            "valid/" + "字" * 86 + "/1.jpg",
            "valid/红/.tmp-1",
            "Manifest.json",
        ),
    ],
)
def test_members_that_have_no_place(tmp_path: Path, name: str) -> None:
    refused(build(tmp_path / "x.tar", {**GOOD, name: jpeg("b")}), "has no place in an archive of pictures")


@pytest.mark.parametrize(
    "kind",
    [
        *(
            tarfile.SYMTYPE,
            tarfile.LNKTYPE,
            tarfile.CHRTYPE,
            tarfile.BLKTYPE,
            tarfile.FIFOTYPE,
            tarfile.DIRTYPE,
        ),
        *(tarfile.CONTTYPE, b"9"),
    ],
)
def test_members_that_are_no_files(tmp_path: Path, kind: bytes) -> None:
    member = tarfile.TarInfo("valid/红/2.jpg")
    member.type, member.linkname = kind, "/etc/passwd"
    refused(build(tmp_path / "x.tar", GOOD, extra=[member]), "2.jpg': not a regular file")


def test_a_sparse_member(tmp_path: Path) -> None:
    def sparse(member: tarfile.TarInfo) -> None:
        if member.name.endswith("1.jpg"):
            member.pax_headers = {
                "GNU.sparse.map": "0,1",
                "GNU.sparse.size": "9999999",
                "GNU.sparse.major": "0",
            }

    refused(build(tmp_path / "x.tar", GOOD, change=sparse), "not a regular file")


@pytest.mark.parametrize(
    ("name", "size"),
    [("valid/红/2.jpg", 20_000_001), ("valid/蓝/meta.json", 1_000_001), ("valid/红/2.jpg", -512)],
)
def test_members_that_are_too_large(tmp_path: Path, name: str, size: int) -> None:
    """The header is enough: nobody reads that much."""
    archive = build(tmp_path / "x.tar", GOOD)
    member = tarfile.TarInfo(name)
    member.size = size
    archive.write_bytes(member.tobuf(tarfile.GNU_FORMAT) + archive.read_bytes())
    refused(archive, "bytes, at most" if size > 0 else "")


def test_too_many_members(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cache.picture_import.MAX_FILES", 1)
    refused(build(tmp_path / "x.tar", GOOD), "more than 1 files")


def test_a_member_that_is_there_twice(tmp_path: Path) -> None:
    member = tarfile.TarInfo("valid/红/1.jpg")
    refused(build(tmp_path / "x.tar", GOOD, extra=[member]), "'valid/红/1.jpg' is there twice")


MANIFEST = {
    "version": 1,
    "splits": {"valid": {"queries": 1, "pictures": 1, "misses": 0}},
    "files": {name: digest(data) for name, data in GOOD.items()},
}


@pytest.mark.parametrize(
    ("manifest", "reason"),
    [
        (b"", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "field version: null, not 1"),
        ({**MANIFEST, "version": 2}, "field version: 2, not 1"),
        ({**MANIFEST, "version": "1\n"}, "field version"),
        ({**MANIFEST, "files": []}, "field files: not a table of digests"),
        (
            {**MANIFEST, "files": {**MANIFEST["files"], "valid/红/1.jpg": 3}},
            "field files: not a table of digests",
        ),
        (
            {**MANIFEST, "files": {**MANIFEST["files"], "valid/红/2.jpg": ""}},
            "'valid/红/2.jpg' is not in both",
        ),
        ({**MANIFEST, "files": {}}, "'valid/红/1.jpg' is not in both"),
        ({**MANIFEST, "splits": {}}, "field splits.valid.queries: not 1"),
        (
            {**MANIFEST, "splits": {"valid": {"queries": 1, "pictures": 2}}},
            "field splits.valid.pictures: not 1",
        ),
        ({**MANIFEST, "splits": None}, "field splits.valid.queries: not 1"),
    ],
)
def test_manifests_that_do_not_fit(tmp_path: Path, manifest: Any, reason: str) -> None:
    message = refused(build(tmp_path / "x.tar", GOOD, manifest=manifest), reason)
    assert "manifest.json: " in message


def test_what_is_no_archive(tmp_path: Path) -> None:
    for name, data in (("empty", b""), ("text", b"hello " * 1000), ("zip", b"PK\3\4" + b"\0" * 2000)):
        (tmp_path / name).write_bytes(data)
        refused(tmp_path / name, "")
    with pytest.raises(CacheError, match=r"gone.tar: cannot be read as a tar archive \(.*No such file"):
        import_archive(tmp_path / "gone.tar", tmp_path / "target", now=NOW)
    with tarfile.open(tmp_path / "x.tar.gz", "w:gz") as tar:  # it could be of any size inside
        tar.addfile(tarfile.TarInfo("valid/红/1.jpg"))
    refused(tmp_path / "x.tar.gz", "cannot be read as a tar archive")
    refused(build(tmp_path / "other.tar", {}, manifest=b"{}"), "field version: null")


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    whole = build(tmp_path / "x.tar", GOOD).read_bytes()
    end = len(whole.rstrip(b"\0")) // 512 * 512
    for length in range(0, end, 512):
        (tmp_path / "cut.tar").write_bytes(whole[:length])
        refused(tmp_path / "cut.tar", "")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=4))
def test_damage_anywhere_never_stores_what_is_not_good(
    tmp_path_factory: pytest.TempPathFactory, damage: list[tuple[int, int]]
) -> None:
    folder = tmp_path_factory.mktemp("x")
    cache = PictureCache(folder / "valid")
    for query in ("A B", "AB"):
        put(cache, query)
    export_archive([cache], folder / "x.tar")
    whole = bytearray((folder / "x.tar").read_bytes())
    for place, value in damage:
        whole[place % len(whole)] = value
    (folder / "x.tar").write_bytes(whole)
    target = folder / "target"
    try:
        import_archive(folder / "x.tar", target, now=NOW)
    except CacheError as error:
        assert "\n" not in str(error)
        assert not target.exists()
    for query in ("A B", "AB"):
        assert content(PictureCache(target / "valid"), query) in (None, jpeg(f"{query} 1"))
    assert {path.name for path in folder.iterdir()} <= {"valid", "x.tar", "target"}


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"valid/红/meta.json": b"{}", "valid/红/1.jpg": jpeg("a")}, "broken sidecar"),
        ({"valid/红/meta.json": sidecar("红", "b"), "valid/红/1.jpg": jpeg("a")}, "damaged"),
        ({"valid/红/meta.json": sidecar("红"), "valid/红/1.jpg": b"x" * 600}, "cannot be decoded"),
        ({"valid/红/1.jpg": jpeg("a")[:3000]}, "cannot be decoded"),
        ({"valid/红/1.jpg": b""}, "only 0 bytes"),
    ],
)
def test_content_that_is_not_good_is_refused_alone(
    tmp_path: Path, files: dict[str, bytes], reason: str
) -> None:
    good = {"valid/蓝/meta.json": sidecar("蓝", "c"), "valid/蓝/1.jpg": jpeg("c")}
    imported = import_archive(build(tmp_path / "x.tar", {**files, **good}), tmp_path / "target", now=NOW)
    assert [name for name in imported.refused if name.startswith(reason)] == list(imported.refused)
    assert imported.splits["valid"] == {"added": 1, "kept": 0, "replaced": 0, "refused": 1, "misses": 0}
    cache = PictureCache(tmp_path / "target" / "valid")
    assert cache.get("红", 1) is None and content(cache, "蓝") == jpeg("c")


def test_a_picture_of_another_size_with_a_sidecar_is_refused(tmp_path: Path) -> None:
    large = jpeg("a", size=(448, 448))
    meta = dump_meta(Meta("红", {1: Stored(digest(large), origin())}))
    files = {"valid/红/meta.json": meta, "valid/红/1.jpg": large}
    imported = import_archive(build(tmp_path / "x.tar", files), tmp_path / "target", now=NOW)
    assert imported.refused == {"448 x 448 RGB, not 224 x 224 RGB": 1}


def test_changed_bytes_are_damage(tmp_path: Path) -> None:
    archive = build(tmp_path / "x.tar", GOOD)
    archive.write_bytes(archive.read_bytes().replace(jpeg("a")[2000:2100], bytes(100)))
    imported = import_archive(archive, tmp_path / "target", now=NOW)
    assert imported.refused == {"damaged": 1}
    files = {
        "valid/红/1.jpg": jpeg("a"),
        "valid/蓝/1.jpg": jpeg("b"),
        "valid/蓝/meta.json": sidecar("蓝", "b"),
    }
    digests = dict.fromkeys(files, "0" * 64) | {"valid/蓝/1.jpg": digest(jpeg("b"))}
    manifest = {"version": 1, "splits": {"valid": count(list(files))}, "files": digests}
    archive = build(tmp_path / "y.tar", files, manifest=manifest)
    imported = import_archive(archive, tmp_path / "target", now=NOW)
    assert imported.refused == {"damaged": 1, "broken sidecar": 1}
    assert not list((tmp_path / "target").rglob("*.jpg"))
