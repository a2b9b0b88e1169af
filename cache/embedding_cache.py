"""Vectors of texts that were encoded lately, so that a query asked twice is encoded once."""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

from cache.lru import LruCache

Vector = npt.NDArray[np.float32]


class EmbeddingCache:
    """Least-recently-used map from a text to its vector, for one model; thread-safe, in memory.

    The key is (sha256 of the text, fingerprint of the model): texts of any length cost the same, and vectors
    of two models never mix. Callers pass the text as the model sees it (normalised).

    Args:
        fingerprint: of the model whose vectors are kept.
        max_entries: how many vectors are kept at most (512 dimensions: 2 kB each); 0 keeps none.
    """

    def __init__(self, fingerprint: str, max_entries: int = 10_000) -> None:
        self.fingerprint = fingerprint
        self._entries: LruCache[tuple[bytes, str], Vector] = LruCache(max_entries)

    def get(self, text: str) -> Vector | None:
        """The vector of `text`, float32 (dim,) and read-only; None if it is not kept."""
        return self._entries.get(self._key(text))

    def put(self, text: str, vector: Vector) -> None:
        """Keep a copy of `vector` (dim,)."""
        kept = np.array(vector, dtype=np.float32)
        kept.setflags(write=False)  # every caller gets the same array
        self._entries.put(self._key(text), kept)

    def clear(self) -> None:
        self._entries.clear()

    @property
    def hits(self) -> int:
        return self._entries.hits

    @property
    def misses(self) -> int:
        return self._entries.misses

    def __len__(self) -> int:
        return len(self._entries)

    def _key(self, text: str) -> tuple[bytes, str]:
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest(), self.fingerprint
