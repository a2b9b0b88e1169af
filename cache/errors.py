"""Errors of the caches; each message is one line for the user."""

from __future__ import annotations


class CacheError(Exception):
    """A cache entry or file that cannot be used."""
