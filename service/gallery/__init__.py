"""Galleries: pictures with titles, attributes and vectors, searchable by meaning and by words."""

from __future__ import annotations

from service.gallery.gallery import Gallery, read_models
from service.gallery.manifest import Manifest
from service.gallery.model_ref import ModelRef, ModelState, find_model
from service.gallery.types import (
    GalleryError,
    GalleryLocked,
    Hit,
    Item,
    ModelChanged,
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
    "ModelChanged",
    "ModelRef",
    "ModelState",
    "Row",
    "SearchMode",
    "StoredImage",
    "UpsertResult",
    "find_model",
    "read_models",
]
