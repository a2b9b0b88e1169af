"""The tokenizer that belongs to a model."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from cnclip.errors import InputError
from cnclip.model.config import ModelConfig
from cnclip.text import PAD_ID, tokenize

logger = logging.getLogger(__name__)

Int64 = npt.NDArray[np.int64]


def tokenizer_of(config: ModelConfig) -> Callable[[Sequence[str], int], Int64]:
    """From (texts, most tokens per text) to int64 ids (n, L), 0 = padding on the right, L the longest.

    Ordinary models: `cnclip.text.tokenize`. A tower of transformers: its own tokenizer's ids + 1, since its
    id 0 may be a word; `HFText` takes the 1 off again. Longer texts are cut and counted in one warning.

    Raises (when called): InputError if the tower's tokenizer is broken; ValueError if the length is below 3.
    """
    if config.text.text_tower != "hf":
        return tokenize
    return functools.partial(_tokenize, config.text.hf_tokenizer)


def _tokenize(content: str, texts: Sequence[str], context_length: int) -> Int64:
    encoded = _tokenizer(content, context_length).encode_batch(list(texts))
    truncated = sum(bool(e.overflowing) for e in encoded)
    if truncated:
        logger.warning("%d of %d texts cut to %d tokens", truncated, len(encoded), context_length)
    out = np.full((len(encoded), max((len(e.ids) for e in encoded), default=0)), PAD_ID, dtype=np.int64)
    for row, e in zip(out, encoded, strict=True):
        row[: len(e.ids)] = np.asarray(e.ids, dtype=np.int64) + 1
    return out


@functools.lru_cache(maxsize=8)
def _tokenizer(content: str, context_length: int) -> Tokenizer:
    if context_length < 3:
        raise ValueError(f"context_length must be at least 3, not {context_length}")
    tokenizer = parse_tokenizer(content, "text tower")
    tokenizer.enable_truncation(context_length)
    return tokenizer


def parse_tokenizer(content: str, source: str) -> Tokenizer:
    """A tokenizer from the content of a tokenizer.json, without padding or truncation of its own.

    Raises: InputError naming `source`.
    """
    try:
        tokenizer = Tokenizer.from_str(content)
    except Exception as error:  # the library raises nothing narrower
        raise InputError(f"{source}: not a tokenizer.json ({str(error).splitlines()[0][:200]})") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer
