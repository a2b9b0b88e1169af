"""Broken rows of every format: dropped, counted by reason, named by file and line or record; never a
traceback, and never a file from outside the folder of pictures."""

from __future__ import annotations

from pathlib import Path

import pytest

from cnclip.data.lmdb_report import SplitReport
from cnclip.errors import InputError
from tests.cnclip.data.muge_files import picture
from tests.preprocess.convert_trees import convert_all, pairs_of, put_pictures, put_text

NO_PICTURE = "field image_ids: none of its pictures is there"


def dropped(report: SplitReport) -> tuple[dict[str, int], dict[str, int]]:
    return report.images.dropped, report.texts.dropped


def problems(report: SplitReport, path: Path) -> dict[str, str]:
    """Reported lines by what follows the file's name (its line, or the record in it)."""
    marked = [line.removeprefix(str(path)) for line in report.problems]
    return {line.partition(": field")[0]: "field" + line.partition(": field")[2] for line in marked}


def test_csv_rows(tmp_path: Path) -> None:
    root = tmp_path / "data"
    put_pictures(root / "train", ["1.jpg", "2.jpg"])
    (root / "train" / "text.jpg").write_text("no picture")
    (root / "train" / "empty.jpg").write_bytes(b"")
    path = root / "train_anno.csv"
    put_text(
        path,
        "image,image_id,caption,caption_id",
        "1.jpg,1,猫,1",
        "2.jpg,1,两图一号,2",  # 3: another picture under an id
        "missing.jpg,3,没有,3",  # 4
        "text.jpg,4,不是图,4",
        "empty.jpg,5,空文件,5",
        "1.jpg,1,  ,6",  # 7: no caption
        "1.jpg,1,少一列",  # 8
        "1.jpg,1,别的,1",  # 9: another caption under an id
        ",7,没有图,8",  # 10
        "1.jpg,,没有号,9",  # 11
        "1.jpg,1,没有句号,",  # 12
        "",
        '1.jpg,1,"两\n行",10',  # 14 and 15
    )
    with path.open("ab") as file:
        file.write("1.jpg,1,国标,11\n".encode("gb18030"))  # 16
        file.write(b"1.jpg,1,\xed\xa0\x80,12\n")  # 17
        file.write(f"1.jpg,{'9' * 600},长,13\n".encode())  # 18
    report = convert_all("csv", root, tmp_path)["train"]
    images, texts = dropped(report)
    assert images == {
        "field image: no such file": 1,
        "field image: not a picture": 2,
        "field image: empty": 1,
    }
    assert texts == {
        "field image_id: used by an earlier row for another picture": 1,
        NO_PICTURE: 4,
        "field text: missing or empty": 1,
        "field (all): expected 4 columns": 1,
        "field text_id: used by an earlier row for another text": 1,
        "field image_id: empty": 1,
        "field text_id: missing, or neither a whole number nor text": 1,
        "field (all): not UTF-8": 2,
        "field image_id: longer than 512 characters": 1,
    }
    assert (report.images.read, report.images.kept, report.texts.kept, report.pairs) == (5, 1, 2, 2)
    assert [pair[3] for pair in pairs_of(tmp_path / "lmdb" / "train")] == ["猫", "两 行"]
    told = problems(report, path)
    assert told[":3"] == "field image_id: used by an earlier row for another picture ('1')"
    assert told[":8"] == "field (all): expected 4 columns (found 3)"
    assert told[":9"] == "field text_id: used by an earlier row for another text (text_id 1)"
    assert {":7", ":10", ":11", ":12", ":16", ":17", ":18"} < set(told)
    assert f"{path}:4: field image: no such file ('missing.jpg')" in report.problems
    assert f"{path}:5: field image: not a picture (image_id 4)" in report.problems


def test_csv_that_cannot_be_used_at_all(tmp_path: Path) -> None:
    put_pictures(tmp_path / "train", ["1.jpg"])
    path = tmp_path / "train_anno.csv"
    for content, why in (
        (b"", "train_anno.csv: empty, without even a header"),
        (b"\n\nimage,text\n", "train_anno.csv:3: no column 'caption'"),
        (
            b"image,image_id,text\n1.jpg,1,a\n",
            r"train_anno.csv:1: no column 'caption'; the header is 'image'",
        ),
        (
            b"image,caption\n9.jpg,a\n",
            r"train_anno.csv: no usable picture in 1 rows; first: .*csv:2: field im",
        ),
        (b"image,caption\n", r"train_anno.csv: no usable picture in 0 rows"),
    ):
        path.write_bytes(content)
        with pytest.raises(InputError, match=why) as caught:
            convert_all("csv", tmp_path, tmp_path)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "lmdb" / "train").exists()


GARBAGE_CSV = ("train_anno.csv", "csv")


@pytest.mark.parametrize(
    ("name", "kind", "content", "why"),
    [
        (*GARBAGE_CSV, b"image,caption\n1.jpg,caf\xe9\n", r" in 1 rows; first: .*csv:2: .*not UTF-8"),
        (*GARBAGE_CSV, b'image,caption\n"1.jpg,a\n2.jpg,b\n', r" in 1 rows; first: .*csv:2: .*2 columns"),
        (*GARBAGE_CSV, b"image,caption\n1.jpg," + b"x" * 200_000, r" in 1 rows; first: .*csv:2: .*not csv"),
        ("results_20130124.token", "flickr30k", b"a\n\nb\nc\n", r" in 3 rows; first: .*token:1: .*expected"),
        ("metadata.jsonl", "hf", b"{{{\n[]\n", r" in 2 rows; first: .*jsonl:1: .*not a JSON object"),
        (
            "dataset_coco.json",
            "coco",
            b'{"images": [1, {}]}',
            r" in 2 rows; first: .*images\[0\]: field split",
        ),
        (
            "captions_val2014.json",
            "coco",
            b'{"images": [7, 8], "annotations": [9]}',
            r" in 3 rows; first: .*images\[0\]: field file_name",
        ),
    ],
)
def test_annotations_of_which_no_row_is_good(
    tmp_path: Path, name: str, kind: str, content: bytes, why: str
) -> None:
    put_pictures(tmp_path, ["1.jpg"])
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=rf"{name}: no usable picture{why}") as caught:
        convert_all(kind, tmp_path, tmp_path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "lmdb" / "train").exists()


def test_a_header_that_is_no_csv(tmp_path: Path) -> None:
    put_pictures(tmp_path, ["1.jpg"])
    path = put_text(tmp_path / "train_anno.csv", "image," + "x" * 200_000, "1.jpg,a")
    with pytest.raises(InputError, match=rf"{path}:1: not a csv header: field larger"):
        convert_all("csv", tmp_path, tmp_path)


def test_pictures_without_a_usable_caption_are_refused(tmp_path: Path) -> None:
    put_pictures(tmp_path, ["1.jpg"])
    for split in ("train", "test"):
        path = put_text(tmp_path / f"{split}_anno.csv", "image,caption", "1.jpg,  ", "2.jpg,没有")
        with pytest.raises(
            InputError, match=rf"{path}: no usable text in 2 rows; first: {path}:2: field text: missing"
        ):
            convert_all("csv", path, tmp_path)
        assert not (tmp_path / "lmdb" / split).exists()


def test_pictures_without_any_caption_are_refused(tmp_path: Path) -> None:
    put_pictures(tmp_path, ["1.jpg"])
    put_text(
        tmp_path / "captions_val2014.json",
        '{"images": [{"id": 1, "file_name": "1.jpg"}], "annotations": []}',
    )
    with pytest.raises(InputError, match=r"captions_val2014\.json: no usable text in 0 rows"):
        convert_all("coco", tmp_path, tmp_path)


def test_csv_with_a_quote_that_never_ends_or_a_nul(tmp_path: Path) -> None:
    put_pictures(tmp_path / "train", ["1.jpg"])
    rows = ["image,caption,caption_id", "1.jpg,好,1", "1.jpg,a\0b,2", '1.jpg,"坏,3']
    path = put_text(tmp_path / "train_anno.csv", *rows, *(f"1.jpg,第{i}句,{i}" for i in range(4, 20_000)))
    report = convert_all("csv", tmp_path, tmp_path)["train"]
    assert report.problems[-1].startswith(f"{path}:") and "field (all)" in report.problems[-1]
    assert any(line.startswith(f"{path}:4: field (all): not csv (") for line in report.problems)
    assert (
        report.texts.kept > 1 and report.texts.kept + sum(report.texts.dropped.values()) == report.texts.read
    )


def test_lines_of_captions(tmp_path: Path) -> None:
    put_pictures(tmp_path, ["1.jpg"])
    good = "1.jpg#0\tcat"
    token = put_text(
        tmp_path / "results_20130124.token", good, "1.jpg#1\t", "no number here", "9.jpg#0\tdog", good
    )
    with token.open("ab") as file:
        file.write("1.jpg#2\t国标\n".encode("gb18030"))
    report = convert_all("flickr30k", token, tmp_path / "token")["train"]
    assert dropped(report) == (
        {"field image: no such file": 1},
        {
            "field text: missing or empty": 1,
            "field (all): expected image#number and a caption": 1,
            "field (all): not UTF-8": 1,
            NO_PICTURE: 1,
        },
    )
    assert f"{token}:3: field (all): expected image#number and a caption" in report.problems

    header = "image_name| comment_number| comment"
    kaggle = put_text(tmp_path / "results.csv", header, "1.jpg| 0| cat", "1.jpg| 4   A dog .", "1.jpg| 1|")
    report = convert_all("flickr30k", kaggle, tmp_path / "kaggle")["train"]
    assert report.texts.dropped == {
        "field (all): expected image| number| caption": 1,
        "field text: missing or empty": 1,
    }
    assert f"{kaggle}:3: field (all): expected image| number| caption" in report.problems


def test_coco_cn_lines(tmp_path: Path) -> None:
    put_pictures(tmp_path / "train2014", ["COCO_train2014_000000000001.jpg"])
    put_text(
        tmp_path / "coco-cn_train.txt",
        "COCO_train2014_000000000001",
        "COCO_train2014_000000000002",
        "../passwd",
    )
    put_text(tmp_path / "coco-cn_val.txt", "COCO_val2014_000000000003")
    captions = put_text(
        tmp_path / "imageid.human-caption.txt",
        "COCO_train2014_000000000001#0\t猫",
        "COCO_val2014_000000000003#0\t另一个分组",
        "COCO_val2014_000000000009#0\t不在任何分组",
        "COCO_train2014_000000000002#0\t图丢了",
    )
    report = convert_all("coco-cn", tmp_path, tmp_path, splits="train")["train"]
    assert dropped(report) == (
        {"field image: no such file": 1, "field image: leads out of the folder of pictures": 1},
        {"field image_id: in no list of a split": 1, NO_PICTURE: 1},
    )
    assert any(line.startswith(f"{captions}:3: field image_id: in no list") for line in report.problems)


def test_metadata_lines(tmp_path: Path) -> None:
    put_pictures(tmp_path / "train", ["1.png"])
    path = put_text(
        tmp_path / "train" / "metadata.jsonl",
        '{"file_name": "1.png", "text": "猫"}',
        "{broken",
        '["1.png"]',
        '{"text": "没有图"}',
        '{"file_name": "1.png", "text": []}',
        '{"file_name": "1.png", "text": {"zh": "猫"}}',
        '{"file_name": "../../1.png", "text": "外面"}',
        '{"file_name": "1.png", "caption": "别的列"}',
    )
    report = convert_all("hf", tmp_path, tmp_path)["train"]
    assert dropped(report) == (
        {"field image: leads out of the folder of pictures": 1},
        {
            "field (all): not a JSON object on one line": 2,
            "field file_name: missing or empty": 1,
            "field text: missing or empty": 3,
            NO_PICTURE: 1,
        },
    )
    assert f"{path}:2: field (all): not a JSON object on one line" in report.problems
    put_text(path, '{"file_name": "1.png", "label": 3}')
    with pytest.raises(
        InputError, match=r"metadata\.jsonl:1: no column of captions \(text, .* among 'file_name"
    ):
        convert_all("hf", tmp_path, tmp_path, force=True)


def test_names_that_would_steer_a_terminal_are_shown_harmlessly(tmp_path: Path) -> None:
    put_pictures(tmp_path, ["1.jpg"])
    put_text(
        tmp_path / "a.csv", "image,image_id,caption", "1.jpg,1,猫", "\x1b[2J.jpg,2,坏", "1.jpg,\x1b[31m,坏"
    )
    report = convert_all("csv", tmp_path / "a.csv", tmp_path)["train"]
    assert len(report.problems) == 3 and "\x1b" not in "".join(report.problems)


def test_strict_names_the_first_broken_row(tmp_path: Path) -> None:
    put_pictures(tmp_path, ["1.jpg"])
    path = put_text(tmp_path / "a.csv", "image,caption", "1.jpg,猫", "2.jpg,没有", "1.jpg,")
    with pytest.raises(InputError, match=rf"{path}:3: field image: no such file \('2.jpg'\)"):
        convert_all("csv", path, tmp_path, strict=True)
    assert not (tmp_path / "lmdb" / "train").exists()


@pytest.mark.parametrize(("how", "kept"), [("off", 3), ("header", 2), ("decode", 1)])
def test_check_images(tmp_path: Path, how: str, kept: int) -> None:
    whole = picture(0, 400)
    (tmp_path / "1.jpg").write_bytes(whole)
    (tmp_path / "2.jpg").write_bytes(whole[:-300])
    (tmp_path / "3.jpg").write_bytes(b"text")
    path = put_text(tmp_path / "a.csv", "image,caption", *(f"{i}.jpg,图{i}" for i in (1, 2, 3)))
    assert convert_all("csv", path, tmp_path, check_images=how)["train"].images.kept == kept
