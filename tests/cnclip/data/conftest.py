"""A small split, as several files of tests read it."""

from __future__ import annotations

from pathlib import Path

import pytest

from cnclip.data.lmdb_build import build_lmdb
from tests.cnclip.data.muge_files import write_split


@pytest.fixture
def split(tmp_path: Path) -> tuple[Path, dict[str, bytes]]:
    """The folder of an LMDB split of eight pictures, and the pictures by id."""
    images = write_split(tmp_path, "train", 8)
    build_lmdb(tmp_path, ["train"])
    return tmp_path / "lmdb" / "train", images
