"""Every layout arrives in the shards as a naive reading of it gives: pictures, captions and their ids."""

from __future__ import annotations

from pathlib import Path

import pytest

from cnclip.data.dataset import PairDataset
from cnclip.errors import InputError
from tests.preprocess.convert_trees import convert_all, expected, pairs_of, put_json, put_pictures, put_text

HEADER = "image,image_id,caption,caption_id"


def test_zerovl_csv(tmp_path: Path) -> None:
    root = tmp_path / "coco"
    pictures = put_pictures(root / "train", ["289333.jpg", "sub/220152.jpg"])
    valid = put_pictures(root / "valid", ["82935.jpg"])
    put_text(
        root / "train_anno.csv",
        HEADER,
        '289333.jpg,289333,"A plate, filled with ""pasta""",27429',
        "sub/220152.jpg,220152,两名滑雪者,167876",
        "289333.jpg,289333,一盘  意大利面 ,27430",
        f"{root / 'train' / 'sub' / '220152.jpg'},9,绝对路径,31",
    )
    put_text(root / "valid_anno.csv", "\ufeff" + HEADER, "82935.jpg,82935,一只猫,007")
    reports = convert_all("csv", root, tmp_path)
    assert list(reports) == ["train", "valid"] and reports["train"].problems == []
    assert pairs_of(tmp_path / "lmdb" / "train") == expected(
        pictures,
        [
            ("289333", "289333.jpg", 27429, 'A plate, filled with "pasta"'),
            ("220152", "sub/220152.jpg", 167876, "两名滑雪者"),
            ("289333", "289333.jpg", 27430, "一盘 意大利面"),
            ("9", "sub/220152.jpg", 31, "绝对路径"),
        ],
    )
    assert PairDataset(tmp_path / "lmdb" / "train").image_ids == ["289333", "220152", "9"]
    assert pairs_of(tmp_path / "lmdb" / "valid") == expected(valid, [("82935", "82935.jpg", "007", "一只猫")])


def test_csv_without_ids_and_with_a_folder_of_its_own(tmp_path: Path) -> None:
    pictures = put_pictures(tmp_path / "pictures", ["a.jpg", "b.jpg"])
    source = put_text(tmp_path / "mine.csv", "caption,image", "甲,a.jpg", "乙,b.jpg", '"甲\n又",a.jpg')
    convert_all("csv", source, tmp_path, tmp_path / "pictures")
    rows = [("a.jpg", "a.jpg", 0, "甲"), ("b.jpg", "b.jpg", 1, "乙"), ("a.jpg", "a.jpg", 2, "甲 又")]
    assert pairs_of(tmp_path / "lmdb" / "train") == expected(pictures, rows)


@pytest.mark.parametrize(("year", "prefix"), [(2014, "COCO_val2014_"), (2017, "")])
def test_coco_captions(tmp_path: Path, year: int, prefix: str) -> None:
    root = tmp_path / "coco"
    names = [f"{prefix}000000{number:06d}.jpg" for number in (391895, 42, 139)]
    pictures = put_pictures(root / f"val{year}", names)
    put_json(
        root / "annotations" / f"captions_val{year}.json",
        {
            "info": {"year": year},
            "images": [{"id": int(name[-10:-4]), "file_name": name, "license": 3} for name in names],
            "annotations": [
                {"id": 770337, "image_id": 391895, "caption": "A man with a red helmet.\n"},
                {"id": 38, "image_id": 42, "caption": "一只狗"},
                {"id": 39, "image_id": 391895, "caption": "骑车"},
            ],
        },
    )
    put_text(root / "annotations" / f"instances_val{year}.json", "not read")
    reports = convert_all("coco", root, tmp_path)
    assert reports["valid"].problems == [] and reports["valid"].images.kept == 3
    rows = [
        ("391895", names[0], 770337, "A man with a red helmet."),
        ("42", names[1], 38, "一只狗"),
        ("391895", names[0], 39, "骑车"),
    ]
    assert pairs_of(tmp_path / "lmdb" / "valid") == expected(pictures, rows)
    assert PairDataset(tmp_path / "lmdb" / "valid").image_ids == ["391895", "42", "139"]  # 139: no caption
    source = root / "annotations" / f"captions_val{year}.json"
    convert_all("coco", source, tmp_path / "again")
    assert pairs_of(tmp_path / "again" / "lmdb" / "valid") == pairs_of(tmp_path / "lmdb" / "valid")


@pytest.mark.parametrize("linked", [False, True])
def test_coco_karpathy(tmp_path: Path, linked: bool) -> None:
    root = tmp_path / "coco"
    real = tmp_path / "disk" if linked else root
    names = {
        "train": ("train2014", "COCO_train2014_000000000009.jpg", 9),
        "restval": ("val2014", "COCO_val2014_000000000074.jpg", 74),
        "val": ("val2014", "COCO_val2014_000000184613.jpg", 184613),
        "test": ("val2014", "COCO_val2014_000000391895.jpg", 391895),
    }
    pictures = {}
    for folder, name, _ in names.values():
        pictures |= put_pictures(real / folder, [name])
    if linked:  # the user's own link, not one that the file asks for
        root.mkdir()
        (root / "val2014").symlink_to(real / "val2014")
        (root / "train2014").symlink_to(real / "train2014")
    images = [
        {
            "filepath": folder,
            "filename": name,
            "cocoid": cocoid,
            "imgid": position,
            "split": split,
            "sentids": [cocoid + 1, cocoid + 2],
            "sentences": [
                {"raw": f"{split} {n}", "tokens": ["a"], "sentid": cocoid + n, "imgid": position}
                for n in (1, 2)
            ],
        }
        for position, (split, (folder, name, cocoid)) in enumerate(names.items())
    ]
    put_json(root / "dataset_coco.json", {"images": images, "dataset": "coco"})
    reports = convert_all("coco", root, tmp_path)
    assert list(reports) == ["train", "restval", "valid", "test"]
    for split, (_, name, cocoid) in names.items():
        rows = [(str(cocoid), name, cocoid + n, f"{split} {n}") for n in (1, 2)]
        written = tmp_path / "lmdb" / {"val": "valid"}.get(split, split)
        assert pairs_of(written) == expected(pictures, rows)


def test_huggingface_folders(tmp_path: Path) -> None:
    root = tmp_path / "set"
    pictures = put_pictures(root / "train", ["0001.png", "cat/0001.png"])
    valid = put_pictures(root / "pool", ["0002.png"])
    put_text(
        root / "train" / "metadata.jsonl",
        '{"file_name": "0001.png", "text": "红色连衣裙"}',
        '{"file_name": "cat/0001.png", "text": ["猫", "一只猫"]}',
    )
    put_text(
        root / "validation" / "metadata.csv",
        "file_name,image_id,caption_id,caption",
        "../pool/0002.png,2,70,狗",
    )
    reports = convert_all("hf", root, tmp_path)
    assert list(reports) == ["train", "valid"]
    rows = [
        ("0001.png", "0001.png", 0, "红色连衣裙"),
        ("cat/0001.png", "cat/0001.png", 1, "猫"),
        ("cat/0001.png", "cat/0001.png", 2, "一只猫"),
    ]
    assert pairs_of(tmp_path / "lmdb" / "train") == expected(pictures, rows)
    assert pairs_of(tmp_path / "lmdb" / "valid") == expected(valid, [("2", "0002.png", 70, "狗")])


def test_huggingface_metadata_at_the_root_keeps_splits_apart(tmp_path: Path) -> None:
    root = tmp_path / "set"
    names = ["train/1.png", "test/2.png", "more/3.png"]
    pictures = put_pictures(root, names)
    put_text(root / "metadata.csv", "file_name,text", *(f"{name},图{name[-5]}" for name in names))
    assert list(convert_all("hf", root, tmp_path)) == ["train", "test"]
    assert pairs_of(tmp_path / "lmdb" / "test") == expected(
        pictures, [("test/2.png", "test/2.png", 0, "图2")]
    )
    rows = [("train/1.png", "train/1.png", 0, "图1"), ("more/3.png", "more/3.png", 1, "图3")]
    assert pairs_of(tmp_path / "lmdb" / "train") == expected(pictures, rows)


def test_what_is_ambiguous_or_absent_is_one_line(tmp_path: Path) -> None:
    root = tmp_path / "coco"
    put_pictures(root / "val2014", ["a.jpg"])
    with pytest.raises(InputError, match="no annotation file of this format"):
        convert_all("coco", root, tmp_path)
    with pytest.raises(InputError, match="nowhere: no such file or folder"):
        convert_all("coco", tmp_path / "nowhere", tmp_path)
    for year in (2014, 2017):
        put_json(root / "annotations" / f"captions_val{year}.json", {"images": [], "annotations": []})
    with pytest.raises(
        InputError, match=r"valid is also in .*2014\.json; give one of the two files as SOURCE"
    ):
        convert_all("coco", root, tmp_path)
    put_json(root / "dataset_coco.json", {"images": []})
    with pytest.raises(InputError, match=r"dataset_coco\.json: its captions are also in"):
        convert_all("coco", root, tmp_path)
    with pytest.raises(InputError, match=r"dataset_coco\.json: no usable picture in 0 rows"):
        convert_all("coco", root / "dataset_coco.json", tmp_path)
    put_text(root / "imageid.human-written-caption.txt", "a#0\t猫")
    with pytest.raises(InputError, match=r"no coco-cn_train\.txt"):
        convert_all("coco-cn", root, tmp_path)
    with pytest.raises(InputError, match="--splits: no test in this dataset; there is valid"):
        convert_all("coco", root / "annotations" / "captions_val2017.json", tmp_path, splits="valid,test")
