"""Files that exist whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from safetensors import SafetensorError

from cnclip.errors import InputError

# How torch.save reports a full disk, depending on where it notices.
_TORCH_WRITE_FAILED = ("PytorchStreamWriter", "inline_container", "iostream")

_UMASK = os.umask(0)  # the only way to read it is to set it
os.umask(_UMASK)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is flushed to disk and renamed over `path`.

    Raises: InputError if the folder cannot be written or the disk is full; the temporary file is removed.
    """
    temporary = path.with_name(f".{path.name}.{uuid4().hex[:8]}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.chmod(0o666 & ~_UMASK)  # safetensors makes its files private
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except (OSError, SafetensorError) as error:
        why = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: cannot be written ({why})") from error
    except RuntimeError as error:
        if not any(mark in str(error) for mark in _TORCH_WRITE_FAILED):
            raise
        raise InputError(f"{path}: cannot be written ({str(error).splitlines()[0]})") from error
    finally:
        with suppress(OSError):  # what failed above is the news
            temporary.unlink()


def _sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut (POSIX only)."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
