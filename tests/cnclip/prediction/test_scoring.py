"""Scores against Chinese-CLIP's way of counting, and what is said about files that cannot be scored."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cnclip.errors import InputError
from cnclip.eval import evaluation, evaluation_tr, transform_ir_annotation_to_tr
from cnclip.prediction.labels import good_rows, read_labels
from cnclip.prediction.scoring import ScoringError, score_predictions
from tests.cnclip.data.muge_files import write_lines

ROOT = Path(__file__).resolve().parents[3]


def lines(path: Path, rows: list[Any]) -> Path:
    return write_lines(path, (row if isinstance(row, str) else json.dumps(row) for row in rows))


def as_chinese_clip_counts(gold: dict[int, list[int]], predicted: dict[int, list[int]]) -> list[float]:
    """mean recall, R@1, R@5, R@10 in percent, query by query."""
    hits = [0, 0, 0]
    for query, wanted in gold.items():
        for i, k in enumerate((1, 5, 10)):
            hits[i] += any(item in predicted[query][:k] for item in wanted)
    recalls = [100 * h / len(gold) for h in hits]
    return [sum(recalls) / 3, *recalls]


@pytest.mark.parametrize("schema", [("text_id", "image_ids"), ("query_id", "item_ids")])
def test_scores_are_those_of_chinese_clip(tmp_path: Path, schema: tuple[str, str]) -> None:
    rng = np.random.default_rng(0)
    gold = {q: rng.choice(30, rng.integers(1, 4), replace=False).tolist() for q in range(50)}
    predicted = {q: rng.choice(30, 10, replace=False).tolist() for q in range(50)}
    gold_file = lines(
        tmp_path / "g.jsonl", [{"text_id": q, "image_ids": i, "text": "x"} for q, i in gold.items()]
    )
    rows = [{schema[0]: q, schema[1]: i} for q, i in predicted.items()]
    out = tmp_path / "out.json"
    assert evaluation.main([str(gold_file), str(lines(tmp_path / "p.jsonl", rows[::-1])), str(out)]) == 0
    content = json.loads(out.read_text(encoding="utf-8"))
    mean, r1, r5, r10 = as_chinese_clip_counts(gold, predicted)
    assert set(content) == {"success", "score", "scoreJson"} and content["success"] is True
    assert content["score"] == content["scoreJson"]["score"] == pytest.approx(mean)
    assert content["scoreJson"] == pytest.approx(
        {"score": mean, "mean_recall": mean, "r1": r1, "r5": r5, "r10": r10}
    )


def test_from_picture_to_text(tmp_path: Path) -> None:
    gold = lines(
        tmp_path / "g.jsonl", [{"text_id": 1, "image_ids": [7, 8]}, {"text_id": 2, "image_ids": [8]}]
    )
    assert transform_ir_annotation_to_tr.main(["--input", str(gold)]) == 0
    turned = tmp_path / "g.tr.jsonl"
    assert [json.loads(line) for line in turned.read_text(encoding="utf-8").splitlines()] == [
        {"image_id": 7, "text_ids": [1]},
        {"image_id": 8, "text_ids": [1, 2]},
    ]
    rows = [{"image_id": 7, "text_ids": [2, 1]}, {"image_id": 8, "text_ids": [2, 1]}]
    out = tmp_path / "out.json"
    assert evaluation_tr.main([str(turned), str(lines(tmp_path / "p.jsonl", rows)), str(out)]) == 0
    assert json.loads(out.read_text(encoding="utf-8"))["scoreJson"]["r1"] == 50.0


def test_text_ids_may_be_text_and_the_gallery_small(tmp_path: Path) -> None:
    gold = lines(
        tmp_path / "g.jsonl", [{"text_id": "q1", "image_ids": ["a"]}, {"text_id": 2, "image_ids": [3]}]
    )
    rows = [{"text_id": "q1", "image_ids": ["b", "a"]}, {"text_id": "2", "image_ids": ["3", "4"]}]
    score = score_predictions(gold, lines(tmp_path / "p.jsonl", rows))
    assert score.recall == {1: 0.5, 5: 1.0, 10: 1.0} and score.mean_recall == pytest.approx(5 / 6)


def test_queries_without_labels_are_left_out_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gold = lines(tmp_path / "g.jsonl", [{"text_id": 1, "image_ids": [3]}, {"text_id": 2, "image_ids": []}])
    predicted = lines(tmp_path / "p.jsonl", [{"text_id": 1, "image_ids": [3, 4]}])
    assert evaluation.main([str(gold), str(predicted), str(tmp_path / "out.json")]) == 0
    printed = capsys.readouterr().out
    assert "R@1 100.00" in printed and "(1 queries)" in printed
    assert "left out: 1 queries without labels" in printed
    unlabelled = lines(tmp_path / "u.jsonl", [{"text_id": 1, "image_ids": []}])
    with pytest.raises(ScoringError, match=r"u.jsonl: no query has a label"):
        score_predictions(unlabelled, predicted)


GOOD = {"text_id": 1, "image_ids": [3, 4]}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{", "p.jsonl:2: not a JSON object on one line, in UTF-8"),
        ('"text"', "p.jsonl:2: not a JSON object on one line, in UTF-8"),
        ({"id": 2}, "p.jsonl:2: field text_id or query_id: missing"),
        (
            {"text_id": None, "image_ids": [3, 4]},
            "p.jsonl:2: field text_id: None is neither a whole number nor text",
        ),
        ({"text_id": 2}, "p.jsonl:2: field image_ids: missing"),
        ({"query_id": 2, "image_ids": [3, 4]}, "p.jsonl:2: field item_ids: missing"),
        ({"text_id": 2, "image_ids": "3"}, "p.jsonl:2: field image_ids: not a list"),
        (
            {"text_id": 2, "image_ids": [3, 4.5]},
            "p.jsonl:2: field image_ids: item 2 is neither a whole number",
        ),
        ({"text_id": 2, "image_ids": [3]}, "p.jsonl:2: field image_ids: 1 ids, but line 1 has 2"),
        ({"text_id": 2, "image_ids": []}, "p.jsonl:2: field image_ids: empty"),
        ({"text_id": 2, "image_ids": [5, "5"]}, "p.jsonl:2: field image_ids: 5 more than once"),
        ({"text_id": "1", "image_ids": [3, 4]}, "p.jsonl:2: field text_id: 1 is on line 1 already"),
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, row: Any, message: str) -> None:
    gold = lines(tmp_path / "g.jsonl", [GOOD, {"text_id": 2, "image_ids": [3]}])
    predicted, out = lines(tmp_path / "p.jsonl", [GOOD, row]), tmp_path / "out.json"
    assert evaluation.main([str(gold), str(predicted), str(out)]) == 2
    content = json.loads(out.read_text(encoding="utf-8"))
    assert set(content) == {"errorDetail", "errorMsg", "score", "scoreJson", "success"}
    assert (content["score"], content["scoreJson"], content["success"]) == (0, {}, False)
    assert message in content["errorMsg"] and content["errorDetail"] == content["errorMsg"]


def test_every_malformed_line_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gold = lines(tmp_path / "g.jsonl", [GOOD, "["])
    predicted = lines(tmp_path / "p.jsonl", ["{", GOOD, {"text_id": 2}, *["x"] * 30])
    out = tmp_path / "out.json"
    assert evaluation.main([str(gold), str(predicted), str(out)]) == 2
    content = json.loads(out.read_text(encoding="utf-8"))
    detail = content["errorDetail"].splitlines()
    assert len(detail) == 33 and content["errorMsg"] == f"{detail[0]} (and 32 more)"
    assert [line.split(": ")[0] for line in detail[:3]] == [f"{gold}:2", f"{predicted}:1", f"{predicted}:3"]
    told = capsys.readouterr().err.splitlines()
    assert told[0] == f"error: {detail[0]}" and told[-1] == f"… and 13 more, all of them in {out}"


def test_queries_that_are_not_answered_are_named(tmp_path: Path) -> None:
    gold = lines(tmp_path / "g.jsonl", [{"text_id": i, "image_ids": [3]} for i in range(9)])
    predicted = lines(tmp_path / "p.jsonl", [GOOD, {"text_id": 77, "image_ids": [3, 4]}])
    with pytest.raises(
        ScoringError, match=r"p.jsonl: field text_id: no prediction for 0, 2, 3, 4, 5 and 3 more"
    ):
        score_predictions(gold, predicted)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    gold, out = lines(tmp_path / "g.jsonl", [GOOD]), tmp_path / "out.json"
    assert evaluation.main([str(gold), str(tmp_path / "nowhere.jsonl"), str(out)]) == 2
    assert "nowhere.jsonl: cannot be read" in json.loads(out.read_text(encoding="utf-8"))["errorMsg"]
    with pytest.raises(InputError, match=r"g.jsonl:1: field image_id: missing"):
        list(good_rows(gold, "image-to-text"))
    assert read_labels(gold) == {"1": ["3", "4"]}
    empty = lines(tmp_path / "e.jsonl", [{"text_id": 1, "image_ids": []}])
    assert transform_ir_annotation_to_tr.main(["--input", str(empty)]) == 2


@pytest.mark.parametrize(
    "name",
    [
        "extract_features", "make_topk_predictions", "make_topk_predictions_tr",
        "make_topk_predictions_ensemble", "transform_ir_annotation_to_tr", "evaluation", "evaluation_tr",
    ],
)  # fmt: skip
def test_scripts_run_as_modules_and_as_files(tmp_path: Path, name: str) -> None:
    for start in (["-m", f"cnclip.eval.{name}"], [str(ROOT / "cnclip" / "eval" / f"{name}.py")]):
        where = ROOT if start[0] == "-m" else tmp_path
        helped = subprocess.run(
            [sys.executable, *start, "--help"],
            capture_output=True,
            text=True,
            check=False,
            cwd=where,
            timeout=120,
        )
        assert helped.returncode == 0 and helped.stdout.startswith(f"usage: {name}.py"), helped.stderr
    wrong = subprocess.run(
        [sys.executable, *start, "--nonsense"], capture_output=True, text=True, check=False, timeout=120
    )
    assert wrong.returncode == 2 and wrong.stderr.startswith(f"{name}.py: error: ")
    assert wrong.stderr.count("\n") == 1
