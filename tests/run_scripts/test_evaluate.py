"""`cnclip evaluate` around an encoder that needs no weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import cnclip
from cnclip.data.lmdb_build import build_lmdb
from run_scripts.cli import main
from tests.cnclip.data.muge_files import image_line, text_line, write_lines
from tests.cnclip.evaluation.test_evaluator import ColourEncoder, solid


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    pixels = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    lines = [image_line(i, solid(rgb)) for i, rgb in enumerate(pixels)] + [image_line(3, b"broken")]
    write_lines(tmp_path / "valid_imgs.tsv", lines)
    texts = [text_line(1, "红色", [0]), text_line(2, "绿色", [1]), text_line(3, "蓝色", [0])]
    write_lines(tmp_path / "valid_texts.jsonl", texts)
    monkeypatch.setattr(cnclip, "load", lambda *_, **__: ColourEncoder(), raising=False)
    return tmp_path


def test_json_has_the_documented_shape(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "--model", "any", "--data", str(data), "--split", "valid", "--json"]) == 0
    out, err = capsys.readouterr()
    report = json.loads(out)
    assert {"text_to_image", "image_to_text", "n_queries", "n_gallery", "model"} <= set(report)
    assert report["text_to_image"]["R@1"] == pytest.approx(2 / 3)
    assert (report["n_queries"], report["n_gallery"]) == (3, 3)
    assert report["left_out"]["unreadable pictures"] == 1
    assert "left out: image_id 3: " in err
    assert main(["evaluate", "--data", str(data), "--json", "--per-query", "1"]) == 0
    worst = json.loads(capsys.readouterr().out)["per_query"]
    assert [row["text"] for row in worst] == ["蓝色"]


def test_split_directory_is_taken_for_its_own_split_only(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build_lmdb(data, ["valid"])
    directory = str(data / "lmdb" / "valid")
    assert main(["evaluate", "--data", directory, "--json"]) == 0
    assert main(["evaluate", "--data", directory, "--split", "test"]) == 2
    assert "is split 'valid', not 'test'" in capsys.readouterr().err


def test_tables_and_bad_input(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "--data", str(data), "--per-query", "2"]) == 0
    assert "66.67" in capsys.readouterr().out
    assert main(["evaluate", "--data", str(data), "--split", "dev"]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("cnclip evaluate: error: ") and "dev_imgs.tsv" in error and "\n" not in error
    assert main(["evaluate", "--data", str(data), "--batch-size", "0"]) == 2
    assert main(["evaluate", "--data", str(data), "--per-query", "-1"]) == 2
    assert "--per-query: must be at least 0, not -1" in capsys.readouterr().err
