"""`version.json`, the record of a model version: made, checked, read."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal, get_args

from cnclip.errors import InputError

SCHEMA = 1
WEIGHTS_NAME = "model.safetensors"
RECORD_NAME = "version.json"
NAME = re.compile(r"\w[\w.-]{0,63}")
VERSION = re.compile(r"[0-9]{4,9}")

Changed = Literal["text", "image", "both", "none"]
"""Which towers differ from the parent's. "none": at most the logit scale, which no vector depends on."""


@dataclass(frozen=True)
class Parent:
    """What a version came from. version: of the same name; None for a model that is not a version (lite)."""

    version: str | None
    fingerprint: str


@dataclass(frozen=True)
class Version:
    """One published model.

    fingerprint: of the whole model. image_fingerprint, text_fingerprint: of its towers; models with one image
    fingerprint make the same picture vectors. parent: None where the publisher knew none. created: ISO 8601,
    UTC. summary: a few numbers for people, such as {"mAP before": 0.31, "mAP after": 0.35}.
    """

    folder: Path
    name: str
    version: str
    fingerprint: str
    image_fingerprint: str
    text_fingerprint: str
    parent: Parent | None
    created: str
    changed: Changed
    summary: Mapping[str, float] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """How people and programs call it: "lite/0003"."""
        return f"{self.name}/{self.version}"

    @property
    def weights(self) -> Path:
        """The file to give to `cnclip.load`."""
        return self.folder / WEIGHTS_NAME

    @property
    def number(self) -> int:
        return int(self.version)

    def file(self, name: str) -> Path | None:
        """A file that was handed over when it was published, such as "report.html"; None if it was not."""
        path = self.folder / name
        return path if Path(name).name == name and path.is_file() else None


def new_record(name: str, summary: Mapping[str, float], files: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a record that is known before the weights are. Raises InputError."""
    if not NAME.fullmatch(name):
        raise InputError(f"a model's name must be 1 to 64 letters, digits, '_', '-', '.'; not {name[:80]!r}")
    for file_name in files:
        plain = file_name and Path(file_name).name == file_name and not file_name.startswith(".")
        if not plain or file_name in (WEIGHTS_NAME, RECORD_NAME):
            raise InputError(f"{file_name!r} is not a possible name of a version's file")
    for key, value in summary.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not math.isfinite(value):
            raise InputError(f"summary: {key!r} must be a finite number, not {value!r}"[:300])
    created = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return {"schema": SCHEMA, "name": name, "created": created, "summary": dict(summary)}


def read_version(folder: Path) -> Version:
    """Raises InputError for a damaged record, FileNotFoundError where there is none."""
    path = folder / RECORD_NAME
    text = path.read_text("utf-8")
    (folder / WEIGHTS_NAME).stat()
    try:
        values = json.loads(text)
        schema = values["schema"]
        if not isinstance(schema, int) or schema > SCHEMA:
            raise InputError(f"{path}: schema {schema!r} was written by a newer version (this one: {SCHEMA})")
        parent = values["parent"]
        found = Version(
            folder=folder,
            name=str(values["name"]),
            version=folder.name,
            fingerprint=str(values["fingerprint"]),
            image_fingerprint=str(values["image_fingerprint"]),
            text_fingerprint=str(values["text_fingerprint"]),
            parent=None if parent is None else Parent(parent["version"], str(parent["fingerprint"])),
            created=str(values["created"]),
            changed=values["changed"],
            summary={str(key): float(value) for key, value in values["summary"].items()},
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: damaged ({type(error).__name__}: {error})") from error
    if found.name != folder.parent.name or found.changed not in get_args(Changed):
        raise InputError(f"{path}: damaged (name {found.name!r}, changed {found.changed!r})")
    return found
