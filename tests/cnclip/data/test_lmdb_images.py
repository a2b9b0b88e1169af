"""What happens to each picture on its way into a shard."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import pytest

from cnclip.data import lmdb_images
from cnclip.data.lmdb_build import build_lmdb
from cnclip.data.lmdb_env import MAX_KEY_BYTES
from cnclip.data.lmdb_store import ImageStore, picture_key
from tests.cnclip.data.muge_files import image_line, picture, text_line, write_lines, write_split


def test_the_header_check_sees_every_picture_once(tmp_path: Path) -> None:
    write_split(tmp_path, "train", 5)
    with mock.patch.object(lmdb_images, "check_picture", wraps=lmdb_images.check_picture) as check:
        build_lmdb(tmp_path, ["train"], tmp_path / "lmdb")
    assert check.call_count == 5


def test_ids_longer_than_a_key(tmp_path: Path) -> None:
    """512 characters are allowed, whatever they take; LMDB's keys have at most 511 bytes."""
    ids = ["x" * 511, "x" * 512, "红" * 170, "红" * 171, "红" * 511 + "a", "红" * 511 + "b"]
    images = {image_id: picture(n) for n, image_id in enumerate(ids)}
    write_lines(tmp_path / "train_imgs.tsv", [image_line(*item) for item in images.items()] * 2)
    write_lines(tmp_path / "train_texts.jsonl", [text_line(1, "长", ids)])
    (report,) = build_lmdb(tmp_path, ["train"])
    assert (report.images.kept, report.pairs) == (6, 6)
    assert report.images.dropped == {"field image_id: used by an earlier row for the same picture": 6}
    store = ImageStore(tmp_path / "lmdb" / "train")
    assert dict(store) == images and store.ids == ids


@pytest.mark.parametrize("image_id", ["7", "商品", "x" * 511, "x" * 512, "红" * 512])
def test_keys_are_ids_where_they_fit(image_id: str) -> None:
    plain = image_id.encode()
    key = picture_key(image_id)
    assert (key == plain) is (len(plain) <= 511) and len(key) <= MAX_KEY_BYTES
    assert key == plain or key.startswith(b"\0"), "no id holds that byte"
