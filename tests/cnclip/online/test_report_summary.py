"""What rounds come to, against numbers worked out by hand; resumed, torn and odd records."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from cnclip.online.report import write_online_report
from cnclip.online.report_rounds import Log, read_rounds, to_round
from cnclip.online.report_summary import summarize
from cnclip.online.report_verdict import summary_lines, verdict
from tests.cnclip.online.round_records import fresh, group, metrics, record, short, write_rounds


@pytest.fixture(autouse=True)
def _no_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here only numbers count, and drawing takes seconds."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)


def report(run: Path) -> dict[str, Any]:
    write_online_report(run)
    content: dict[str, Any] = json.loads((run / "online_report.json").read_text(encoding="utf-8"))
    return content


def four_rounds() -> list[dict[str, Any]]:
    """Kept, rolled back, skipped, kept. Before the fourth, training lifted the canary by 0.02."""
    return [
        record(0, taught=(0.2, 0.3), others=(0.8, 0.799), labelled=(0.6, 0.62), canary=(0.9, 0.899)),
        record(
            1,
            "rolled back",
            taught=(0.3, 0.9),
            others=(0.799, 0.5),
            labelled=(0.62, 0.5),
            canary=(0.899, 0.7),
        ),
        record(2, "skipped", labelled=(0.62, 0.0), canary=(0.899, 0.0)),
        record(3, taught=(0.3, 0.45), others=(0.799, 0.8), labelled=(0.62, 0.65), canary=(0.919, 0.918)),
    ]


def test_the_summary_against_hand_computation(tmp_path: Path) -> None:
    found = report(write_rounds(tmp_path / "商品", four_rounds()))
    summary = found["summary"]
    assert (found["schema_version"], found["run"], found["torn_lines"]) == (1, "商品", 0)
    assert summary["rounds"] == {"recorded": 4, "kept": 2, "rolled back": 1, "skipped": 1}
    taught = summary["scores"]["taught"]
    assert taught["start"] == {"round": 0, "side": "before", "n_queries": 2, "metrics": short(0.2)}
    assert taught["end"] == {"round": 3, "side": "after", "n_queries": 2, "metrics": short(0.45)}
    assert taught["change"]["mAP"] == pytest.approx(0.25)
    assert taught["by_kept_rounds"]["mAP"] == pytest.approx(0.1 + 0.15)  # nothing of the round rolled back
    assert taught["same_queries"] is True
    assert summary["scores"]["others"]["by_kept_rounds"]["mAP"] == pytest.approx(-0.001 + 0.001)
    canary = summary["scores"]["canary"]
    assert canary["change"]["mAP"] == pytest.approx(0.918 - 0.9)
    assert canary["by_kept_rounds"]["mAP"] == pytest.approx(
        -0.001 - 0.001
    )  # the training's 0.02 is not its merit
    labelled = summary["scores"]["labelled"]
    assert labelled["text_to_image"]["end"]["metrics"] == metrics(0.65)
    assert labelled["image_to_text"]["start"]["metrics"] == pytest.approx(metrics(0.7))
    assert labelled["image_to_text"]["by_kept_rounds"]["R@10"] == pytest.approx(0.02 + 0.03)
    assert summary["pairs"] == {"kept": 4, "rolled back": 2, "replayed": 3 * 64}
    assert summary["steps"] == {"taken": 3, "skipped": 1}
    assert summary["pictures"]["used"] == {"kept": 4, "rolled back": 2, "skipped": 2}
    assert summary["pictures"]["refused"] == {"near-duplicate": 4}
    assert summary["queries"] == {"asked": 564, "with pictures": 12, "missed": {"empty": 520, "timeout": 32}}
    seconds = summary["seconds"]
    assert seconds == {"fetch": 5.0, "gate": 2.0, "step": 24.0, "measure": 20.0, "total": 51.0}


def test_the_json_keeps_every_record_as_it_was(tmp_path: Path) -> None:
    rows = [record(0, canary=None, news={"of": ["a later version"]}), record(1, why="因为\u2028 <b>")]
    assert report(write_rounds(tmp_path, rows))["rounds"] == rows


def test_a_run_that_ends_with_a_rollback_ends_where_it_was_before(tmp_path: Path) -> None:
    rows = [record(0), record(1, "rolled back", taught=(0.3, 0.1), canary=(0.899, 0.2))]
    scores = report(write_rounds(tmp_path, rows))["summary"]["scores"]
    assert (scores["taught"]["end"]["side"], scores["taught"]["end"]["metrics"]) == ("before", short(0.3))
    assert scores["canary"]["end"]["metrics"]["mAP"] == 0.899


def test_a_later_record_of_a_round_replaces_it_and_what_followed(tmp_path: Path) -> None:
    """A run that goes on from its checkpoint after round 1 never did the rounds 2 and 3 of before."""
    rows = [record(n, taught=(0.2, 0.9)) for n in range(4)]
    again = [record(2, "rolled back", why="done again"), record(3, "skipped")]
    found = report(write_rounds(tmp_path, [*rows, *again]))
    assert found["rounds"] == [*rows[:2], *again]
    assert found["replaced_records"] == 2
    assert found["summary"]["rounds"] == {"recorded": 4, "kept": 2, "rolled back": 1, "skipped": 1}
    cut = read_rounds(write_rounds(tmp_path / "cut", [*rows, again[0]]))
    assert [row.raw for row in cut.rounds] == [*rows[:2], again[0]]


@pytest.mark.parametrize(
    "torn",
    [
        b'{"round": 1, "decis',
        b"\xff\x00",
        b"[]",
        b'{"round": -1, "decision": "kept"}',
        b"[" * 5000,
        b'{"round": true, "decision": "kept"}',
        b'{"round": 1}',
        b'{"round": 1, "decision": "kept", "x": %b}' % (b"[" * 60 + b"]" * 60),
    ],
)
def test_a_torn_line_is_counted_and_costs_nothing_else(tmp_path: Path, torn: bytes) -> None:
    run = write_rounds(tmp_path, [record(0)])
    path = run / "online/rounds.jsonl"
    path.write_bytes(path.read_bytes() + torn)
    found = report(run)
    assert (found["torn_lines"], found["rounds"]) == (1, [record(0)])
    assert found["problems"] == ["rounds.jsonl: 1 line could not be read"]


def test_numbers_that_are_none_become_null(tmp_path: Path) -> None:
    rows = [record(0, distance=float("nan"), canary=group(0.9, float("inf"), 40))]
    found = report(write_rounds(tmp_path, rows))["rounds"][0]
    assert found["distance"] is None
    assert found["canary"]["after"]["mAP"] is None


def headline(*rows: dict[str, Any]) -> tuple[str, str, str]:
    said = verdict(summarize(Log("run", [to_round(row) for row in rows])))
    return said.tone, said.headline, said.sentence


UNLABELLED: dict[str, Any] = {"labelled": None, "taught": None, "others": None, "movers": []}


@pytest.mark.parametrize(
    ("rows", "tone", "start", "part"),
    [
        ([], "neutral", "Nothing to report", "No round"),
        ([record(0)], "good", "Keep the model", "1 of 1 round was kept."),
        (
            [record(0)],
            "good",
            "Keep the model",
            "mAP of the taught queries went from 20.00 % to 30.00 % (+10.00 points).",
        ),
        ([record(0)], "good", "Keep the model", "The canary held: 90.00 % to 89.90 % (−0.10 points)."),
        (
            [record(0), record(1, "rolled back"), record(2, "skipped")],
            "good",
            "Keep",
            "1 of 3 rounds were kept, 1 rolled back, 1 skipped.",
        ),
        (
            [record(0, "rolled back"), record(1, "skipped")],
            "neutral",
            "Nothing was kept",
            "those that the rounds started from",
        ),
        ([record(0, "skipped")], "neutral", "Nothing was learned", "0 of 1 round was kept, 1 skipped."),
        (
            [record(0, canary=(0.9, 0.85))],
            "neutral",
            "Look before",
            "Canary lost 5.00 points over the kept rounds, more than the 0.40 allowed.",
        ),
        ([record(0, others=(0.8, 0.7))], "bad", "Do not keep", "Other queries lost 10.00 points"),
        ([record(0, taught=(0.3, 0.2))], "bad", "Do not keep", "Taught queries lost 10.00 points"),
        ([record(0, taught=(0.3, 0.3))], "neutral", "No gain", "(+0.00 points)"),
        ([record(0, canary=None)], "neutral", "Look before", "There was no canary."),
        ([record(0, **UNLABELLED)], "neutral", "Nothing was forgotten", "The canary held"),
        ([record(0, **{**UNLABELLED, "canary": None})], "neutral", "No verdict", "There was no canary."),
        (
            [record(0, **UNLABELLED, canary=group(0.9, 0.8, 40))],
            "bad",
            "Do not keep",
            "The canary fell: 90.00 % to 80.00 %",
        ),
        (
            [record(0, taught=None, others=None)],
            "good",
            "Keep",
            "mAP of all queries went from 60.00 % to 62.00 %",
        ),
        (
            [record(n, canary=(0.9, 0.899)) for n in range(5)],
            "neutral",
            "Look before",
            "Canary lost 0.50 points over the kept rounds",
        ),
    ],
)
def test_the_verdict(rows: list[dict[str, Any]], tone: str, start: str, part: str) -> None:
    said = headline(*rows)
    assert said[0] == tone
    assert said[1].startswith(start)
    assert part in said[2]


def test_what_training_between_the_rounds_did_is_told_apart() -> None:
    _, _, sentence = headline(*four_rounds())
    assert "The canary held: 90.00 % to 91.80 % (+1.80 points in all, −0.20 by the kept rounds)." in sentence
    assert "taught queries went from 20.00 % to 45.00 % (+25.00 points)." in sentence


def test_rounds_that_taught_different_queries_are_added_up() -> None:
    """From 0.2 over the queries of the first to 0.7 over those of the second is no gain of 0.5."""
    other = record(1, taught=(0.6, 0.7), pictures=[fresh("苹果")])
    _, _, sentence = headline(record(0, taught=(0.2, 0.3)), other)
    assert "from 20.00 % to 70.00 % (+20.00 points over the kept rounds)" in sentence
    assert "Not all rounds taught the same queries." in sentence


def test_what_a_terminal_shows(tmp_path: Path) -> None:
    rows = [record(0, pictures=[fresh("a", outcome="bad\x1b[31m\nreason")]), record(1, "rolled back")]
    lines = summary_lines(write_rounds(tmp_path, rows))
    assert lines[0].startswith("Keep the model. 1 of 2 rounds were kept")
    assert lines[1].split() == ["mAP,", "%", "start", "end", "by", "the", "kept", "rounds"]
    assert lines[2].split() == ["Taught", "queries", "20.00", "20.00", "+10.00", "2", "texts"]
    assert lines[5].split() == ["Canary", "90.00", "90.00", "−0.10", "40", "texts"]
    assert lines[6] == "pairs in kept rounds: 2; replayed in all rounds: 128"
    assert r"bad\x1b[31m\nreason" in lines[7]
    assert lines[8] == "queries without a picture, over all rounds: 276 (260 empty, 16 timeout)"
    assert len({line.isprintable() for line in lines}) == 1


def test_an_unlabelled_run_has_the_canary_alone(tmp_path: Path) -> None:
    scores = report(write_rounds(tmp_path, [record(0, **UNLABELLED)]))["summary"]["scores"]
    assert scores["taught"] is scores["others"] is scores["labelled"] is None
    assert scores["canary"]["by_kept_rounds"]["mAP"] == pytest.approx(-0.001)


def test_one_direction_is_enough(tmp_path: Path) -> None:
    sides = {side: {"text_to_image": metrics(0.5), "n_queries": 3} for side in ("before", "after")}
    labelled = report(write_rounds(tmp_path, [record(0, labelled=sides)]))["summary"]["scores"]["labelled"]
    assert labelled["text_to_image"]["end"]["n_queries"] == 3
    assert labelled["image_to_text"] is None
