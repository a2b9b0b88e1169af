"""Token ids against BERT's published algorithm, written out, and against transformers' Python tokenizer."""

from __future__ import annotations

import functools
import logging
import random
import sys
import unicodedata
from pathlib import Path

import jieba
import numpy as np
import pytest

from cnclip.text import CLS_ID, SEP_ID, UNK_ID, VOCAB_PATH, normalize, token_count, tokenize

VOCAB = {token: i for i, token in enumerate(VOCAB_PATH.read_text(encoding="utf-8").split("\n"))}
_CJK = ((0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F), (0x2B740, 0x2B81F))
CJK = (*_CJK, (0x2B820, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F))


@functools.cache
def kind(char: str) -> str:
    """drop | space | alone | letter, as google-research/bert's BasicTokenizer sees a character."""
    category = unicodedata.category(char)
    if char in "\t\n\r" or category == "Zs":
        return "space"
    if category in ("Cc", "Cf") or char == "\ufffd":
        return "drop"
    return "cjk" if any(a <= ord(char) <= b for a, b in CJK) else "letter"


@functools.cache
def is_punctuation(char: str) -> bool:
    ascii_symbol = ord(char) < 128 and char.isprintable() and not char.isalnum() and char != " "
    return ascii_symbol or unicodedata.category(char).startswith("P")


def naive_ids(text: str) -> list[int]:
    """Ids without [CLS] and [SEP]: clean, space out CJK, lower, strip accents, split, longest match first."""
    text = text.lower().replace("“", '"').replace("”", '"')
    spaced = {"drop": "", "space": " ", "cjk": " {} ", "letter": "{}"}
    words = []
    for word in "".join(spaced[kind(char)].replace("{}", char) for char in text).split():
        bare = [c for c in unicodedata.normalize("NFD", word.lower()) if unicodedata.category(c) != "Mn"]
        words += "".join(f" {c} " if is_punctuation(c) else c for c in bare).split()
    ids: list[int] = []
    for word in words:
        pieces: list[int] = []
        start = 0
        while start < len(word) <= 200:
            prefix = "##" if start else ""
            ends = (end for end in range(len(word), start, -1) if prefix + word[start:end] in VOCAB)
            end = next(ends, None)
            if end is None:
                pieces = []
                break
            pieces.append(VOCAB[prefix + word[start:end]])
            start = end
        ids += pieces or [UNK_ID]
    return ids


def our_ids(texts: list[str]) -> list[list[int]]:
    rows = tokenize(texts, context_length=1000).tolist()
    kept = [[i for i in row if i] for row in rows]
    assert all(row[0] == CLS_ID and row[-1] == SEP_ID for row in kept)
    return [row[1:-1] for row in kept]


@functools.cache
def words() -> list[str]:
    """jieba's dictionary: 349,046 real Chinese words."""
    lines = (Path(jieba.__file__).parent / "dict.txt").read_text(encoding="utf-8").splitlines()
    return [line.split(" ")[0] for line in lines]


def mixed_texts(count: int) -> list[str]:
    """Queries that mix words with everything that goes wrong in them."""
    rng = random.Random(0)
    latin = [
        "iPhone",
        "T恤",
        "XXL",
        "Nike",
        "3C",
        "a-b",
        "café",
        "naïve",
        "İstanbul",
        "ΣΑΣ",
        "straße",
        "ﬁ",
        "Å",
    ]
    parts = (
        lambda: rng.choice(words()),
        lambda: rng.choice(latin),
        lambda: str(rng.randint(0, 99999)),
        lambda: chr(rng.randint(0x20000, 0x2CEAF)),  # rare characters
        lambda: chr(rng.randint(0xFF01, 0xFF5E)),  # full-width
        lambda: chr(rng.randint(0, 0x20)),  # control characters
        lambda: chr(rng.randint(0x300, 0x36F)),  # combining accents
        lambda: rng.choice("\u200b\u200d\ufeff\ufe0f\u3000\xa0\u2028\x7f\ue000\ufffd "),
        lambda: chr(rng.randint(0x1F300, 0x1FAFF)),  # emoji
        lambda: rng.choice("“”‘’—…·《》、，。！？￥`~^|[]{}"),
        lambda: chr(rng.choice([rng.randint(0, 0xD7FF), rng.randint(0xE000, sys.maxunicode)])),
    )
    return ["".join(rng.choice(parts)() for _ in range(rng.randint(1, 8))) for _ in range(count)]


def first_difference(texts: list[str]) -> str | None:
    pairs = zip(texts, our_ids(texts), strict=True)
    return next((ascii(text) for text, ids in pairs if ids != naive_ids(text)), None)


def test_dictionary_words() -> None:
    assert first_difference(random.Random(0).sample(words(), 5000)) is None


def test_mixed_texts() -> None:
    assert first_difference(mixed_texts(5000)) is None


def test_every_character_of_the_basic_plane() -> None:
    assert first_difference([f"a{chr(code)}b {chr(code)}" for code in range(0x10000)]) is None


@pytest.mark.slow
def test_every_other_character() -> None:
    codes = [c for c in range(0x10000, sys.maxunicode + 1) if c < 0x33500 or c >> 9 == 0x700 or c % 97 == 0]
    assert first_difference([f"a{chr(code)}b {chr(code)}" for code in codes]) is None


def test_emoji_and_their_chinese_names() -> None:
    emoji = pytest.importorskip("emoji")
    emoji.config.load_language("zh")
    names = [entry["zh"] for entry in emoji.EMOJI_DATA.values() if "zh" in entry]
    assert len(names) > 1500
    assert first_difference([*names, *emoji.EMOJI_DATA]) is None


def test_equals_transformers_python_tokenizer(tmp_path: Path) -> None:
    from transformers.models.bert.tokenization_bert_legacy import BertTokenizerLegacy

    (tmp_path / "vocab.txt").write_bytes(VOCAB_PATH.read_bytes())
    theirs = BertTokenizerLegacy(str(tmp_path / "vocab.txt"), do_lower_case=True, tokenize_chinese_chars=True)
    texts = random.Random(1).sample(words(), 2500) + mixed_texts(2500)
    # It drops unassigned and private characters, which Chinese-CLIP's tokenizer turns into [UNK].
    texts = [text for text in texts if not {"Cn", "Co"} & {unicodedata.category(char) for char in text}]
    assert len(texts) > 4000
    differing = [
        text
        for text, ids in zip(texts, our_ids(texts), strict=True)
        if theirs.convert_tokens_to_ids(theirs.tokenize(normalize(text))) != ids
    ]
    assert differing == []


def test_quotes_and_case_are_folded_nothing_else() -> None:
    assert normalize("“T恤” ＡＢＣ，。") == '"t恤" ａｂｃ，。'
    assert tokenize("“杯子”").tolist() == tokenize('"杯子"').tolist()
    assert UNK_ID not in tokenize("“杯子”，。！ＡＢＣ")


def test_special_tokens_in_a_text_are_plain_text() -> None:
    assert our_ids(["[CLS]猫[SEP][PAD]"]) == [naive_ids("[CLS]猫[SEP][PAD]")]
    assert our_ids(["[MASK]"])[0] != [VOCAB["[MASK]"]]


def test_broken_surrogates_are_unknown_characters() -> None:
    assert our_ids(["猫\ud83d狗", "\udc00"]) == [[VOCAB["猫"], UNK_ID, VOCAB["狗"]], [UNK_ID]]


@pytest.mark.parametrize("text", ["", " ", "\n\t", "\u200b", "\u0301"])
def test_empty_texts(text: str) -> None:
    assert tokenize(text).tolist() == [[CLS_ID, SEP_ID]]


def test_no_texts() -> None:
    assert tokenize([]).shape[0] == 0


def test_long_texts_are_cut_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        ids = tokenize(["猫" * 60, "猫" * 50, "猫" * 51])
    assert ids.shape == (3, 52)
    assert ids[0].tolist() == [CLS_ID, *[VOCAB["猫"]] * 50, SEP_ID]
    assert caplog.messages == ["2 of 3 texts cut to 52 tokens"]
    assert token_count("猫" * 60) == 62


def test_words_over_200_characters_are_unknown() -> None:
    assert our_ids(["a" * 200, "a" * 201]) == [naive_ids("a" * 200), [UNK_ID]]


def test_padding() -> None:
    longest, full = tokenize(["猫", "红色连衣裙"]), tokenize(["猫", "红色连衣裙"], pad_to="max")
    assert longest.shape == (2, 7)
    assert longest.dtype == np.int64
    assert full.shape == (2, 52)
    assert (full[:, :7] == longest).all()
    assert not full[:, 7:].any()


@pytest.mark.parametrize("length", [-1, 0, 2])
def test_a_context_without_room(length: int) -> None:
    with pytest.raises(ValueError, match="at least 3"):
        tokenize("猫", context_length=length)
