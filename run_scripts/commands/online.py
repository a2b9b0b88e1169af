"""`cnclip online`: learns from what people search for and say, and publishes what helped as versions."""

from __future__ import annotations

import argparse
import contextlib
import logging
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from cnclip.training import cli
from cnclip.training.config import TrainConfig

if TYPE_CHECKING:
    from cnclip.online.versions import Version
    from run_scripts.online_service import ModelService
    from run_scripts.online_start import Job

logger = logging.getLogger(__name__)

EXIT_OK = 0
MAX_QUERIES = 64
INTERVAL_S = 300.0
ACTIVATION_S = 3600.0  # a large gallery is embedded anew
# Settings of `cnclip train` that mean the same here, by the title they have in the help.
_SECTIONS = TrainConfig.sections()
_OTHERWISE = {"online_learning", "online_cache", "online_pictures", "max_queries"}  # not so here
_SHARED = {
    "data": ["train_data", "val_data"],
    "rounds": [
        *(name for name in _SECTIONS["online"] if name not in _OTHERWISE),
        *("batch_size", "valid_batch_size", "use_augment", "augment", "precision", "device", "seed"),
    ],
    "fresh pictures": [name for name in _SECTIONS["source"] if name not in _OTHERWISE],
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "%(prog)s --train-data DIR[,DIR…] (--gallery DIR | --queries FILE) [flags]"
    parser.epilog = (
        "It ends on Ctrl-C or SIGTERM, loses nothing, and goes on where it was when started again."
    )
    add = parser.add_argument_group("where from, where to").add_argument
    add("--gallery", metavar="DIR", type=Path, help="of a service: its feedback, query log, pictures, models")
    add("--journal", metavar="FILE", type=Path, help="feedback and query log (journal.sqlite of the gallery)")
    add(
        "--queries",
        metavar="FILE",
        help="one query a line, .jsonl, or - for stdin; read again when it changes",
    )
    add("--model", metavar="NAME", help="what the first version is learnt from (default: lite)")
    add("--models", metavar="DIR", type=Path, help="folder of model versions (models in the gallery)")
    add("--name", dest="line", metavar="NAME", help="of the versions (default: that of the model)")
    add("--keep", metavar="N", type=int, help="remove older versions than the last N (default: keep all)")
    add("--state", metavar="DIR", type=Path, help="what the worker remembers (MODELS/NAME/worker)")
    add = parser.add_argument_group("when").add_argument
    add("--once", action="store_true", help="one round, then end")
    add("--interval", metavar="S", type=float, default=INTERVAL_S, help="seconds between rounds (300)")
    add("--max-queries", dest="most", metavar="N", type=int, default=MAX_QUERIES, help="of a round (64)")
    add(
        "--online-cache",
        dest="cache_only",
        action="store_true",
        help="no browser: pictures in the cache alone",
    )
    add("--feedback-only", action="store_true", help="learn from feedback alone; no fresh pictures")
    add = parser.add_argument_group("a running service").add_argument
    add("--service", metavar="URL", help="activate what is published there, and go on from what is active")
    add("--api-key-file", metavar="FILE", type=Path, help="its key (default: the variable CNCLIP_API_KEY)")
    parser.add_argument("--config", metavar="FILE", type=Path, help="YAML file of settings of `cnclip train`")
    for title, names in _SHARED.items():
        group = parser.add_argument_group(title)
        for name in names:
            cli.add_flag(group, name)


class _Terminated(KeyboardInterrupt):
    """SIGTERM: as Ctrl-C, but what was asked for is done."""


def run(args: argparse.Namespace) -> int:
    """Work until told to stop; 0 then, and after --once.

    Raises:
        InputError: settings, data or folders that cannot be used.
    """
    signal.signal(signal.SIGTERM, _terminate)
    try:
        with contextlib.ExitStack() as stack:
            _work(args, stack)
    except _Terminated:
        logger.info("terminated; nothing is lost")
    return EXIT_OK


def _terminate(*_: object) -> NoReturn:
    raise _Terminated


def _work(args: argparse.Namespace, stack: contextlib.ExitStack) -> None:
    from cnclip.model.device import tune_malloc
    from run_scripts.online_service import ServiceError
    from run_scripts.online_start import put_together

    tune_malloc()
    job = put_together(args, stack)
    if args.once:
        job.inbox.wait()
    while True:
        started = time.monotonic()
        ended = job.inbox.ended  # before listening: what came last must be heard
        try:
            idle = not _one(job, args.keep)
        except ServiceError as error:
            if args.once:
                raise
            logger.warning("%s; tried again in %.0f s", error, args.interval)
            idle = False
        if args.once or (ended and idle):
            return
        time.sleep(max(0.0, args.interval - (time.monotonic() - started)))


def _one(job: Job, keep: int | None) -> bool:
    """One round, and what follows from it. Whether there was anything to learn from."""
    cycle = job.worker.cycle()
    if cycle is None:
        return False
    label = f" {cycle.version.label}" if cycle.version is not None else ""
    sys.stdout.write(f"{cycle.verdict}{label}: {cycle.why}\n")
    sys.stdout.flush()
    if cycle.version is not None and job.service is not None:
        _activate(job.service, cycle.version)
        if keep is not None:
            spare = job.service.in_use() | {cycle.version.label}
            for gone in job.versions.prune(keep, name=job.line, spare=spare):
                logger.info("%s is removed", gone.label)
    return True


def _activate(service: ModelService, version: Version) -> None:
    """What the service refuses stays published; the next round goes on from what is active."""
    from run_scripts.online_service import ServiceError

    try:
        found = service.activate(version.label, ACTIVATION_S)
    except ServiceError as error:
        logger.warning("not active: %s", error)
    else:
        logger.info("%s is active at %s%s", version.label, service.url, f" ({found})" if found else "")
