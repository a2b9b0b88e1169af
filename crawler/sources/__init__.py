"""Places that have pictures for queries; each implements crawler.source.ImageSource."""

from __future__ import annotations
