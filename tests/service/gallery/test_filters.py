"""The filter language against its meaning written out in Python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cnclip.errors import InputError
from service.gallery import Gallery, Item
from tests.service.gallery.helpers import make_gallery, unit_vectors

ATTRIBUTES: list[dict[str, Any]] = [
    {"brand": "小米", "price": 99, "tags": ["新", "手机"]},
    {"brand": "华为", "price": 100.0, "stock": True},
    {"brand": "华为", "price": 250, "tags": [], "stock": False},
    {"brand": "苹果", "price": "面议", "tags": ["手机", 7]},
    {"brand": "", "price": -3.5, "tags": [1, 2, 300]},
    {"title_en": "red dress", "price": 2**62},
    {},
]
SCALARS = st.sampled_from(
    ["小米", "华为", "", "手机", "面议", "a", 99, 100, 7, 1, 0, -3.5, 250.5, True, 2**62]
)
NAMES = st.sampled_from(["brand", "price", "tags", "stock", "nope"])
CONDITIONS = st.one_of(
    SCALARS,
    st.fixed_dictionaries({"in": st.lists(SCALARS, max_size=3)}),
    st.dictionaries(st.sampled_from(["gt", "gte", "lt", "lte", "ne"]), SCALARS, min_size=1, max_size=3),
)


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Any:
    vectors = unit_vectors(len(ATTRIBUTES))
    with make_gallery(tmp_path_factory.mktemp("filters") / "g") as gallery:
        gallery.upsert([Item(f"i{n}", vectors[n], "", a) for n, a in enumerate(ATTRIBUTES)])
        yield gallery


def holds(value: Any, operator: str, operand: Any) -> bool:
    if operator == "in":
        return any(value == one for one in operand)
    if isinstance(value, str) != isinstance(operand, str):
        return False
    compare: dict[str, bool] = {
        "gt": value > operand,
        "gte": value >= operand,
        "lt": value < operand,
        "lte": value <= operand,
    }
    return compare[operator]


def passes(attributes: dict[str, Any], filter: dict[str, Any]) -> bool:
    for name, wanted in filter.items():
        stored = attributes.get(name, [])
        values = stored if isinstance(stored, list) else [stored]
        for operator, operand in (wanted if isinstance(wanted, dict) else {"in": [wanted]}).items():
            if operator == "ne":
                if any(value == operand for value in values):
                    return False
            elif not any(holds(value, operator, operand) for value in values):
                return False
    return True


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(filter=st.dictionaries(NAMES, CONDITIONS, max_size=3))
def test_lets_through_what_it_says(gallery: Gallery, filter: dict[str, Any]) -> None:
    expected = {f"i{n}" for n, attributes in enumerate(ATTRIBUTES) if passes(attributes, filter)}
    assert set(gallery.ids(filter)) == expected
    vector = unit_vectors(1, seed=3)[0]
    assert {hit.row.id for hit in gallery.search(vector, 100, filter=filter)} == expected


@pytest.mark.parametrize(
    ("filter", "words"),
    [
        ({"price": {"gtee": 3}}, ["'price'", "'gtee'", "unknown operator", "gte"]),
        ({"price": {"in": 3}}, ["'price'", '"in"', "list"]),
        ({"price": ["a", "b"]}, ["'price'", '"in"']),
        ({"price": {}}, ["'price'", "no operator"]),
        ({"price": None}, ["'price'", "NoneType"]),
        ({"price": {"gt": [1]}}, ["'price'", "list"]),
        ({"price": {"eq": {"a": 1}}}, ["'price'", "'eq'"]),
        ({"price": float("nan")}, ["'price'", "nan"]),
        ({"price": 2**63}, ["'price'", "64 bits"]),
        ({"price": "\ud800"}, ["'price'", "Unicode"]),
        ({3: "x"}, []),
        ({f"f{n}": 1 for n in range(65)}, ["64"]),
        ([1], ["object"]),
    ],
)
def test_says_what_is_wrong(gallery: Gallery, filter: Any, words: list[str]) -> None:
    how: dict[str, Any]
    for how in ({"vector": unit_vectors(1)[0]}, {"vector": None, "text": "裙", "mode": "keyword"}):
        with pytest.raises(InputError) as raised:
            gallery.search(k=3, filter=filter, **how)
        message = str(raised.value)
        assert all(word in message for word in ["filter", *words]), message
        assert "\n" not in message


def test_values_are_never_sql(gallery: Gallery) -> None:
    for text in ("' OR 1=1 --", '"; DROP TABLE items; --', "%", "*", "\\"):
        assert gallery.ids({text: text}) == []
        assert gallery.ids({"brand": {"in": [text]}}) == []
    assert len(gallery) == len(ATTRIBUTES)


def test_filter_follows_changes(tmp_path: Path) -> None:
    vectors = unit_vectors(4)
    with make_gallery(tmp_path / "g") as gallery:
        gallery.upsert(
            [Item("a", vectors[0], "", {"colour": "红"}), Item("b", vectors[1], "", {"colour": "蓝"})]
        )
        red = {"colour": "红"}
        assert [hit.row.id for hit in gallery.search(vectors[3], 9, filter=red)] == ["a"]
        gallery.upsert([Item("b", vectors[1], "", red), Item("a", vectors[0], "", {})])
        assert [hit.row.id for hit in gallery.search(vectors[3], 9, filter=red)] == ["b"]
