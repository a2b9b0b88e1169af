"""Versions of the dummy model that answer differently, and ways to publish and activate them.

Model (image, text) turns the circle of the eight colours by `image` places for pictures and by `text` places
for texts, so that it answers colour c with colour c + text - image. Two models are so made that every mixture
of one's queries with the other's index gives an answer that neither gives.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from cnclip.online.versions import ModelVersions, Version
from service.reembed import ReembedError
from service.reembed_worker import embed
from tests.service.dummy import PALETTE, AppClient, DummyEncoder, Pixels, Vectors

COLORS = "".join(PALETTE)
N = len(PALETTE)


def answer_of(color: str, image: int, text: int) -> str:
    """The colour that model (image, text) finds for `color`."""
    return COLORS[(COLORS.index(color) + text - image) % N]


def _fingerprint(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


class TurnedEncoder(DummyEncoder):
    """Model (image, text). flaw: "nan", "alike", "long" vectors of `side` "text" or "image"."""

    def __init__(self, image: int, text: int, flaw: str = "", side: str = "") -> None:
        super().__init__()
        self.image, self.text, self.flaw, self.side = image, text, flaw, side
        if (image, text, flaw) != (0, 0, ""):
            self.fingerprint = _fingerprint(image, text, flaw, side)
        if image or side == "image":
            self.image_fingerprint = _fingerprint(image, flaw, side)
        self.delay_s = float(os.environ.get("DUMMY_DELAY_S", "0"))

    def encode_texts(self, texts: Sequence[str], *, batch_size: int = 256) -> Vectors:
        time.sleep(self.delay_s)
        return self._spoil(_turned(super().encode_texts(texts, batch_size=batch_size), self.text), "text")

    def encode_pixels(self, pixels: Pixels) -> Vectors:
        return self._spoil(_turned(super().encode_pixels(pixels), self.image), "image")

    def _spoil(self, vectors: Vectors, side: str) -> Vectors:
        if side == self.side and self.flaw == "nan":
            return np.full_like(vectors, np.nan)
        if side == self.side and self.flaw == "alike":
            return np.tile(np.eye(1, vectors.shape[1], dtype=np.float32), (len(vectors), 1))
        return vectors * 3 if side == self.side and self.flaw == "long" else vectors


def _turned(vectors: Vectors, places: int) -> Vectors:
    return np.concatenate([np.roll(vectors[:, :N], places, axis=1), vectors[:, N:]], axis=1)


def load(weights: str | Path) -> TurnedEncoder:
    """In the place of `cnclip.load`: a published dummy, or by any name the first one."""
    if not Path(weights).is_file():
        return TurnedEncoder(0, 0)
    return TurnedEncoder(**json.loads(Path(weights).read_text()))


def publish(
    models: Path,
    image: int,
    text: int,
    *,
    name: str = "dummy",
    parent: Version | None = None,
    flaw: str = "",
    side: str = "",
    **changes: Any,
) -> Version:
    """Write a version as `ModelVersions.publish` does, but of the dummy; `changes` go into its record."""
    encoder = TurnedEncoder(image, text, flaw, side)
    versions = ModelVersions(models)
    folder = models / name / f"{len(versions.list(name)) + 1:04d}"
    folder.mkdir(parents=True)
    weights = {"image": image, "text": text, "flaw": flaw, "side": side}
    (folder / "model.safetensors").write_text(json.dumps(weights))
    changed = "both"
    if parent is not None:
        changed = "text" if parent.image_fingerprint == encoder.image_fingerprint else "image"
    record = {
        "schema": 1,
        "name": name,
        "version": folder.name,
        "fingerprint": encoder.fingerprint,
        "image_fingerprint": encoder.image_fingerprint,
        "text_fingerprint": _fingerprint(text),
        "parent": None if parent is None else {"version": parent.version, "fingerprint": parent.fingerprint},
        "created": "2026-01-02T03:04:05+00:00",
        "changed": changed,
        "summary": {"mAP": 0.5 + image / 100},
    }
    (folder / "version.json").write_text(json.dumps({**record, **changes}))
    return versions.get(name, folder.name)


class InProcess:
    """In the place of `EmbeddingProcess`: the same work in this process. It waits after `hold` pages."""

    hold: int | None = None
    asked: ClassVar[list[list[str]]] = []

    def __init__(self, weights: str, images: Path) -> None:
        from cache.blob_store import BlobStore

        self._encoder, self._images = load(weights), BlobStore(images)
        self._closed = False

    def __enter__(self) -> InProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def wait_until_ready(self) -> str:
        return self._encoder.image_fingerprint

    def embed(self, digests: Sequence[str]) -> tuple[dict[str, Vectors], dict[str, str]]:
        while self.hold is not None and len(self.asked) >= self.hold and not self._closed:
            time.sleep(0.001)
        if self._closed:
            raise ReembedError("closed")
        self.asked.append(list(digests))
        vectors, unreadable = embed(self._encoder, self._images, digests)
        good = [digest for digest in digests if digest not in unreadable]
        return dict(zip(good, vectors, strict=True)), unreadable

    def close(self) -> None:
        self._closed = True


def models_of(client: AppClient) -> dict[str, Any]:
    body: dict[str, Any] = client.get("/v1/models").json()
    return body


def settled(client: AppClient) -> dict[str, Any]:
    """The activation, once it does not run any more."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        activation: dict[str, Any] = models_of(client)["activation"]
        if activation["outcome"] != "running":
            return activation
        time.sleep(0.005)
    raise AssertionError("the activation does not end")


def activate(client: AppClient, version: str) -> dict[str, Any]:
    """Begin, and wait for the end."""
    response = client.post("/v1/models:activate", {"version": version})
    assert response.status_code == 202, response.text
    return settled(client)


def first_color(body: dict[str, Any]) -> str:
    return str(body["results"][0]["id"][0])
