"""Puts an online worker together from the flags of `cnclip online`."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from cnclip.errors import InputError
from cnclip.online.versions import ModelVersions, Version
from cnclip.online.worker import Worker, WorkerSettings
from cnclip.online.worker_state import WorkerState
from cnclip.training.cli import config_of
from cnclip.training.config import TrainConfig
from run_scripts.online_inbox import STDIN, FileQueries, Inbox, StreamQueries
from run_scripts.online_service import ModelService
from run_scripts.online_settings import SourceSettings, check_source
from run_scripts.online_source import open_image_source
from service.gallery.directory import IMAGES_NAME, holds_gallery
from service.journal import Journal
from service.layout import JOURNAL_NAME, MODELS_NAME

if TYPE_CHECKING:
    from cnclip.online.source import ImageSource

STATE_FILE, PICTURES_FOLDER, HOME_FOLDER = "state.sqlite", "pictures", "worker"
DEFAULT_MODEL = "lite"
KEY_VARIABLE = "CNCLIP_API_KEY"


@dataclass(frozen=True)
class Job:
    """A worker and what it works with. line: name of the versions it publishes."""

    worker: Worker
    inbox: Inbox
    versions: ModelVersions
    line: str
    service: ModelService | None


def put_together(args: argparse.Namespace, stack: contextlib.ExitStack) -> Job:
    """Everything that `args` ask for; `stack` closes it.

    Raises: InputError for what does not go together or cannot be used.
    """
    _check(args)
    config = _config(args)
    models = args.models or args.gallery / MODELS_NAME
    line = args.line or _line_of(config.model or DEFAULT_MODEL)
    home = (args.state or models / line / HOME_FOLDER).absolute()
    service = _service(args, config, stack)
    inbox = _inbox(args)
    open_source = _source(args, config, home)
    stack.enter_context(_alone(home))
    state = WorkerState(home / STATE_FILE)
    stack.callback(state.close)
    versions = ModelVersions(models)
    settings = WorkerSettings(config, line, home, args.most)
    worker = Worker(settings, state, versions, inbox, open_source, _parent(versions, line, service))
    return Job(worker, inbox, versions, line, service)


def _check(args: argparse.Namespace) -> None:
    problems = {
        "one of --gallery, --journal and --queries is needed: there is nobody to listen to": not (
            args.gallery or args.journal or args.queries
        ),
        "--models DIR is needed (or --gallery)": not (args.models or args.gallery),
        "--feedback-only needs --gallery, where the items' pictures are": args.feedback_only
        and args.gallery is None,
        "--feedback-only and --online-cache: one of them": args.feedback_only and args.cache_only,
        f"--max-queries must be at least 2, not {args.most}": args.most < 2,
        f"--interval must not be negative, not {args.interval:g}": args.interval < 0,
        "--keep must be at least 1": args.keep is not None and args.keep < 1,
        "--keep needs --service, which says what is in use": args.keep is not None and args.service is None,
        "--api-key-file goes with --service": args.api_key_file is not None and args.service is None,
    }
    for problem, found in problems.items():
        if found:
            raise InputError(problem)
    if args.gallery is not None and not holds_gallery(args.gallery):
        raise InputError(f"--gallery: {args.gallery}: there is no gallery")
    if args.journal is not None and not args.journal.is_file():
        raise InputError(f"--journal: {args.journal}: no such file (the service makes it)")


def _config(args: argparse.Namespace) -> TrainConfig:
    config = config_of(args)
    if config.online_learning:  # of a training run's file
        config = config.model_copy(update={"online_learning": False, "online_cache": False})
    return config if config.model is not None else config.model_copy(update={"model": DEFAULT_MODEL})


def _line_of(model: str) -> str:
    """The name of the versions that are learnt from `model`."""
    name = re.sub(r"[^\w.-]", "-", Path(model).stem if "/" in model or os.sep in model else model)
    return name.lstrip("-.")[:64] or DEFAULT_MODEL


def _inbox(args: argparse.Namespace) -> Inbox:
    from cache.blob_store import BlobStore

    queries: FileQueries | StreamQueries | None = None
    if args.queries is not None:
        queries = StreamQueries() if args.queries == STDIN else FileQueries(args.queries)
    path = args.journal or (args.gallery / JOURNAL_NAME if args.gallery else None)
    pictures = BlobStore(args.gallery / IMAGES_NAME) if args.gallery else None
    return Inbox(Journal(path) if path is not None else None, pictures, queries)


def _source(
    args: argparse.Namespace, config: TrainConfig, home: Path
) -> Callable[[], AbstractContextManager[ImageSource]] | None:
    """Opens the source of fresh pictures for one round. Raises InputError if it cannot be used."""
    if args.feedback_only:
        return None
    online_dir = config.online_dir or home / PICTURES_FOLDER
    flags = {"online_cache": args.cache_only, "online_dir": online_dir, "max_queries": args.most}
    settings = SourceSettings.of_training(config.model_copy(update=flags))
    check_source(settings)
    return lambda: open_image_source(settings)


def _service(
    args: argparse.Namespace, config: TrainConfig, stack: contextlib.ExitStack
) -> ModelService | None:
    """The service of --service, if it answers and began with the model of --model."""
    if args.service is None:
        return None
    service = ModelService(args.service, _api_key(args.api_key_file))
    stack.callback(service.close)
    label, fingerprint = service.base()
    own = fingerprint_of(config.model or DEFAULT_MODEL)
    if fingerprint != own:
        raise InputError(
            f"--model {config.model}: the service's gallery was made with {label} ({fingerprint[:12]}), "
            f"which is another model than this one ({own[:12]})"
        )
    return service


def fingerprint_of(model: str) -> str:
    """Of a model's file. Raises InputError, WeightsError."""
    from cnclip.model.encoder import find_weights
    from cnclip.model.fingerprint import identify
    from cnclip.model.weights import load_checkpoint

    loaded = load_checkpoint(find_weights(model))
    return identify(loaded.state_dict, loaded.config).whole


def _api_key(path: Path | None) -> str | None:
    if path is None:
        return os.environ.get(KEY_VARIABLE) or None
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--api-key-file: {path}: cannot be read ({error})") from error


def _parent(versions: ModelVersions, line: str, service: ModelService | None) -> Callable[[], Version | None]:
    """Asked before each round: with a service the model that answers there, so that a rollback counts; else
    the newest version."""

    def active() -> Version | None:
        assert service is not None
        label, fingerprint = service.active()
        found = (one for one in versions.list() if (one.label, one.fingerprint) == (label, fingerprint))
        return next(found, None)

    return (lambda: versions.latest(line)) if service is None else active


@contextlib.contextmanager
def _alone(home: Path) -> Iterator[None]:
    """One worker for one memory. Raises InputError while another one has it."""
    lock = FileLock(home / ".lock")
    try:
        home.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(f"{home}: another worker is at work here") from None
    except OSError as error:
        raise InputError(f"{home}: cannot be written ({error.strerror or error})") from error
    try:
        yield
    finally:
        lock.release()
