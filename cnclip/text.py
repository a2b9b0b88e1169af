"""The one text path: Chinese-CLIP's training-time normalisation and BERT WordPiece, for every caller."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing

from cnclip.text_rules import CharacterRules

logger = logging.getLogger(__name__)

VOCAB_PATH = Path(__file__).with_name("vocab.txt")
DEFAULT_CONTEXT_LENGTH = 52
PAD_ID, UNK_ID, CLS_ID, SEP_ID = 0, 100, 101, 102
_CURLY_QUOTES = str.maketrans({"“": '"', "”": '"'})


def normalize(text: str) -> str:
    """Lower case and straight double quotes, as Chinese-CLIP's training data does; nothing else.

    Full-width forms and Chinese punctuation stay: they are in the vocabulary.
    """
    return text.lower().translate(_CURLY_QUOTES)


@functools.cache
def _character_rules() -> CharacterRules:
    return CharacterRules(VOCAB_PATH)


def _prepare(text: str) -> str:
    return normalize(text).translate(_character_rules())


@functools.cache
def _tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(
        WordPiece.from_file(str(VOCAB_PATH), unk_token="[UNK]", max_input_chars_per_word=200)
    )
    # strip_accents=True: the reference (Google's BERT) does so whenever it lower-cases.
    tokenizer.normalizer = BertNormalizer(
        clean_text=True, handle_chinese_chars=True, strip_accents=True, lowercase=True
    )
    tokenizer.pre_tokenizer = BertPreTokenizer()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", CLS_ID), ("[SEP]", SEP_ID)]
    )
    return tokenizer


def tokenize(
    texts: str | Sequence[str],
    context_length: int = DEFAULT_CONTEXT_LENGTH,
    pad_to: Literal["longest", "max"] = "longest",
) -> npt.NDArray[np.int64]:
    """Token ids of `texts`, zero-padded on the right.

    Args:
        texts: one text or a sequence of texts; normalised here, so callers never repeat it.
        context_length: most tokens per text, [CLS] and [SEP] included; longer texts are cut and counted
            in one warning.
        pad_to: "longest" pads to the longest text of the call (short queries cost little);
            "max" pads to `context_length`, as Chinese-CLIP does.

    Returns:
        int64 array (n, L), L <= context_length.

    Raises:
        ValueError: context_length is below 3 (no room for a token between [CLS] and [SEP]).
    """
    if context_length < 3:
        raise ValueError(f"context_length must be at least 3, not {context_length}")
    batch = [texts] if isinstance(texts, str) else list(texts)
    encoded = [e.ids for e in _tokenizer().encode_batch([_prepare(text) for text in batch])]
    truncated = sum(len(ids) > context_length for ids in encoded)
    if truncated:
        logger.warning("%d of %d texts cut to %d tokens", truncated, len(encoded), context_length)
    length = context_length if pad_to == "max" else min(max(map(len, encoded), default=2), context_length)
    out = np.full((len(encoded), length), PAD_ID, dtype=np.int64)
    for row, ids in zip(out, encoded, strict=True):
        kept = ids if len(ids) <= context_length else [*ids[: context_length - 1], SEP_ID]
        row[: len(kept)] = kept
    return out


def token_count(text: str) -> int:
    """Number of tokens of `text`, [CLS] and [SEP] included, before any cut."""
    return len(_tokenizer().encode(_prepare(text)).ids)
