"""The process that embeds a gallery's pictures with a model that is about to be activated.

    python -m service.reembed_worker WEIGHTS IMAGES

Requests come as lines on standard input, {"pictures": [sha256, …]}; each is answered on standard output by a
line {"vectors": n, "dim": d, "unreadable": {sha256: why}} and n * d float32 in the order asked for, those
that cannot be read left out. A first line {"ready": …} or {"failed": why} tells whether the model was loaded.

It has one thread and a low priority, so that the searches of the process that started it go first, and it
ends with that process, however that ends: when its standard input does.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
import numpy.typing as npt

from cache.blob_store import BlobStore
from cache.errors import CacheError
from cnclip.errors import CnclipError, ImageError

NICENESS = 15  # of 19: a twentieth of what a thread of a search gets, when both want the processor
BATCH_SIZE = 8  # pictures for one call of the model: a short call lets others in sooner

Pixels = npt.NDArray[np.uint8]
Vectors = npt.NDArray[np.float32]


class PictureEncoder(Protocol):
    """What it needs of a model; `cnclip.load` returns one."""

    @property
    def dim(self) -> int: ...
    @property
    def image_fingerprint(self) -> str: ...

    def prepare_image(self, image: Any, *, name: str | None = None) -> Pixels:
        """(size, size, 3). Raises ImageError."""
        ...

    def encode_pixels(self, pixels: Pixels) -> Vectors:
        """(n, size, size, 3) → (n, dim), unit length"""
        ...


def load_alone(weights: str) -> PictureEncoder:
    """The model, in a process with one thread for it."""
    import torch

    import cnclip
    from cnclip.model.device import tune_malloc

    torch.set_num_threads(1)
    tune_malloc()
    return cnclip.load(weights)


def embed(
    encoder: PictureEncoder, images: BlobStore, digests: Sequence[str]
) -> tuple[Vectors, dict[str, str]]:
    """Vectors (n, dim) of the pictures that can be read, in order, and why the others cannot."""
    unreadable: dict[str, str] = {}
    vectors: list[Vectors] = []
    for start in range(0, len(digests), BATCH_SIZE):
        pixels: list[Pixels] = []
        for digest in digests[start : start + BATCH_SIZE]:
            try:
                pixels.append(encoder.prepare_image(images.get(digest), name=f"picture {digest[:16]}"))
            except (ImageError, CacheError) as error:
                unreadable[digest] = str(error)
        if pixels:
            vectors.append(encoder.encode_pixels(np.stack(pixels)))
    if not vectors:
        return np.empty((0, encoder.dim), np.float32), unreadable
    return np.concatenate(vectors).astype(np.float32, copy=False), unreadable


def serve(
    load: Callable[[str], PictureEncoder], weights: str, images: Path, inputs: IO[bytes], out: IO[bytes]
) -> None:
    """Load the model and answer until `inputs` ends, which ends the process at once."""
    requests: queue.SimpleQueue[list[str]] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(inputs, requests), daemon=True).start()
    try:
        encoder = load(weights)
    except CnclipError as error:
        _write(out, {"failed": str(error)})
        return
    _write(out, {"ready": encoder.image_fingerprint})
    store = BlobStore(images)
    while True:
        vectors, unreadable = embed(encoder, store, requests.get())
        _write(out, {"vectors": len(vectors), "dim": encoder.dim, "unreadable": unreadable}, vectors)


def _listen(inputs: IO[bytes], requests: queue.SimpleQueue[list[str]]) -> None:
    for line in inputs:
        requests.put(json.loads(line)["pictures"])
    os._exit(0)  # whoever wanted the vectors is gone


def _write(out: IO[bytes], head: dict[str, Any], vectors: Vectors | None = None) -> None:
    out.write(json.dumps(head).encode() + b"\n")
    if vectors is not None:
        out.write(vectors.astype("<f4", copy=False).tobytes())
    out.flush()


def main(argv: Sequence[str], load: Callable[[str], PictureEncoder] = load_alone) -> int:
    """Weights and the directory of the pictures are the arguments."""
    weights, images = argv
    if hasattr(os, "nice"):
        os.nice(NICENESS)
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not get between the answers
    try:
        serve(load, weights, Path(images), sys.stdin.buffer, out)
    except BrokenPipeError:
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
