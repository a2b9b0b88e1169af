"""Least-recently-used maps."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from cache.embedding_cache import EmbeddingCache
from cache.lru import LruCache


def test_keeps_what_was_used_last() -> None:
    cache: LruCache[str, int] = LruCache(2)
    cache.put("a", 1)
    cache.put("b", 2)
    assert cache.get("a") == 1
    cache.put("c", 3)
    assert (cache.get("a"), cache.get("b"), cache.get("c"), len(cache)) == (1, None, 3, 2)
    cache.put("a", 10)
    assert (cache.get("a"), len(cache)) == (10, 2)
    assert (cache.hits, cache.misses) == (4, 1)
    cache.clear()
    assert len(cache) == 0


def test_zero_keeps_nothing_and_less_is_an_error() -> None:
    cache: LruCache[str, int] = LruCache(0)
    cache.put("a", 1)
    assert cache.get("a") is None
    with pytest.raises(ValueError, match="at least 0"):
        LruCache(-1)


def test_vectors_come_back_as_they_were() -> None:
    cache = EmbeddingCache("model-a", 10)
    vector = np.arange(4, dtype=np.float32)
    cache.put("连衣裙", vector)
    vector[0] = 99
    found = cache.get("连衣裙")
    assert found is not None and found.tolist() == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="read-only"):
        found[0] = 1
    assert cache.get("连衣裙 ") is None and EmbeddingCache("model-b").get("连衣裙") is None
    assert (cache.hits, cache.misses, len(cache)) == (1, 1, 1)
    cache.put("\ud800", vector)  # any text, even half of a surrogate pair
    assert cache.get("\ud800") is not None
    cache.clear()
    assert len(cache) == 0


def test_many_threads() -> None:
    cache = EmbeddingCache("m", 50)
    wrong: list[int] = []

    def work(seed: int) -> None:
        for n in np.random.default_rng(seed).integers(0, 100, 2000).tolist():
            found = cache.get(str(n))
            if found is None:
                cache.put(str(n), np.full(3, n, np.float32))
            elif found.tolist() != [n] * 3:
                wrong.append(n)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and len(cache) == 50 and cache.hits + cache.misses == 16_000
