"""A made-up shop on this machine that behaves like the real ones: for rehearsing the crawler, and for tests.

    with PracticeShop(ShopSettings(login="required")) as shop:
        profile = shop.profile()  # crawl it as any other site
        shop.log("search")        # what the shop saw: the ground truth

Its pages, texts and class names are written by hand and share nothing with `crawler/profiles/`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crawler.practice_shop.label import label_of, read_label
    from crawler.practice_shop.phone import Phone
    from crawler.practice_shop.settings import ShopSettings
    from crawler.practice_shop.shop import PracticeShop
    from crawler.practice_shop.visits import Visit

__all__ = ["Phone", "PracticeShop", "ShopSettings", "Visit", "label_of", "read_label"]

# Imported when first asked for: the settings alone (for `--help`) need neither Pillow nor a web server.
_HOMES = {
    "Phone": "phone",
    "PracticeShop": "shop",
    "ShopSettings": "settings",
    "Visit": "visits",
    "label_of": "label",
    "read_label": "label",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
