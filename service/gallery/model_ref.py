"""Which model a gallery is of, which it was of before, and which it is about to be of.

All of that is in the catalogue's table `meta`, so that it changes in one transaction with the vectors:
`fingerprint`, `model`, `base`, `history` and `pending`. A gallery whose model was never changed has only the
first, and its manifest says the rest.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cnclip.errors import InputError
from cnclip.online.versions import WEIGHTS_NAME, Version
from service.gallery.manifest import SWITCHED_SCHEMA, Manifest
from service.gallery.types import GalleryError
from service.gallery.view import View
from service.layout import MODELS_NAME

HISTORY = 20  # how many models `rollback` can go back


@dataclass(frozen=True)
class ModelRef:
    """A model, as a gallery remembers it.

    model: what `cnclip.load` takes; a path inside the gallery is relative to it, so that a copied gallery
    finds its own. version: "lite/0003", or "" for a model that is not a version. image_fingerprint: of the
    image tower (`cnclip.model.fingerprint`), or "" where it is not known yet.
    """

    model: str
    fingerprint: str
    version: str = ""
    image_fingerprint: str = ""

    @property
    def label(self) -> str:
        """What people call it: "lite/0003", "lite", or the name of a file without its ending."""
        if self.version:
            return self.version
        is_path = "/" in self.model or "\\" in self.model or Path(self.model).suffix != ""
        return Path(self.model).stem if is_path else self.model


@dataclass(frozen=True)
class ModelState:
    """active: of the vectors. base: the first one. history: those before `active`, latest last. pending: one
    that is being prepared; back: by going back to the end of `history`."""

    active: ModelRef
    base: ModelRef
    history: tuple[ModelRef, ...] = ()
    pending: ModelRef | None = None
    back: bool = False


def ref_of(version: Version, gallery: Path) -> ModelRef:
    """A published version, as the gallery in the directory `gallery` should remember it."""
    weights, home = version.weights.resolve(), gallery.resolve()
    inside = weights.is_relative_to(home)
    path = weights.relative_to(home).as_posix() if inside else str(weights)
    return ModelRef(path, version.fingerprint, version.label, version.image_fingerprint)


def find_model(gallery: Path, ref: ModelRef, models: Path | None = None) -> str:
    """What to give to `cnclip.load` for `ref`.

    Args:
        models: where versions are kept, if not in the gallery.

    Raises:
        InputError: a version that is not where it was, nor in `models`, nor in the gallery.
    """
    if not ref.version:
        return ref.model
    roots = [root for root in (models, gallery / MODELS_NAME) if root is not None]
    files = [gallery / ref.model, *(root / ref.version / WEIGHTS_NAME for root in roots)]
    for file in files:
        if file.is_file():
            return str(file)
    places = ", ".join(str(file) for file in files)
    raise InputError(
        f"{gallery}: its model, version {ref.version} (fingerprint {ref.fingerprint[:12]}), is not in "
        f"{places}; say where with --model FILE, or for `cnclip serve` with --models DIR"
    )


def read_state(view: View, manifest: Manifest) -> ModelState:
    """The models of a gallery; `manifest` speaks for a catalogue that does not name its model.

    Raises GalleryError if they cannot be read.
    """
    try:
        named = view.meta("model")
        if named is None:
            active = ModelRef(manifest.model_name, str(view.meta("fingerprint")))
        else:
            active = _ref(json.loads(named))
        base = view.meta("base")
        history = json.loads(view.meta("history") or "[]")
        pending = json.loads(view.meta("pending") or "null")
        return ModelState(
            active,
            active if base is None else _ref(json.loads(base)),
            tuple(map(_ref, history)),
            None if pending is None else _ref(pending["target"]),
            bool(pending and pending["back"]),
        )
    except (ValueError, TypeError, KeyError) as error:
        raise GalleryError(f"its catalogue does not say which models it had ({error})") from error


def write_state(connection: sqlite3.Connection, state: ModelState) -> None:
    """Record `state`, as part of the transaction of `connection`."""
    pending = None if state.pending is None else {"target": asdict(state.pending), "back": state.back}
    values = {
        "fingerprint": state.active.fingerprint,
        "model": json.dumps(asdict(state.active)),
        "base": json.dumps(asdict(state.base)),
        "history": _refs(state.history[-HISTORY:]),
        "pending": json.dumps(pending),
    }
    connection.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", values.items())


def healed(manifest: Manifest, active: ModelRef) -> Manifest:
    """The manifest as it should be, where the catalogue was switched and a kill came before the manifest."""
    if (active.model, active.fingerprint) == (manifest.model_name, manifest.fingerprint):
        return manifest
    values: dict[str, Any] = asdict(manifest)
    values.update(
        schema=SWITCHED_SCHEMA,
        model_name=active.model,
        fingerprint=active.fingerprint,
        model_version=active.version,
    )
    return Manifest(**values)


def _ref(values: dict[str, str]) -> ModelRef:
    return ModelRef(**{name: str(value) for name, value in values.items()})


def _refs(refs: Sequence[ModelRef]) -> str:
    return json.dumps([asdict(ref) for ref in refs])
