"""`manifest.json`: what a gallery is, readable without opening its catalogue."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from cache.files import write_durably
from cnclip.errors import ModelMismatchError
from service.gallery.types import GalleryError

SCHEMA = 1  # of new galleries
SWITCHED_SCHEMA = 2  # once another version of the model was activated; programs before that cannot read it
FILE_NAME = "manifest.json"


@dataclass(frozen=True)
class Manifest:
    """schema: version of the directory's layout. model_name: what `cnclip.load` takes, or a path from
    here (`find_model`). fingerprint: of the model that made the vectors. dim: their dimension. gallery_id:
    random, shared with the catalogue. created: ISO 8601, UTC. items, revision: as of the last clean close;
    the catalogue has the exact ones. model_version: "lite/0003", or "" for a model that is no version."""

    schema: int
    model_name: str
    fingerprint: str
    dim: int
    gallery_id: str
    created: str
    items: int = 0
    revision: int = 0
    model_version: str = ""

    def check_model(self, directory: Path, fingerprint: str, model_name: str | None) -> None:
        """Raises ModelMismatchError, naming both models, if `fingerprint` is not this gallery's."""
        if fingerprint != self.fingerprint:
            raise ModelMismatchError(
                f"{directory}: made with model {self.model_name!r} (fingerprint {self.fingerprint[:12]}), "
                f"not with {model_name or 'another'!r} (fingerprint {fingerprint[:12]})"
            )


def read_manifest(directory: Path) -> Manifest:
    """Raises GalleryError: no gallery there, or a manifest that is damaged or of a newer version."""
    path = directory / FILE_NAME
    try:
        values = json.loads(path.read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise GalleryError(f"{directory}: no gallery here ({FILE_NAME} is missing)") from error
    except (OSError, ValueError) as error:
        raise GalleryError(f"{path}: cannot be read ({error})") from error
    if not isinstance(values, dict):
        raise GalleryError(f"{path}: not a JSON object")
    if isinstance(values.get("schema"), int) and values["schema"] > SWITCHED_SCHEMA:
        raise GalleryError(
            f"{path}: schema {values['schema']} was written by a newer version (this one: {SWITCHED_SCHEMA})"
        )
    values.setdefault("model_version", "")  # not in manifests of the time before versions
    known: dict[str, Any] = {}
    for field in fields(Manifest):
        value = values.get(field.name)
        if type(value).__name__ != field.type:
            raise GalleryError(f"{path}: field {field.name}: must be {field.type}, not {value!r}"[:300])
        known[field.name] = value
    return Manifest(**known)


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Atomically replace the manifest."""
    write_atomically(directory / FILE_NAME, (json.dumps(asdict(manifest), indent=2) + "\n").encode())


def write_atomically(path: Path, data: bytes) -> None:
    """`write_durably`, but raises GalleryError."""
    try:
        write_durably(path, data)
    except OSError as error:
        raise GalleryError(f"{path}: cannot be written: {error.strerror or error}") from error
