"""Files that are complete or absent, whatever happens while they are written."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

TEMPORARY_PREFIX = ".tmp-"


@contextlib.contextmanager
def open_durably(path: Path) -> Iterator[IO[bytes]]:
    """A temporary file that is synced and renamed to `path` where the block ends well, else removed; on disk
    when it returns. Raises OSError.

    What a kill leaves behind begins with TEMPORARY_PREFIX.
    """
    descriptor, name = tempfile.mkstemp(prefix=TEMPORARY_PREFIX, dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)  # mkstemp makes it private; these files are copied and shared
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    sync_directory(path.parent)


def write_durably(path: Path, data: bytes) -> None:
    """Write `path` as `open_durably` does. Raises OSError."""
    with open_durably(path) as file:
        file.write(data)


def sync_directory(path: Path) -> None:
    """Put the names in the directory `path` on disk. Raises OSError."""
    if os.name != "posix":  # Windows cannot open a directory
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
