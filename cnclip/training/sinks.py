"""TensorBoard and Weights & Biases behind one small interface. Both packages are optional."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

from cnclip.errors import InputError
from cnclip.model.atomic import replacing
from cnclip.printable import printable

logger = logging.getLogger(__name__)

INSTALL = "pip install -c constraints.txt -e '.[{}]'"


class Sink(Protocol):
    """Where a run's numbers and remarks go besides metrics.jsonl."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None: ...
    def text(self, step: int, text: str) -> None: ...
    def close(self) -> None: ...


def tensorboard_sink(folder: Path, settings: Mapping[str, object], resume_step: int) -> Sink | None:
    """Events in `folder`; None, with one log line, where the package is missing.

    Events after `resume_step` (of a run that starts over: all) that are there already are no longer shown.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        logger.info("no TensorBoard events are written (to have them: %s)", INSTALL.format("train"))
        return None
    writer = SummaryWriter(str(folder), purge_step=resume_step + 1 if resume_step else 0)
    table = "\n".join(
        f"    {name}: {settings[name]}" for name in sorted(settings)
    )  # indented: shown as it is
    writer.add_text("settings", table, resume_step)
    return _TensorBoard(writer)


def wandb_sink(project: str, folder: Path, settings: Mapping[str, object], resume_step: int) -> Sink:
    """A run of `project`. `folder`/wandb.id ties a resumed run to its first part. Where the service cannot be
    reached or nobody is logged in, the run is kept below `folder` for `wandb sync`.

    Raises: InputError if the package is missing.
    """
    try:
        wandb = importlib.import_module("wandb")
    except ImportError as error:
        raise InputError(f"wandb: the package is missing: {INSTALL.format('wandb')}") from error
    options = {
        "project": project,
        "name": folder.name,
        "id": _run_id(folder / "wandb.id", new=resume_step == 0),
        "resume": "allow",
        "dir": str(folder),
        "config": {name: value if _is_plain(value) else str(value) for name, value in settings.items()},
    }
    try:
        run = wandb.init(**options)
    except wandb.Error as error:
        logger.warning("wandb: %s; this run is recorded offline", printable(str(error)))
        options["id"] = _run_id(folder / "wandb.id", new=True)  # the first one counts as in use
        run = wandb.init(**options, mode="offline")
    return _Wandb(run)


class _TensorBoard:
    def __init__(self, writer: Any) -> None:
        self._writer = writer

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def text(self, step: int, text: str) -> None:
        self._writer.add_text("note", text, step)

    def close(self) -> None:
        self._writer.close()


class _Wandb:
    def __init__(self, run: Any) -> None:
        self._run = run

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def text(self, step: int, text: str) -> None:
        self._run.log({"note": text}, step=step)

    def close(self) -> None:
        self._run.finish()


def _run_id(path: Path, *, new: bool) -> str:
    if path.exists() and not new:
        return path.read_text(encoding="ascii").strip()
    name = uuid4().hex[:8]
    with replacing(path) as temporary:
        temporary.write_text(name + "\n", encoding="ascii")
    return name


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, str | bool | int | float)
