"""From folders, tsv files, LMDB and catalogues into a gallery."""

from __future__ import annotations

import base64
import io
import json
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cache.blob_store import BlobStore
from cache.errors import CacheError
from cnclip.errors import InputError, ModelMismatchError
from service.gallery import Gallery
from service.gallery.ingest import IngestReport, ingest
from service.gallery.sources import SourceItem, open_source
from tests.service.gallery.helpers import ROOT, DummyEncoder, blobs, make_gallery, picture


def add(gallery: Gallery, source: Path, encoder: DummyEncoder | None = None, **how: Any) -> IngestReport:
    report = ingest(gallery, encoder or DummyEncoder(), open_source(source), **{"batch_size": 4, **how})
    assert report.seen == report.added + report.updated + report.unchanged + sum(report.dropped.values())
    return report


def counts(report: IngestReport) -> tuple[int, int, int, int]:
    return report.added, report.updated, report.unchanged, sum(report.dropped.values())


def files_of(gallery: Gallery) -> dict[str, list[str]]:
    """Names by title."""
    rows = [gallery.get(item_id) for item_id in gallery.ids()]
    return {row.title: row.attributes["files"] for row in rows if row is not None}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    for n in range(10):
        file = folder / f"{n % 3}" / f"图{n}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(picture(n))
    return folder


def test_folder_and_again(tmp_path: Path, photos: Path) -> None:
    encoder = DummyEncoder()
    with make_gallery(tmp_path / "g") as gallery:
        assert counts(add(gallery, photos, encoder)) == (10, 0, 0, 0)
        assert len(gallery) == 10 == len(blobs(tmp_path / "g")) == encoder.encoded
        assert counts(add(gallery, photos, encoder)) == (0, 0, 10, 0)
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
        report = add(gallery, photos, encoder)
        assert counts(report) == (10, 0, 0, 2) and report.problems == []
        assert report.dropped == Counter({"same picture under another name": 2})
        assert files_of(gallery)["a copy"] == ["photos/a copy.png", "photos/1/图4.png", "photos/9/z.png"]
        assert counts(add(gallery, photos, encoder)) == (0, 0, 10, 2)
        # Another folder of the same name has another label, and no item is lost or doubled.
        assert counts(add(gallery, other / "photos", encoder)) == (0, 0, 0, 12)
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
            report = add(gallery, folder, batch_size=batch_size)
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
        add(gallery, photos)
        (photos / "0" / "图3.png").write_bytes(picture(333))
        report = add(gallery, photos)
        assert counts(report) == (0, 1, 9, 0) and report.removed == 1
        assert len(gallery) == 10 == len(blobs(tmp_path / "g"))


def _variants(folder: Path) -> dict[str, bool]:
    """Odd picture files by name, and whether they can be read."""
    rgb = Image.fromarray(np.random.default_rng(1).integers(0, 256, (40, 60, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90°
    rgb.save(folder / "turned.jpg", exif=exif)
    rgb.convert("CMYK").save(folder / "cmyk.jpg")
    Image.fromarray(np.linspace(0, 65535, 1600).reshape(40, 40).astype(np.uint16)).save(folder / "deep.png")
    rgb.save(folder / "moving.gif", save_all=True, append_images=[rgb.rotate(90), rgb.rotate(180)])
    rgb.convert("RGBA").save(folder / "alpha.webp", lossless=True)
    rgb.save(folder / "UPPER.BMP")
    (folder / "text.jpg").write_text("这不是图片")
    (folder / "zero.png").touch()
    jpeg = (folder / "cmyk.jpg").read_bytes()
    (folder / "truncated.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    Image.new("1", (10_000, 5_001)).save(folder / "bomb.png")
    (folder / "gone.jpg").symlink_to(folder / "nowhere.jpg")
    bad = {"text.jpg", "zero.png", "truncated.jpg", "bomb.png", "gone.jpg"}
    return {file.name: file.name not in bad for file in folder.iterdir()}


def test_bad_files_get_one_line_each_and_the_rest_goes_through(tmp_path: Path) -> None:
    folder = tmp_path / "p"
    folder.mkdir()
    readable = _variants(folder)
    for other in ("notes.txt", "Thumbs.db", ".hidden.jpg", "no suffix"):
        (folder / other).write_bytes(picture(1))
    (folder / ".git").mkdir()
    (folder / ".git" / "x.jpg").write_bytes(picture(1))
    (folder / "folder.jpg").mkdir()
    with make_gallery(tmp_path / "p" / "gallery") as gallery:  # inside its own source
        report = add(gallery, folder)
        bad = sorted(name for name, good in readable.items() if not good)
        assert report.added == 6
        assert report.dropped == {
            "unreadable picture": len(bad),
            "not a picture file": 3,
            "hidden file or folder": 2,
        }
        assert report.problem_count == len(bad) == len(report.problems)
        for name, line in zip(bad, sorted(report.problems), strict=True):
            assert line.startswith(str(folder / name) + ": ") and "\n" not in line
        mimes = {row.image_mime for i in gallery.ids() if (row := gallery.get(i)) is not None}
        assert mimes == {f"image/{kind}" for kind in ("jpeg", "png", "gif", "webp", "bmp")}
        assert counts(add(gallery, folder))[2] == 6
        assert len(blobs(tmp_path / "p" / "gallery")) == 6, "bad pictures are not stored"


def test_file_names_that_are_not_utf8(tmp_path: Path) -> None:
    folder = tmp_path / "p"
    folder.mkdir()
    name = bytes(folder) + b"/" + b"\xff\xba\xec.png"
    with io.FileIO(name, "w") as file:
        file.write(picture(1))
    with make_gallery(tmp_path / "g") as gallery:
        assert add(gallery, folder).added == 1
        assert files_of(gallery) == {r"\xff\xba\xec": [r"p/\xff\xba\xec.png"]}
        assert add(gallery, folder).unchanged == 1


def _tsv(path: Path, rows: list[tuple[str, bytes]]) -> None:
    lines = [f"{item_id}\t{base64.urlsafe_b64encode(data).decode()}\n" for item_id, data in rows]
    path.write_text("".join(lines))


def test_tsv(tmp_path: Path) -> None:
    path = tmp_path / "valid_imgs.tsv"
    _tsv(path, [(str(n), picture(n % 6)) for n in range(8)])
    with path.open("a") as file:
        file.write(f"3\t{base64.b64encode(picture(3)).decode()}\nno tab\n8\t!!!\n")
    _tsv(tmp_path / "more", [("9", b"not a picture"), ("10", picture(10, "JPEG"))])
    with path.open("a") as file:
        file.write((tmp_path / "more").read_text())
    encoder = DummyEncoder()
    with make_gallery(tmp_path / "g") as gallery:
        source = open_source(path)
        report = ingest(gallery, encoder, source, batch_size=3)
        assert counts(report) == (9, 0, 0, 4) and report.seen == 13 == source.total
        assert report.dropped == {"broken line": 2, "unreadable picture": 1, "id seen before": 1}
        assert sorted(int(line.split(":")[1]) for line in report.problems) == [9, 10, 11, 12]
        assert all(line.startswith(f"{path}:") for line in report.problems)
        assert gallery.ids() == [str(n) for n in range(8)] + ["10"]
        assert len(blobs(tmp_path / "g")) == 7, "a picture under two ids is stored once"
        assert counts(add(gallery, path, encoder))[:3] == (0, 0, 9)
        assert encoder.encoded == 9
        _tsv(path, [("3", picture(30))])
        assert counts(add(gallery, path, encoder)) == (0, 1, 0, 0)


def test_catalogue(tmp_path: Path) -> None:
    (tmp_path / "pics").mkdir()
    for n in range(4):
        (tmp_path / "pics" / f"{n}.png").write_bytes(picture(n))
    good = [
        {"id": "sku/0", "image": "pics/0.png", "title": "红裙", "price": 9.5, "tags": ["新"], "old": None},
        {"id": 1, "image": str(tmp_path / "pics" / "1.png")},
    ]
    bad: list[tuple[str, str]] = [
        ("not json", "not JSON"),
        ("[1]", "not a JSON object"),
        ('{"image": "pics/2.png"}', "field id: missing"),
        ('{"id": "a"}', "field image: missing"),
        ('{"id": "", "image": "pics/2.png"}', "id must be"),
        ('{"id": true, "image": "pics/2.png"}', "id must be"),
        ('{"id": "a", "image": 3}', "field image: must be"),
        ('{"id": "a", "image": "../secret.png"}', "leaves the catalogue's folder"),
        ('{"id": "a", "image": "http://example.org/a.png"}', "download it first"),
        ('{"id": "a", "image": "pics/2.png", "title": 5}', "title must be"),
        ('{"id": "a", "image": "pics/2.png", "size": {"w": 1}}', "attribute 'size'"),
        ('{"id": "b", "image": "pics/none.png"}', "pics/none.png: no such file"),
        ('{"id": "c", "image": "pics"}', "not a file"),
        ('{"id": "sku/0", "image": "pics/2.png"}', "was there before"),
        ("[" * 100_000, "shop.jsonl"),
    ]
    path = tmp_path / "shop.jsonl"
    lines = [json.dumps(row, ensure_ascii=False) for row in good] + [line for line, _ in bad]
    path.write_bytes(b"\xef\xbb\xbf" + "\n\n".join(lines).encode() + b"\n\xff\xfe\n")
    encoder = DummyEncoder()
    with make_gallery(tmp_path / "g") as gallery:
        report = add(gallery, path, encoder)
        assert report.added == 2 and report.problem_count == len(bad) + 1
        for number, (_, message) in enumerate(bad, start=len(good)):
            (line,) = [p for p in report.problems if p.startswith(f"{path}:{2 * number + 1}: ")]
            assert message in line and "\n" not in line
        assert any("not UTF-8" in line for line in report.problems)
        row = gallery.get("sku/0")
        assert row is not None and (row.title, row.attributes) == ("红裙", {"price": 9.5, "tags": ["新"]})
        assert gallery.ids({"price": {"lt": 10}}) == ["sku/0"] and gallery.get("1") is not None
        # New words for the same picture: written, and not encoded again.
        path.write_text(json.dumps({"id": "sku/0", "image": "pics/0.png", "title": "蓝裙"}))
        assert counts(add(gallery, path, encoder)) == (0, 1, 0, 0) and encoder.encoded == 2
        assert [h.row.id for h in gallery.search(None, 3, text="蓝裙", mode="keyword")] == ["sku/0"]


def test_attribute_called_files_is_the_users_own(tmp_path: Path, photos: Path) -> None:
    path = tmp_path / "shop.jsonl"
    path.write_text(json.dumps({"id": "a", "image": "photos/0/图0.png", "files": ["photos/1/图1.png"]}))
    with make_gallery(tmp_path / "g") as gallery:
        add(gallery, path)
        assert add(gallery, photos).added == 10
        assert gallery.get("a").attributes == {"files": ["photos/1/图1.png"]}  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path / "nope", "no such file"),
        (lambda path: (path / "a.zip").write_bytes(b"PK") and path / "a.zip", "not a folder of pictures"),
        (lambda path: (path / "l" / "valid" / "imgs").mkdir(parents=True) or path / "l", "splits (valid)"),
    ],
)
def test_unknown_sources(tmp_path: Path, make: Any, message: str) -> None:
    path = make(tmp_path)
    if path.name == "l":
        (path / "valid" / "imgs" / "data.mdb").touch()
    with pytest.raises(InputError) as raised:
        open_source(path)
    assert message in str(raised.value) and str(path) in str(raised.value)


def test_lmdb(tmp_path: Path) -> None:
    from cnclip.data.lmdb_build import build_lmdb

    _tsv(tmp_path / "valid_imgs.tsv", [(str(n), picture(n)) for n in range(5)] + [("9", b"no picture")])
    texts = [{"text_id": 1, "text": "红裙", "image_ids": [0, 9]}]
    (tmp_path / "valid_texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in texts))
    build_lmdb(tmp_path, ["valid"])
    with make_gallery(tmp_path / "g") as gallery:
        for path in (tmp_path / "lmdb" / "valid", tmp_path / "lmdb" / "valid" / "imgs"):
            report = add(gallery, path)
            assert report.added + report.unchanged == 5 == len(gallery)
        assert gallery.ids() == [str(n) for n in range(5)]
        with pytest.raises(InputError, match=r"splits \(valid\)"):
            open_source(tmp_path / "lmdb")


def test_wrong_model_and_sizes_are_refused(tmp_path: Path, photos: Path) -> None:
    with make_gallery(tmp_path / "g") as gallery:
        with pytest.raises(ModelMismatchError, match="dummy"):
            add(gallery, photos, DummyEncoder("0" * 64))
        for how in ({"batch_size": 0}, {"workers": 0}):
            with pytest.raises(InputError, match="at least 1"):
                ingest(gallery, DummyEncoder(), [], **how)


def test_disk_errors_stop_it_and_batches_stay(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with make_gallery(tmp_path / "g") as gallery:
        real, calls = BlobStore.put, []

        def put(store: BlobStore, data: bytes) -> str:
            calls.append(data)
            if len(calls) > 7:
                raise CacheError("disk full")
            return real(store, data)

        monkeypatch.setattr(BlobStore, "put", put)
        report = IngestReport()
        with pytest.raises(CacheError, match="disk full"):
            ingest(gallery, DummyEncoder(), open_source(photos), batch_size=2, workers=1, report=report)
        assert len(gallery) == report.added == 6
        monkeypatch.undo()
        assert counts(add(gallery, photos)) == (4, 0, 6, 0)


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


KILLED_SCRIPT = """
import sys
from pathlib import Path
from service.gallery import Gallery
from service.gallery.ingest import ingest
from service.gallery.sources import open_source
from tests.service.gallery.helpers import DummyEncoder
with Gallery.open(sys.argv[1]) as gallery:
    ingest(gallery, DummyEncoder(), open_source(sys.argv[2]), batch_size=4,
           progress=lambda report: print(report.added + report.unchanged, flush=True))
"""


def test_killed_and_resumed_loses_nothing(tmp_path: Path) -> None:
    folder, path = tmp_path / "p", tmp_path / "g"
    folder.mkdir()
    for n in range(120):
        (folder / f"{n:03}.png").write_bytes(picture(n))
    make_gallery(path).close()
    acknowledged = 0
    for goal in (5, 30, 70):
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED_SCRIPT, str(path), str(folder)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        assert process.stdout is not None
        for line in process.stdout:
            acknowledged = int(line)
            if acknowledged >= goal:
                break
        process.send_signal(signal.SIGKILL)
        rest, _ = process.communicate()
        acknowledged = max([acknowledged, *(int(line) for line in rest.split() if line)])
        with Gallery.open(path, read_only=True) as gallery:
            assert acknowledged <= len(gallery) == len(gallery.ids())
    encoder = DummyEncoder()
    with Gallery.open(path) as gallery:
        before = len(gallery)
        report = add(gallery, folder, encoder)
        assert (report.added, report.unchanged, encoder.encoded) == (120 - before, before, 120 - before)
        assert len(gallery) == 120 == len(blobs(path))
        for item_id in gallery.ids():
            row = gallery.get(item_id)
            assert row is not None and BlobStore.digest(gallery.read_image(row) or b"")[:16] == item_id


def test_interrupt_keeps_finished_batches(tmp_path: Path, photos: Path) -> None:
    def progress(report: IngestReport) -> None:
        if report.added == 4:
            raise KeyboardInterrupt

    report = IngestReport()
    with make_gallery(tmp_path / "g") as gallery:
        with pytest.raises(KeyboardInterrupt):
            ingest(
                gallery, DummyEncoder(), open_source(photos), batch_size=4, progress=progress, report=report
            )
        assert len(gallery) == 4 == report.added
    with Gallery.open(tmp_path / "g") as gallery:
        assert len(blobs(tmp_path / "g")) == 4, "pictures that were read ahead are swept"
        assert counts(add(gallery, photos)) == (6, 0, 4, 0)
