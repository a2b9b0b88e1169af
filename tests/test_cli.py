"""The command line itself: its table of commands, exit codes, and one-line errors."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import types
from pathlib import Path
from typing import IO

import pytest

from cache.errors import CacheError
from cnclip import __version__
from cnclip.errors import CnclipError, InputError
from run_scripts import cli

ROOT = Path(__file__).resolve().parents[1]


def install_command(monkeypatch: pytest.MonkeyPatch, outcome: BaseException | int) -> None:
    """Make `doctor` a command that returns or raises `outcome`."""
    module = types.ModuleType("run_scripts.commands.doctor")

    def run(_: object) -> int:
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    module.add_arguments = lambda parser: parser.add_argument("--json", action="store_true")  # type: ignore[attr-defined]
    module.run = run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "run_scripts.commands.doctor", module)


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_has_its_module(command: str) -> None:
    module = importlib.import_module(f"run_scripts.commands.{command.replace('-', '_')}")
    assert callable(module.add_arguments)
    assert callable(module.run)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"cnclip {__version__}\n"


def test_without_a_command_it_prints_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 0
    printed = capsys.readouterr().out
    assert all(command in printed for command in cli.COMMANDS)


def test_exit_code_is_that_of_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    for code in (0, 1):
        install_command(monkeypatch, code)
        assert cli.main(["doctor"]) == code


@pytest.mark.parametrize(
    "error", [InputError("texts.jsonl:3: no text"), CnclipError("x"), CacheError("full")]
)
def test_known_errors_are_one_line_and_exit_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    install_command(monkeypatch, error)
    assert cli.main(["doctor"]) == 2
    assert capsys.readouterr().err == f"cnclip doctor: error: {error}\n"


def test_an_interrupt_is_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    install_command(monkeypatch, KeyboardInterrupt())
    assert cli.main(["doctor"]) == 130
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("argv", [["nonsense"], ["doctor", "--nonsense"]])
def test_bad_usage_is_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(argv)
    assert stop.value.code == 2
    assert "nonsense" in capsys.readouterr().err


def run_process(
    script: str, stdout: int | IO[bytes], **environment: str
) -> subprocess.CompletedProcess[bytes]:
    """`script` as the command doctor, in a process of its own."""
    setup = (
        "import sys, types\n"
        "from run_scripts import cli\n"
        "module = types.ModuleType('run_scripts.commands.doctor')\n"
        "module.add_arguments = lambda parser: None\n"
        f"def run(_):\n    {script}\n    return 0\n"
        "module.run = run\n"
        "sys.modules[module.__name__] = module\n"
        "sys.exit(cli.main(['doctor']))\n"
    )
    environment = {**os.environ, **environment}
    command = [sys.executable, "-c", setup]
    return subprocess.run(
        command, stdout=stdout, stderr=subprocess.PIPE, env=environment, cwd=ROOT, check=False
    )


def test_a_terminal_without_chinese_gets_escapes() -> None:
    done = run_process("print(chr(0x7ea2))", subprocess.PIPE, PYTHONIOENCODING="ascii:strict")
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, rb"\u7ea2", b"")


def test_output_that_cannot_be_written_is_one_line() -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full here")
    for script in ("print(1)", "print('x' * 1_000_000)"):
        with full.open("wb") as stdout:
            done = run_process(script, stdout)
        assert done.returncode == 2
        assert done.stderr.startswith(b"cnclip: error: cannot write: ") and done.stderr.count(b"\n") == 1
