"""What `cnclip index` says about odd ids and names: one line each, and the rest is indexed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from cnclip.data.lmdb_build import build_lmdb
from run_scripts.cli import main
from service.gallery import Gallery
from tests.cnclip.data.muge_files import image_line, write_legacy, write_lines
from tests.service.gallery.helpers import DummyEncoder, picture

Output = pytest.CaptureFixture[str]
ESC, RLO = "\x1b[31m", "\u202e"


@pytest.fixture(autouse=True)
def loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("run_scripts.commands.index.load_model", lambda _name: DummyEncoder())
    monkeypatch.setenv("COLUMNS", "200")


def indexed(source: Path, capsys: Output) -> tuple[list[str], list[str]]:
    """Ids in the gallery, and the problem lines, which the terminal and the log show alike."""
    gallery = source.parent / f"gallery of {source.name}"
    assert main(["index", str(source), "--gallery", str(gallery)]) == 0
    shown = capsys.readouterr().out
    log = gallery / "ingest.log"
    logged = log.read_text("utf-8") if log.exists() else ""
    assert shown.startswith(logged)
    lines = logged.split("\n")[:-1]
    assert main(["index", str(source), "--gallery", str(gallery), "--json"]) == 0
    report: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert report["problems"] == lines and report["problem_count"] == len(lines) == len(logged.splitlines())
    assert report["in"] == report["unchanged"] + sum(report["dropped"].values())
    assert not any(c in logged for c in (ESC, RLO, "\x1b"))
    with Gallery.open(gallery) as opened:
        return opened.ids(), lines


def test_odd_ids_in_a_tsv(tmp_path: Path, capsys: Output) -> None:
    ids = ["a\x1bb", "good", "x" * 513, "红" * 512, f"c{RLO}d", "e\x7f"]
    lines = [image_line(image_id, picture(n)) for n, image_id in enumerate(ids)]
    path = write_lines(tmp_path / "c_imgs.tsv", lines)
    found, problems = indexed(path, capsys)
    assert found == ["good", "红" * 512, f"c{RLO}d"]
    assert problems == [
        f"{path}:1: field image_id: holds a control character",
        f"{path}:3: field image_id: longer than 512 characters",
        f"{path}:6: field image_id: holds a control character",
    ]
    # A split takes the same ids, under any length of key.
    write_lines(tmp_path / "c_texts.jsonl", [])
    (report,) = build_lmdb(tmp_path, ["c"])
    assert report.problems == problems
    split = tmp_path / "lmdb" / "c"
    assert indexed(split, capsys) == (found, [])


def test_odd_ids_in_a_split_from_elsewhere(tmp_path: Path, capsys: Output) -> None:
    write_legacy(tmp_path / "valid", {"a\x1bb": picture(1), "good": picture(2), "\n": picture(3)}, [])
    found, problems = indexed(tmp_path / "valid", capsys)
    assert found == ["good"]
    assert problems == [
        rf"{tmp_path / 'valid'}: key \n: holds a control character",
        rf"{tmp_path / 'valid'}: key a\x1bb: holds a control character",
    ]


def test_odd_lines_of_a_catalogue(tmp_path: Path, capsys: Output) -> None:
    (tmp_path / "good.png").write_bytes(picture(1))
    (tmp_path / os.fsdecode(b"\xff.png")).write_bytes(picture(2))
    rows: list[tuple[dict[str, Any], str | None]] = [
        (
            {"id": "lone", "image": "bad/\ud800.jpg"},
            "field image: not valid Unicode (half of a surrogate pair)",
        ),
        ({"id": "good", "image": "good.png"}, None),
        ({"id": "gbk", "image": "\udcff.png"}, None),
        ({"id": "e", "image": f"{ESC}a\n{RLO}.jpg"}, r"field image: \x1b[31ma\n\u202e.jpg: no such file"),
        ({"id": "f", "image": f"http://{ESC}"}, r"field image: http://\x1b[31m: only files are read"),
        ({"id": "g\x1b", "image": "good.png"}, r"item 'g\x1b': id holds a control character"),
        ({"id": "h", "image": "good.png", "title": "a\0b"}, "item 'h': title: holds a NUL character"),
        ({"id": "i", "image": "good.png", "c": ["a\0b"]}, "item 'i': attribute 'c': holds a NUL character"),
        ({"id": "j", "image": "good.png", "c\0": 1}, r"item 'j': attribute 'c\x00': holds a NUL character"),
        ({"id": "good", "image": f"./{RLO}/../good.png"}, "leaves the catalogue's folder"),
    ]
    path = write_lines(tmp_path / "shop.jsonl", [json.dumps(row) for row, _ in rows])
    found, problems = indexed(path, capsys)
    assert found == ["good", "gbk"]
    expected = [(line, words) for line, (_, words) in enumerate(rows, start=1) if words is not None]
    for problem, (line, words) in zip(problems, expected, strict=True):
        assert problem.startswith(f"{path}:{line}: ") and words in problem


def test_odd_file_names(tmp_path: Path, capsys: Output) -> None:
    folder = tmp_path / "p"
    folder.mkdir()
    names = ["nl\nERROR fake line.jpg", f"{ESC}red.jpg", f"gpj.{RLO}x.jpg", os.fsdecode(b"\xba\xec.jpg")]
    for name in names:
        (folder / name).write_text("no picture")
    (folder / "good.png").write_bytes(picture(1))
    (folder / f"{RLO}.png").write_bytes(picture(2))
    (folder / "loop.jpg").symlink_to("loop.jpg")
    found, problems = indexed(folder, capsys)
    assert len(found) == 2
    shown = [r"\x1b[31mred.jpg", r"gpj.\u202ex.jpg", "loop.jpg", r"nl\nERROR fake line.jpg", r"\xba\xec.jpg"]
    for problem, name in zip(problems, shown, strict=True):
        assert problem.startswith(f"{folder}/{name}: ")
    assert problems[2].endswith(": a loop of links")


def test_a_source_that_is_a_loop_of_links(tmp_path: Path, capsys: Output) -> None:
    (tmp_path / "a.jsonl").symlink_to("b.jsonl")
    (tmp_path / "b.jsonl").symlink_to("a.jsonl")
    assert main(["index", str(tmp_path / "a.jsonl"), "--gallery", str(tmp_path / "g")]) == 2
    error = capsys.readouterr().err
    assert error.endswith("a.jsonl: a loop of links\n") and error.count("\n") == 1
