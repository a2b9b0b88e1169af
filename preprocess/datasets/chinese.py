"""Chinese captions that were cut into words, put together again."""

from __future__ import annotations

import re

_TAGGED = re.compile(r"(.+)[:/][A-Za-z]{1,6}[0-9]?")  # 女孩:n, 骑/v, 的:ude1


def unsegment(text: str) -> str:
    """`一 个 女孩` and `一:m 个:q 女孩:n` → `一个女孩`. A space stays between two words in Latin letters.

    Tags are taken off where most words have one, so that `12:30` or `km/h` in a sentence stays whole.
    Source of the tags: weiyuk/fluent-cap, text.py, which cuts each word at its colon; the slash is how other
    taggers write it.
    """
    words = text.split()
    tagged = [_TAGGED.fullmatch(word) for word in words]
    if len(words) > 1 and 2 * sum(map(bool, tagged)) > len(words):
        words = [match[1] if match else word for word, match in zip(words, tagged, strict=True)]
    whole = ""
    for word in words:
        apart = _latin(whole[-1:]) and _latin(word[:1])
        whole += f" {word}" if apart else word
    return whole


def _latin(character: str) -> bool:
    return character.isascii() and character.isalnum()
