"""Words for the full-text index, and queries in its language.

Text is folded (NFKC, lower case) and cut by jieba; single Chinese characters are indexed too, so that 裙
finds 连衣裙. A query word also matches where all its characters occur, so that 红裙 finds 红色连衣裙.
"""

from __future__ import annotations

import functools
import re
import threading
import unicodedata
import warnings
from collections.abc import Iterable
from typing import Any

MAX_QUERY_WORDS = 64
_HAN = r"\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_RUNS = re.compile(rf"[{_HAN}]+|[^\W_{_HAN}]+")
_IS_HAN = re.compile(rf"[{_HAN}]")
_loading = threading.Lock()


def index_tokens(texts: Iterable[str]) -> str:
    """What the full-text index stores for an item: its words and single characters, separated by spaces."""
    tokens: list[str] = []
    for run in _runs(" ".join(texts)):
        if _IS_HAN.match(run):
            tokens += [word for word in _segmenter().cut_for_search(run) if len(word) > 1]
            tokens += run
        else:
            tokens.append(run)
    return " ".join(tokens)


def match_expression(query: str) -> str | None:
    """`query` in the language of SQLite's full-text index, any word of it; None if it has no words.

    Every word is quoted and consists of letters and digits, so that nothing in it is taken for syntax.
    """
    words: dict[str, None] = {}
    for run in _runs(query):
        words.update(dict.fromkeys(_segmenter().cut(run) if _IS_HAN.match(run) else [run]))
    return " OR ".join(_either(word) for word in list(words)[:MAX_QUERY_WORDS]) or None


def warm_up() -> None:
    """Load the dictionary now (about a second), not in somebody's first request."""
    _segmenter()


def _either(word: str) -> str:
    if len(word) == 1 or not _IS_HAN.match(word):
        return f'"{word}"'
    return f'"{word}" OR ({" AND ".join(f"{chr(34)}{character}{chr(34)}" for character in word)})'


def _runs(text: str) -> list[str]:
    return _RUNS.findall(unicodedata.normalize("NFKC", text).lower())


def _segmenter() -> Any:
    with _loading:
        return _load_segmenter()


@functools.cache
def _load_segmenter() -> Any:
    """jieba with its own dictionary. Its initialize() is not used: it logs to stderr and trusts a file of
    marshalled code objects in the shared temporary directory."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escape sequences in its source, as of 0.42.1
        import jieba
    segmenter = jieba.Tokenizer()
    segmenter.FREQ, segmenter.total = segmenter.gen_pfdict(segmenter.get_dict_file())
    segmenter.initialized = True
    return segmenter
