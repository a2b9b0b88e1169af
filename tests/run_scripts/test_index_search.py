"""`cnclip index` and `cnclip search`, with a model that needs no torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import cnclip
from run_scripts.cli import main
from service.gallery import Gallery, Item
from tests.service.gallery.helpers import ROOT, DummyEncoder, make_gallery, picture

Output = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the models that were loaded; "other" is another model."""
    names: list[str] = []

    def load(name: str) -> DummyEncoder:
        names.append(str(name))
        return DummyEncoder("0" * 64 if name == "other" else "f" * 64)

    monkeypatch.setattr("run_scripts.commands.index.load_model", load)
    monkeypatch.setitem(cnclip.__dict__, "load", load)
    monkeypatch.setenv("COLUMNS", "200")
    return names


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for n, name in enumerate(("红色连衣裙", "蓝色半身裙", "苹果[5]")):
        (folder / f"{name}.png").write_bytes(picture(n))
    (folder / "broken.jpg").write_text("no picture")
    (folder / "notes.txt").touch()
    return folder


def indexed(photos: Path, gallery: Path, capsys: Output, *options: str) -> dict[str, Any]:
    assert main(["index", str(photos), "--gallery", str(gallery), "--json", *options]) == 0
    report: dict[str, Any] = json.loads(capsys.readouterr().out)
    return report


def found(gallery: Path, capsys: Output, *options: str) -> list[dict[str, Any]]:
    assert main(["search", "--gallery", str(gallery), "--json", *options]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["no_match"] is (not answer["results"])
    results: list[dict[str, Any]] = answer["results"]
    return results


def test_index_prints_counts_and_problems(
    tmp_path: Path, photos: Path, capsys: Output, loaded: list[str]
) -> None:
    gallery = tmp_path / "g"
    assert main(["index", str(photos), "--gallery", str(gallery)]) == 0
    output = capsys.readouterr().out
    lines = [line.split("│") for line in output.splitlines()]
    table = {cells[1].strip(): cells[2].strip() for cells in lines if len(cells) == 4}
    assert {"in": "5", "added": "3", "updated": "0", "unchanged": "0"}.items() <= table.items()
    assert table["dropped: unreadable picture"] == table["dropped: not a picture file"] == "1"
    assert table[f"in the gallery {gallery}"] == "3"
    assert output.splitlines()[0].startswith(f"{photos / 'broken.jpg'}: not a picture")
    assert (gallery / "ingest.log").read_text().count("\n") == 1
    (photos / "broken.jpg").unlink()
    report = indexed(photos, gallery, capsys)
    assert (report["unchanged"], report["items"], report["problems"]) == (3, 3, [])
    assert not (gallery / "ingest.log").exists()
    assert loaded == ["lite", "lite"]


def test_many_problems_are_capped(tmp_path: Path, photos: Path, capsys: Output) -> None:
    for n in range(30):
        (photos / f"{n:02}.jpg").touch()
    assert main(["index", str(photos), "--gallery", str(tmp_path / "g"), "--batch-size", "2"]) == 0
    output = capsys.readouterr().out
    assert output.count("empty (0 bytes)") == 20 and "… and 11 more, see" in output
    assert (tmp_path / "g" / "ingest.log").read_text().count("\n") == 31


def test_wrong_model_locked_and_bad_arguments(tmp_path: Path, photos: Path, capsys: Output) -> None:
    gallery = tmp_path / "g"
    indexed(photos, gallery, capsys)

    def refused(arguments: list[str], *words: str) -> None:
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and all(word in error for word in words), error

    index = ["index", str(photos), "--gallery", str(gallery)]
    refused([*index, "--model", "other"], "'lite'", "'other'", "f" * 12, "0" * 12)
    refused([*index, "--batch-size", "0"], "--batch-size")
    refused([*index, "--workers", "0"], "--workers")
    refused(["index", str(tmp_path / "nope"), "--gallery", str(gallery)], "nope: no such file")
    with Gallery.open(gallery):
        refused(index, "another process is writing", str(gallery))
    search = ["search", "--gallery", str(gallery)]
    refused([*search, "裙", "--model", "other"], "'lite'", "'other'")
    refused(search, "QUERY", "--image")
    refused([*search, "裙", "--image", "x.jpg"], "QUERY", "--image")
    refused([*search, "--image", "x.jpg", "--mode", "hybrid"], "--mode")
    refused([*search, "--image", str(photos / "nope.jpg")], "nope.jpg: no such file")
    refused([*search, "--image", str(photos / "broken.jpg")], "broken.jpg: not a picture")
    refused([*search, "裙", "-k", "0"], "-k")
    refused([*search, "裙", "--filter", "{"], "--filter", "not JSON")
    refused([*search, "裙", "--filter", "[" * 100_000], "--filter", "not JSON")
    refused([*search, "裙", "--filter", "[]"], "--filter", "object")
    refused([*search, ""], "QUERY")
    refused([*search, " \u3000"], "QUERY")
    refused([*search, "裙", "--min-relevance", "nan"], "--min-relevance")
    refused([*search, "裙", "--min-relevance", "inf"], "--min-relevance")
    refused([*search, "裙", "--min-relevance", "0.1", "--mode", "keyword"], "--min-relevance", "hybrid")
    refused([*search, "裙", "--filter", '{"a": {"near": 1}}'], "'a'", "'near'")
    refused(["search", "裙", "--gallery", str(tmp_path / "nope")], "no gallery here")
    refused([*search, "裙", "--sheet", str(tmp_path / "nope" / "a.png")], "--sheet", "a.png")


def test_search_by_words_picture_and_meaning(
    tmp_path: Path, photos: Path, capsys: Output, loaded: list[str]
) -> None:
    gallery = tmp_path / "g"
    indexed(photos, gallery, capsys)
    loaded.clear()
    titles = [hit["title"] for hit in found(gallery, capsys, "裙", "--mode", "keyword")]
    assert sorted(titles) == ["红色连衣裙", "蓝色半身裙"] and loaded == [], "words need no model"
    (hit,) = found(gallery, capsys, "--image", str(photos / "苹果[5].png"), "-k", "1")
    assert hit["title"] == "苹果[5]" and hit["cosine"] == pytest.approx(1, abs=1e-4)
    assert Path(hit["image"]).read_bytes() == picture(2)
    assert len(found(gallery, capsys, "任何话")) == 3 and loaded == ["lite", "lite"]
    files = '{"files": "photos/蓝色半身裙.png"}'
    assert [hit["title"] for hit in found(gallery, capsys, "x", "--filter", files)] == ["蓝色半身裙"]
    assert len(found(gallery, capsys, "裙", "--mode", "hybrid")) == 3
    assert found(gallery, capsys, "x", "--min-relevance", "1.1") == []

    assert main(["search", "苹果", "--gallery", str(gallery), "--mode", "keyword"]) == 0
    output = capsys.readouterr().out
    assert "苹果[5]" in output and "files=photos/苹果[5].png" in output
    assert main(["search", "西瓜", "--gallery", str(gallery), "--mode", "keyword"]) == 0
    assert capsys.readouterr().out == f"no match for '西瓜' among 3 items of {gallery}\n"


def test_sheet(tmp_path: Path, photos: Path, capsys: Output) -> None:
    gallery, sheet = tmp_path / "g", tmp_path / "sheet.png"
    indexed(photos, gallery, capsys)
    (blob,) = [path for path in (gallery / "images").rglob("*") if path.is_file()][:1]
    blob.write_bytes(b"damaged")
    assert main(["search", "裙", "--gallery", str(gallery), "--sheet", str(sheet)]) == 0
    captured = capsys.readouterr()
    assert str(sheet) in captured.out and "damaged" in captured.err
    with Image.open(sheet) as image:
        assert image.format == "PNG" and np.asarray(image).std() > 10
    assert list(tmp_path.glob("*.tmp")) == list(tmp_path.glob(".*.tmp")) == []


def test_interrupt_tells_how_to_go_on(
    tmp_path: Path, photos: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = DummyEncoder.encode_pixels
    calls: list[int] = []

    def encode(encoder: DummyEncoder, pixels: Any) -> Any:
        calls.append(len(pixels))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(encoder, pixels)

    monkeypatch.setattr(DummyEncoder, "encode_pixels", encode)
    gallery = tmp_path / "g"
    assert main(["index", str(photos), "--gallery", str(gallery), "--batch-size", "1"]) == 130
    captured = capsys.readouterr()
    assert "run the same command again" in captured.err and "added" in captured.out
    report = indexed(photos, gallery, capsys)
    assert (report["added"], report["unchanged"], report["items"]) == (1, 2, 3)


def test_model_of_the_gallery_is_the_default(
    tmp_path: Path, photos: Path, capsys: Output, loaded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_gallery(tmp_path / "g", model_name="ViT-B-16").close()
    indexed(photos, tmp_path / "g", capsys)
    found(tmp_path / "g", capsys, "裙")
    found(tmp_path / "g", capsys, "裙", "--model", "moved.pt")
    assert loaded == ["ViT-B-16", "ViT-B-16", "moved.pt"]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.pt").touch()
    indexed(photos, tmp_path / "h", capsys, "--model", "own.pt")
    with Gallery.open(tmp_path / "h", read_only=True) as gallery:
        assert gallery.manifest.model_name == str(tmp_path / "own.pt"), "found again from any folder"


@pytest.mark.parametrize("command", ["index", "search"])
def test_help_imports_nothing_heavy(command: str) -> None:
    script = (
        "import sys; from run_scripts.cli import main\n"
        "try: main([sys.argv[1], '--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'faiss', 'numpy', 'PIL', 'rich', 'sqlite3'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    command_line = [sys.executable, "-c", script, command]
    done = subprocess.run(
        command_line, capture_output=True, text=True, cwd=ROOT, env=environment, check=False
    )
    assert done.returncode == 0 and "--gallery" in done.stdout, done.stderr


def test_titles_do_not_steer_the_terminal(tmp_path: Path, capsys: Output) -> None:
    vector = DummyEncoder().encode_texts(["裙"])[0]
    with make_gallery(tmp_path / "g", model_name="lite") as gallery:
        gallery.upsert([Item("a", vector, "红裙\x1b[2J\r子", {"k": "\x1b]0;x\x07"})])
    assert main(["search", "裙", "--gallery", str(tmp_path / "g")]) == 0
    output = capsys.readouterr().out
    assert r"红裙\x1b[2J\r子" in output and r"k=\x1b]0;x\x07" in output
    assert "\x1b" not in output and "\x07" not in output
