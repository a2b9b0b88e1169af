"""Fixtures of the gallery's tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.gallery import Gallery
from tests.service.gallery.helpers import make_gallery, picture
from tests.service.gallery.switch_kit import A


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of ten pictures in subfolders."""
    folder = tmp_path / "photos"
    for n in range(10):
        file = folder / f"{n % 3}" / f"图{n}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(picture(n))
    return folder


@pytest.fixture
def gallery(tmp_path: Path) -> Gallery:
    """Ten items, made with the first model of `switch_kit`."""
    gallery = make_gallery(tmp_path / "g", fingerprint=A.fingerprint, model_name=A.ref.model)
    gallery.upsert([A.item(number) for number in range(10)])
    return gallery
