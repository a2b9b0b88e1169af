"""What tests of prediction commands share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.run_scripts.predict_place import save_models, write_datapath


@pytest.fixture(scope="session")
def resume(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of three tiny models."""
    return save_models(tmp_path_factory.mktemp("models"))


@pytest.fixture
def datapath(tmp_path: Path, resume: Path) -> Path:
    """See predict_place."""
    return write_datapath(tmp_path, resume)
