"""BERT's character rules as Chinese-CLIP applies them, for characters on which the Rust tokenizer differs.

Its Unicode tables are older than Python's, it drops private-use characters, and it knows only part of CJK
extension E. Rare in queries, but an id must not depend on which library made it.
"""

from __future__ import annotations

import unicodedata
from pathlib import Path

# A letter without case or decomposition that no vocabulary entry contains: makes its word [UNK].
_UNKNOWN = "\ua000"
# Characters that are words of their own: CJK ideographs as the reference defines them.
_CJK = (
    range(0x4E00, 0xA000),
    range(0x3400, 0x4DC0),
    range(0x20000, 0x2A6E0),
    range(0x2A700, 0x2B820),
    range(0x2B820, 0x2CEB0),  # extension E: only partly known to the Rust tokenizer
    range(0xF900, 0xFB00),
    range(0x2F800, 0x2FA20),
)
_EXTENSION_E = _CJK[4]


class CharacterRules(dict[int, str | None]):
    """A table for str.translate that fills itself: one look at each distinct character.

    Args:
        vocab_path: the WordPiece vocabulary, one entry per line.
    """

    def __init__(self, vocab_path: Path) -> None:
        super().__init__()
        self._known = frozenset(vocab_path.read_text(encoding="utf-8"))

    def __missing__(self, code: int) -> str | None:
        self[code] = rule = self._rule(chr(code), code)
        return rule

    def _rule(self, char: str, code: int) -> str | None:
        """What to put for `char`: None to drop it, " x " to make it a word of its own."""
        category = unicodedata.category(char)
        if char in "\t\n\r" or (char.isspace() and category != "Cc"):
            return char
        if category in ("Cc", "Cf", "Mn") or code == 0xFFFD:
            return None
        if category[0] == "P" or code in _EXTENSION_E:
            return f" {char} "
        plain = code < 0x80 or char in self._known or any(code in block for block in _CJK)
        return char if plain or unicodedata.normalize("NFD", char) != char else _UNKNOWN
