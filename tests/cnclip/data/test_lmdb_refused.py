"""What cannot be read or built is one line that names the file and what to do."""

from __future__ import annotations

import os
import random
from pathlib import Path
from unittest import mock

import lmdb
import pytest

from cnclip.data.dataset import PairDataset
from cnclip.data.lmdb_build import build_lmdb
from cnclip.data.lmdb_report import BuildOptions
from cnclip.data.lmdb_store import ImageStore
from cnclip.errors import InputError
from tests.cnclip.data.muge_files import (
    image_line,
    picture,
    text_line,
    write_legacy,
    write_lines,
    write_split,
)


@pytest.mark.parametrize("kind", ["imgs", "pairs"])
@pytest.mark.parametrize("legacy", [False, True])
def test_damaged_pages_are_one_line(
    split: tuple[Path, dict[str, bytes]], tmp_path: Path, kind: str, legacy: bool
) -> None:
    path, images = split
    if legacy:
        path = tmp_path / "old"
        write_legacy(path, images, [(100, 1, "一"), (101, 2, "二")])
    file = path / kind / "data.mdb"
    content = file.read_bytes()
    for seed in range(10):
        damage = random.Random(seed).randbytes(len(content) - 8192)  # all but the two pages that head a file
        file.write_bytes(content[:8192] + damage)
        with pytest.raises(InputError) as caught:
            PairDataset(path)
        assert str(caught.value).startswith(f"{file}: damaged (") and "\n" not in str(caught.value)
        assert str(caught.value).endswith("; build it again")


@pytest.mark.parametrize("legacy", [False, True])
def test_a_damaged_page_found_when_a_picture_is_read(tmp_path: Path, legacy: bool) -> None:
    images = {str(i): picture(i) + bytes(5000) for i in range(40)}
    if legacy:
        write_legacy(tmp_path / "lmdb" / "x", images, [(1, 1, "一")])
    else:
        write_lines(tmp_path / "x_imgs.tsv", [image_line(*item) for item in images.items()])
        write_lines(tmp_path / "x_texts.jsonl", [text_line(1, "一", [1])])
        build_lmdb(tmp_path, ["x"])
    dataset = PairDataset(tmp_path / "lmdb" / "x")
    file = tmp_path / "lmdb" / "x" / "imgs" / "data.mdb"
    with file.open("r+b") as pages:  # the pages that are mapped already change under the reader
        pages.seek(8192)
        pages.write(b"\xff" * (file.stat().st_size - 8192))
    with pytest.raises(InputError, match=r"imgs/data\.mdb: damaged \(.*\); build it again"):
        dataset.image_bytes("1")


def test_text_of_a_damaged_page_that_is_not_utf8(tmp_path: Path) -> None:
    write_legacy(tmp_path / "x", {"1": picture(1)}, None)
    with lmdb.open(str(tmp_path / "x" / "imgs")) as env, env.begin(write=True) as transaction:
        transaction.put(b"\xff\xfe", b"")
    with pytest.raises(InputError, match=r"data\.mdb: damaged \('utf-8' codec can't decode"):
        PairDataset(tmp_path / "x")


def test_a_path_that_is_not_utf8_is_one_line(split: tuple[Path, dict[str, bytes]], tmp_path: Path) -> None:
    odd = tmp_path / os.fsdecode(b"d\xe4n")
    split[0].rename(odd)
    with pytest.raises(InputError, match=r"d\\xe4n/imgs: LMDB opens no folder whose path is not UTF-8"):
        PairDataset(odd)
    with pytest.raises(InputError, match="not UTF-8; rename it"):
        build_lmdb(tmp_path, ["train"], odd)


def test_wrong_directories_are_one_line(split: tuple[Path, dict[str, bytes]], tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "empty" / "imgs").mkdir(parents=True)
    (tmp_path / "lmdb" / ".valid.building" / "imgs").mkdir(parents=True)
    for path, why in (
        (tmp_path, f"{tmp_path}: not an LMDB directory (no data.mdb); did you mean {split[0]}?"),
        (split[0].parent, f"not an LMDB directory (no data.mdb); did you mean {split[0]}?"),
        (tmp_path / "empty", "empty/imgs: not an LMDB directory (no data.mdb)"),
        (tmp_path / "nowhere", "nowhere: no such folder"),
        (tmp_path / "train_imgs.tsv", "train_imgs.tsv: not an LMDB directory, but a file"),
        (tmp_path / "train_imgs.tsv" / "in", "in: no such folder"),
        (tmp_path / "loop", "loop: not an LMDB directory: Too many levels of symbolic links"),
    ):
        with pytest.raises(InputError) as caught:
            PairDataset(path)
        assert str(caught.value).endswith(why)
    (tmp_path / "empty" / "imgs" / "data.mdb").touch()
    with pytest.raises(InputError, match=r"imgs/data\.mdb: empty file; build it again"):
        PairDataset(tmp_path / "empty")
    with pytest.raises(InputError, match="holds texts, not pictures"):
        PairDataset(split[0] / "pairs")


@pytest.mark.parametrize("name", ["train", "test"])
def test_texts_of_which_none_is_usable_are_refused(tmp_path: Path, name: str) -> None:
    write_split(tmp_path, name, 2)
    texts = write_lines(tmp_path / f"{name}_texts.jsonl", ["{", text_line(1, "丢了", [5])])
    with pytest.raises(InputError, match=rf"{texts}: no usable text in 2 rows; first: {texts}:1: field"):
        build_lmdb(tmp_path, [name])
    assert not (tmp_path / "lmdb" / name).exists()
    write_lines(texts, [])  # pictures alone are a gallery
    report = build_lmdb(tmp_path, [name])[0]
    assert (report.images.kept, report.texts.kept, report.pairs) == (2, 0, 0)


def test_what_a_killed_build_left_damaged_is_built_again(tmp_path: Path) -> None:
    images = write_split(tmp_path, "train", 12)
    killed = mock.Mock(side_effect=[*[None] * 9, KeyboardInterrupt])
    with pytest.raises(KeyboardInterrupt):
        build_lmdb(tmp_path, ["train"], options=BuildOptions(batch_bytes=1), on_progress=killed)
    file = tmp_path / "lmdb" / ".train.building" / "imgs" / "data.mdb"
    content = file.read_bytes()
    file.write_bytes(content[:8192] + os.urandom(len(content) - 8192))
    assert build_lmdb(tmp_path, ["train"])[0].resumed_at == 0
    assert list(ImageStore(tmp_path / "lmdb" / "train")) == list(images.items())
