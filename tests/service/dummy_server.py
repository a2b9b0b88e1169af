"""`cnclip serve` with the dummy model, as a process: `python -m tests.service.dummy_server --gallery DIR …`.

`DUMMY_DELAY_S` makes every batch take that long, so that a signal finds requests in flight;
`DUMMY_DRAIN_S` is how long it waits for them.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from run_scripts import cli
from run_scripts.commands import serve
from service import lifecycle
from service.encoder import EncoderProtocol
from service.settings import ServiceSettings
from tests.service.dummy import DummyEncoder, Vectors

ROOT = Path(__file__).resolve().parents[2]


class SlowEncoder(DummyEncoder):
    """Takes `DUMMY_DELAY_S` for each batch."""

    def encode_texts(self, texts: Sequence[str], *, batch_size: int = 256) -> Vectors:
        time.sleep(float(os.environ.get("DUMMY_DELAY_S", "0")))
        return super().encode_texts(texts, batch_size=batch_size)


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
def dummy_server(gallery: Path, *flags: str, delay_s: float = 0.0) -> Iterator[ServerProcess]:
    """A server on a free port, ready to answer; killed at the end if it still runs."""
    command = [sys.executable, "-m", "tests.service.dummy_server", "serve", "--gallery", str(gallery)]
    process = subprocess.Popen(
        [*command, "--port", "0", *flags],
        cwd=ROOT,
        env={**os.environ, "DUMMY_DELAY_S": str(delay_s)},
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
    def load(settings: ServiceSettings) -> EncoderProtocol:
        assert settings.gallery.is_dir()
        return SlowEncoder()

    lifecycle.load_encoder = load
    serve.DRAIN_S = int(os.environ.get("DUMMY_DRAIN_S", serve.DRAIN_S))
    return cli.main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
