"""Coloured shapes: deterministic MUGE files that say what the pictures show."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnclip.data.muge import iter_images, read_texts
from preprocess.shapes import COLOURS, PICTURES, SHAPES, SIZE, main


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shapes")
    assert main(["--out", str(out)]) == 0
    return out


@pytest.mark.parametrize(("split", "count"), PICTURES.items())
def test_every_name_has_its_pictures(folder: Path, split: str, count: int) -> None:
    texts = read_texts(folder / f"{split}_texts.jsonl")
    assert [row.text for row in texts] == [colour + shape for colour in COLOURS for shape in SHAPES]
    assert all(len(row.image_ids) == count for row in texts)
    images = [row.image_id for row in iter_images(folder / f"{split}_imgs.tsv")]
    assert images == [image_id for row in texts for image_id in row.image_ids]


def test_no_picture_is_in_both_splits(folder: Path) -> None:
    pictures = [row.data for split in PICTURES for row in iter_images(folder / f"{split}_imgs.tsv")]
    assert len(set(pictures)) == len(pictures)


def test_the_colour_is_the_named_one_and_the_shape_covers_a_part(folder: Path) -> None:
    names = {i: row.text for row in read_texts(folder / "valid_texts.jsonl") for i in row.image_ids}
    for row in iter_images(folder / "valid_imgs.tsv"):
        pixels = np.asarray(Image.open(io.BytesIO(row.data))).reshape(-1, 3).astype(int)
        assert len(pixels) == SIZE * SIZE
        distances = {name: np.abs(pixels - np.array(rgb)).max(axis=1) <= 15 for name, rgb in COLOURS.items()}
        share = {name: near.mean() for name, near in distances.items()}
        assert names[row.image_id].startswith(max(share, key=lambda name: share[name]))
        assert 0.03 < max(share.values()) < 0.7


def test_the_same_seed_gives_the_same_files_and_what_is_there_is_kept(folder: Path, tmp_path: Path) -> None:
    assert main(["--out", str(tmp_path / "same")]) == 0
    assert main(["--out", str(tmp_path / "other"), "--seed", "1"]) == 0
    name = "train_imgs.tsv"
    original = (folder / name).read_bytes()
    assert (tmp_path / "same" / name).read_bytes() == original
    assert (tmp_path / "other" / name).read_bytes() != original
    assert main(["--out", str(tmp_path / "same"), "--seed", "1"]) == 0
    assert (tmp_path / "same" / name).read_bytes() == original


def test_a_place_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert main(["--out", str(tmp_path / "file" / "x")]) == 2
    assert capsys.readouterr().err == f"shapes: error: {tmp_path}/file/x: Not a directory\n"
