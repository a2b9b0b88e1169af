"""A shop per test, and visitors to it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from crawler.practice_shop import Phone, PracticeShop, ShopSettings
from tests.crawler.practice_shop.visitor import Visitor


@pytest.fixture
def shop() -> Iterator[PracticeShop]:
    with PracticeShop(ShopSettings(card_delay_s=0, items_per_page=5)) as shop:
        yield shop


@pytest.fixture
def visitor(shop: PracticeShop) -> Iterator[Visitor]:
    visitor = Visitor(shop)
    yield visitor
    visitor.client.close()


@pytest.fixture
def phone(shop: PracticeShop) -> Iterator[Phone]:
    with Phone(shop.search_origin) as phone:
        yield phone
