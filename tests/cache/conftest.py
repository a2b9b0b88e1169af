"""Fixtures of the cache's tests."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module")
def no_sync() -> Iterator[None]:
    """Files are not pressed onto the disk: for tests of anything but durability, much faster."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _descriptor: None)
        yield
