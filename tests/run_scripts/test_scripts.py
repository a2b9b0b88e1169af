"""The shell scripts: usage, the choice of a Python, one run at a time, and pip only when it is needed."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "run_scripts"
PYTHONS = ("python3", "python3.14", "python3.13", "python3.12", "python3.11", "python3.10")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder, with a space in its name, that env.sh takes for the repository."""
    folder = tmp_path / "a clone"
    (folder / "run_scripts").mkdir(parents=True)
    for name in ("env.sh", "quickstart.sh"):
        shutil.copy(SCRIPTS / name, folder / "run_scripts" / name)
    for name in ("pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, folder / name)
    return folder


def program(path: Path, body: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
    path.chmod(0o755)


def bash(code: str, checkout: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `code` after sourcing the checkout's env.sh."""
    return subprocess.run(
        ["bash", "-c", f'source "{checkout}/run_scripts/env.sh"; {code}'],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        check=False,
    )


def quickstart(checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(checkout / "run_scripts" / "quickstart.sh"), *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        stdin=subprocess.DEVNULL,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--nonsense"], "--nonsense"),
        (["extra"], "extra"),
        (["--port"], "--port"),
        (["--port", "0"], "--port 0"),
        (["--port", "99999"], "--port 99999"),
        (["--port", "80x"], "--port 80x"),
        (["--images", "/nonexistent folder"], "/nonexistent folder"),
    ],
)
def test_bad_usage_is_2_and_touches_nothing(checkout: Path, arguments: list[str], named: str) -> None:
    before = sorted(checkout.rglob("*"))
    answer = quickstart(checkout, *arguments)
    assert answer.returncode == 2
    assert named in answer.stderr.splitlines()[0]
    assert "usage: bash run_scripts/quickstart.sh" in answer.stderr
    assert sorted(checkout.rglob("*")) == before


def test_help_is_0(checkout: Path) -> None:
    answer = quickstart(checkout, "--help")
    assert answer.returncode == 0
    assert "--no-serve" in answer.stdout


def test_an_old_python_is_named(checkout: Path, tmp_path: Path) -> None:
    for name in PYTHONS:
        program(tmp_path / "bin" / name, '[ "$1" = --version ] && echo "Python 3.8.10" && exit 0; exit 1')
    answer = bash("make_venv", checkout, PATH=f"{tmp_path / 'bin'}:{os.environ['PATH']}", PYTHON="")
    assert answer.returncode == 1
    assert answer.stderr == "error: Python 3.10 or newer is needed, found: Python 3.8.10\n"


def test_the_first_new_enough_python_is_taken(checkout: Path, tmp_path: Path) -> None:
    for name in PYTHONS:
        program(tmp_path / "bin" / name, "exit 1")
    program(tmp_path / "bin" / "python3.12", "exit 0")
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    assert bash("find_python", checkout, PATH=path, PYTHON="").stdout.strip().endswith("/python3.12")
    assert bash("find_python", checkout, PATH=path, PYTHON=sys.executable).stdout.strip() == sys.executable


def test_a_python_without_venv_gets_a_hint(checkout: Path, tmp_path: Path) -> None:
    program(
        tmp_path / "python3",
        f'case "$*" in *ensurepip*) exit 1 ;; esac\nexec "{sys.executable}" "$@"',
    )
    answer = bash("make_venv", checkout, PYTHON=str(tmp_path / "python3"))
    assert answer.returncode == 1
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert f"apt-get install python{version}-venv" in answer.stderr


@pytest.mark.slow
def test_a_half_made_venv_is_made_again(checkout: Path) -> None:
    program(checkout / ".venv" / "bin" / "python", "exit 127")
    answer = bash('make_venv; "$PY" -m pip --version', checkout, PYTHON=sys.executable)
    assert answer.returncode == 0, answer.stderr
    assert "pip" in answer.stdout.splitlines()[-1]
    again = bash("make_venv", checkout, PYTHON="/nonexistent")
    assert (again.returncode, again.stdout) == (0, "")


def fake_venv(checkout: Path) -> Path:
    """A .venv whose pip writes its arguments to a file, and fails when a file `offline` is there."""
    calls = checkout / "pip calls"
    program(
        checkout / ".venv" / "bin" / "python",
        f"""case "$*" in
  *" install "*)
    echo "$*" >>"{calls}"
    [ ! -e "{checkout}/offline" ] || {{ echo "broken by 'NewConnectionError'" >&2; exit 1; }} ;;
  *--version*) echo "Python 3.11.0" ;;
esac""",
    )
    return calls


def test_pip_runs_only_when_something_changed(checkout: Path) -> None:
    calls = fake_venv(checkout)

    def count() -> int:
        answer = bash("install_extras demo train", checkout)
        assert answer.returncode == 0, answer.stderr
        return len(calls.read_text(encoding="utf-8").splitlines())

    assert count() == 1
    assert "-c constraints.txt -e .[demo,train]" in calls.read_text(encoding="utf-8")
    assert count() == 1
    assert bash("install_extras demo", checkout).stdout == ""
    with (checkout / "constraints.txt").open("a", encoding="utf-8") as file:
        file.write("# another line\n")
    assert count() == 2


def test_torch_can_come_from_another_index(checkout: Path) -> None:
    calls = fake_venv(checkout)
    bash("install_extras demo", checkout, TORCH_INDEX_URL="file:///wheels")
    first, second = calls.read_text(encoding="utf-8").splitlines()
    assert "--index-url file:///wheels -c constraints.txt torch" in first
    assert "-e .[demo]" in second


def test_no_network_is_one_clear_line_and_no_stamp(checkout: Path) -> None:
    fake_venv(checkout)
    (checkout / "offline").touch()
    answer = bash("install_extras demo", checkout)
    assert answer.returncode == 1
    assert "is there network?" in answer.stderr.splitlines()[-1]
    (checkout / "offline").unlink()
    assert "installing packages" in bash("install_extras demo", checkout).stdout


def test_a_second_run_waits_for_the_first(checkout: Path) -> None:
    if shutil.which("flock") is None:
        pytest.skip("no flock on this machine")
    code = f'source "{checkout}/run_scripts/env.sh"; lock_checkout; echo mine'
    with (checkout / "pyproject.toml").open(encoding="utf-8") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        second = subprocess.Popen(["bash", "-c", code], stdout=subprocess.PIPE, text=True)
        assert second.stdout is not None
        assert "waiting" in second.stdout.readline()
        assert second.poll() is None
    rest, _ = second.communicate(timeout=60)
    assert rest == "mine\n"


def test_scripts_are_strict_and_parse() -> None:
    for path in (*SCRIPTS.glob("*.sh"), ROOT / ".ci" / "run"):
        text = path.read_text(encoding="utf-8")
        assert "set -euo pipefail" in text, path
        assert subprocess.run(["bash", "-n", str(path)], check=False).returncode == 0
        if path.name != "env.sh":
            assert text.startswith("#!/usr/bin/env bash\n"), path
            assert os.access(path, os.X_OK), path
