"""What happens to each picture on its way into a shard."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

from cnclip.data import lmdb_images
from cnclip.data.lmdb_build import build_lmdb
from tests.cnclip.data.muge_files import write_split


def test_the_header_check_sees_every_picture_once(tmp_path: Path) -> None:
    write_split(tmp_path, "train", 5)
    with mock.patch.object(lmdb_images, "check_picture", wraps=lmdb_images.check_picture) as check:
        build_lmdb(tmp_path, ["train"], tmp_path / "lmdb")
    assert check.call_count == 5
