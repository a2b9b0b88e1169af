"""Fixtures of the browser tests: a gallery, a server over it, a browser, the page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver

from service.gallery import Gallery, Item
from tests.e2e.browser import Page, chromium
from tests.service.dummy import DIM, DummyEncoder, fill, vector_of_text
from tests.service.dummy_server import ServerProcess, dummy_server

NO_TITLE = f"<b>no-title</b>/{'长' * 200}"
EVIL = "<img src=x onerror=\"document.title='pwned'\"><script>document.title='pwned'</script>"


@pytest.fixture(scope="session")
def page_gallery(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "gallery"
    encoder = DummyEncoder()
    with Gallery.create(path, model_name=encoder.name, fingerprint=encoder.fingerprint, dim=DIM) as gallery:
        fill(gallery, encoder)
        gallery.upsert([Item("坏/evil?<b>", vector_of_text("恶意标题"), EVIL)])
        gallery.upsert([Item(NO_TITLE, vector_of_text("没有标题"))])
    return path


@pytest.fixture(scope="session")
def page_server(page_gallery: Path) -> Iterator[ServerProcess]:
    with dummy_server(page_gallery) as server:
        yield server


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    with chromium(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


@pytest.fixture
def page(browser: webdriver.Chrome, page_server: ServerProcess, tmp_path: Path) -> Page:
    """The start page, in Chinese, in a window of 1280 x 900, with nothing remembered."""
    page = Page(browser, page_server.url, tmp_path)
    page.resize(1280, 900)
    page.dark(False)
    page.open()
    page.script("localStorage.clear(); sessionStorage.clear()")
    page.open()
    page.complaints()
    return page
