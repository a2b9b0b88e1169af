"""`cnclip cache` from the outside."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from cache.picture_cache import PictureCache
from run_scripts import cli
from tests.cache.picture_kit import age, card, content, jpeg, put, reference_write

Output = pytest.CaptureFixture[str]
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cli.COMMANDS, "cache", "look after crawled pictures")
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def data_path(tmp_path: Path) -> Path:
    valid, test = PictureCache(tmp_path / "valid"), PictureCache(tmp_path / "test")
    put(valid, "红 裙")
    put(valid, "红裙")
    reference_write(valid.root, "旧的", [jpeg("old")], card())
    valid.put_miss("nothing", "empty", "", now=time.time())
    for number in range(1, 6):
        put(test, "红 裙", number)
    return tmp_path


def called(capsys: Output, *argv: object) -> tuple[int, str, str]:
    code = cli.main(["cache", *map(str, argv)])
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def in_json(capsys: Output, *argv: object) -> tuple[int, Any]:
    code, out, _ = called(capsys, *argv, "--json")
    return code, json.loads(out)


def test_stats(data_path: Path, capsys: Output) -> None:
    splits = [data_path / "valid", data_path / "test"]
    code, (valid, test) = in_json(capsys, "stats", *splits)
    assert code == 0 and valid["folder"] == str(splits[0])
    assert (valid["queries"], valid["pictures"], valid["misses"]) == (3, 3, {"empty": 1})
    assert valid["sources"] == {"shop": 2, "unknown": 1}
    assert test["by_number"] == {str(number): 1 for number in range(1, 6)}
    code, out, err = called(capsys, "stats", *splits)
    assert (code, err) == (0, "")
    rows = {line[:24].strip(): line[24:].split() for line in out.splitlines()}
    assert rows["pictures"] == ["3", "5"]
    assert rows["missed: empty"] == ["1", "0"]
    assert rows["newest"] == ["2026-12-01T10:00:00+00:00"] * 2
    (splits[0] / "旧的" / "meta.json").write_text("{}")
    _, _, err = called(capsys, "stats", *splits)
    assert err == f"{splits[0]}/旧的/meta.json: field version: missing\n"


def test_verify(data_path: Path, capsys: Output) -> None:
    valid = data_path / "valid"
    assert called(capsys, "verify", valid, data_path / "test")[:2] == (0, "nothing wrong\n")
    assert in_json(capsys, "verify", valid) == (0, [])
    path = valid / "红裙" / "1.jpg"
    path.write_bytes(b"x" * 600)
    code, out, _ = called(capsys, "verify", valid)
    assert (code, out) == (2, f"{path}: damaged: not the content that its sidecar names\nproblems: 1\n")
    code, problems = in_json(capsys, "verify", valid)
    assert code == 2
    detail = "not the content that its sidecar names"
    assert problems == [{"kind": "damaged", "path": str(path), "number": 1, "detail": detail}]


def test_lines_from_hostile_names_are_harmless(data_path: Path, capsys: Output) -> None:
    odd = data_path / "valid" / "a\x1b[31m\nb"
    odd.mkdir()
    (odd / "1.jpg").write_bytes(b"")
    code, out, _ = called(capsys, "verify", data_path / "valid")
    assert code == 2 and "\x1b" not in out and len(out.splitlines()) == 2


def test_placeholders(data_path: Path, capsys: Output) -> None:
    card().save(data_path / "fail.png")
    reference_write(data_path / "valid", "x", [None], card())
    (data_path / "valid" / "x" / "0_1.jpg").unlink(missing_ok=True)
    (data_path / "valid" / "旧的" / "0_1.jpg").unlink(missing_ok=True)
    assert called(capsys, "verify", data_path / "valid")[0] == 0
    flags = ("--placeholder", data_path / "fail.png")
    code, out, _ = called(capsys, "verify", data_path / "valid", *flags)
    assert code == 2 and "x/1.jpg: damaged: a copy of the placeholder" in out
    assert called(capsys, "prune", data_path / "valid", *flags)[0] == 0
    assert not (data_path / "valid" / "x").exists()
    code, _, err = called(capsys, "verify", data_path / "valid", "--placeholder", data_path / "gone.png")
    assert (code, err) == (
        2,
        f"cnclip cache: error: {data_path}/gone.png: cannot be read: No such file or directory\n",
    )


def test_prune(data_path: Path, capsys: Output) -> None:
    valid = data_path / "valid"
    mark = valid / "红裙" / "0_1.jpg"
    mark.write_bytes(jpeg("card"))
    (valid / "红裙" / "1.jpg").write_bytes(b"x" * 2**20)
    age(mark, 3600)
    code, out, _ = called(capsys, "prune", valid, "--dry-run")
    assert code == 0 and mark.exists()
    assert out.endswith("2 would be removed, 1.0 MiB\n") or out.endswith("3 would be removed, 1.0 MiB\n")
    code, values = in_json(capsys, "prune", valid, data_path / "test")
    assert code == 0 and not values["dry_run"] and values["left"] == []
    assert {problem["kind"] for problem in values["removed"]} >= {"damaged", "stale mark"}
    assert not mark.exists()
    (valid / "旧的" / "meta.json").write_text("{}")
    _, out, _ = called(capsys, "prune", valid)
    assert (
        "left for you to decide:" in out and "旧的/meta.json: broken sidecar: field version: missing" in out
    )
    called(capsys, "prune", data_path / "test", "--older-than", "0")
    assert not list((data_path / "test").glob("*.jpg"))


def test_suspects(data_path: Path, capsys: Output) -> None:
    for name in ("x", "y", "z"):
        (data_path / "valid" / name).mkdir()
        (data_path / "valid" / name / "1.jpg").write_bytes(jpeg("same"))
    code, out, _ = called(capsys, "verify", data_path / "valid")
    assert code == 2 and out.count(": suspect: ") == 3
    called(capsys, "prune", data_path / "valid", "--suspects")
    assert called(capsys, "verify", data_path / "valid")[0] == 0


def test_export_and_import(data_path: Path, tmp_path: Path, capsys: Output) -> None:
    splits = [data_path / "valid", data_path / "test"]
    archive = tmp_path / "crawl.tar"
    code, out, _ = called(capsys, "export", *splits, "--out", archive)
    assert code == 0 and out.splitlines()[-1].startswith(f"{archive}: 0.")
    assert [line.split() for line in out.splitlines()[1:3]] == [
        ["test", "1", "5", "0"],
        ["valid", "3", "3", "1"],
    ]
    code, out, _ = called(capsys, "import", archive, "--into", tmp_path / "there")
    assert code == 0
    assert [line.split() for line in out.splitlines()] == [
        ["split", "added", "kept", "replaced", "refused", "misses"],
        ["test", "5", "0", "0", "0", "0"],
        ["valid", "3", "0", "0", "0", "1"],
    ]
    there = PictureCache(tmp_path / "there" / "valid")
    assert content(there, "红裙") == jpeg("红裙 1")
    code, values = in_json(capsys, "import", archive, "--into", tmp_path / "there")
    assert code == 0 and values["refused"] == {}
    assert values["splits"]["valid"] == {"added": 0, "kept": 3, "replaced": 0, "refused": 0, "misses": 0}
    code, values = in_json(capsys, "export", *splits, "--out", archive)
    assert code == 0 and values["bytes"] == archive.stat().st_size
    put(there, "AB")
    (there.root / "旧的" / "meta.json").write_bytes((there.root / "AB" / "meta.json").read_bytes())
    _, out, _ = called(capsys, "import", archive, "--into", tmp_path / "there")
    assert (
        out.splitlines()[-1].split()
        == "refused: without sidecar, and the folder's name is taken here 1".split()
    )


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["stats", "{tmp}/gone"], "{tmp}/gone: no such folder"),
        (["verify", "{tmp}/gone"], "{tmp}/gone: no such folder"),
        (["export", "{tmp}/valid", "{tmp}/valid", "--out", "{tmp}/x.tar"], "a second split called valid"),
        (["export", "{tmp}/valid", "--out", "{tmp}/gone/x.tar"], "{tmp}/gone/x.tar: cannot be written"),
        (["import", "{tmp}/gone.tar", "--into", "{tmp}"], "{tmp}/gone.tar: cannot be read as a tar archive"),
    ],
)
def test_bad_input_is_one_line(data_path: Path, capsys: Output, argv: list[str], expected: str) -> None:
    code, out, err = called(capsys, *(word.format(tmp=data_path) for word in argv))
    assert (code, out) == (2, "")
    assert err.startswith("cnclip cache: error: ") and err.count("\n") == 1
    assert expected.format(tmp=data_path) in err


@pytest.mark.parametrize(
    "argv", [[], ["stats"], ["export", "x"], ["import", "x"], ["prune", "x", "--older-than", "-1"], ["dance"]]
)
def test_bad_usage_is_2(argv: list[str], capsys: Output) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["cache", *argv])
    assert stop.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom run_scripts import cli\ncli.COMMANDS['cache'] = ''\n"
        "try: cli.main(['cache', 'prune', '--help'])\nexcept SystemExit as stop: assert stop.code == 0\n"
        "sys.exit(any(name in sys.modules for name in ('torch', 'numpy', 'PIL', 'rich', 'filelock')))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd=ROOT)
