"""Galleries: pictures with titles, attributes and vectors, searchable by meaning and by words."""

from __future__ import annotations

from service.gallery.gallery import Gallery
from service.gallery.manifest import Manifest
from service.gallery.types import (
    GalleryError,
    GalleryLocked,
    Hit,
    Item,
    Row,
    SearchMode,
    StoredImage,
    UpsertResult,
)

__all__ = [
    "Gallery",
    "GalleryError",
    "GalleryLocked",
    "Hit",
    "Item",
    "Manifest",
    "Row",
    "SearchMode",
    "StoredImage",
    "UpsertResult",
]
