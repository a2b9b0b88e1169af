"""Parquet files of Hugging Face datasets; most of it needs pyarrow, which is optional."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from cnclip.data.dataset import PairDataset
from cnclip.errors import InputError
from tests.cnclip.data.muge_files import picture
from tests.preprocess.convert_trees import convert_all, expected, pairs_of, put_text


def write_parquet(path: Path, rows: list[dict[str, Any]], per_group: int = 2) -> Path:
    pytest.importorskip("pyarrow")
    arrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(arrow.Table.from_pylist(rows), path, row_group_size=per_group)
    return path


def image(seed: int) -> dict[str, object]:
    return {"bytes": picture(seed), "path": f"{seed}.jpg"}


def test_without_pyarrow_it_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_text(tmp_path / "data" / "train-00000-of-00001.parquet", "PAR1")
    for name in ("pyarrow", "pyarrow.parquet"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(
        InputError, match=r"of-00001\.parquet: parquet files need pyarrow: pip install pyarrow"
    ):
        convert_all("hf", tmp_path, tmp_path)


def test_rows_of_several_files_and_groups(tmp_path: Path) -> None:
    rows = [{"image": image(i), "text": f"图{i}"} for i in range(7)]
    write_parquet(tmp_path / "data" / "train-00000-of-00002.parquet", rows[:5])
    write_parquet(tmp_path / "data" / "train-00001-of-00002.parquet", rows[5:])
    write_parquet(tmp_path / "default" / "validation" / "0000.parquet", rows[2:3])
    reports = convert_all("hf", tmp_path, tmp_path)
    assert list(reports) == ["train", "valid"] and reports["train"].problems == []
    pictures = {str(i): picture(i) for i in range(7)}
    whole = expected(pictures, [(str(i), str(i), i, f"图{i}") for i in range(7)])
    assert pairs_of(tmp_path / "lmdb" / "train") == whole
    assert pairs_of(tmp_path / "lmdb" / "valid") == [("0", picture(2), 0, "图2")]
    assert PairDataset(tmp_path / "lmdb" / "train").image_ids == [str(i) for i in range(7)]


def test_ids_lists_of_captions_and_plain_bytes(tmp_path: Path) -> None:
    rows = [
        {"img": picture(1), "caption": ["甲", "乙"], "image_id": 70},
        {"img": picture(2), "caption": ["丙"], "image_id": 80},
        {"img": picture(1), "caption": ["丁"], "image_id": 70},
    ]
    path = write_parquet(tmp_path / "x.parquet", rows)
    convert_all("hf", path, tmp_path)
    pictures = {"70": picture(1), "80": picture(2)}
    whole = [("70", "70", 0, "甲"), ("70", "70", 1, "乙"), ("80", "80", 2, "丙"), ("70", "70", 3, "丁")]
    assert pairs_of(tmp_path / "lmdb" / "train") == expected(pictures, whole)


def test_broken_rows_and_files(tmp_path: Path) -> None:
    rows = [
        {"image": image(1), "text": "好", "caption_id": 1},
        {"image": {"bytes": None, "path": "/etc/passwd"}, "text": "没有", "caption_id": 2},
        {"image": {"bytes": b"text", "path": None}, "text": "不是图", "caption_id": 3},
        {"image": image(4), "text": None, "caption_id": 4},
        {"image": image(5), "text": "别的", "caption_id": 1},
    ]
    path = write_parquet(tmp_path / "train.parquet", rows)
    report = convert_all("hf", path, tmp_path)["train"]
    assert report.images.dropped == {"field image: holds no bytes": 1, "field image: not a picture": 1}
    assert report.texts.dropped == {
        "field image_ids: none of its pictures is there": 2,
        "field text: missing or empty": 1,
        "field text_id: used by an earlier row for another text": 1,
    }
    assert f"{path}: row 1: field image: holds no bytes" in report.problems
    for columns, why in (
        ({"text": "a"}, r"no column of pictures \(image, .* among 'text'"),
        ({"image": image(1)}, "no column of captions"),
    ):
        write_parquet(path, [columns])
        with pytest.raises(InputError, match=why):
            convert_all("hf", path, tmp_path, force=True)
    path.write_bytes(b"PAR1 this is not parquet PAR1")
    with pytest.raises(InputError, match=r"train\.parquet: not readable as parquet") as caught:
        convert_all("hf", path, tmp_path, force=True)
    assert "\n" not in str(caught.value)


def test_damaged_pages_cost_their_own_pictures_only(tmp_path: Path) -> None:
    path = write_parquet(
        tmp_path / "train.parquet", [{"image": image(i), "text": f"图{i}"} for i in range(6)]
    )
    file = import_module("pyarrow.parquet").ParquetFile(path)
    at = file.metadata.row_group(1).column(0).data_page_offset
    file.close()
    content = bytearray(path.read_bytes())
    content[at : at + 40] = b"\xff" * 40
    path.write_bytes(content)
    report = convert_all("hf", tmp_path, tmp_path)["train"]
    assert report.images.dropped == {"field image: cannot be read from the parquet file": 2}
    assert f"{path}: row 3: field image: cannot be read from the parquet file" in report.problems
    assert [pair[0] for pair in pairs_of(tmp_path / "lmdb" / "train")] == ["0", "1", "4", "5"]
