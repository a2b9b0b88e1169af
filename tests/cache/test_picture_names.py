"""Which folder a query gets: Online-CNCLIP's name where that is usable, a hash of the query elsewhere."""

from __future__ import annotations

import hashlib
import unicodedata
from pathlib import PurePosixPath, PureWindowsPath

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cache.names import canonical, clash_key, directory_name, hashed_name, is_safe_name, plain_name
from tests.cache.picture_kit import PUNCTUATION, reference_directory

ANY_TEXT = st.text(st.characters(), max_size=30)  # half surrogate pairs too


def test_the_punctuation_is_that_of_the_reference() -> None:
    assert len(set(PUNCTUATION)) == 81
    dropped = {c for c in map(chr, range(0x10000)) if directory_name(f"a{c}b") == "ab"}
    assert dropped == {*PUNCTUATION, " "}


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("红色连衣裙", "红色连衣裙"),
        (" 便携 果汁杯\n", "便携果汁杯"),
        ("“新款”,连衣裙！(夏)（薄）", "新款,连衣裙(夏)薄"),
        ("A B", "AB"),
        ("iPhone14手机壳", "iPhone14手机壳"),
        ("ｆｕｌｌ　ｗｉｄｔｈ", "ｆｕｌｌｗｉｄｔｈ"),
        ("😀表情 抱枕", "😀表情抱枕"),
        ("\ud83d\ude00", "😀"),  # as two halves
        ("3．5寸", "3．5寸"),  # the full-width full stop is kept
        ("字" * 66, "字" * 66),
        ("尺寸:大?", "尺寸:大?"),
    ],
)
def test_names_that_stay_as_they_are(query: str, name: str) -> None:
    assert directory_name(query) == name == reference_directory(canonical(query))


@pytest.mark.parametrize(
    "query",
    [
        *("", " ", "。！", "　", ".", "..", "...", ".git", ".locks", "。.", "“/”", "a/b", "../x", "a\\b"),
        *("a\0b", "a\tb", "a\nb", "a\x7fb", "a\x85b", "\ud800", "红\udcff", "字" * 67, "a" * 201),
        *("q_0123456789abcdef", "Q_0123456789ABCDEFxyz", "con", "NUL", "Com1", "lpt9.txt", "aux.", "COM²"),
    ],
)
def test_names_that_are_hashed(query: str) -> None:
    digest = hashlib.sha1(query.encode("utf-8", "surrogatepass")).hexdigest()
    assert plain_name(query) is None
    assert directory_name(query) == hashed_name(query) == f"q_{digest[:16]}"


@pytest.mark.parametrize("query", ["console", "com10", "lpt", "nulls", "q_", "q_0123", "a.con", "sequel..."])
def test_near_misses_are_plain(query: str) -> None:
    assert directory_name(query) == query


@given(ANY_TEXT | st.text("./\\ 。ab\0\tq_0", max_size=8))
@example("\ud83d\ude00")
@example("字" * 100)
def test_a_name_is_one_visible_component(query: str) -> None:
    name = directory_name(query)
    assert len(PurePosixPath(name).parts) == len(PureWindowsPath(f"x/{name}").parts) - 1 == 1
    assert name not in ("", ".", "..") and not name.startswith(".")
    assert 0 < len(name.encode()) <= 200
    assert not any(unicodedata.category(character) in ("Cc", "Cs") for character in name)
    assert is_safe_name(name)
    assert name in (reference_directory(canonical(query)), hashed_name(query))
    assert canonical(canonical(query)) == canonical(query)


@given(st.text(max_size=12))
@example("α\u0345\u0301")  # a mark that becomes a letter when case is ignored
def test_names_that_some_file_system_takes_for_one_clash(name: str) -> None:
    decomposed = unicodedata.normalize("NFD", name)
    assert clash_key(name) == clash_key(decomposed) == clash_key(f"{name}.")
    assert clash_key(name) == clash_key(name.swapcase()) or name.swapcase().swapcase() != name


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        *(("红", True), ("a b", True), ("", False), ("..", False), ("a/b", False), (".x", False)),
        *(("a\n", False), ("字" * 85, True), ("字" * 86, False), ("\udcff", False)),
    ],
)
def test_safe_names(name: str, safe: bool) -> None:
    assert is_safe_name(name) is safe
