"""`index/`: a saved index, so that opening a gallery need not read every vector from the catalogue.

`index.json` names the revision, the files and their checksums. It is trusted only if its `stamp` is the one
in the catalogue (so an index never meets a catalogue that was restored from elsewhere) and every checksum
holds; otherwise the index is rebuilt. Files are written under new names and `index.json` is replaced last.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.gallery.index import FlatIndex, VectorIndex
from service.gallery.manifest import write_atomically
from service.gallery.types import GalleryError

logger = logging.getLogger(__name__)

SCHEMA = 1
FILE_NAME = "index.json"


@dataclass(frozen=True)
class Snapshot:
    """An index together with the revision of the catalogue that it holds."""

    revision: int
    index: VectorIndex


def save_index(directory: Path, snapshot: Snapshot) -> str:
    """Save `snapshot` and return its stamp, which the catalogue must then record.

    Only files that are not there yet are written. Raises GalleryError if that fails.
    """
    try:
        directory.mkdir(exist_ok=True)
    except OSError as error:
        raise GalleryError(f"{directory}: cannot be made: {error.strerror or error}") from error
    known = _read_header(directory).get("files", {})
    checksums: dict[str, str] = {}
    for name, make in snapshot.index.parts().items():
        if name in known and (directory / name).is_file():
            checksums[name] = known[name]
            continue
        data = make()
        write_atomically(directory / name, data)
        checksums[name] = hashlib.sha256(data).hexdigest()
    stamp = uuid.uuid4().hex
    header = {
        "schema": SCHEMA,
        "kind": snapshot.index.kind,
        "dim": snapshot.index.dim,
        "revision": snapshot.revision,
        "stamp": stamp,
        "files": checksums,
        "state": snapshot.index.state(),
    }
    write_atomically(directory / FILE_NAME, json.dumps(header).encode())
    _remove_others(directory, {FILE_NAME, *checksums})
    return stamp


def load_index(directory: Path, *, dim: int, stamp: str) -> Snapshot | None:
    """The saved index, or None (with a log line saying why) if there is none that fits and is whole."""
    header = _read_header(directory)
    if not header:
        return None
    try:
        if (header["schema"], header["kind"], header["dim"]) != (SCHEMA, FlatIndex.kind, dim):
            raise ValueError("of another kind, dimension or schema")
        if header["stamp"] != stamp:
            raise ValueError("not the one this catalogue was saved with")

        def read(name: str) -> bytes:
            if "/" in name or "\\" in name:
                raise ValueError(f"not a file name: {name!r}")
            data = (directory / name).read_bytes()
            if hashlib.sha256(data).hexdigest() != header["files"][name]:
                raise ValueError(f"{name} is damaged")
            return data

        return Snapshot(int(header["revision"]), FlatIndex.restore(dim, header["state"], read))
    except (OSError, ValueError, KeyError, TypeError, IndexError, RuntimeError) as error:
        logger.warning("%s: the saved index is not used, it will be rebuilt: %s", directory, error)
        return None


def _read_header(directory: Path) -> dict[str, Any]:
    try:
        header = json.loads((directory / FILE_NAME).read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        logger.warning("%s: cannot be read, the index will be rebuilt: %s", directory / FILE_NAME, error)
        return {}
    return header if isinstance(header, dict) and isinstance(header.get("files"), dict) else {}


def _remove_others(directory: Path, wanted: set[str]) -> None:
    for path in directory.iterdir():
        if path.name not in wanted and path.is_file():
            with contextlib.suppress(OSError):  # a reader on Windows may hold it; the next save tries again
                path.unlink()
