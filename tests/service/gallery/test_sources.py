"""Every kind of source, with what may be wrong in it."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cnclip.errors import InputError
from service.gallery.ingest import ingest
from service.gallery.sources import open_source
from tests.service.gallery.helpers import (
    DummyEncoder,
    add_source,
    blobs,
    counts,
    files_of,
    make_gallery,
    picture,
    write_tsv,
)


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
        report = add_source(gallery, folder)
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
        assert counts(add_source(gallery, folder))[2] == 6
        assert len(blobs(tmp_path / "p" / "gallery")) == 6, "bad pictures are not stored"


def test_file_names_that_are_not_utf8(tmp_path: Path) -> None:
    folder = tmp_path / "p"
    folder.mkdir()
    name = bytes(folder) + b"/" + b"\xff\xba\xec.png"
    with io.FileIO(name, "w") as file:
        file.write(picture(1))
    with make_gallery(tmp_path / "g") as gallery:
        assert add_source(gallery, folder).added == 1
        assert files_of(gallery) == {r"\xff\xba\xec": [r"p/\xff\xba\xec.png"]}
        assert add_source(gallery, folder).unchanged == 1


def testwrite_tsv(tmp_path: Path) -> None:
    path = tmp_path / "valid_imgs.tsv"
    write_tsv(path, [(str(n), picture(n % 6)) for n in range(8)])
    with path.open("a") as file:
        file.write(f"3\t{base64.b64encode(picture(3)).decode()}\nno tab\n8\t!!!\n")
    write_tsv(tmp_path / "more", [("9", b"not a picture"), ("10", picture(10, "JPEG"))])
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
        assert counts(add_source(gallery, path, encoder))[:3] == (0, 0, 9)
        assert encoder.encoded == 9
        write_tsv(path, [("3", picture(30))])
        assert counts(add_source(gallery, path, encoder)) == (0, 1, 0, 0)


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
        report = add_source(gallery, path, encoder)
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
        assert counts(add_source(gallery, path, encoder)) == (0, 1, 0, 0) and encoder.encoded == 2
        assert [h.row.id for h in gallery.search(None, 3, text="蓝裙", mode="keyword")] == ["sku/0"]


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

    write_tsv(tmp_path / "valid_imgs.tsv", [(str(n), picture(n)) for n in range(5)] + [("9", b"no picture")])
    texts = [{"text_id": 1, "text": "红裙", "image_ids": [0, 9]}]
    (tmp_path / "valid_texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in texts))
    build_lmdb(tmp_path, ["valid"])
    with make_gallery(tmp_path / "g") as gallery:
        for path in (tmp_path / "lmdb" / "valid", tmp_path / "lmdb" / "valid" / "imgs"):
            report = add_source(gallery, path)
            assert report.added + report.unchanged == 5 == len(gallery)
        assert gallery.ids() == [str(n) for n in range(5)]
        with pytest.raises(InputError, match=r"splits \(valid\)"):
            open_source(tmp_path / "lmdb")
