"""Rows of vectors that are computed in pieces and outlive a kill.

    {stem}.rows      float32, row after row
    {stem}.journal   JSON lines: first what the rows are made from, then one line for each complete piece

A piece counts once its line is in the journal; what follows it in the rows is cut off when work goes on.
Pieces start at multiples of their size whether or not there was a kill, so that the same batches meet in the
model and the vectors come out bit for bit the same.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from cnclip.errors import InputError

FloatArray = npt.NDArray[np.float32]


class PartialRows:
    """A growing table of float32 rows on disk; a context manager that keeps what is complete.

    Args:
        stem: path without the endings above.
        dim: width of a row.
        made_from: plain JSON values. Rows that were made from something else are thrown away.

    Attributes:
        done: rows that are complete.
        problems: the lines reported with them.

    Raises:
        InputError: the folder cannot be written.
    """

    def __init__(self, stem: Path, dim: int, made_from: Mapping[str, Any]) -> None:
        self._rows = stem.with_name(f"{stem.name}.rows")
        self._journal = stem.with_name(f"{stem.name}.journal")
        self._dim = dim
        self.done = 0
        self.problems: list[str] = []
        header = json.dumps({**made_from, "dim": dim}, sort_keys=True)
        try:
            stem.parent.mkdir(parents=True, exist_ok=True)
            kept = self._take_up(header)
            self._rows.touch()
            os.truncate(self._rows, self.done * dim * 4)
            if not kept:
                self._journal.write_text(f"{header}\n", encoding="utf-8")
            self._file = self._rows.open("ab")
        except OSError as error:
            raise InputError(f"{stem.parent}: cannot be written ({error.strerror})") from error

    def _take_up(self, header: str) -> bool:
        """Read the journal; False where it is not there or of something else."""
        try:
            lines = self._journal.read_text(encoding="utf-8").split("\n")
            size = self._rows.stat().st_size
        except (OSError, UnicodeDecodeError):
            return False
        if lines[0] != header:
            return False
        whole = len(lines[0].encode()) + 1
        for line in lines[1:-1]:  # what a newline follows was written whole
            try:
                entry = json.loads(line)
                done, problems = int(entry["rows"]), [str(problem) for problem in entry["problems"]]
            except (ValueError, KeyError, TypeError):
                break
            if done * self._dim * 4 > size:
                break
            self.done = done
            self.problems += problems
            whole += len(line.encode()) + 1
        os.truncate(self._journal, whole)
        return True

    def append(self, rows: FloatArray, problems: Sequence[str] = ()) -> None:
        """Add a piece, float32 (n, dim). Raises InputError on a full disk."""
        try:
            rows.astype("<f4", copy=False).tofile(self._file)
            self._file.flush()
            os.fsync(self._file.fileno())
            entry = {"rows": self.done + len(rows), "problems": list(problems)}
            with self._journal.open("a", encoding="utf-8") as journal:
                journal.write(json.dumps(entry) + "\n")
        except OSError as error:
            raise InputError(f"{self._rows}: cannot be written ({error.strerror})") from error
        self.done += len(rows)
        self.problems += problems

    def rows(self) -> FloatArray:
        """All complete rows, float32 (done, dim), read from disk as they are used."""
        self._file.flush()
        if not self.done:
            return np.empty((0, self._dim), np.float32)
        return np.memmap(self._rows, np.dtype("<f4"), "r", shape=(self.done, self._dim))

    def remove(self) -> None:
        """Delete the files: what they were for is finished."""
        self._file.close()
        for path in (self._journal, self._rows):
            with suppress(OSError):
                path.unlink()

    def __enter__(self) -> PartialRows:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
