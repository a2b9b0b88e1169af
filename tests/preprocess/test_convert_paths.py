"""Names from annotation files: where they may lead, and how ids, splits and captions are read."""

from __future__ import annotations

import os
from pathlib import Path
from unittest import mock

import pytest

from preprocess.datasets.chinese import unsegment
from preprocess.datasets.files import split_of
from preprocess.datasets.rows import PictureFolder, RowError, number_or_text
from tests.preprocess.convert_trees import convert_all, pairs_of, put_pictures, put_text


@pytest.mark.parametrize("linked", [False, True])
def test_paths_never_leave_the_folder_of_pictures(tmp_path: Path, linked: bool) -> None:
    secret = put_pictures(tmp_path / "elsewhere", ["secret.jpg"])["secret.jpg"]
    real = tmp_path / "disk" if linked else tmp_path / "data"
    put_pictures(real, ["1.jpg", "in/2.jpg"])
    root = tmp_path / "data"
    if linked:
        root.symlink_to(real)  # the user's own choice
    (real / "out").symlink_to(tmp_path / "elsewhere")
    (real / "out.jpg").symlink_to(tmp_path / "elsewhere" / "secret.jpg")
    (real / "loop.jpg").symlink_to(real / "loop.jpg")
    (real / "fine.jpg").symlink_to(real / "1.jpg")
    os.mkfifo(real / "pipe.jpg")
    leads_out = [
        "../elsewhere/secret.jpg",
        "in/../../elsewhere/secret.jpg",
        str(tmp_path / "elsewhere" / "secret.jpg"),
        "out/secret.jpg",
        "out.jpg",
        "../data2/1.jpg",
        "../nowhere.jpg",
        "/etc/passwd",
        "in/../../data-and-more.jpg",
    ]
    absent = ["loop.jpg", "a\0b.jpg", "x" * 300 + ".jpg", "1.jpg/", "1.jpg/2.jpg", "~/1.jpg", "%2e%2e/1.jpg"]
    absent.remove("a\0b.jpg")  # older csv modules refuse the whole row
    kept = ["1.jpg", "in/2.jpg", "in/../1.jpg", "fine.jpg", "./in//2.jpg"]
    if not linked:
        kept.append(str(root / "1.jpg"))
    names = [*leads_out, *absent, "in", "pipe.jpg", *kept]
    put_text(tmp_path / "list.csv", "image,caption", *(f"{name},句" for name in names))
    report = convert_all("csv", tmp_path / "list.csv", tmp_path, root)["train"]
    assert report.images.dropped == {
        "field image: leads out of the folder of pictures": len(leads_out),
        "field image: no such file": len(absent) - 1,  # a slash after a file's name does no harm
        "field image: not a file": 2,
    }
    stored = {pair[1] for pair in pairs_of(tmp_path / "lmdb" / "train")}
    assert secret not in stored and len(stored) == 2
    assert report.images.kept == len(kept) + 1


def test_a_picture_that_cannot_be_read_or_is_far_too_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_pictures(tmp_path, ["1.jpg"])
    folder = PictureFolder(tmp_path)
    refusing = mock.Mock(side_effect=PermissionError(13, "Permission denied"))
    monkeypatch.setattr(
        Path, "read_bytes", refusing
    )  # root may read anything, so no mode of the file does it
    with pytest.raises(RowError) as refused:
        folder.load("1.jpg")
    assert refused.value.reason == "field image: cannot be read: Permission denied"
    monkeypatch.setattr("preprocess.datasets.rows.MAX_PICTURE_BYTES", 10)
    with pytest.raises(RowError) as refused:
        folder.load("1.jpg")
    assert refused.value.reason.startswith("field image: larger than")
    with pytest.raises(RowError) as refused:
        folder.load("a\0b.jpg")
    assert refused.value.reason == "field image: no such file"


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("一 个 女孩", "一个女孩"),
        ("一:m 个:q 女孩:n 。:wj", "一个女孩。"),
        ("一/m 个/q 女孩/n 的/ude1", "一个女孩的"),
        ("一个女孩", "一个女孩"),
        ("一 个 T恤 女孩", "一个T恤女孩"),
        ("stop sign 旁 的 polo pony", "stop sign旁的polo pony"),
        ("在 12:30 出发", "在12:30出发"),
        ("以 60 km/h 行驶", "以60 km/h行驶"),
        ("km/h", "km/h"),
        ("::wm 你好:v", ":你好"),
        ("  ", ""),
    ],
)
def test_captions_cut_into_words_are_put_together(text: str, whole: str) -> None:
    assert unsegment(text) == whole


def test_ids_are_numbers_only_where_they_are_written_as_numbers() -> None:
    ids = ["7", " -3 ", "0", "007", "1.0", "１２", "9" * 30, "a", "", "-0x1"]
    assert list(map(number_or_text, ids)) == [7, -3, 0, "007", "1.0", "１２", "9" * 30, "a", "", "-0x1"]


def test_splits_are_told_from_names() -> None:
    names = {
        "captions_val2017.json": "valid",
        "train_anno.csv": "train",
        "coco_test_karpathy.json": "test",
        "data/validation-00000.parquet": "valid",
        "latest.csv": "train",
        "Dev.txt": "valid",
        "restval.txt": "restval",
    }
    assert {name: split_of(name) for name in names} == names
