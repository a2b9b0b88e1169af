"""The command lines around labels: evaluation.py, evaluation_tr.py and transform_ir_annotation_to_tr.py."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnclip.errors import CnclipError, InputError

if TYPE_CHECKING:
    from cnclip.prediction.labels import Direction

_SHOWN = 20


def add_scoring_arguments(parser: argparse.ArgumentParser) -> None:
    """GOLD PRED OUT, in this order."""
    parser.add_argument("gold", metavar="GOLD", type=Path, help="labels, one JSON line for each query")
    parser.add_argument("predictions", metavar="PRED", type=Path, help="predictions, the same way")
    parser.add_argument("out", metavar="OUT", type=Path, help="the score goes here as JSON")


def score_texts(args: argparse.Namespace) -> int:
    """evaluation.py: from text to picture."""
    return _score(args, "text-to-image")


def score_pictures(args: argparse.Namespace) -> int:
    """evaluation_tr.py: from picture to text."""
    return _score(args, "image-to-text")


def _score(args: argparse.Namespace, direction: Direction) -> int:
    from cnclip.prediction.scoring import ScoringError, error_json, score_predictions

    try:
        score = score_predictions(args.gold, args.predictions, direction)
    except CnclipError as error:
        _write_json(args.out, error_json(error))
        problems = error.problems if isinstance(error, ScoringError) else [str(error)]
        for line in problems[:_SHOWN]:
            sys.stderr.write(f"error: {line}\n")
        if len(problems) > _SHOWN:
            sys.stderr.write(f"… and {len(problems) - _SHOWN} more, all of them in {args.out}\n")
        return 2
    _write_json(args.out, score.to_json())
    numbers = "  ".join(f"R@{k} {100 * value:.2f}" for k, value in score.recall.items())
    sys.stdout.write(f"{numbers}  mean recall {100 * score.mean_recall:.2f}  ({score.n_queries} queries)\n")
    if score.unlabelled:
        sys.stdout.write(f"left out: {score.unlabelled} queries without labels\n")
    return 0


def _write_json(path: Path, content: dict[str, Any]) -> None:
    from cnclip.model.atomic import replacing

    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, ensure_ascii=False) + "\n", encoding="utf-8")


def add_transform_flags(parser: argparse.ArgumentParser) -> None:
    """--input X.jsonl."""
    parser.add_argument(
        "--input", required=True, metavar="X.jsonl", type=Path, help="labels of texts; X.tr.jsonl is written"
    )


def run_transform(args: argparse.Namespace) -> int:
    """transform_ir_annotation_to_tr.py. Raises InputError on a broken row, or where it cannot be written."""
    from cnclip.model.atomic import replacing
    from cnclip.prediction.labels import transpose_labels

    texts = transpose_labels(args.input)
    if not texts:
        raise InputError(f"{args.input}: field image_ids: no text has a label")
    output = args.input.with_name(args.input.name.removesuffix(".jsonl") + ".tr.jsonl")
    with replacing(output) as temporary, temporary.open("w", encoding="utf-8") as file:
        for image_id, text_ids in texts.items():
            file.write(json.dumps({"image_id": image_id, "text_ids": text_ids}) + "\n")
    sys.stdout.write(f"{output}\n")
    return 0
