"""Text from outside (file names, ids, titles), made fit for one line of a terminal or a log."""

from __future__ import annotations

import re

# Control characters, line and paragraph separators, what turns the direction of writing, and half surrogate
# pairs, which no file can hold.
_UNFIT = re.compile("[\0-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    r"""`text` with `\n`, `\x1b`, `\u202e`, … in place of what would break a line, steer a terminal or reverse
    the text after it. A byte of a file name that is not UTF-8 (an old GBK one) becomes `\xff`. Backslashes
    stay as they are; the result can be encoded as UTF-8."""
    return _UNFIT.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    character = match[0]
    if "\udc80" <= character <= "\udcff":  # how Python holds such a byte (PEP 383)
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")
