"""Keyword and hybrid search."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.gallery import Gallery, Item
from service.gallery.keyword import index_tokens, match_expression
from tests.service.gallery.helpers import make_gallery, unit_vectors

TITLES: dict[str, tuple[str, dict[str, Any]]] = {
    "dress": ("红色连衣裙", {"brand": "小米", "price": 99}),
    "skirt": ("蓝色半身裙", {"brand": "华为"}),
    "jeans": ("高腰牛仔裤", {"tags": ["修身", "Slim-Fit"]}),
    "phone": ("iPhone 15 Pro 手机壳", {"note": "3.5mm 耳机孔"}),
    "cable": ("连接线 USB-C", {}),
    "empty": ("", {}),
    "mess": ('"引号" AND (括号) * NEAR ^ : - \\ \x01', {}),
}


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Any:
    vectors = unit_vectors(len(TITLES))
    with make_gallery(tmp_path_factory.mktemp("words") / "g") as gallery:
        gallery.upsert([Item(i, v, *TITLES[i]) for i, v in zip(TITLES, vectors, strict=True)])
        yield gallery


def found(gallery: Gallery, text: str, **how: Any) -> list[str]:
    return [hit.row.id for hit in gallery.search(None, 10, text=text, mode="keyword", **how)]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("连衣裙", {"dress"}),
        ("裙", {"dress", "skirt"}),
        ("裙子", set()),  # 子 occurs nowhere
        ("红裙", {"dress"}),
        ("红色的连衣裙", {"dress"}),
        ("小米", {"dress"}),
        ("牛仔裤 手机", {"jeans", "phone"}),
        ("IPHONE", {"phone"}),
        ("ｉｐｈｏｎｅ　１５", {"phone"}),
        ("slim-fit", {"jeans"}),
        ("3.5mm", {"phone"}),
        ("括号", {"mess"}),
        ("AND", {"mess"}),
        ("🍎", set()),
        ("", set()),
        ("   ", set()),
    ],
)
def test_finds_words(gallery: Gallery, query: str, expected: set[str]) -> None:
    assert set(found(gallery, query)) == expected


def test_better_match_comes_first(gallery: Gallery) -> None:
    assert found(gallery, "红色连衣裙")[0] == "dress"
    hits = gallery.search(None, 10, text="连衣裙 蓝色", mode="keyword")
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert all(hit.cosine is None for hit in hits)


def test_filter_and_k_and_cosine(gallery: Gallery) -> None:
    assert found(gallery, "裙", filter={"brand": "华为"}) == ["skirt"]
    assert len(gallery.search(None, 1, text="裙", mode="keyword")) == 1
    vector = gallery.vectors(["skirt"])["skirt"]
    hits = gallery.search(vector, 10, text="裙", mode="keyword", min_relevance=0.99)
    assert [(hit.row.id, round(hit.cosine or 0, 5)) for hit in hits] == [("skirt", 1.0)]


NASTY = [
    '"',
    '""',
    "*",
    "裙*",
    "(",
    ")",
    "(((",
    "裙 OR",
    "OR",
    "NEAR(a b)",
    "^裙",
    "title:裙",
    "-裙",
    "a AND",
]


@pytest.mark.parametrize("query", NASTY)
def test_syntax_in_a_query_is_only_text(gallery: Gallery, query: str) -> None:
    vector = unit_vectors(1)[0]
    assert isinstance(found(gallery, query), list)
    assert len(gallery.search(vector, 10, text=query, mode="hybrid")) == len(TITLES)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(max_size=30))
def test_no_text_raises(gallery: Gallery, text: str) -> None:
    found(gallery, text)
    index_tokens([text])


def test_very_long_query(gallery: Gallery) -> None:
    assert "dress" in found(gallery, "红色连衣裙" * 2000)
    assert "dress" not in found(gallery, " ".join(f"w{n}" for n in range(5000)) + " 连衣裙"), "64 words count"


def test_hybrid_is_reciprocal_rank_fusion(gallery: Gallery) -> None:
    query, text = unit_vectors(1, seed=8)[0], "蓝色 裙 手机"
    by_vector = [hit.row.id for hit in gallery.search(query, 100)]
    by_words = found(gallery, text)
    expected: dict[str, float] = {}
    for ranking in (by_vector, by_words):
        for rank, item_id in enumerate(ranking, start=1):
            expected[item_id] = expected.get(item_id, 0) + 1 / (60 + rank)
    hits = gallery.search(query, 100, text=text, mode="hybrid")
    assert {hit.row.id: pytest.approx(hit.score) for hit in hits} == expected
    assert [hit.score for hit in hits] == sorted(expected.values(), reverse=True)
    cosines = {item_id: float(vector @ query) for item_id, vector in gallery.vectors(TITLES).items()}
    for hit in hits:
        assert hit.cosine == pytest.approx(cosines[hit.row.id], abs=1e-5)
    few = gallery.search(query, 100, text=text, mode="hybrid", min_relevance=0.0)
    assert {hit.row.id for hit in few} == {item_id for item_id, cosine in cosines.items() if cosine >= 0}


def test_hybrid_looks_deeper_than_k(tmp_path: Path) -> None:
    vectors = unit_vectors(60)
    query = vectors[0]
    order = np.argsort(-(vectors @ query))
    with make_gallery(tmp_path / "g") as gallery:
        both = int(order[30])  # 31st by vector, and the only one with the word
        gallery.upsert([Item(str(n), vectors[n], "连衣裙" if n == both else "") for n in range(60)])
        (hit,) = gallery.search(query, 1, text="连衣裙", mode="hybrid")
        assert hit.row.id == str(both)
        outside = gallery.search(query, 60, text="连衣裙", mode="hybrid", filter={"x": 1})
        assert outside == []


@pytest.mark.parametrize("mode", ["hybrid", "keyword"])
def test_min_relevance_comes_before_k(tmp_path: Path, mode: Any) -> None:
    """The word is in the items that are least like the query, but for the last two by words."""
    vectors = unit_vectors(300)
    query = vectors[0]
    order = np.argsort(-(vectors @ query))
    titles = {int(n): "连衣裙" for n in order[50:]} | {
        int(n): "连衣裙" + "很长的标题" * 20 for n in order[:2]
    }
    with make_gallery(tmp_path / "g") as gallery:
        gallery.upsert([Item(str(n), vectors[n], titles.get(n, "")) for n in range(300)])
        limit = float(vectors[order[10]] @ query) - 1e-4
        how: dict[str, Any] = {"text": "连衣裙", "mode": mode, "min_relevance": limit}
        expected = 11 if mode == "hybrid" else 2
        for k in (1, 5, 10, 200):
            hits = gallery.search(query, k, **how)
            assert len(hits) == min(k, expected)
            assert all(hit.cosine is not None and hit.cosine >= limit for hit in hits)
        everything = gallery.search(query, 300, text="连衣裙", mode=mode)
        kept = [hit.row.id for hit in everything if hit.cosine is not None and hit.cosine >= limit]
        assert [hit.row.id for hit in gallery.search(query, 300, **how)] == kept


def test_words_follow_changes(tmp_path: Path) -> None:
    vector = unit_vectors(1)[0]
    with make_gallery(tmp_path / "g") as gallery:
        gallery.upsert([Item("a", vector, "红裙")])
        gallery.upsert([Item("a", vector, "蓝裤")])
        assert (found(gallery, "红裙"), found(gallery, "裤")) == ([], ["a"])
        gallery.delete(["a"])
        assert found(gallery, "裤") == []


def test_expression() -> None:
    assert match_expression("红裙 usb") == '"红裙" OR ("红" AND "裙") OR "usb"'
    assert match_expression("!?") is None


def test_jieba_is_silent_lazy_and_leaves_no_file(tmp_path: Path) -> None:
    script = (
        "import sys; from service.gallery import keyword; assert 'jieba' not in sys.modules;"
        "keyword.match_expression('plain words'); assert 'jieba' not in sys.modules;"
        "print(keyword.match_expression('连衣裙'))"
    )
    environment = {"PATH": "/usr/bin", "TMPDIR": str(tmp_path), "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stderr == "" and "连衣裙" in done.stdout
    assert list(tmp_path.iterdir()) == []
