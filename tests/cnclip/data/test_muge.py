"""MUGE files: both alphabets, padding, and one line for each way a row can be broken."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnclip.data.muge import ImageRow, decode_base64, iter_images, read_texts, scan_images
from cnclip.errors import InputError
from tests.cnclip.data.muge_files import image_line, picture, text_line, write_lines, write_split


@settings(deadline=None)
@given(st.binary(min_size=1, max_size=200), st.booleans(), st.booleans())
def test_base64_round_trip_in_both_alphabets(data: bytes, url_safe: bool, padded: bool) -> None:
    encoded = (base64.urlsafe_b64encode if url_safe else base64.b64encode)(data)
    assert decode_base64(encoded if padded else encoded.rstrip(b"=")) == data


@settings(deadline=None)
@given(st.binary(min_size=1, max_size=60), st.integers(0, 80), st.sampled_from(b"!*%\xff \x00\n="))
def test_base64_refuses_a_foreign_character_inside(data: bytes, position: int, foreign: int) -> None:
    encoded = bytearray(base64.b64encode(data * 2).rstrip(b"="))
    position = position % (len(encoded) - 1) + 1
    encoded.insert(position, foreign)
    if encoded.strip().rstrip(b"=") == base64.b64encode(data * 2).rstrip(b"="):
        return  # at the very end, white space and padding are no damage
    with pytest.raises(ValueError, match=r"not base64"):
        decode_base64(bytes(encoded))


def test_iter_images_in_file_order_with_lines(tmp_path: Path) -> None:
    jpeg = [picture(i) for i in range(4)]
    path = tmp_path / "train_imgs.tsv"
    rows = [
        "\ufeff" + image_line(7, jpeg[0], url_safe=True),
        image_line("b-1", jpeg[1], url_safe=False),
        "",
        image_line("商品", jpeg[2], padded=False) + "\r",
        image_line(9, jpeg[3]),
    ]
    path.write_text("\n".join(rows), encoding="utf-8")  # no newline at the end
    found = list(iter_images(path))
    assert [(row.image_id, row.data, row.line) for row in found] == [
        ("7", jpeg[0], 1),
        ("b-1", jpeg[1], 2),
        ("商品", jpeg[2], 4),
        ("9", jpeg[3], 5),
    ]
    assert found[-1].end == path.stat().st_size


def test_scan_goes_on_from_any_row(tmp_path: Path) -> None:
    write_split(tmp_path, "train")
    path = tmp_path / "train_imgs.tsv"
    rows = list(iter_images(path))
    for i, row in enumerate(rows):
        assert list(scan_images(path, offset=row.end, line=row.line)) == rows[i + 1 :]


BROKEN_IMAGES = [
    ("no tab here", "field image: expected image_id<TAB>base64, found 1 column(s)"),
    ("1\tAAAA\tAAAA", "field image: expected image_id<TAB>base64, found 3 column(s)"),
    ("\tAAAA", "field image_id: empty"),
    ("a\x1bb\tAAAA", "field image_id: holds a control character"),
    ("a\0b\tAAAA", "field image_id: holds a control character"),
    ("x" * 513 + "\tAAAA", "field image_id: longer than 512 characters"),
    ("1\t", "field image: empty"),
    ("1\tAAAAA", "field image: not base64 (impossible length)"),
    ("1\tAA!A", "field image: not base64"),
]


@pytest.mark.parametrize(("line", "why"), BROKEN_IMAGES)
def test_broken_image_rows_name_file_line_and_field(tmp_path: Path, line: str, why: str) -> None:
    good = image_line(1, picture(0))
    path = write_lines(tmp_path / "x_imgs.tsv", [good, line, image_line(2, picture(1))])
    with pytest.raises(InputError) as raised:
        list(iter_images(path))
    assert str(raised.value) == f"{path}:2: {why}"
    problems: list[str] = []
    assert [row.image_id for row in iter_images(path, problems.append)] == ["1", "2"]
    assert problems == [f"{path}:2: {why}"]


BROKEN_TEXTS = [
    ("{", "field (all): not a JSON object on one line"),
    ("[1]", "field (all): not a JSON object on one line"),
    ("[" * 100_000, "field (all): not a JSON object on one line"),
    ('{"text": "a", "image_ids": []}', "field text_id: missing, or neither a whole number nor text"),
    ('{"text_id": true, "text": "a"}', "field text_id: missing, or neither a whole number nor text"),
    ('{"text_id": 9223372036854775808, "text": "a"}', "field text_id: does not fit 64 bits"),
    ('{"text_id": 1, "image_ids": []}', "field text: missing or empty"),
    ('{"text_id": 1, "text": " "}', "field text: missing or empty"),
    ('{"text_id": 1, "text": "\\ud83d"}', "field text: half of a surrogate pair"),
    ('{"text_id": 1, "text": "a", "image_ids": 5}', "field image_ids: not a list"),
    (
        '{"text_id": 1, "text": "a", "image_ids": [1.5]}',
        "field image_ids: an id must be a whole number or text",
    ),
    ('{"text_id": 1, "text": "a", "image_ids": [""]}', "field image_ids: an id is empty"),
]


@pytest.mark.parametrize(("line", "why"), BROKEN_TEXTS)
def test_broken_text_rows_name_file_line_and_field(tmp_path: Path, line: str, why: str) -> None:
    path = write_lines(tmp_path / "x_texts.jsonl", [text_line(1, "好"), line, text_line(2, "啊")])
    with pytest.raises(InputError) as raised:
        read_texts(path)
    assert str(raised.value) == f"{path}:2: {why}"
    problems: list[str] = []
    assert [row.text_id for row in read_texts(path, problems.append)] == [1, 2]
    assert problems == [f"{path}:2: {why}"]


def test_read_texts_keeps_ids_as_text_and_lists_repeats_once(tmp_path: Path) -> None:
    lines = [text_line("q7", "红色连衣裙", [3, "3", "b", 4]), '{"text_id": 8, "text": "无标注"}']
    first, second = read_texts(write_lines(tmp_path / "t.jsonl", lines))
    assert first[:4] == ("q7", "红色连衣裙", ["3", "b", "4"], 1)
    assert second[:4] == (8, "无标注", [], 2)


def test_bytes_that_are_no_utf8_are_refused_by_line(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_bytes(b'{"text_id": 1, "text": "\xff"}\n')
    with pytest.raises(InputError, match=r":1: field text: not UTF-8"):
        read_texts(path)
    path.write_bytes(b"\xff\xfe\tAAAA\n")
    with pytest.raises(InputError, match=r":1: field image_id: not UTF-8"):
        list(iter_images(path))


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    for path in (tmp_path / "none.tsv", tmp_path):
        with pytest.raises(InputError, match="cannot be read"):
            list(iter_images(path))


def test_real_photos(shop_data: Path) -> None:
    rows = list(iter_images(shop_data / "valid_imgs.tsv"))
    texts = read_texts(shop_data / "valid_texts.jsonl")
    assert len(rows) == 637 and len(texts) == 141
    assert all(isinstance(row, ImageRow) and row.data[:2] == b"\xff\xd8" for row in rows)
    assert {image_id for row in texts for image_id in row.image_ids} <= {row.image_id for row in rows}
