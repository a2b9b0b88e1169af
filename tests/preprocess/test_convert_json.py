"""JSON annotations, broken in part or altogether: records are named by place, files by line and column."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cnclip.errors import InputError
from tests.preprocess.convert_trees import convert_all, pairs_of, put_json, put_pictures
from tests.preprocess.test_convert_broken import NO_PICTURE, dropped


def test_coco_records(tmp_path: Path) -> None:
    put_pictures(tmp_path / "val2017", ["1.jpg", "2.jpg"])
    images: list[object] = [
        {"id": 1, "file_name": "1.jpg"},
        {"id": 2, "file_name": "../2.jpg"},
        {"id": 3},
        "nothing",
        {"id": 1, "file_name": "2.jpg"},
        {"id": True, "file_name": "2.jpg"},
        {"id": [4], "file_name": "2.jpg"},
        {"file_name": "2.jpg"},
        {"id": "\ud800", "file_name": "2.jpg"},
    ]
    annotations: list[object] = [
        {"id": 1, "image_id": 1, "caption": "猫"},
        {"id": 2, "image_id": 2, "caption": "图丢了"},
        {"id": 3, "image_id": 99, "caption": "没有图"},
        {"id": 4, "image_id": 1, "caption": None},
        {"id": 1.5, "image_id": 1, "caption": "小数"},
        {"id": 2**70, "image_id": 1, "caption": "太大"},
        {"id": 7, "image_id": 1, "caption": "\udc00"},
        [],
        {"id": 1, "image_id": 1, "caption": "另一句"},
        {"id": 1, "image_id": 1, "caption": "猫"},
    ]
    path = tmp_path / "captions_val2017.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations}))
    report = convert_all("coco", path, tmp_path)["valid"]
    images_dropped, texts_dropped = dropped(report)
    assert images_dropped == {
        "field image: leads out of the folder of pictures": 1,
        "field file_name: missing or empty": 2,
        "field image_id: used by an earlier row for another picture": 1,
        "field image_id: missing, or neither a whole number nor text": 3,
        "field image_id: half of a surrogate pair": 1,
    }
    assert texts_dropped == {
        NO_PICTURE: 1,
        "field image_id: names no entry of images": 1,
        "field image_id: missing, or neither a whole number nor text": 1,
        "field text: missing or empty": 1,
        "field text_id: missing, or neither a whole number nor text": 1,
        "field text_id: does not fit 64 bits": 1,
        "field text: half of a surrogate pair": 1,
        "field text_id: used by an earlier row for another text": 1,
    }
    assert report.texts.noted == {
        "ids without a picture taken out": 1,
        "rows merged into an earlier one with the same id and text": 1,
    }
    assert f"{path}: images[3]: field file_name: missing or empty" in report.problems
    assert f"{path}: annotations[2]: field image_id: names no entry of images (99)" in report.problems
    assert [pair[0] for pair in pairs_of(tmp_path / "lmdb" / "valid")] == ["1"]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"{", r"val2017\.json:1: not JSON: .*column 2"),
        (b'{\n"images": [}', r"val2017\.json:2: not JSON"),
        (b"\xff\xfe\xfd", r"val2017\.json: not (UTF-8|JSON)"),
        ('{"国标": 1}'.encode("gb18030"), r"val2017\.json: not UTF-8"),
        (b"[]", r"val2017\.json: not a JSON object"),
        (b"{}", r"val2017\.json: field images: missing, or not a list"),
        (b'{"images": [], "annotations": 3}', r"val2017\.json: field annotations: missing, or not a list"),
        (b"[" * 100_000, r"val2017\.json: not JSON that can be read"),
        (b'{"images": ' + b"9" * 5000 + b"}", r"val2017\.json: (not JSON that can be read|field images)"),
    ],
)
def test_json_that_cannot_be_used_at_all(tmp_path: Path, content: bytes, why: str) -> None:
    path = tmp_path / "captions_val2017.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=why):
        convert_all("coco", path, tmp_path)


def test_karpathy_records(tmp_path: Path) -> None:
    put_pictures(tmp_path / "val2014", ["1.jpg"])
    sentence = {"raw": "猫", "sentid": 1}
    images: list[object] = [
        {"filepath": "val2014", "filename": "1.jpg", "cocoid": 1, "split": "val", "sentences": [sentence]},
        {"filepath": "../x", "filename": "1.jpg", "cocoid": 2, "split": "val", "sentences": [sentence]},
        {"filename": 7, "split": "val"},
        {"filename": "1.jpg", "split": "holiday"},
        {"filename": "1.jpg", "cocoid": 3, "split": "val", "sentences": [{"raw": "", "sentid": 4}, 5]},
        {"filename": "1.jpg", "cocoid": 4, "split": "val"},
        {"filename": "1.jpg", "cocoid": 5, "split": ["val"]},
        None,
    ]
    path = put_json(tmp_path / "dataset_coco.json", {"images": images})
    report = convert_all("coco", path, tmp_path)["valid"]
    assert dropped(report) == (
        {
            "field image: leads out of the folder of pictures": 1,
            "field filename: missing or empty": 1,
            "field split: not one of train, restval, val, test": 3,
        },
        {
            NO_PICTURE: 1,
            "field text: missing or empty": 1,
            "field text_id: missing, or neither a whole number nor text": 1,
            "field sentences: missing, or not a list": 1,
        },
    )
    assert f"{path}: images[4].sentences[0]: field text: missing or empty" in report.problems
    assert report.images.kept == 3 and report.pairs == 1
