"""How ids are written, compared and brought into one order."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnclip.errors import InputError
from cnclip.prediction.ids import align, digest, named, positions, written_id


@pytest.mark.parametrize(
    ("given_id", "expected"),
    [
        ("7", 7), ("0", 0), ("-3", -3), (7, 7), ("007", "007"), ("-0", "-0"), ("a7", "a7"), ("1_0", "1_0"),
        ("７", "７"), ("", ""), ("-", "-"), ("9" * 40, "9" * 40), (" 7", " 7"),
    ],
)  # fmt: skip
def test_what_reads_as_a_number_is_written_as_one(given_id: int | str, expected: int | str) -> None:
    assert written_id(given_id) == expected
    assert type(written_id(given_id)) is type(expected)


@settings(deadline=None, max_examples=50)
@given(st.text(max_size=24))
def test_a_written_id_is_the_same_id(value: str) -> None:
    assert str(json.loads(json.dumps(written_id(value)))) == value


def test_an_id_there_twice_is_named() -> None:
    assert positions([5, "6", 7], "image_id", "f") == {"5": 0, "6": 1, "7": 2}
    with pytest.raises(InputError, match=r"^m.npy: field image_id: 6, 5 more than once$"):
        positions([6, 5, 7, "6", 5, "5"], "image_id", "m.npy")


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(), unique=True, min_size=1), st.integers(0, 99))
def test_alignment_finds_every_id(ids: list[int], seed: int) -> None:
    shuffled = [ids[i] for i in np.random.default_rng(seed).permutation(len(ids))]
    order = align(ids, [str(value) for value in shuffled], "text_id", "b", "a")
    if order is None:
        assert shuffled == ids
    else:
        assert [shuffled[i] for i in order] == ids and shuffled != ids


def test_ids_that_one_side_lacks_are_named() -> None:
    assert align([1, 2], [1, 2], "text_id", "b", "a") is None
    assert np.array_equal(align([1, 2], [2, 1], "text_id", "b", "a"), [1, 0])
    with pytest.raises(InputError, match=r"^b: field text_id: lacks 3, which a has$"):
        align([1, 2, 3], [2, 1], "text_id", "b", "a")
    with pytest.raises(InputError, match=r"^a: field text_id: lacks 9, which b has$"):
        align([1, 2], [2, 9, 1], "text_id", "b", "a")
    with pytest.raises(InputError, match=r"^b: field text_id: 2 more than once$"):
        align([1, 2], [2, 2], "text_id", "b", "a")
    with pytest.raises(InputError, match="lacks 0, 1, 2, 3, 4 and 3 more, which"):
        align(range(8), [], "text_id", "b", "a")


def test_names_fit_one_line() -> None:
    assert named(["a\nb", "c"]) == "a\\nb, c"


def test_the_digest_tells_where_texts_end() -> None:
    assert digest(["ab", "c"]) != digest(["a", "bc"]) != digest(["abc"])
    assert digest(["ab", "c"]) == digest(iter(["ab", "c"])) and len(digest([])) == 16
