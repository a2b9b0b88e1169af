"""Extraction of features: both forms, resumed after a kill, kept when finished."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cnclip.errors import InputError
from cnclip.prediction import embedding
from cnclip.prediction.extract import Extraction
from cnclip.prediction.features import read_features
from tests.cnclip.prediction.kit import FakeModel, expected_scores, rows_of, small_split, write_test_split

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding, "PICTURES_AT_ONCE", 4)
    monkeypatch.setattr(embedding, "TEXTS_AT_ONCE", 3)


@pytest.mark.parametrize("name", ["f.npy", "f.jsonl"])
def test_features_are_those_of_the_model(tmp_path: Path, name: str) -> None:
    model, split = FakeModel(1), small_split(tmp_path / "data", broken=(0, 7))
    told: list[tuple[str, int, int]] = []
    extraction = Extraction(model=model, dtype="float32", progress=lambda *at: told.append(at))
    extraction.pictures(split.images, tmp_path / f"i{name}")
    extraction.texts(split.texts, tmp_path / f"t{name}")
    images, texts = (
        read_features(tmp_path / f"i{name}", "image"),
        read_features(tmp_path / f"t{name}", "text"),
    )
    ids, scores = expected_scores(model, split)
    assert images.ids == [int(image_id) for image_id in ids] and len(ids) == 8
    assert texts.ids == [1, 2, 3, 4]
    assert np.array_equal(texts.vectors @ images.vectors.T, scores)
    assert (
        (images.model, images.fingerprint)
        == (texts.model, texts.fingerprint)
        == ("fake-1", model.fingerprint)
    )
    assert told == [
        ("pictures", 4, 10),
        ("pictures", 8, 10),
        ("pictures", 10, 10),
        ("texts", 3, 4),
        ("texts", 4, 4),
    ]
    assert not list(tmp_path.glob(".*")), "nothing else is left"


@pytest.mark.parametrize("name", ["f.npy", "f.jsonl"])
def test_what_was_done_before_an_interruption_is_not_done_again(tmp_path: Path, name: str) -> None:
    split = small_split(tmp_path / "data", broken=(1,))
    whole, path = tmp_path / f"whole-{name}", tmp_path / name
    Extraction(model=FakeModel()).pictures(split.images, whole)
    with pytest.raises(KeyboardInterrupt):
        Extraction(model=FakeModel(dies_after=3)).pictures(split.images, path)
    assert not path.exists()
    rest = FakeModel()
    Extraction(model=rest).pictures(split.images, path)
    assert rest.picture_calls == [2]
    assert path.read_bytes() == whole.read_bytes()


def test_another_model_begins_anew(tmp_path: Path) -> None:
    split, path = small_split(tmp_path / "data"), tmp_path / "f.npy"
    with pytest.raises(KeyboardInterrupt):
        Extraction(model=FakeModel(0, dies_after=3)).pictures(split.images, path)
    other = FakeModel(1)
    Extraction(model=other).pictures(split.images, path)
    assert other.picture_calls == [4, 4, 2]


@pytest.mark.parametrize("name", ["f.npy", "f.jsonl"])
def test_a_finished_file_is_kept(tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    split, path, again = small_split(tmp_path / "data", broken=(2,)), tmp_path / name, FakeModel()
    Extraction(model=FakeModel()).pictures(split.images, path)
    Extraction(model=FakeModel()).texts(split.texts, tmp_path / f"t{name}")
    caplog.clear()
    Extraction(model=again).pictures(split.images, path)
    Extraction(model=again).texts(split.texts, tmp_path / f"t{name}")
    assert again.picture_calls == again.text_calls == []
    assert "left out of the gallery: image_id 102: cannot be read" in caplog.text, "it is said again"
    Extraction(model=again, force=True).pictures(split.images, path)
    assert again.picture_calls == [4, 4, 2]
    path.write_bytes(path.read_bytes()[:-5])
    Extraction(model=again).pictures(split.images, path)
    assert again.picture_calls == [4, 4, 2] * 2, "a truncated one is made again"
    Extraction(model=again).texts(rows_of([(1, "别的")]), tmp_path / f"t{name}")
    assert again.text_calls == [1], "other texts"
    changed = FakeModel(3)
    Extraction(model=changed).pictures(split.images, path)
    assert changed.picture_calls == [4, 4, 2], "another model"


def test_another_precision_of_the_file_is_made(tmp_path: Path) -> None:
    split, path = small_split(tmp_path / "data"), tmp_path / "f.npy"
    Extraction(model=FakeModel()).pictures(split.images, path)
    assert read_features(path, "image").vectors.dtype == np.float16
    Extraction(model=FakeModel(), dtype="float32").pictures(split.images, path)
    assert read_features(path, "image").vectors.dtype == np.float32


def test_nothing_readable_is_an_error(tmp_path: Path) -> None:
    split = small_split(tmp_path / "data", n_images=3, broken=(0, 1, 2))
    with pytest.raises(InputError, match=r"no readable picture \(3 listed\): image_id 100: cannot be read"):
        Extraction(model=FakeModel()).pictures(split.images, tmp_path / "f.npy")


def test_a_kill_in_the_middle(tmp_path: Path) -> None:
    """SIGKILL, in a process of its own, while the third piece is being embedded."""
    folder = write_test_split(tmp_path / "data")
    script = f"""
import os, signal
from cnclip.prediction import embedding
from cnclip.prediction.extract import Extraction
from cnclip.prediction.split import open_images
from tests.cnclip.prediction.kit import FakeModel
from pathlib import Path
embedding.PICTURES_AT_ONCE = 4
class Killed(FakeModel):
    def encode_images(self, images, **options):
        if len(self.picture_calls) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().encode_images(images, **options)
images = open_images({str(folder / "test_imgs.tsv")!r})
Extraction(model=Killed()).pictures(images, Path({str(tmp_path / "f.npy")!r}))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, timeout=300, check=False, env=dict(os.environ)
    )
    assert done.returncode == -signal.SIGKILL
    split, rest = small_split(tmp_path / "data"), FakeModel()
    Extraction(model=rest).pictures(split.images, tmp_path / "f.npy")
    Extraction(model=FakeModel()).pictures(split.images, tmp_path / "whole.npy")
    assert rest.picture_calls == [2]
    assert (tmp_path / "f.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()
