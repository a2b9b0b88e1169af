"""The command lines of top-k: `cnclip predict topk`, and Chinese-CLIP's make_topk_predictions scripts."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from cnclip.errors import InputError

if TYPE_CHECKING:
    from cnclip.prediction.features import Features
    from cnclip.prediction.ids import Id
    from cnclip.prediction.predictions import Schema

_FEATURES = "JSON lines as extract_features.py writes them, or .npy"
NORMALIZE_HELP = "zscore (default), zscore-query, minmax or none: how scores are made comparable"
WEIGHTS_HELP = "equal (default), reference, numbers like 0.5,0.3,0.2, or a file of cnclip ensemble fit"
NORMALIZE_CHOICES = ("zscore", "zscore-query", "minmax", "none")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `cnclip predict topk`."""
    _add_flags(parser)
    parser.add_argument(
        "--direction",
        choices=("text-to-image", "image-to-text"),
        default="text-to-image",
        help="the best pictures of each text (default), or the best texts of each picture",
    )
    parser.set_defaults(npy_save=None)


def add_text_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of make_topk_predictions.py."""
    _add_flags(parser)
    parser.add_argument(
        "--npy-save", metavar="FILE", type=Path, help="also save all scores, float32 (texts, pictures)"
    )
    parser.set_defaults(direction="text-to-image")


def add_image_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of make_topk_predictions_tr.py."""
    _add_flags(parser)
    parser.set_defaults(direction="image-to-text", npy_save=None)


def _add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--image-feats", metavar="FILE", type=Path, required=True, help=_FEATURES)
    parser.add_argument("--text-feats", metavar="FILE", type=Path, required=True, help="the same, of texts")
    parser.add_argument("--top-k", metavar="N", type=int, default=10, help="items of a line (10)")
    parser.add_argument(
        "--eval-batch-size", metavar="N", type=int, help="gallery vectors at once (default: 256 MiB of them)"
    )
    parser.add_argument("--output", metavar="FILE", type=Path, required=True, help="the prediction file")
    parser.add_argument(
        "--schema",
        choices=("text_id", "query_id"),
        help="text_id/image_ids as Chinese-CLIP (default), or query_id/item_ids as Online-CNCLIP (default"
        " with --npy-save)",
    )
    parser.add_argument(
        "--method", choices=("auto", "faiss", "matmul"), default="auto", help="default: faiss if installed"
    )


def run(args: argparse.Namespace) -> int:
    """Predict and print the file. Raises InputError on broken features, ModelMismatchError on those of two
    models."""
    from cnclip.prediction.bars import bars
    from cnclip.prediction.features import read_features
    from cnclip.prediction.topk_job import predict_top_k

    for flag in ("top_k", "eval_batch_size"):
        value = getattr(args, flag)
        if value is not None and value < 1:
            raise InputError(f"--{flag.replace('_', '-')}: must be at least 1, not {value}")
    images, texts = read_features(args.image_feats, "image"), read_features(args.text_feats, "text")
    schema: Schema = args.schema or ("text_id" if args.npy_save is None else "query_id")
    if args.direction == "image-to-text":
        if args.schema == "query_id":
            raise InputError("--schema query_id: is for text-to-image only")
        schema = "image_id"
    with bars() as progress:
        if args.npy_save is not None:
            _save_scores(args.npy_save, texts, images)
        predict_top_k(
            images,
            texts,
            args.output,
            args.top_k,
            schema=schema,
            method=args.method,
            gallery_block=args.eval_batch_size,
            progress=progress,
        )
    sys.stdout.write(f"{args.output}\n")
    return 0


def _save_scores(path: Path, texts: Features, images: Features) -> None:
    from cnclip.prediction.feature_ensemble import UnitRows
    from cnclip.prediction.features import check_one_model
    from cnclip.prediction.matrix import products, write_matrix

    check_one_model(texts, images)
    known = texts if texts.fingerprint else images
    description = {"model": known.model, "fingerprint": known.fingerprint}
    queries, gallery = UnitRows(texts)[:], UnitRows(images)[:]
    write_matrix(path, texts.ids, images.ids, products(queries, gallery), description)


def add_ensemble_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of make_topk_predictions_ensemble.py."""
    parser.add_argument(
        "--npy-path", metavar="DIR", type=Path, required=True, help="folder of matrix-1.npy, matrix-2.npy, …"
    )
    parser.add_argument("--npy-save", metavar="FILE", type=Path, help="the ensemble's matrix goes here")
    parser.add_argument("--output", metavar="FILE", type=Path, required=True, help="the prediction file")
    add_ensemble_choices(parser)
    add_id_files(parser)
    parser.add_argument("--eval-batch-size", help=argparse.SUPPRESS)  # blocks have a size of their own


def add_ensemble_choices(parser: argparse._ActionsContainer) -> None:
    """What every way to an ensemble takes, beside the places of files."""
    parser.add_argument("--top-k", metavar="N", type=int, default=10, help="pictures of a line (10)")
    parser.add_argument(
        "--schema",
        choices=("query_id", "text_id"),
        default="query_id",
        help="query_id/item_ids as Online-CNCLIP, or text_id/image_ids as Chinese-CLIP (default: query_id)",
    )
    parser.add_argument("--weights", metavar="W", help=WEIGHTS_HELP)
    parser.add_argument("--normalize", choices=NORMALIZE_CHOICES, help=NORMALIZE_HELP)


def add_id_files(parser: argparse._ActionsContainer) -> None:
    """Where the ids of saved matrices come from that have none beside them."""
    parser.add_argument(
        "--image-feats", metavar="FILE", type=Path, help="ids of pictures, for matrices without .ids.json"
    )
    parser.add_argument(
        "--text-feats", metavar="FILE", type=Path, help="ids of texts, for matrices without .ids.json"
    )


def run_ensemble(args: argparse.Namespace) -> int:
    """make_topk_predictions_ensemble.py. Raises InputError on matrices that do not fit together."""
    from cnclip.prediction.bars import bars
    from cnclip.prediction.ensemble_job import predict_ensemble_last
    from cnclip.prediction.job import Output
    from cnclip.prediction.weights import parse_weights

    if args.top_k < 1:
        raise InputError(f"--top-k: must be at least 1, not {args.top_k}")
    weights, ids = parse_weights(args.weights), ids_of_features(args.text_feats, args.image_feats)
    with bars() as progress:
        output = Output(
            results=args.output.parent,
            matrices=args.npy_path,
            schema=args.schema,
            top_k=args.top_k,
            progress=progress,
        )
        written = predict_ensemble_last(
            output, weights, args.normalize, ids, matrix=args.npy_save, predictions=args.output
        )
    sys.stdout.write(f"{written}\n")
    return 0


def ids_of_features(texts: Path | None, images: Path | None) -> tuple[list[Id], list[Id]] | None:
    """Ids of rows and columns from feature files; None without any. Raises InputError if one lacks."""
    from cnclip.prediction.features import read_features

    if texts is None and images is None:
        return None
    if texts is None or images is None:
        raise InputError("--text-feats and --image-feats: must be given together")
    return read_features(texts, "text").ids, read_features(images, "image").ids
