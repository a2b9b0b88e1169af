"""Which texts a prediction answers, and where they come from."""

from __future__ import annotations

from pathlib import Path

import pytest

from cnclip.data.lmdb_build import build_lmdb
from cnclip.errors import InputError
from cnclip.prediction.split import (
    open_images,
    open_prediction_split,
    open_texts,
    pictures_digest,
    texts_digest,
)
from tests.cnclip.data.muge_files import image_line, picture, text_line, write_legacy, write_lines
from tests.cnclip.prediction.kit import write_test_split


def ids_of(folder: Path, **options: Path) -> tuple[list[str], list[int | str]]:
    split = open_prediction_split(folder, "test", **options)
    return split.image_ids, [row.text_id for row in split.texts]


@pytest.fixture
def muge(tmp_path: Path) -> Path:
    return write_test_split(tmp_path / "MUGE", 3, 2)


EXPECTED = (["100", "101", "102"], [1, 2])


def test_an_unlabelled_split_from_muge_files(muge: Path) -> None:
    assert ids_of(muge) == EXPECTED
    split = open_prediction_split(muge, "test")
    assert split.image_bytes("101") == picture(1)
    assert split.texts[1].text == "第1条" and split.texts[1].image_ids == []


def test_an_unlabelled_split_from_our_shards(muge: Path) -> None:
    build_lmdb(muge, ["test"])
    for where in (muge, muge / "lmdb", muge / "lmdb" / "test"):
        assert ids_of(where) == EXPECTED
    (muge / "test_texts.jsonl").unlink()
    for where in (muge, muge / "lmdb", muge / "lmdb" / "test"):
        assert ids_of(where) == EXPECTED, "the shards hold texts without labels"


def test_an_unlabelled_split_from_shards_of_chinese_clip(muge: Path) -> None:
    """Their builder writes pairs, of which an unlabelled split has none; Online-CNCLIP's no folder at all."""
    images = {str(100 + i): picture(i) for i in range(3)}
    for split, pairs in (("a", []), ("b", None)):
        write_legacy(muge / "lmdb" / split, images, pairs)
        (muge / f"{split}_texts.jsonl").write_bytes((muge / "test_texts.jsonl").read_bytes())
        found = open_prediction_split(muge, split)
        assert (found.image_ids, [row.text_id for row in found.texts]) == EXPECTED
        (muge / f"{split}_texts.jsonl").unlink()
        with pytest.raises(InputError, match=f"holds no texts, and .*{split}_texts.jsonl is not there"):
            open_prediction_split(muge, split)
        named = open_prediction_split(muge, split, text_data=muge / "test_texts.jsonl")
        assert [row.text_id for row in named.texts] == [1, 2]


def test_a_text_whose_pictures_are_not_there_is_still_answered(muge: Path) -> None:
    """The shards drop it: nothing can be learnt from it."""
    write_lines(muge / "test_texts.jsonl", [text_line(1, "a", [100]), text_line(2, "b", [999])])
    build_lmdb(muge, ["test"])
    assert ids_of(muge)[1] == [1, 2]
    (muge / "test_texts.jsonl").unlink()
    assert ids_of(muge)[1] == [1]


def test_without_texts_it_says_what_to_do(muge: Path) -> None:
    (muge / "test_texts.jsonl").unlink()
    with pytest.raises(InputError, match=r"test_imgs.tsv: holds no texts, and .* \(--text-data names them\)"):
        ids_of(muge)


def test_texts_that_cannot_be_answered_are_refused(muge: Path) -> None:
    texts = write_lines(muge / "test_texts.jsonl", [text_line(1, "a"), '{"text_id": 2}'])
    with pytest.raises(InputError, match=r"test_texts.jsonl:2: field text: missing or empty"):
        ids_of(muge)
    write_lines(texts, [text_line(1, "a"), text_line("1", "b")])
    with pytest.raises(InputError, match=r"test_texts.jsonl: field text_id: 1 more than once"):
        ids_of(muge)
    write_lines(texts, [])
    with pytest.raises(InputError, match=r"test_texts.jsonl: no text to answer"):
        ids_of(muge)
    with pytest.raises(InputError, match="nowhere: no such file or folder"):
        ids_of(muge, text_data=muge / "nowhere")


def test_broken_rows_of_pictures_leave_the_gallery(muge: Path) -> None:
    write_lines(muge / "test_imgs.tsv", [image_line(100, picture(0)), "101\t***", "102"])
    told: list[str] = []
    assert open_prediction_split(muge, "test", on_error=told.append).image_ids == ["100"]
    assert [line.split(": ")[1] for line in told] == ["field image", "field image"]
    with pytest.raises(InputError, match=r"test_imgs.tsv:2: field image: not base64"):
        ids_of(muge)
    write_lines(muge / "test_imgs.tsv", [])
    with pytest.raises(InputError, match="no picture to rank"):
        ids_of(muge)


def test_pictures_and_texts_alone(muge: Path) -> None:
    build_lmdb(muge, ["test"])
    for path in (muge / "lmdb" / "test" / "imgs", muge / "lmdb" / "test", muge / "test_imgs.tsv"):
        assert open_images(path).ids == EXPECTED[0]
    assert [row.text_id for row in open_texts(muge / "lmdb" / "test")] == EXPECTED[1]
    for opened in (open_images, open_texts):
        with pytest.raises(InputError, match="no such file or folder"):
            opened(muge / "nowhere")


def test_digests_tell_content_apart(muge: Path, tmp_path: Path) -> None:
    one = open_prediction_split(muge, "test")
    assert texts_digest(one.texts) == texts_digest(open_texts(muge / "test_texts.jsonl"))
    write_lines(muge / "test_texts.jsonl", [text_line(1, "第0条"), text_line(2, "别的")])
    assert texts_digest(one.texts) != texts_digest(open_texts(muge / "test_texts.jsonl"))
    before = pictures_digest(one.images)
    build_lmdb(muge, ["test"])
    assert pictures_digest(open_images(muge / "lmdb" / "test")) == before
    lines = [image_line(100 + i, picture(i + 50)) for i in range(3)]
    write_lines(tmp_path / "test_imgs.tsv", lines)
    assert pictures_digest(open_images(tmp_path / "test_imgs.tsv")) != before, "other pictures, the same ids"
