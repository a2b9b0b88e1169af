"""Score matrices and what lies beside them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cnclip.errors import InputError
from cnclip.prediction import matrix as module
from cnclip.prediction.arrays import description_path, read_description, write_described
from cnclip.prediction.matrix import numbered_matrices, open_matrix, products, row_blocks, write_matrix

SCORES = np.arange(12, dtype=np.float32).reshape(3, 4)


def write(path: Path, scores: np.ndarray = SCORES, **description: Any) -> Path:
    n, m = scores.shape
    write_matrix(
        path, list(range(n)), [f"{100 + i}" for i in range(m)], [scores[:2], scores[2:]], description
    )
    return path


def test_what_is_written_is_read(tmp_path: Path) -> None:
    found = open_matrix(write(tmp_path / "matrix-1.npy", model="m", fingerprint="f"))
    assert np.array_equal(found.scores, SCORES) and isinstance(found.scores, np.memmap)
    assert (found.text_ids, found.image_ids) == ([0, 1, 2], [100, 101, 102, 103])
    assert (found.model, found.fingerprint) == ("m", "f")
    plain = np.load(tmp_path / "matrix-1.npy")  # as Online-CNCLIP's scripts do
    assert plain.dtype == np.float32 and np.array_equal(plain, SCORES)


def test_the_description_goes_first_and_comes_last(tmp_path: Path) -> None:
    """What stops in between leaves an array without one, which counts as unfinished."""
    path = write(tmp_path / "m.npy")

    def broken() -> Any:
        yield SCORES[:2]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_described(path, (3, 4), np.float32, broken(), {"kind": "scores"})
    assert not description_path(path).exists() and read_description(path, "scores") is None
    assert np.array_equal(np.load(path), SCORES), "the array is that of before"
    assert [file.name for file in tmp_path.iterdir()] == ["m.npy"]


def test_a_matrix_without_ids_takes_those_given(tmp_path: Path) -> None:
    np.save(tmp_path / "matrix-1.npy", SCORES)
    with pytest.raises(
        InputError, match=r"matrix-1.ids.json is not beside it; .*--text-feats, --image-feats"
    ):
        open_matrix(tmp_path / "matrix-1.npy")
    found = open_matrix(tmp_path / "matrix-1.npy", ([1, 2, 3], [4, 5, 6, 7]))
    assert found.image_ids == [4, 5, 6, 7] and found.fingerprint == ""
    with pytest.raises(InputError, match=r"shape \(3, 4\) for 2 texts, 4 pictures"):
        open_matrix(tmp_path / "matrix-1.npy", ([1, 2], [4, 5, 6, 7]))
    with pytest.raises(InputError, match="field image_id: 5 more than once"):
        open_matrix(tmp_path / "matrix-1.npy", ([1, 2, 3], [4, 5, 5, 7]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2}, "field schema: 2, this program reads 1"),
        ({"kind": "features"}, "field kind: does not describe scores"),
        ({"text_ids": [1, 2]}, r"shape \(3, 4\) for 2 texts"),
        ({"text_ids": [1, 2, 2]}, "field text_id: 2 more than once"),
        ({"image_ids": [1, True, 2, 3]}, "field image_ids: not a list of ids"),
        ({"image_ids": None}, "field image_ids: not a list of ids"),
    ],
)
def test_a_description_that_does_not_fit_is_refused(tmp_path: Path, change: Any, message: str) -> None:
    path = write(tmp_path / "m.npy")
    content = json.loads(description_path(path).read_text(encoding="utf-8"))
    description_path(path).write_text(json.dumps({**content, **change}), encoding="utf-8")
    with pytest.raises(InputError, match=message):
        open_matrix(path)


def test_files_that_are_no_matrix_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "m.npy")
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(InputError, match=r"m.npy: not a whole .npy file"):
        open_matrix(path)
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match=r"m.npy: not a whole .npy file"):
        open_matrix(path)
    for other in (np.zeros(12, np.float32), np.zeros((3, 4), np.int64)):
        np.save(path, other)
        with pytest.raises(InputError, match="not a two-dimensional array of floats"):
            open_matrix(path)
    description_path(path).write_text("[", encoding="utf-8")
    with pytest.raises(InputError, match=r"m.ids.json: not a JSON object that describes m.npy"):
        open_matrix(write(tmp_path / "other.npy").replace(path))
    with pytest.raises(InputError, match="no such file"):
        open_matrix(tmp_path / "nowhere.npy")


def test_products_come_in_blocks_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BLOCK_BYTES", 100)
    rng = np.random.default_rng(0)
    texts, images = rng.standard_normal((7, 5)), rng.standard_normal((11, 5))
    blocks = list(products(texts.astype(np.float32), images.astype(np.float32)))
    assert [len(block) for block in blocks] == [2, 2, 2, 1] and blocks[0].dtype == np.float32
    assert np.allclose(np.concatenate(blocks), texts @ images.T, atol=1e-6)
    assert [(b.start, b.stop) for b in row_blocks(3, 1000)] == [(0, 1), (1, 2), (2, 3)]


def test_matrices_are_found_by_number(tmp_path: Path) -> None:
    for name in ("matrix-2.npy", "matrix-10.npy", "matrix-1.npy", "matrix-ensemble.npy", "matrix-1.ids.json"):
        (tmp_path / name).touch()
    assert [path.name for path in numbered_matrices(tmp_path)] == [
        "matrix-1.npy",
        "matrix-2.npy",
        "matrix-10.npy",
    ]
    with pytest.raises(InputError, match=r"no matrix-1.npy, matrix-2.npy, … there"):
        numbered_matrices(tmp_path / "nowhere")
