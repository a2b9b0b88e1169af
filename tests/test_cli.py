"""The command line itself: its table of commands, exit codes, and one-line errors."""

from __future__ import annotations

import importlib
import sys
import types

import pytest

from cache.errors import CacheError
from cnclip import __version__
from cnclip.errors import CnclipError, InputError
from run_scripts import cli


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
