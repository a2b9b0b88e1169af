"""The command as people run it: twice, by force, for JSON, killed in the middle, interrupted, in parallel."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from cnclip.data.lmdb_report import BuildOptions, SplitReport
from preprocess.convert_dataset import convert, main
from preprocess.datasets import FORMATS
from run_scripts.cli import main as cnclip
from tests.cnclip.data.muge_files import picture
from tests.preprocess.convert_trees import convert_all, pairs_of, put_pictures, put_text

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "preprocess" / "convert_dataset.py"
SMALL = BuildOptions(batch_bytes=1_500, shard_bytes=4_000)
HEADER = "image,image_id,caption,caption_id"


def write_data(root: Path, split: str, count: int = 6) -> None:
    """`count` pictures with two captions each, and one row whose picture is missing."""
    put_pictures(root / split, [f"{i}.jpg" for i in range(count)])
    rows = [f"{i}.jpg,{i},第{i}张的{'甲乙'[n]},{10 * i + n}" for n in (0, 1) for i in range(count)]
    put_text(root / f"{split}_anno.csv", HEADER, *rows[:3], "gone.jpg,999,没有,999", *rows[3:])


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_data(tmp_path / "data", "train")
    write_data(tmp_path / "data", "valid", 3)
    return tmp_path / "data"


def test_run_twice_by_force_and_for_json(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["convert-dataset", "csv", str(data), "--out", str(tmp_path)]
    assert cnclip([*argv, "--splits", "train"]) == 0
    out = capsys.readouterr().out
    assert f"{data}/train_anno.csv:5: field image: no such file ('gone.jpg')" in out
    assert re.search(r"train │ pictures +│ +7 │ +6 │ +1 │", out) and re.search(
        r"texts +│ +13 │ +12 │ +1 │", out
    )
    first = pairs_of(tmp_path / "lmdb" / "train")
    assert len(first) == 12

    assert cnclip([*argv, "--splits", "train"]) == 2
    assert "lmdb/train: already there (--force replaces it)" in capsys.readouterr().err
    assert cnclip([*argv, "--json"]) == 0  # valid is left to do
    captured = capsys.readouterr()
    assert "lmdb/train: already there, left as it is" in captured.err
    (report,) = json.loads(captured.out)
    assert (report["split"], report["images"]["kept"], report["pairs"]) == ("valid", 3, 6)
    assert report["images"]["dropped"] == {"field image: no such file": 1}

    assert cnclip([*argv, "--json", "--force"]) == 0
    assert [report["split"] for report in json.loads(capsys.readouterr().out)] == ["train", "valid"]
    assert pairs_of(tmp_path / "lmdb" / "train") == first
    left = sorted(path.name for path in (tmp_path / "lmdb").iterdir())
    assert left == [".train.lock", ".valid.lock", "train", "valid"]


def test_wrong_arguments_are_one_line_and_exit_2(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for argv, why in (
        (["csv", str(data), "--images", str(tmp_path / "none")], "--images: "),
        (["csv", str(data), "--splits", "tset"], "--splits: no tset in this dataset; there is train, valid"),
        (["csv", str(data), "--splits", ","], "--splits: none given"),
        (["coco", str(data)], "no annotation file of this format"),
        (["csv", str(data / "train_anno.csv"), "--strict"], "train_anno.csv:5: field image: no such file"),
    ):
        assert main([*argv, "--out", str(tmp_path / "out")]) == 2
        (line,) = capsys.readouterr().err.splitlines()  # and no bar, where stderr is no terminal
        assert line.startswith("convert_dataset.py: error: ") and why in line
    with pytest.raises(SystemExit) as stopped:
        cnclip(["convert-dataset", "imagenet", str(data), "--out", str(tmp_path)])
    assert stopped.value.code == 2
    assert not (tmp_path / "out" / "lmdb" / "train").exists()
    (tmp_path / "file").write_text("")
    assert main(["csv", str(data), "--out", str(tmp_path / "file")]) == 2


def test_it_runs_as_a_file_from_anywhere(data: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "csv", str(data), "--out", "o", "--splits", "validation"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(pairs_of(tmp_path / "o" / "lmdb" / "valid")) == 6
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("convert_dataset.py: error: ")


def test_help_names_every_format_and_loads_little() -> None:
    probe = (
        "import sys\nfrom run_scripts.cli import main\n"
        "try: main(['convert-dataset', '--help'])\nexcept SystemExit: pass\n"
        "heavy = 'torch', 'numpy', 'PIL', 'lmdb', 'rich', 'pyarrow'\n"
        "print('LOADED', *[name for name in heavy if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.splitlines()[-1] == "LOADED"
    assert all(f"\n  {name} " in done.stdout for name in FORMATS)


class _Killed(BaseException):
    """Stands for a kill: nothing in the code under test catches it."""


def _kill_at_picture(n: int) -> Iterator[None]:
    for _ in range(n):
        yield None
    raise _Killed


def build(data: Path, lmdb_dir: Path, pictures: int | None = None) -> SplitReport:
    steps = None if pictures is None else _kill_at_picture(pictures)
    splits = {"train": FORMATS["csv"].open(data, None)["train"]}
    return convert(splits, lmdb_dir, SMALL, None if steps is None else lambda *_: next(steps))[0]


@pytest.mark.parametrize("pictures", range(9))
def test_a_killed_conversion_goes_on_where_it_was(tmp_path: Path, pictures: int) -> None:
    write_data(tmp_path, "train", 9)
    whole = build(tmp_path, tmp_path / "whole")
    with pytest.raises(_Killed):
        build(tmp_path, tmp_path / "lmdb", pictures)
    assert not (tmp_path / "lmdb" / "train").exists()
    report = build(tmp_path, tmp_path / "lmdb")
    assert pairs_of(tmp_path / "lmdb" / "train") == pairs_of(tmp_path / "whole" / "train")
    assert (report.images, report.texts) == (whole.images, whole.texts)
    assert report.problems == whole.problems
    assert (report.resumed_at > 0) == (pictures > 1)


@pytest.mark.parametrize("changed", ["annotation", "picture"])
def test_a_conversion_whose_data_has_changed_starts_afresh(tmp_path: Path, changed: str) -> None:
    write_data(tmp_path, "train", 9)
    with pytest.raises(_Killed):
        build(tmp_path, tmp_path / "lmdb", 8)
    if changed == "picture":
        (tmp_path / "train" / "0.jpg").write_bytes(picture(4, 90))
    else:
        path = tmp_path / "train_anno.csv"
        path.write_text(path.read_text(encoding="utf-8").replace("0.jpg,0,", "0.jpg,100,"), encoding="utf-8")
    assert build(tmp_path, tmp_path / "lmdb").resumed_at == 0
    fresh = build(tmp_path, tmp_path / "fresh")
    assert fresh.images.kept == 9
    assert pairs_of(tmp_path / "lmdb" / "train") == pairs_of(tmp_path / "fresh" / "train")


CHILD = """
import os, sys
from cnclip.data.lmdb_report import BuildOptions
from preprocess import convert_dataset
from preprocess.convert_dataset import convert, main
seen = []
def stop(*_):
    seen.append(0)
    if len(seen) == 25:
        os.kill(os.getpid(), int(sys.argv[1]))
small = BuildOptions(batch_bytes=1_500, shard_bytes=4_000)
convert_dataset.convert = lambda splits, lmdb_dir, *_: convert(splits, lmdb_dir, small, stop)
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_real_kill_and_a_real_interrupt(tmp_path: Path, number: signal.Signals) -> None:
    write_data(tmp_path, "train", 40)
    argv = [str(int(number)), "csv", str(tmp_path), "--out", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-c", CHILD, *argv], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == (130 if number == signal.SIGINT else -signal.SIGKILL)
    assert "Traceback" not in done.stderr
    if number == signal.SIGINT:
        assert done.stderr.rstrip().endswith("interrupted; the same command goes on from here")
    report = build(tmp_path, tmp_path / "lmdb")
    assert report.resumed_at > 10 and report.images.kept == 40
    build(tmp_path, tmp_path / "whole")
    assert pairs_of(tmp_path / "lmdb" / "train") == pairs_of(tmp_path / "whole" / "train")


def test_two_conversions_of_one_split_do_not_meet(data: Path, tmp_path: Path) -> None:
    plan = tmp_path / "lmdb" / ".train.plan"
    plan.mkdir(parents=True)
    (plan / "train_imgs.jsonl").write_text("of the other one")
    lock = FileLock(tmp_path / "lmdb" / ".train.lock")
    with lock, pytest.raises(Exception, match="another build of it is under way"):
        convert_all("csv", data, tmp_path, splits="train")
    assert (plan / "train_imgs.jsonl").read_text() == "of the other one"
    convert_all("csv", data, tmp_path, splits="train")
    assert not plan.exists()


def test_a_full_disk_is_one_line_and_can_be_taken_up(tmp_path: Path) -> None:
    write_data(tmp_path, "train", 200)
    code = (
        "import resource, sys\n"
        "from preprocess.convert_dataset import main\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))\n"  # stands for a full disk
        "sys.exit(main(['csv', sys.argv[1], '--out', sys.argv[1]]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert convert_all("csv", tmp_path, tmp_path)["train"].images.kept == 200
