"""The command-line parser that forgives spelling and names the nearest flag."""

from __future__ import annotations

import argparse

import pytest

from cnclip.flags import FlagParser, did_you_mean


def parser() -> FlagParser:
    made = FlagParser(prog="tool")
    made.add_argument("--batch-size", type=int)
    made.add_argument("--data_dir")
    made.add_argument("--hidden-flag", help=argparse.SUPPRESS)
    made.add_argument("word", nargs="?")
    return made


@pytest.mark.parametrize(
    "argv", [["--batch-size", "3"], ["--batch_size", "3"], ["--batch_size=3"], ["--batch-s", "3"]]
)
def test_underscores_do_for_dashes(argv: list[str]) -> None:
    assert parser().parse_args(argv).batch_size == 3


def test_the_words_of_the_program_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["tool", "--batch_size=4"])
    assert parser().parse_args().batch_size == 4


def test_a_flag_with_underscores_keeps_its_spelling_and_values_are_not_touched() -> None:
    args = parser().parse_args(["--data_dir=a_b-c", "x_y"])
    assert (args.data_dir, args.word) == ("a_b-c", "x_y")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--batchsize", "3"], "no such flag: --batchsize (did you mean --batch-size?)"),
        (["--batchsize=3"], "no such flag: --batchsize (did you mean --batch-size?)"),
        (["--zzz"], "no such flag: --zzz"),
        (["--hidden-flaq"], "no such flag: --hidden-flaq"),
        (["a", "b"], "unexpected argument: b"),
        (["--batch-size", "x"], "argument --batch-size: invalid int value: 'x'"),
    ],
)
def test_errors_are_one_line_and_exit_2(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        parser().parse_args(argv)
    assert stop.value.code == 2
    assert capsys.readouterr().err == f"tool: error: {message}\n"


def test_as_a_subcommand_it_reports_its_own_flags(capsys: pytest.CaptureFixture[str]) -> None:
    top = argparse.ArgumentParser(prog="top")
    sub = top.add_subparsers(parser_class=FlagParser).add_parser("sub")
    sub.add_argument("--learning-rate")
    assert top.parse_args(["sub", "--learning_rate", "1"]).learning_rate == "1"
    with pytest.raises(SystemExit):
        top.parse_args(["sub", "--lerning-rate", "1"])
    error = "top sub: error: no such flag: --lerning-rate (did you mean --learning-rate?)\n"
    assert capsys.readouterr().err == error


def test_did_you_mean() -> None:
    assert did_you_mean("warmpu", ["warmup", "wd"]) == " (did you mean warmup?)"
    assert did_you_mean("--warmpu", ["--warmup", "--wd"]) == " (did you mean --warmup?)"
    assert did_you_mean("other", ["warmup", "wd"]) == ""
