"""`cnclip predict`: models into prediction files, one by one or as an ensemble."""

from __future__ import annotations

import argparse
import logging
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from cnclip.flags import FlagParser
from cnclip.prediction.topk_cli import add_arguments as topk_arguments
from cnclip.prediction.topk_cli import add_ensemble_choices, add_id_files, ids_of_features
from cnclip.prediction.topk_cli import run as run_topk
from run_scripts import predict_online

if TYPE_CHECKING:
    from cnclip.model.encoder import Encoder
    from cnclip.prediction.embedding import OnProgress
    from cnclip.prediction.job import Job

logger = logging.getLogger(__name__)
EXIT_OK = 0
_MATRIX_BYTES = 8 * 2**30
_MODEL_HELP = "a file in DATAPATH/resume, a path, or a name"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `cnclip predict`, by mode."""
    modes = parser.add_subparsers(
        dest="mode", metavar="MODE", title="modes", required=True, parser_class=FlagParser
    )

    def mode(name: str, summary: str) -> argparse.ArgumentParser:
        return modes.add_parser(name, help=summary, description=summary)

    single = mode("single", "the predictions of one model")
    single.add_argument("models", metavar="MODEL", nargs=1, help=_MODEL_HELP)
    ensemble = mode("ensemble", "the predictions of each of several models, and of all together")
    ensemble.add_argument("models", metavar="MODEL", nargs="+", help=_MODEL_HELP)
    last = mode("ensemble-last", "the predictions of score matrices that were saved")
    for parser in (single, ensemble):
        _add_places(parser)
        _add_data(parser)
        _add_model_flags(parser)
    _add_shape(single)
    predict_online.add_arguments(single)
    for parser in (ensemble, last):
        add_ensemble_choices(parser)
    add_id_files(last)
    _add_places(last)
    top = mode("topk", "the best pictures of texts, or texts of pictures, from feature files")
    topk_arguments(top)


def _add_places(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("where")
    group.add_argument(
        "--datapath", metavar="DIR", type=Path, help="what the places below are in, as predict.sh has them"
    )
    group.add_argument("--dataset", metavar="NAME", default="MUGE", help="DATAPATH/datasets/NAME (MUGE)")
    group.add_argument("--split", default="test", help="default: test")
    group.add_argument(
        "--out", metavar="DIR", type=Path, help="for predictions (DATAPATH/experiments/results)"
    )
    group.add_argument(
        "--npy-save", metavar="DIR", type=Path, help="of score matrices (DATAPATH/npy_save, npy_save_last)"
    )


def _add_data(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("data")
    group.add_argument(
        "--data", metavar="DIR", type=Path, help="an LMDB root, a split of it, or a folder of MUGE files"
    )
    group.add_argument(
        "--text-data", metavar="FILE", type=Path, help="the texts (default: {split}_texts.jsonl of the data)"
    )
    group.add_argument(
        "--matrices",
        choices=("auto", "yes", "no"),
        default="auto",
        help="save score matrices, or keep features instead (auto: above 8 GiB)",
    )
    group.add_argument("--force", action="store_true", help="make anew what is there already")


def _add_shape(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--schema",
        choices=("query_id", "text_id"),
        default="query_id",
        help="query_id/item_ids as Online-CNCLIP, or text_id/image_ids as Chinese-CLIP (default: query_id)",
    )
    parser.add_argument("--top-k", metavar="N", type=int, default=10, help="pictures of a line (10)")


def _add_model_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("how")
    group.add_argument("--batch-size", metavar="N", type=int, default=64, help="pictures at once (64)")
    group.add_argument("--text-batch-size", metavar="N", type=int, default=256, help="texts at once (256)")
    group.add_argument("--context-length", metavar="N", type=int, help="tokens of a text (the model's own)")
    group.add_argument("--device", help="cpu, cuda, … (default: the best there is)")
    group.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), help="default: the fastest that is safe"
    )


def run(args: argparse.Namespace) -> int:
    """Predict and print the files written. Raises InputError on bad data, WeightsError on a bad model."""
    from cnclip.errors import InputError
    from cnclip.prediction.bars import bars

    if args.mode == "topk":
        return run_topk(args)
    for flag in ("top_k", "batch_size", "text_batch_size"):
        if getattr(args, flag, 1) < 1:
            raise InputError(f"--{flag.replace('_', '-')}: must be at least 1, not {getattr(args, flag)}")
    with bars() as progress:
        written = {"single": _single, "ensemble": _ensemble, "ensemble-last": _ensemble_last}[args.mode](
            args, progress
        )
    sys.stdout.write(f"{written}\n")
    return EXIT_OK


def _single(args: argparse.Namespace, progress: OnProgress | None) -> Path:
    from cnclip.prediction.feature_job import model_features, predict_from_features
    from cnclip.prediction.job import predict_single

    predict_online.check(args)
    job, name = _job(args, progress), _find(args, args.models[0])
    if args.online_learning:
        name = str(predict_online.learn(args, job, name))
    model = _load(args, name)
    if _uses_matrices(args, job):
        return predict_single(job, model)
    return predict_from_features(job, model_features(job, model, 1), 1)


def _ensemble(args: argparse.Namespace, progress: OnProgress | None) -> Path:
    from cnclip.prediction.ensemble_job import predict_ensemble
    from cnclip.prediction.weights import parse_weights

    weights = parse_weights(args.weights)
    job = _job(args, progress)
    load = partial(_load, args)
    for name in args.models:  # a misspelt name is found now, not after the models before it
        _find(args, name)
    return predict_ensemble(
        job, args.models, load, weights, args.normalize, matrices=_uses_matrices(args, job)
    )


def _ensemble_last(args: argparse.Namespace, progress: OnProgress | None) -> Path:
    from cnclip.prediction.ensemble_job import predict_ensemble_last
    from cnclip.prediction.job import Output
    from cnclip.prediction.weights import parse_weights

    weights = parse_weights(args.weights)
    results, matrices = _places(args, "npy_save_last")
    output = Output(
        results=results,
        matrices=matrices,
        name=args.split,
        schema=args.schema,
        top_k=args.top_k,
        progress=progress,
    )
    texts, images = args.text_feats, args.image_feats
    if texts is None and images is None and args.datapath is not None:
        texts, images = _features_beside(args.datapath / "datasets" / args.dataset, args.split)
    return predict_ensemble_last(output, weights, args.normalize, ids_of_features(texts, images))


def _features_beside(folder: Path, split: str) -> tuple[Path, Path] | tuple[None, None]:
    """Where Online-CNCLIP looks for the ids of matrices, if both files are there."""
    for last in ("-last", ""):
        texts = folder / f"{split}_texts.txt_feat{last}.jsonl"
        images = folder / f"{split}_imgs.img_feat{last}.jsonl"
        if texts.is_file() and images.is_file():
            return texts, images
    return None, None


def _places(args: argparse.Namespace, matrices: str) -> tuple[Path, Path]:
    """Folders of predictions and of matrices. Raises InputError where they are not given."""
    from cnclip.errors import InputError

    base: Path | None = args.datapath
    results = args.out or (base / "experiments" / "results" if base else None)
    folder = args.npy_save or (base / matrices if base else None)
    if results is None or folder is None:
        raise InputError("--datapath, or both --out and --npy-save, must be given")
    # test is what the folder is known for; the matrices of other splits must not take its place
    return results, folder if args.split == "test" or args.npy_save else folder / args.split


def _job(args: argparse.Namespace, progress: OnProgress | None) -> Job:
    """What the flags say. Raises InputError on a bad one, and on data that is not there."""
    from cnclip.errors import InputError
    from cnclip.prediction.extract import tell
    from cnclip.prediction.job import Job
    from cnclip.prediction.split import open_prediction_split

    results, matrices = _places(args, "npy_save")
    data = args.data or (args.datapath / "datasets" / args.dataset if args.datapath else None)
    if data is None:
        raise InputError("--datapath or --data must be given")
    refused: list[str] = []
    split = open_prediction_split(data, args.split, text_data=args.text_data, on_error=refused.append)
    tell(refused)
    return Job(
        split=split,
        results=results,
        matrices=matrices,
        name=args.split,
        schema=args.schema,
        top_k=args.top_k,
        batch_size=args.batch_size,
        text_batch_size=args.text_batch_size,
        force=args.force,
        progress=progress,
    )


def _uses_matrices(args: argparse.Namespace, job: Job) -> bool:
    if args.matrices != "auto":
        return bool(args.matrices == "yes")
    size = 4 * len(job.split.texts) * len(job.split.image_ids)
    if size > _MATRIX_BYTES:
        logger.info("no score matrices, features instead: %.0f GiB each (--matrices yes)", size / 2**30)
    return size <= _MATRIX_BYTES


def _find(args: argparse.Namespace, name: str) -> str:
    from cnclip.prediction.loading import find_model

    return find_model(name, args.datapath / "resume" if args.datapath else None)


def _load(args: argparse.Namespace, name: str) -> Encoder:
    from cnclip.model.device import tune_malloc
    from cnclip.prediction.loading import load_model

    tune_malloc()
    return load_model(
        _find(args, name), device=args.device, dtype=args.dtype, context_length=args.context_length
    )
