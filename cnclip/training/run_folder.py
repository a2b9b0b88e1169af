"""The folder of a run: one process group at a time works in it, and nothing half-written stays there."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from cnclip.errors import InputError
from cnclip.training.distributed import World

LATEST = "checkpoints/epoch_latest.pt"
BEST = "best.safetensors"


@contextlib.contextmanager
def open_run(run: Path, world: World) -> Iterator[Path]:
    """Make and lock `run`; remove what a killed process left half-written there.

    Raises: InputError if the folder cannot be written, or another run is at work in it.
    """
    with contextlib.ExitStack() as stack:
        with world.main_first():
            if world.is_main:
                try:
                    (run / "checkpoints").mkdir(parents=True, exist_ok=True)
                    stack.enter_context(FileLock(run / ".lock", timeout=0))
                    for partial in run.rglob(".*.tmp"):
                        partial.unlink(missing_ok=True)
                except Timeout as error:
                    raise InputError(
                        f"{run}: another run is at work here; wait, or use another --name"
                    ) from error
                except OSError as error:
                    raise InputError(f"{run}: cannot be written ({error.strerror})") from error
        yield run


@contextlib.contextmanager
def said_once(*loggers: str) -> Iterator[None]:
    """Let each kind of message of these loggers through once: a batch with a cut text is nothing new."""
    seen: set[str] = set()

    def is_new(record: logging.LogRecord) -> bool:
        known = record.msg in seen
        seen.add(str(record.msg))
        return not known

    with contextlib.ExitStack() as stack:
        for name in loggers:
            logging.getLogger(name).addFilter(is_new)
            stack.callback(logging.getLogger(name).removeFilter, is_new)
        yield
