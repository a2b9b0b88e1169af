"""Random sequences of operations against a dict."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

import service.gallery.index as index_module
from service.gallery import Gallery, Item
from tests.service.gallery.helpers import FINGERPRINT, blobs, make_gallery, picture, unit_vectors

VECTORS = unit_vectors(12)
IDS = st.sampled_from(["a", "b", "图片/1", "d", "e"])
ITEMS = st.builds(
    lambda item_id, vector, title, n, image: (item_id, vector, title, {"n": n}, image),
    IDS,
    st.integers(0, 11),
    st.sampled_from(["红裙", "蓝裤", ""]),
    st.integers(0, 2),
    st.one_of(st.none(), st.integers(0, 3)),
)


class GalleryMachine(RuleBasedStateMachine):
    """model: id → (number of the vector, title, attributes, number of the picture)."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.path = Path(self.directory.name) / "g"
        self.gallery = make_gallery(self.path)
        self.model: dict[str, tuple[int, str, dict[str, Any], int | None]] = {}

    @rule(items=st.lists(ITEMS, max_size=4))
    def upsert(self, items: list[Any]) -> None:
        counts = {"added": 0, "updated": 0, "unchanged": 0}
        for item_id, vector, title, attributes, image in items:
            old = self.model.get(item_id)
            if old is not None and image is not None and old[3] == image:
                vector = old[0]  # the same picture keeps its vector
            new = (vector, title, attributes, image)
            counts["added" if old is None else "unchanged" if old == new else "updated"] += 1
            self.model[item_id] = new
        result = self.gallery.upsert(
            [Item(i, VECTORS[v], t, a, None if p is None else picture(p)) for i, v, t, a, p in items]
        )
        assert {"added": result.added, "updated": result.updated, "unchanged": result.unchanged} == counts

    @rule(ids=st.lists(IDS, max_size=3))
    def delete(self, ids: list[str]) -> None:
        assert self.gallery.delete(ids) == len(set(ids) & set(self.model))
        for item_id in ids:
            self.model.pop(item_id, None)

    @rule()
    def reopen(self) -> None:
        self.gallery.close()
        self.gallery = Gallery.open(self.path, fingerprint=FINGERPRINT)

    @rule(query=st.integers(0, 11), k=st.integers(1, 7), n=st.one_of(st.none(), st.integers(0, 2)))
    def search(self, query: int, k: int, n: int | None) -> None:
        allowed = {i: entry for i, entry in self.model.items() if n is None or entry[2]["n"] == n}
        expected = sorted(
            (float(VECTORS[entry[0]] @ VECTORS[query]) for entry in allowed.values()), reverse=True
        )
        hits = self.gallery.search(VECTORS[query], k, filter=None if n is None else {"n": n})
        np.testing.assert_allclose([hit.score for hit in hits], expected[:k], atol=1e-5)
        for hit in hits:
            vector, title, attributes, _ = allowed[hit.row.id]
            assert (hit.row.title, hit.row.attributes) == (title, attributes)
            assert hit.score == pytest.approx(float(VECTORS[vector] @ VECTORS[query]), abs=1e-5)

    @rule(word=st.sampled_from(["红", "裤", "裙"]))
    def search_words(self, word: str) -> None:
        expected = {i for i, (_, title, _, _) in self.model.items() if word in title}
        assert {hit.row.id for hit in self.gallery.search(None, 9, text=word, mode="keyword")} == expected

    @invariant()
    def pictures_are_those_of_the_items(self) -> None:
        assert len(self.gallery) == len(self.model)
        wanted = {entry[3] for entry in self.model.values() if entry[3] is not None}
        assert len(blobs(self.path)) == len(wanted)

    def teardown(self) -> None:
        self.gallery.close()
        self.directory.cleanup()


@pytest.mark.parametrize("segment_rows", [3, 65_536])
def test_behaves_like_a_dict(segment_rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_module, "SEGMENT_ROWS", segment_rows)
    from hypothesis.stateful import run_state_machine_as_test

    options = settings(
        max_examples=15, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
    )
    run_state_machine_as_test(GalleryMachine, settings=options)
