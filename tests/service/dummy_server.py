"""`cnclip serve` with the dummy model, as a process: `python -m tests.service.dummy_server --gallery DIR …`.

`DUMMY_DELAY_S` makes every batch of texts take that long, so that a signal finds requests in flight;
`DUMMY_DRAIN_S` is how long it waits for them. `DUMMY_EMBED_S` makes every batch of an activation take that
long, and `DUMMY_KILL_AT` kills the server in the middle of one (kill_points.py).
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cnclip
from run_scripts import cli
from run_scripts.commands import serve
from service import reembed
from tests.service import kill_points
from tests.service.dummy_models import load

ROOT = Path(__file__).resolve().parents[2]


class ServerProcess:
    """A started server: `url`, and ways to end it."""

    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self.process = process
        self.url = url

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """(exit code, standard error)"""
        self.process.send_signal(number)
        _, errors = self.process.communicate(timeout=60)
        return self.process.returncode, errors


@contextmanager
def dummy_server(
    gallery: Path, *flags: str, delay_s: float = 0.0, **environment: str
) -> Iterator[ServerProcess]:
    """A server on a free port, ready to answer; killed at the end if it still runs."""
    command = [sys.executable, "-m", "tests.service.dummy_server", "serve", "--gallery", str(gallery)]
    process = subprocess.Popen(
        [*command, "--port", "0", *flags],
        cwd=ROOT,
        env={**os.environ, "DUMMY_DELAY_S": str(delay_s), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"http://\S+", line)
        assert found, f"no address in {line!r}"
        yield ServerProcess(process, found[0])
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def main() -> int:
    vars(cnclip)["load"] = load  # not setattr, which would import torch
    reembed.WORKER = "tests.service.dummy_worker"
    kill_points.prepare(os.environ.get("DUMMY_KILL_AT", ""))
    serve.DRAIN_S = int(os.environ.get("DUMMY_DRAIN_S", serve.DRAIN_S))
    return cli.main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
