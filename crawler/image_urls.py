"""From an img element to the addresses its picture can be fetched from."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from urllib.parse import urldefrag, urljoin

from crawler.profile import Pictures
from crawler.snapshot import Image

USEFUL_PX = 224  # what the models see
MAX_LENGTH = 2048  # characters of an address; the profile's patterns are not tried on longer ones
ICON_PX = 100  # product pictures are never smaller
BADGE_PX = 50  # nor drawn with a side shorter than this
_SRCSET = re.compile(r"\s*([^\s,]\S*[^\s,])(?:\s+([\d.]+)[wxh])*\s*(?:,|$)")


def picture_addresses(images: Iterable[Image], base_url: str, pictures: Pictures) -> tuple[str, ...]:
    """Absolute addresses of a card's picture, best first: in the size that the page shows if that is at least
    224 pixels, and as it was uploaded. Empty if none of the images is a product's picture (yet).

    Of several pictures in a card the one drawn largest is the product; the others are badges.
    """
    for image in sorted(images, key=lambda image: -image.rect.area):
        if 0 < min(image.rect.width, image.rect.height) < BADGE_PX:
            continue
        for name in pictures.attributes:
            for raw in _raw_addresses(name, image.attributes.get(name, "")):
                shown = _product_address(raw, base_url, pictures.not_products)
                original, size = _without_size(shown, pictures.size_suffix)
                if name in ("src", "currentSrc") and original == shown and 0 < image.natural_width < ICON_PX:
                    continue
                if shown:
                    both = (shown, original) if size >= USEFUL_PX else (original, shown)
                    return tuple(dict.fromkeys(both))
    return ()


def _raw_addresses(name: str, value: str) -> Iterator[str]:
    if name != "srcset":
        yield value.strip()
        return
    found = [(float(size or 1), url) for url, size in _SRCSET.findall(value)]
    yield from (url for _, url in sorted(found, key=lambda pair: -pair[0]))


def _product_address(raw: str, base_url: str, not_products: Iterable[str]) -> str:
    """The absolute http(s) address, without a fragment; empty if it is none, or not of a product."""
    try:
        address = urldefrag(urljoin(base_url, raw)).url if 0 < len(raw) <= MAX_LENGTH else ""
    except ValueError:
        return ""
    is_other = any(re.search(pattern, text) for pattern in not_products for text in (raw, address))
    return "" if is_other or not address.startswith(("http://", "https://")) else address


def _without_size(address: str, suffixes: Iterable[str]) -> tuple[str, int]:
    """The address of the original, and the size in pixels that the suffix named (0: none)."""
    for pattern in suffixes:
        if match := re.search(pattern, address):
            size = match.groupdict().get("size") or ""
            pixels = int(size) if size.isdecimal() and len(size) < 6 else 0
            return address[: match.start()] + address[match.end() :], pixels
    return address, 0
