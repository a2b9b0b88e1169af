"""The build script as users of Chinese-CLIP call it, and its other name on the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cnclip.data.lmdb_store import ImageStore
from preprocess.build_lmdb_dataset import main
from run_scripts.cli import main as cnclip
from tests.cnclip.data.muge_files import write_split

SCRIPT = Path(__file__).resolve().parents[2] / "preprocess" / "build_lmdb_dataset.py"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_split(tmp_path, "train", 4)
    write_split(tmp_path, "valid", 3)
    with (tmp_path / "train_imgs.tsv").open("a") as file:
        file.write("rubbish [/b]\n" * 30)
    return tmp_path


def test_the_flags_of_chinese_clip(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--data_dir", str(data), "--splits", "train,valid"]) == 0
    out = capsys.readouterr().out
    assert f"{data}/train_imgs.tsv:5: field image: expected image_id<TAB>base64" in out
    assert "more of the same" in out and out.count("train_imgs.tsv:") == 20
    assert [len(ImageStore(data / "lmdb" / split)) for split in ("train", "valid")] == [4, 3]
    assert main(["--data_dir", str(data), "--splits", "valid", "--lmdb_dir", str(data / "other")]) == 0
    assert (data / "other" / "valid" / "imgs" / "data.mdb").is_file()


def test_it_runs_as_a_file_from_anywhere(data: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--data_dir", str(data), "--splits", "valid"]
    done = subprocess.run(command, cwd=data, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    done = subprocess.run(command, cwd=data, capture_output=True, text=True)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr.rstrip().splitlines()[-1].startswith("build_lmdb_dataset.py: error: ")


def test_a_split_without_pairs_is_written_with_a_warning(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_split(data, "test", 2)
    (data / "test_texts.jsonl").unlink()
    assert cnclip(["build-lmdb", "--data-dir", str(data), "--splits", "test,valid", "--json"]) == 0
    captured = capsys.readouterr()
    assert [report["pairs"] > 0 for report in json.loads(captured.out)] == [False, True]
    (line,) = captured.err.splitlines()
    assert line.startswith("warning: test: 0 pairs: ")


def test_no_bar_where_stderr_is_no_terminal(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--data_dir", str(data), "--splits", "valid"]) == 0
    assert capsys.readouterr().err == ""
    assert main(["--data_dir", str(data), "--splits", "train", "--strict"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("build_lmdb_dataset.py: error: ") and "train_imgs.tsv:5: " in line


def test_cnclip_build_lmdb_reports_json(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["build-lmdb", "--data-dir", str(data), "--splits", "train", "--json"]
    assert cnclip(argv) == 0
    report = json.loads(capsys.readouterr().out)[0]
    assert (report["images"]["read"], report["images"]["kept"], report["shards"]) == (34, 4, 1)
    assert sum(report["images"]["dropped"].values()) == 30
    assert cnclip(argv) == 2
    assert "already there (--force replaces it)" in capsys.readouterr().err
    assert cnclip([*argv, "--force", "--strict"]) == 2
    assert "train_imgs.tsv:5: field image" in capsys.readouterr().err
    assert len(ImageStore(data / "lmdb" / "train")) == 4  # the failed one replaced nothing
    assert cnclip([*argv, "--force", "--shard-gb", "0"]) == 2
