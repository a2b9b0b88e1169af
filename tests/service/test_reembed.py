"""The process that embeds pictures: what it answers, and how it ends."""

from __future__ import annotations

import io
import json
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from cache.blob_store import BlobStore
from cnclip.errors import InputError
from service import reembed, reembed_worker
from service.reembed import EmbeddingProcess, ReembedError
from tests.service.dummy import picture
from tests.service.dummy_models import TurnedEncoder, load, publish


@pytest.fixture
def images(tmp_path: Path) -> tuple[BlobStore, list[str]]:
    store = BlobStore(tmp_path / "images")
    return store, [store.put(picture(color)) for color in "红绿蓝"]


@pytest.fixture
def process(
    tmp_path: Path, images: tuple[BlobStore, list[str]], monkeypatch: pytest.MonkeyPatch
) -> Iterator[EmbeddingProcess]:
    monkeypatch.setattr(reembed, "WORKER", "tests.service.dummy_worker")
    version = publish(tmp_path / "models", 3, 1)
    with EmbeddingProcess(str(version.weights), images[0].root) as process:
        yield process


def test_vectors_come_back_by_picture(process: EmbeddingProcess, images: tuple[BlobStore, list[str]]) -> None:
    store, digests = images
    encoder = TurnedEncoder(3, 1)
    assert process.wait_until_ready() == encoder.image_fingerprint
    broken, missing = store.put(b"not a picture"), "0" * 64
    vectors, unreadable = process.embed([digests[0], broken, digests[1], missing])
    assert list(vectors) == digests[:2]
    for digest, vector in vectors.items():
        (expected,) = encoder.encode_images([store.get(digest)])
        assert vector == pytest.approx(expected, abs=1e-6)
    assert set(unreadable) == {broken, missing}
    assert broken[:16] in unreadable[broken] and "cannot be read" in unreadable[missing]
    assert process.embed([missing]) == ({}, {missing: unreadable[missing]})
    assert process.embed([]) == ({}, {})
    again, _ = process.embed(digests)
    assert list(again) == digests
    worker = psutil.Process(process.pid)
    assert worker.nice() >= min(19, psutil.Process().nice() + reembed_worker.NICENESS)
    process.close()
    with pytest.raises(ReembedError, match="exit code"):
        process.embed(digests)


def test_a_process_that_was_killed_is_told(
    process: EmbeddingProcess, images: tuple[BlobStore, list[str]]
) -> None:
    process.wait_until_ready()
    psutil.Process(process.pid).kill()
    with pytest.raises(ReembedError, match=f"exit code -{int(signal.SIGKILL)}"):
        process.embed(images[1])


def answers(out: io.BytesIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in out.getvalue().splitlines() if line.startswith(b"{")]


def test_a_model_that_cannot_be_loaded_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(weights: str) -> TurnedEncoder:
        raise InputError(f"{weights}: truncated")

    out = io.BytesIO()
    monkeypatch.setattr(reembed_worker, "_listen", lambda *_: None)
    reembed_worker.serve(refuse, "w.pt", tmp_path, io.BytesIO(), out)
    assert answers(out) == [{"failed": "w.pt: truncated"}]


def test_small_batches_give_the_same_vectors(
    tmp_path: Path, images: tuple[BlobStore, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, digests = images
    encoder = load(publish(tmp_path / "models", 1, 1).weights)
    whole, _ = reembed_worker.embed(encoder, store, digests)
    monkeypatch.setattr(reembed_worker, "BATCH_SIZE", 2)
    encoder.image_batches.clear()
    parts, _ = reembed_worker.embed(encoder, store, digests)
    np.testing.assert_allclose(parts, whole, atol=1e-6)
    assert encoder.image_batches == [2, 1]
    nothing, unreadable = reembed_worker.embed(encoder, store, ["0" * 64])
    assert nothing.shape == (0, encoder.dim) and list(unreadable) == ["0" * 64]
