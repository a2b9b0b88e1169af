"""Chinese-CLIP's own LMDB layout: read as it is, and nothing in it runs."""

from __future__ import annotations

import contextlib
import os
import pickle
import struct
from pathlib import Path
from typing import Any

import lmdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnclip.data.dataset import PairDataset
from cnclip.data.legacy import parse_pair, unpickle_primitives
from cnclip.data.lmdb_store import ImageStore, read_texts
from cnclip.errors import InputError
from tests.cnclip.data.muge_files import picture, write_legacy

IMAGES = {str(i): picture(i) for i in (7, 10, 9, 123)}
PAIRS = [(7, 1, "红色连衣裙"), (10, 1, "红色连衣裙"), (9, 2, "凉鞋"), (7, 2, "凉鞋")]


@pytest.mark.parametrize("url_safe", [True, False])
def test_pictures_and_pairs_are_read(tmp_path: Path, url_safe: bool) -> None:
    write_legacy(tmp_path / "train", IMAGES, PAIRS, url_safe=url_safe)
    store = ImageStore(tmp_path / "train")
    assert store.legacy and store.ids == sorted(IMAGES) and dict(store) == IMAGES
    dataset = PairDataset(tmp_path / "train")
    assert [row[:3] for row in dataset.texts] == [(1, "红色连衣裙", ["7", "10"]), (2, "凉鞋", ["9", "7"])]
    assert len(dataset) == 4 and dataset[0]["image"] == IMAGES["7"]


def test_more_than_ten_pairs_come_in_row_order(tmp_path: Path) -> None:
    write_legacy(tmp_path / "train", IMAGES, [(7, i, f"第{i}") for i in range(25)])
    assert [row.text_id for row in read_texts(tmp_path / "train")] == list(range(25))


def test_a_split_without_pairs_has_no_texts(tmp_path: Path) -> None:
    write_legacy(tmp_path / "test", IMAGES, None)
    dataset = PairDataset(tmp_path / "test")
    assert dataset.texts == [] and len(dataset) == 0 and dataset.relevance() == []


def test_a_value_that_is_not_base64_names_its_key(tmp_path: Path) -> None:
    write_legacy(tmp_path / "train", IMAGES, PAIRS)
    with lmdb.open(str(tmp_path / "train" / "imgs")) as env, env.begin(write=True) as transaction:
        transaction.put(b"9", b"\xff\xd8 raw")
    with pytest.raises(InputError, match=r"train/imgs: key 9: not base64"):
        ImageStore(tmp_path / "train")["9"]


class _Bomb:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (self.command,)


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_bomb_is_refused_by_key_and_does_not_run(tmp_path: Path, protocol: int) -> None:
    witness = tmp_path / "ran"
    bomb = pickle.dumps((7, 1, _Bomb(f"touch {witness}")), protocol=protocol)
    write_legacy(tmp_path / "train", IMAGES, [PAIRS[0], bomb, PAIRS[2]])
    with pytest.raises(InputError, match=r"train/pairs: key 1: a pickle that would do more than hold data"):
        PairDataset(tmp_path / "train")
    problems: list[str] = []
    dataset = PairDataset(tmp_path / "train", on_error=problems.append)
    assert len(dataset) == 2 and len(problems) == 1 and "key 1" in problems[0] and "\n" not in problems[0]
    assert not witness.exists()


HUGE_MEMO = b"\x80\x02K\x07r\xff\xff\xff\x7f."  # LONG_BINPUT 2**31 - 1: gigabytes of memo
LIES = [
    HUGE_MEMO,
    b"",
    b".",
    b"garbage",
    b"\x80\x04\x95" + struct.pack("<Q", 2**60) + b"K\x07.",
    b"\x80\x04\x8d" + struct.pack("<Q", 2**62) + b"abc",
    b"\x80\x04K\x07",
    b"0.",
    b"e.",
    pickle.dumps({"a": 1}),
    pickle.dumps(1.5),
    b"I" + b"9" * 5000 + b"\n.",
    pickle.dumps("a" * 2**21),
]


@pytest.mark.parametrize("value", LIES)
def test_damaged_and_hostile_pickles_are_refused(value: bytes) -> None:
    with pytest.raises(ValueError):
        unpickle_primitives(value)


@pytest.mark.parametrize("row", [(1, 2), (1, 2, 3), (1, None, "a"), "abc", 5, ([1], 2, "a"), [1, 2, b"x"]])
def test_rows_of_another_shape_are_refused(row: object) -> None:
    with pytest.raises(ValueError):
        parse_pair(pickle.dumps(row))


@settings(deadline=None)
@given(
    st.integers(-(2**70), 2**70) | st.text(min_size=1, max_size=20),
    st.integers(-(2**62), 2**62) | st.text(max_size=20),
    st.text(max_size=300),
    st.integers(0, 5),
)
def test_every_protocol_of_plain_tuples_is_read(
    image_id: int | str, text_id: int | str, text: str, protocol: int
) -> None:
    assert parse_pair(pickle.dumps((image_id, text_id, text), protocol=protocol)) == (
        str(image_id),
        text_id,
        text,
    )


@settings(deadline=None)
@given(st.binary(max_size=60))
def test_random_bytes_never_do_anything_but_raise_value_error(value: bytes) -> None:
    with contextlib.suppress(ValueError):
        parse_pair(value)
