"""Fixtures: a dummy model, a gallery of 32 coloured shapes, and a client for an app over both."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from service.app import create_app
from service.gallery import Gallery
from service.settings import ServiceSettings
from tests.service.dummy import DIM, AppClient, DummyEncoder, fill

MakeClient = Callable[..., AppClient]


@pytest.fixture
def encoder() -> DummyEncoder:
    return DummyEncoder()


@pytest.fixture(scope="session")
def gallery_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A gallery on disk to copy: filling one for each test would take longer than the tests."""
    path = tmp_path_factory.mktemp("template") / "gallery"
    encoder = DummyEncoder()
    names = {"model_name": encoder.name, "fingerprint": encoder.fingerprint}
    with Gallery.create(path, dim=DIM, **names) as gallery:
        fill(gallery, encoder)
    return path


@pytest.fixture
def gallery_path(tmp_path: Path, gallery_template: Path) -> Path:
    return Path(shutil.copytree(gallery_template, tmp_path / "gallery"))


@pytest.fixture
def gallery(gallery_path: Path) -> Iterator[Gallery]:
    with Gallery.open(gallery_path) as gallery:
        yield gallery


@pytest.fixture
def make_client(gallery: Gallery, encoder: DummyEncoder) -> Iterator[MakeClient]:
    """`make_client(**settings)` starts an app; it is stopped at the end of the test."""
    with ExitStack() as stack:

        def make(base_url: str = "http://127.0.0.1:8000", **settings: Any) -> AppClient:
            app = create_app(ServiceSettings(gallery=gallery.path, **settings), encoder, gallery)
            client = stack.enter_context(AppClient(app, base_url))
            encoder.batches.clear()
            encoder.image_batches.clear()
            encoder.entered.clear()
            return client

        yield make
        encoder.gate.set()  # whatever a failed test left waiting


@pytest.fixture
def client(make_client: MakeClient) -> AppClient:
    return make_client()
