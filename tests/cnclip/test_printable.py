"""Text from outside on one line."""

from __future__ import annotations

import os
import unicodedata

import pytest

from cnclip.printable import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("nl\nERROR fake line.jpg", r"nl\nERROR fake line.jpg"),
        ("a\x1b[31mb\tc\rd\0", r"a\x1b[31mb\tc\rd\x00"),
        ("gpj.\u202eexe", r"gpj.\u202eexe"),
        ("bad/\ud800.jpg", r"bad/\ud800.jpg"),
        (os.fsdecode(b"\xba\xec.jpg"), r"\xba\xec.jpg"),
        ("a\x85b\u2028c", r"a\x85b\u2028c"),
        ("红裙 👩‍👧 C:\\x é", "红裙 👩‍👧 C:\\x é"),
    ],
)
def test_printable(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_every_character_that_steers_is_escaped() -> None:
    turning = {"R", "AL", "L", "LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
    for code in range(0x110000):
        character = chr(code)
        category = unicodedata.category(character)
        turns = category == "Cf" and unicodedata.bidirectional(character) in turning - {"L", "R", "AL"}
        if category in ("Cc", "Cs", "Zl", "Zp") or turns or character in "\u061c\u200e\u200f":
            assert printable(character).isascii() and printable(character).isprintable()
        else:
            assert printable(character) == character
