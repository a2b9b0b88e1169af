"""What all tests share: where the product photos are, and which tests this machine cannot run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from preprocess.chrome import INSTALL_HINT, find_chromedriver, find_chromium

IN_CI = os.environ.get("CI") == "true"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Browser tests skip without Chromium (in CI they run and fail); gpu tests skip without a device."""
    marked = {name: [item for item in items if item.get_closest_marker(name)] for name in ("browser", "gpu")}
    if marked["browser"] and not IN_CI and not (find_chromium() and find_chromedriver()):
        for item in marked["browser"]:
            item.add_marker(pytest.mark.skip(reason=f"no Chromium or driver: {INSTALL_HINT}"))
    if marked["gpu"]:
        import torch

        if not torch.accelerator.is_available():
            for item in marked["gpu"]:
                item.add_marker(pytest.mark.skip(reason="no accelerator"))


@pytest.fixture(scope="session", autouse=True)
def one_torch_thread() -> None:
    """Tiny models spend their time in waking threads; servers and jobs under test are their own processes."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # before anything imports torch


@pytest.fixture(scope="session")
def shop_data() -> Path:
    """The folder of product photos and Chinese queries named by CNCLIP_SHOP_DATA, else a skip."""
    folder = os.environ.get("CNCLIP_SHOP_DATA")
    if not folder or not (Path(folder) / "valid_imgs.tsv").is_file():
        pytest.skip("CNCLIP_SHOP_DATA names no folder with valid_imgs.tsv")
    return Path(folder)
