"""Models that each see pictures in their own way, and what a switch from one to another must leave."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

import numpy as np
import pytest

from service.gallery import Gallery, Item, ModelRef
from service.gallery.switching import Switch
from tests.service.gallery.helpers import (
    DummyEncoder,
    Vectors,
    picture,
)


class Model(DummyEncoder):
    """One of several models: each sees pictures in its own way."""

    def __init__(self, number: int) -> None:
        super().__init__(f"{number:064x}")
        self._matrix = np.roll(self._matrix, 7 * number, axis=1) * (1.0 + number)
        self._matrix[: number * 50] *= -1
        self.ref = ModelRef(f"model-{number}", self.fingerprint, f"tiny/{number:04d}", f"{number + 900:064x}")
        self.embedded: list[bytes] = []

    def __call__(self, pictures: Sequence[bytes]) -> Vectors:
        self.embedded += pictures
        return self.encode_images(list(pictures))

    def of(self, number: int) -> Vectors:
        """The vector of `picture(number)`."""
        (vector,) = self.encode_images([picture(number)])
        return vector

    def item(self, number: int, shown: int | None = None) -> Item:
        shown = number if shown is None else shown
        return Item(f"i{number}", self.of(shown), f"标题{number}", {}, picture(shown))


A, B, C = Model(0), Model(1), Model(2)


def stage_all(switch: Switch, model: Model) -> list[str]:
    asked: list[str] = []
    for page in switch.pictures():
        asked += page
        vectors = model([switch.picture(digest) for digest in page])
        switch.stage(dict(zip(page, vectors, strict=True)))
    return asked


def change(gallery: Gallery, old: Model, new: Model, *, back: bool = False) -> list[str]:
    """All of a switch; the pictures that had to be embedded before `commit`."""
    switch = gallery.switch_to(new.ref, current=old.ref, back=back)
    asked = stage_all(switch, new)
    switch.commit(new)
    switch.clean_up()
    return asked


def check_whole(gallery: Gallery, model: Model, shown: dict[str, int]) -> None:
    """Every item has the vector that `model` gives its picture, in the catalogue and in the index."""
    assert gallery.models().active.fingerprint == gallery.manifest.fingerprint == model.fingerprint
    assert sorted(gallery.ids()) == sorted(shown) and len(gallery) == len(shown)
    vectors = gallery.vectors(shown)
    for item_id, number in shown.items():
        np.testing.assert_allclose(vectors[item_id], model.of(number), atol=1e-5)
        hits = gallery.search(model.of(number), len(shown), model=model.fingerprint)
        same = {other for other, n in shown.items() if n == number}
        assert {hit.row.id for hit in hits[: len(same)]} == same
        assert hits[0].score == pytest.approx(1.0, abs=1e-5)
        exact = sorted((float(model.of(n) @ model.of(number)) for n in shown.values()), reverse=True)
        assert [hit.score for hit in hits] == pytest.approx(exact, abs=1e-5)


NUMBERS = {f"i{number}": number for number in range(10)}


def tables(gallery: Gallery) -> set[str]:
    with sqlite3.connect(gallery.path / "catalog.sqlite") as connection:
        names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    connection.close()
    return {name for (name,) in names if name.startswith("vectors")}
