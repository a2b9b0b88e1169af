"""The vectors of a gallery's pictures, from a process of low priority (reembed_worker.py).

A process and not a thread: the model's threads would take half of the processors from the searches, whatever
their number, and the interpreter lock with them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from cnclip.errors import CnclipError
from service.batcher import Vectors

WORKER = "service.reembed_worker"
ROOT = Path(__file__).resolve().parents[1]
_ONE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class ReembedError(CnclipError):
    """The process could not load the model, or ended before its work was done."""


class EmbeddingProcess:
    """One process with one model. `embed` belongs to one thread; `close` may be called from any, and makes
    a waiting `embed` raise ReembedError.

    Args:
        weights: for `cnclip.load`. images: the directory of the pictures, by content.
    """

    def __init__(self, weights: str, images: Path) -> None:
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        self._process = subprocess.Popen(
            [sys.executable, "-m", WORKER, weights, str(images)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **dict.fromkeys(_ONE_THREAD, "1"), "PYTHONPATH": path},
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_until_ready(self) -> str:
        """The image fingerprint of the model it has loaded. Raises ReembedError."""
        head = self._read_head()
        if "failed" in head:
            raise ReembedError(str(head["failed"]))
        return str(head["ready"])

    def embed(self, digests: Sequence[str]) -> tuple[dict[str, Vectors], dict[str, str]]:
        """Vectors (dim,) by SHA-256 of the picture, and why there are none of the others.

        Raises ReembedError: the process has ended.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"pictures": list(digests)}).encode() + b"\n")
            self._process.stdin.flush()
        except (OSError, ValueError) as error:
            raise self._ended() from error
        head = self._read_head()
        count, dim, unreadable = int(head["vectors"]), int(head["dim"]), dict(head["unreadable"])
        data = self._process.stdout.read(count * dim * 4)
        if len(data) < count * dim * 4:
            raise self._ended()
        vectors = np.frombuffer(data, dtype="<f4").astype(np.float32).reshape(count, dim)
        good = [digest for digest in digests if digest not in unreadable]
        return dict(zip(good, vectors, strict=True)), unreadable

    def close(self) -> None:
        """End the process, whatever it does."""
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> EmbeddingProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:  # a request that it did not live to read
                    continue

    def _read_head(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.endswith(b"\n"):
            raise self._ended()
        head: dict[str, Any] = json.loads(line)
        return head

    def _ended(self) -> ReembedError:
        code = self._process.wait()
        return ReembedError(f"the process that embeds pictures has ended (exit code {code})")
