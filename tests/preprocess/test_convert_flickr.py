"""Flickr30k, Flickr30k-CN and COCO-CN in all their layouts: captions with words put together, and ids."""

from __future__ import annotations

from pathlib import Path

import pytest

from cnclip.data.dataset import PairDataset
from tests.preprocess.convert_trees import convert_all, expected, pairs_of, put_json, put_pictures, put_text

FLICKR = ["1000092795.jpg", "10002456.jpg"]
ENGLISH = {
    "results_20130124.token": [
        "1000092795.jpg#0\tTwo young guys , with | hair .",
        "1000092795.jpg#1\t“Two”",
        "10002456.jpg#0\tSeveral men",
    ],
    "results.csv": [
        "image_name| comment_number| comment",
        "1000092795.jpg| 0| Two young guys , with | hair .",
        "1000092795.jpg| 1| “Two”",
        "10002456.jpg| 0| Several men",
    ],
    "flickr30k_train_karpathy.txt": [
        "image,caption",
        '1000092795.jpg,"Two young guys , with | hair ."',
        "1000092795.jpg,“Two”",
        "10002456.jpg,Several men",
    ],
}


@pytest.mark.parametrize("name", ENGLISH)
@pytest.mark.parametrize("folder", ["flickr30k-images", "."])
def test_flickr30k_lists(tmp_path: Path, name: str, folder: str) -> None:
    pictures = put_pictures(tmp_path / "data" / folder, FLICKR)
    put_text(tmp_path / "data" / name, *ENGLISH[name])
    report = convert_all("flickr30k", tmp_path / "data", tmp_path)["train"]
    assert report.problems == [] and report.texts.read == 3
    rows = [
        ("1000092795", FLICKR[0], "1000092795.jpg#0", "Two young guys , with | hair ."),
        ("1000092795", FLICKR[0], "1000092795.jpg#1", "“Two”"),
        ("10002456", FLICKR[1], "10002456.jpg#0", "Several men"),
    ]
    assert pairs_of(tmp_path / "lmdb" / "train") == expected(pictures, rows)


def test_flickr30k_karpathy(tmp_path: Path) -> None:
    pictures = put_pictures(tmp_path / "flickr30k_images", FLICKR)
    images = [
        {
            "filename": name,
            "imgid": i,
            "split": split,
            "sentences": [{"raw": name, "sentid": i * 5, "imgid": i, "tokens": []}],
        }
        for i, (name, split) in enumerate(zip(FLICKR, ("train", "test"), strict=True))
    ]
    put_json(tmp_path / "dataset_flickr30k.json", {"images": images, "dataset": "flickr30k"})
    convert_all("flickr30k", tmp_path / "dataset_flickr30k.json", tmp_path)
    for i, split in enumerate(("train", "test")):
        rows = [(FLICKR[i][:-4], FLICKR[i], i * 5, FLICKR[i])]
        assert pairs_of(tmp_path / "lmdb" / split) == expected(pictures, rows)


CHINESE = {
    "fluent-cap": {
        "flickr30kzhbbosontrain/TextData/seg.flickr30kzhbbosontrain.caption.txt": [
            "1000092795#zhb#0 两 个 年轻人  在 看 T恤",
            "1000092795#zhb#1 两 个 人",
        ],
        "flickr30kzhmbosontest/TextData/seg.flickr30kzhmbosontest.caption.txt": [
            "10002456#zhm#0 一:m 个:q stop:nx sign:nx 旁边:f 的:ude 人:n 。:wj"
        ],
    },
    "cn": {
        "flickr30k_cn_train.txt": [
            "image,caption",
            "1000092795.jpg,两个年轻人在看T恤",
            "1000092795.jpg,两 个 人",
        ],
        "flickr30k_cn_test.txt": ["image,caption", "10002456.jpg,一/m 个/q stop sign 旁边/f 的/u 人/n 。/w"],
    },
    "cna": {
        "train/flickr30k_cna_train.txt": ["1000092795#0\t两个年轻人在看T恤", "1000092795#1\t两个人"],
        "test/flickr30k_cn_test.txt": ["10002456.jpg#0\t一个stop sign旁边的人。"],
    },
}
CHINESE_KEYS = {
    "fluent-cap": ("1000092795#zhb#0", "1000092795#zhb#1", "10002456#zhm#0"),
    "cn": ("1000092795.jpg#0", "1000092795.jpg#1", "10002456.jpg#0"),
    "cna": ("1000092795#0", "1000092795#1", "10002456.jpg#0"),
}


@pytest.mark.parametrize("layout", CHINESE)
def test_flickr30k_cn(tmp_path: Path, layout: str) -> None:
    pictures = put_pictures(tmp_path / "photos", FLICKR)
    for name, lines in CHINESE[layout].items():
        put_text(tmp_path / "data" / name, *lines)
    reports = convert_all("flickr30k-cn", tmp_path / "data", tmp_path, tmp_path / "photos")
    assert list(reports) == ["train", "test"]
    assert not any(report.problems for report in reports.values())
    first, second, third = CHINESE_KEYS[layout]
    rows = [
        ("1000092795", FLICKR[0], first, "两个年轻人在看T恤"),
        ("1000092795", FLICKR[0], second, "两个人"),
    ]
    assert pairs_of(tmp_path / "lmdb" / "train") == expected(pictures, rows)
    rows = [("10002456", FLICKR[1], third, "一个stop sign旁边的人。")]
    assert pairs_of(tmp_path / "lmdb" / "test") == expected(pictures, rows)


def test_coco_cn(tmp_path: Path) -> None:
    train, test = "COCO_train2014_000000123456", "COCO_val2014_000000000042"
    lonely = "COCO_train2014_000000000077"
    pictures = put_pictures(tmp_path / "coco" / "train2014", [f"{train}.jpg", f"{lonely}.jpg"])
    pictures |= put_pictures(tmp_path / "coco" / "val2014", [f"{test}.jpg"])
    root = tmp_path / "archive" / "coco-cn-version1805v1.1"
    put_text(root / "coco-cn_train.txt", train, lonely)
    put_text(root / "coco-cn_test.txt", test)
    put_text(
        root / "imageid.human-written-caption.txt",
        f"{train}#0\t一个男人 在骑马",
        f"{test}#0\t一只猫",
        f"{train}#1\t骑 polo pony",
    )
    put_text(root / "imageid.manually-translated-caption.txt", f"{test}#zhm#0\t一只 小猫")
    put_text(root / "imageid.human-written-caption.bosonseg.txt", f"{test}#0 一:m 只:q 猫:n")
    reports = convert_all("coco-cn", tmp_path / "archive", tmp_path, tmp_path / "coco")
    assert not any(report.problems for report in reports.values())
    rows = [
        ("123456", f"{train}.jpg", f"{train}#0", "一个男人在骑马"),
        ("123456", f"{train}.jpg", f"{train}#1", "骑polo pony"),
    ]
    assert pairs_of(tmp_path / "lmdb" / "train") == expected(pictures, rows)
    assert PairDataset(tmp_path / "lmdb" / "train").image_ids == ["123456", "77"]
    assert pairs_of(tmp_path / "lmdb" / "test") == expected(
        pictures, [("42", f"{test}.jpg", f"{test}#0", "一只猫")]
    )
    other = root / "imageid.manually-translated-caption.txt"
    convert_all("coco-cn", other, tmp_path / "2", tmp_path / "coco", splits="test")
    rows = [("42", f"{test}.jpg", f"{test}#zhm#0", "一只小猫")]
    assert pairs_of(tmp_path / "2" / "lmdb" / "test") == expected(pictures, rows)
