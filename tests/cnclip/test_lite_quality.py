"""The embedded model on real product photos, which tests find through CNCLIP_SHOP_DATA."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import cnclip
from cnclip.data.dataset import PairDataset
from cnclip.evaluation.evaluator import Embedded, embed, score

# words outside the query list -> a query that means the same or includes it
SYNONYMS = {
    "洋芋": "土豆",
    "鸭舌帽": "帽子",
    "牛仔裤": "长裤",
    "葱头": "洋葱",
    "球鞋": "鞋子",
    "香菇": "蘑菇",
}

Shop = tuple[cnclip.Encoder, Embedded]


@pytest.fixture(scope="module")
def shop(shop_data: Path) -> Shop:
    encoder = cnclip.load("lite", device="cpu")
    return encoder, embed(encoder, PairDataset.from_muge(shop_data, "valid"))


@pytest.mark.slow
def test_recall_on_held_out_photos(shop: Shop) -> None:
    result = score(shop[1])["text_to_image"]
    assert result["P@10"] >= 0.93 and result["mAP"] >= 0.88 and result["R@1"] >= 0.92


@pytest.mark.slow
@pytest.mark.parametrize("word", SYNONYMS)
def test_words_outside_the_query_list_find_their_kind(word: str, shop: Shop) -> None:
    encoder, split = shop
    row = next(row for row in split.texts if row.text == SYNONYMS[word])
    order = np.argsort(-(split.image_vectors @ encoder.encode_texts([word])[0]))[:10]
    found = sum(split.image_ids[i] in set(row.image_ids) for i in order)
    assert found >= 0.5 * min(10, len(row.image_ids))
