"""Archives made by hand, for the tests of importing."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cache.picture_meta import Meta, Stored, dump_meta
from tests.cache.picture_kit import jpeg, origin

Change = Callable[[tarfile.TarInfo], None]


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def sidecar(query: str, *labels: str) -> bytes:
    """Of a query whose pictures 1, 2, … are those of `labels`."""
    return dump_meta(Meta(query, {n: Stored(digest(jpeg(x)), origin()) for n, x in enumerate(labels, 1)}))


def build(
    path: Path,
    files: dict[str, bytes],
    *,
    manifest: dict[str, Any] | bytes | None = None,
    extra: list[tarfile.TarInfo] | None = None,
    change: Change | None = None,
) -> Path:
    """An archive with a manifest that fits, unless another is given; `extra` members have no content."""
    extra = extra or []
    if manifest is None:
        names = [*files, *(member.name for member in extra)]
        manifest = {
            "version": 1,
            "splits": {"valid": count(names)},
            "files": {name: digest(files.get(name, b"")) for name in names},
        }
    if isinstance(manifest, dict):
        manifest = json.dumps(manifest).encode()
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in {**files, "manifest.json": manifest}.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            if change:
                change(member)
            tar.addfile(member, io.BytesIO(data))
        for member in extra:
            tar.addfile(member)
    return path


def count(names: list[str]) -> dict[str, int]:
    found = [name for name in names if name.endswith(".jpg")]
    return {"queries": len({name.rpartition("/")[0] for name in found}), "pictures": len(found), "misses": 0}
