"""Fixtures of the gallery's tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.service.gallery.helpers import picture


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of ten pictures in subfolders."""
    folder = tmp_path / "photos"
    for n in range(10):
        file = folder / f"{n % 3}" / f"图{n}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(picture(n))
    return folder
