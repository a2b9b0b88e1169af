"""What a run writes down: metrics.jsonl, TensorBoard events, Weights & Biases, a log file, its settings."""

from __future__ import annotations

import json
import logging
import math
import os
import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from cnclip.errors import InputError
from cnclip.model.atomic import replacing
from cnclip.model.device import accelerator_names
from cnclip.printable import printable
from cnclip.training.sinks import Sink, tensorboard_sink, wandb_sink

logger = logging.getLogger(__name__)

METRICS = "metrics.jsonl"
_TIMESTAMP = "%Y-%m-%d-%H-%M-%S"  # in file names, UTC, as Chinese-CLIP has it


class Records:
    """Writes one run's events, as a context manager. One process of a run holds one.

    `folder`/metrics.jsonl gets one JSON object per line and event, flushed at once, each with "time" (seconds
    since 1970), "kind" and "step": "start" ("hardware"), "train" ("epoch" and the values), "valid" ("epoch",
    "result"), "online" ("epoch" and the numbers of a round), "note" ("text"). A number that is not finite is
    null. The numbers also go to TensorBoard (`folder`/tensorboard) and, with `wandb_project`, to Weights &
    Biases.

    Args:
        settings: of the run, shown by TensorBoard and Weights & Biases.
        tensorboard: write events; where the package is missing, one log line says so.
        resume_step: the steps done by the checkpoint that is continued; what was recorded after it is
            dropped. 0 starts the records over.

    Raises:
        InputError: the package wandb is missing, or `folder` cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        *,
        settings: Mapping[str, object],
        tensorboard: bool = True,
        wandb_project: str | None = None,
        resume_step: int = 0,
    ) -> None:
        self._folder, self._settings, self._resume_step = folder, settings, resume_step
        self._tensorboard, self._wandb_project = tensorboard, wandb_project
        self._path = folder / METRICS
        self._sinks: list[Sink] = []
        self._open = ExitStack()

    def __enter__(self) -> Records:
        with ExitStack() as opened:
            if self._wandb_project:  # first, as it may refuse: then nothing has been dropped
                sink = wandb_sink(self._wandb_project, self._folder, self._settings, self._resume_step)
                self._sinks.append(sink)
                opened.callback(sink.close)
            _forget_after(self._path, self._resume_step)
            with _cannot_write(self._path):
                self._folder.mkdir(parents=True, exist_ok=True)
                self._file = opened.enter_context(self._path.open("ab", buffering=0))
            if self._tensorboard:
                events = tensorboard_sink(self._folder / "tensorboard", self._settings, self._resume_step)
                if events is not None:
                    self._sinks.append(events)
                    opened.callback(events.close)
            self._row("start", self._resume_step, {"hardware": hardware()})
            self._open = opened.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.__exit__(kind, error, trace)

    def train(self, step: int, epoch: int, values: Mapping[str, float]) -> None:
        """The values of a log line: loss, lr, accuracies as fractions, `StepTimes.take`, …"""
        self._row("train", step, {"epoch": epoch, **values})
        self._scalars("train", step, values)

    def valid(self, step: int, epoch: int, result: Mapping[str, Any]) -> None:
        """What `evaluate` returned, perhaps with "in_batch": {"loss", …} beside it."""
        self._row("valid", step, {"epoch": epoch, "result": result})
        self._scalars("valid", step, _flat(result))

    def online(self, step: int, epoch: int, record: Mapping[str, Any]) -> None:
        """A round of online learning: its decision and numbers (`cnclip.online.record` keeps all of it)."""
        short = {name: value for name, value in record.items() if name not in ("pictures", "movers")}
        self._row("online", step, {**short, "epoch": epoch})
        self._scalars("online", step, _flat(short))

    def note(self, step: int, text: str) -> None:
        """A remark for the report: a warning, an early stop, a changed setting."""
        self._row("note", step, {"text": text})
        for sink in self._sinks:
            sink.text(step, text)

    def _scalars(self, group: str, step: int, values: Mapping[str, float]) -> None:
        for sink in self._sinks:
            sink.scalars(step, {f"{group}/{name}": value for name, value in values.items()})

    def _row(self, kind: str, step: int, content: Mapping[str, Any]) -> None:
        row = {"time": round(time.time(), 3), "kind": kind, "step": step, **content}
        with _cannot_write(self._path):
            left = _json_line(row)
            while left:  # unbuffered, so that no rest can fail once more when the file is closed
                left = left[self._file.write(left) :]


def read_rows(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The events of a metrics.jsonl, and how many lines are none (torn, not JSON, no kind or step).

    Raises: InputError if the file cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    parsed = [_parse(line) for line in lines if line.strip()]
    rows = [row for row in parsed if row is not None]
    return rows, len(parsed) - len(rows)


@contextmanager
def log_file(folder: Path, level: int = logging.INFO) -> Iterator[Path]:
    """While open, all log records from `level` up also go to `folder`/out_{time}.log, which is yielded.

    Lines read `2026-01-31,12:00:00 | INFO | Rank 0 | message` as Chinese-CLIP's do, in local time.

    Raises: InputError if the file cannot be written.
    """
    path = folder / f"out_{time.strftime(_TIMESTAMP, time.gmtime())}.log"
    with _cannot_write(path):
        folder.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")
    handler.setLevel(level)
    form = "%(asctime)s | %(levelname)s | Rank 0 | %(message)s"
    handler.setFormatter(logging.Formatter(form, "%Y-%m-%d,%H:%M:%S"))
    root = logging.getLogger()
    before = root.level
    root.setLevel(min(before, level))  # or a caller that set up no logging would get an empty file
    root.addHandler(handler)
    try:
        yield path
    finally:
        root.removeHandler(handler)
        root.setLevel(before)
        handler.close()


def write_params(folder: Path, settings: Mapping[str, object]) -> Path:
    """Write `folder`/params_{time}.txt: a line `name: value` per setting, by name, as Chinese-CLIP does."""
    path = folder / f"params_{time.strftime(_TIMESTAMP, time.gmtime())}.txt"
    with replacing(path) as temporary:
        temporary.write_text("\n".join([*_setting_lines(settings), ""]), encoding="utf-8")
    return path


def hardware() -> dict[str, Any]:
    """What this process runs on, in words and numbers."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    facts: dict[str, Any] = {"system": platform.platform(), "processor": _processor(), "cores": cores}
    if "SC_PHYS_PAGES" in getattr(os, "sysconf_names", {}):
        facts["memory_gib"] = round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)
    facts["accelerators"] = accelerator_names()
    facts["processes"] = int(os.environ.get("WORLD_SIZE", "1"))
    return {
        **facts,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def _processor() -> str:
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8", errors="replace") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


@contextmanager
def _cannot_write(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from error


def _parse(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or not isinstance(row.get("kind"), str):
        return None
    return row if type(row.get("step")) is int and 0 <= row["step"] < 2**53 else None


def _json_line(row: Mapping[str, Any]) -> bytes:
    # Half surrogate pairs (file names that are not UTF-8) become what JSON writes for them.
    return json.dumps(_plain(row), ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"


def _forget_after(path: Path, step: int) -> None:
    """Drop the rows of later steps and torn lines; with step 0 all rows, as the run starts over."""
    if not path.exists():
        return
    rows, broken = read_rows(path)
    kept = [row for row in rows if step and row["step"] <= step]
    if broken:
        logger.warning("%s: %d lines could not be read and are dropped", path, broken)
    if broken or len(kept) < len(rows):
        with replacing(path) as temporary:
            temporary.write_bytes(b"".join(_json_line(row) for row in kept))


def _plain(value: Any) -> Any:
    """What JSON can hold: numbers that are not finite become None, numpy's and torch's numbers plain ones."""
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, str | bool | int):
        return value
    number = float(value)
    return number if math.isfinite(number) else None


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """The numbers of nested mappings, names joined by /."""
    numbers: dict[str, float] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            numbers |= _flat(value, f"{prefix}{name}/")
        elif isinstance(value, int | float):
            numbers[prefix + name] = value
    return numbers


def _setting_lines(settings: Mapping[str, object]) -> list[str]:
    return [f"{name}: {printable(str(settings[name]))}" for name in sorted(settings)]
