"""`cnclip predict single --online-learning`: learning the test queries first, from flags."""

from __future__ import annotations

import argparse
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from cnclip.errors import InputError
from cnclip.training import cli
from cnclip.training.config import TrainConfig
from cnclip.training.config_file import build_config, flag_layer

if TYPE_CHECKING:
    from cnclip.model.weights import LoadedWeights
    from cnclip.prediction.job import Job
    from cnclip.prediction.online import OpenSource

# Settings of `cnclip train` that mean the same here.
_SECTIONS = TrainConfig.sections()
_OWN = ("online_learning", "online_cache")  # named below
_ONLINE = [
    *("train_data", "val_data"),
    *(name for name in _SECTIONS["online"] if name not in _OWN),
    *("valid_batch_size", "use_augment", "augment", "seed"),
]
_SOURCE = _SECTIONS["source"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of learning, absent from the namespace where they are not given."""
    group = parser.add_argument_group("online learning")
    group.add_argument(
        "--online-learning",
        action="store_true",
        help="first learn from fresh pictures of the queries; what DATAPATH/test lacks is crawled",
    )
    group.add_argument(
        "--online-cache", action="store_true", help="only from pictures in the cache: no browser, no login"
    )
    group.add_argument(
        "--max-epochs", metavar="N", type=int, default=1, help="over the queries, picture 1 to 5 in turn (1)"
    )
    group.add_argument(
        "--checkpoint-path",
        metavar="DIR",
        type=Path,
        help="for the model and its report (DATAPATH/experiments)",
    )
    for name in _ONLINE:
        cli.add_flag(group, name)
    group = parser.add_argument_group("fresh pictures")
    for name in _SOURCE:
        cli.add_flag(group, name)


def check(args: argparse.Namespace) -> None:
    """Raises InputError for flags that do not go together."""
    if args.online_cache and not args.online_learning:
        raise InputError("--online-cache: needs --online-learning")
    if args.max_epochs < 1:
        raise InputError(f"--max-epochs: must be at least 1, not {args.max_epochs}")


def learn(args: argparse.Namespace, job: Job, model: str) -> Path:
    """Learn the queries of the job; returns the model's file.

    Raises:
        InputError: settings, data or folders that cannot be used.
    """
    from cnclip.data.dataset import PairDataset
    from cnclip.model.device import pick_device
    from cnclip.model.encoder import find_weights
    from cnclip.model.fingerprint import fingerprint
    from cnclip.model.weights import load_checkpoint
    from cnclip.online.learner import online_settings
    from cnclip.online.replay import Memory
    from cnclip.online.verdict import Balance
    from cnclip.prediction.online import Lesson, QueryPupil, learn_queries
    from cnclip.training.distributed import World

    folder = args.checkpoint_path or (args.datapath / "experiments" if args.datapath else None)
    if folder is None:
        raise InputError("--online-learning: --datapath or --checkpoint-path must be given")
    loaded = load_checkpoint(find_weights(model))
    config = _config(args, model, loaded)
    open_source = _source(args, config, job.name)
    world = World(device=pick_device(config.device))
    settings = online_settings(config)
    memory = Memory([PairDataset(path) for path in config.train_data], settings.canary, settings.seed)
    pupil = QueryPupil(config, settings, memory, world, Balance(), gallery=job.split)
    lesson = Lesson(
        split=job.split,
        loaded=loaded,
        fingerprint=fingerprint(loaded.state_dict, loaded.config),
        run=folder / f"{Path(model).stem}_online",
        checkpoint=folder / f"epoch{loaded.info.get('epoch', 0)}_online_{args.max_epochs}.pt",
        epochs=args.max_epochs,
    )
    return learn_queries(lesson, pupil, open_source, job.progress)


def _config(args: argparse.Namespace, model: str, loaded: LoadedWeights) -> TrainConfig:
    """Settings of the steps: those given, and the data below DATAPATH."""
    given = {name: value for name, value in vars(args).items() if name in {*_ONLINE, *_SOURCE}}
    if args.datapath is not None:
        lmdb = args.datapath / "datasets" / args.dataset / "lmdb"
        given.setdefault("train_data", str(lmdb / "train"))
        if "val_data" not in given and (lmdb / "valid").is_dir():
            given["val_data"] = str(lmdb / "valid")
    if "train_data" not in given:
        raise InputError("--online-learning: --train-data must be given (pairs that keep it from forgetting)")
    longest = args.context_length or loaded.config.context_length
    given |= {"model": model, "context_length": str(longest), "batch_size": str(args.batch_size)}
    if args.device is not None:
        given["device"] = args.device
    if args.dtype is not None:
        given["precision"] = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}[args.dtype]
    config = build_config(flag_layer(given))
    for path in config.train_data:
        if not path.is_dir():
            raise InputError(f"--train-data {path}: no such folder; online learning replays pairs from there")
    return config


def _source(args: argparse.Namespace, config: TrainConfig, split: str) -> OpenSource:
    """Opens the source of fresh pictures. Raises InputError if it cannot be used."""
    from run_scripts.online_settings import SourceSettings, check_source
    from run_scripts.online_source import open_image_source

    settings = SourceSettings.of_training(config)
    if config.online_dir is None and args.datapath is None:
        raise InputError("--online-learning: --datapath or --online-dir must be given")
    settings = replace(settings, data_path=args.datapath or Path(), cache_only=args.online_cache)
    check_source(settings, split)
    return partial(open_image_source, settings, split)
