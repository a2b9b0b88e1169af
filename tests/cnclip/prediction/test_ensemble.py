"""Ensembles of matrices and of features, against a few lines of numpy."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from cnclip.errors import InputError, ModelMismatchError
from cnclip.prediction import feature_ensemble
from cnclip.prediction import matrix as matrix_module
from cnclip.prediction.ensemble import align_members, ensemble_blocks
from cnclip.prediction.feature_ensemble import UnitRows, blend, feature_spread
from cnclip.prediction.features import Features
from cnclip.prediction.matrix import ScoreMatrix, open_matrix, write_matrix
from cnclip.prediction.normalise import NORMALIZATIONS, Normalize, normalise, spread

RNG = np.random.default_rng(7)
TEXTS, IMAGES = [f"t{i}" for i in range(9)], list(range(300, 323))
SCORES = [RNG.normal(c, s, (9, 23)).astype(np.float32) for c, s in ((0.3, 0.1), (0.5, 0.02), (0.1, 0.3))]
WEIGHTS = [0.5, 0.3, 0.2]


def save(
    path: Path, scores: np.ndarray, texts: Sequence[str] = TEXTS, images: Sequence[int] = IMAGES
) -> ScoreMatrix:
    write_matrix(path, list(texts), list(images), [scores], {"model": path.stem, "fingerprint": path.stem})
    return open_matrix(path)


def shuffled(path: Path, scores: np.ndarray, seed: int) -> ScoreMatrix:
    rng = np.random.default_rng(seed)
    rows, columns = rng.permutation(len(TEXTS)), rng.permutation(len(IMAGES))
    texts, images = [TEXTS[i] for i in rows], [IMAGES[i] for i in columns]
    return save(path, scores[rows][:, columns], texts, images)


def twin(scores: Sequence[np.ndarray], weights: Sequence[float], how: Normalize) -> np.ndarray:
    """Ten lines of numpy."""
    total = np.zeros(scores[0].shape)
    for values, weight in zip(scores, weights, strict=True):
        s = values.astype(np.float64)
        if how == "zscore":
            s = (s - s.mean(1, keepdims=True)) / np.sqrt(s.var(1).mean())
        elif how == "zscore-query":
            s = (s - s.mean(1, keepdims=True)) / s.std(1, keepdims=True)
        elif how == "minmax":
            s = (s - s.min(1, keepdims=True)) / (s.max(1, keepdims=True) - s.min(1, keepdims=True))
        total += weight * s
    return total


def together(matrices: Sequence[ScoreMatrix], weights: Sequence[float], how: Normalize) -> np.ndarray:
    return np.concatenate(list(ensemble_blocks(align_members(matrices, how), weights)))


@pytest.mark.parametrize("how", NORMALIZATIONS)
@pytest.mark.parametrize("block_bytes", [100, 2**20])
def test_against_numpy(
    tmp_path: Path, how: Normalize, block_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matrix_module, "_BLOCK_BYTES", block_bytes)
    matrices = [save(tmp_path / f"{i}.npy", scores) for i, scores in enumerate(SCORES)]
    assert np.allclose(together(matrices, WEIGHTS, how), twin(SCORES, WEIGHTS, how), atol=1e-5)
    one = together(matrices, [0, 1, 0], how)
    assert np.allclose(one, twin(SCORES[1:2], [1], how), atol=1e-5)


@pytest.mark.parametrize("how", NORMALIZATIONS)
def test_the_order_of_ids_in_a_member_changes_nothing(tmp_path: Path, how: Normalize) -> None:
    plain = [save(tmp_path / f"{i}.npy", scores) for i, scores in enumerate(SCORES)]
    mixed = [plain[0], *(shuffled(tmp_path / f"m{i}.npy", SCORES[i], i) for i in (1, 2))]
    tolerance = {"rtol": 0, "atol": 2e-6}  # a mean taken in another order
    assert np.allclose(together(mixed, WEIGHTS, how), together(plain, WEIGHTS, how), **tolerance)
    assert [m.rows is None for m in align_members(mixed, how)] == [True, False, False]


def test_ids_that_do_not_match_are_refused_by_name(tmp_path: Path) -> None:
    first = save(tmp_path / "a.npy", SCORES[0])
    fewer = save(tmp_path / "b.npy", SCORES[1][1:], TEXTS[1:])
    with pytest.raises(InputError, match=r"b.npy: field text_id: lacks t0, which .*a.npy has"):
        align_members([first, fewer], "none")
    with pytest.raises(InputError, match=r"b.npy: field text_id: lacks t0, which .*a.npy has"):
        align_members([fewer, first], "none")
    other = save(tmp_path / "c.npy", SCORES[1], TEXTS, [999, *IMAGES[1:]])
    with pytest.raises(InputError, match=r"c.npy: field image_id: lacks 300, which .*a.npy has"):
        align_members([first, other], "none")
    with pytest.raises(InputError, match=r"field image_id: 301 more than once"):
        save(tmp_path / "d.npy", SCORES[1], TEXTS, [301, *IMAGES[1:]])


def test_scores_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    broken = SCORES[0].copy()
    broken[3, 4] = np.inf
    with pytest.raises(InputError, match=r"a.npy: holds scores that are not finite"):
        together([save(tmp_path / "a.npy", broken)], [1.0], "none")


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0], "weights: 1 for 2 members"),
        ([1.0, -0.5], "weights: 1, -0.5: must be 0 or above"),
        ([float("nan"), 1.0], "must be 0 or above"),
        ([0.0, 0.0], "weights: all are 0"),
    ],
)
def test_weights_that_make_no_sense_are_refused(tmp_path: Path, weights: list[float], message: str) -> None:
    matrices = [save(tmp_path / f"{i}.npy", scores) for i, scores in enumerate(SCORES[:2])]
    with pytest.raises(InputError, match=message):
        together(matrices, weights, "none")


def test_rows_that_say_nothing_become_zero() -> None:
    flat = np.full((2, 5), 0.25, np.float32)
    for how in ("zscore-query", "minmax"):
        assert not normalise(flat, how).any()
    assert spread([flat]) == 0.0 and not normalise(flat, "zscore", 0.0).any()


def test_a_scale_and_a_shift_of_a_model_do_not_matter() -> None:
    for how in ("zscore-query", "minmax"):
        assert np.allclose(normalise(SCORES[0], how), normalise(3 * SCORES[0] + 1, how), atol=1e-4)
    moved = 3 * SCORES[0] + 1
    assert spread([moved[:4], moved[4:]]) == pytest.approx(3 * spread([SCORES[0]]), rel=1e-5)


def test_memory_is_that_of_a_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three matrices of 8 MB each, blocks of 256 KiB."""
    monkeypatch.setattr(matrix_module, "_BLOCK_BYTES", 256 * 1024)
    scores = np.random.default_rng(0).random((1000, 2000), dtype=np.float32)
    ids = list(range(1000)), list(range(2000))
    for i in range(3):
        write_matrix(tmp_path / f"{i}.npy", *ids, [scores], {})
    del scores
    tracemalloc.start()
    try:
        matrices = [open_matrix(tmp_path / f"{i}.npy") for i in range(3)]
        ids_bytes, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        for _ in ensemble_blocks(align_members(matrices, "zscore"), WEIGHTS):
            pass
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak - ids_bytes < 4 * 2**20


def features(
    seed: int, dim: int, texts: Sequence[str] = TEXTS, images: Sequence[int] = IMAGES
) -> tuple[Features, Features]:
    rng = np.random.default_rng(seed)
    vectors = {}
    for key in (*TEXTS, *IMAGES):
        vector = rng.standard_normal(dim) + 2.0 * seed
        vectors[key] = vector / np.linalg.norm(vector)
    return (
        Features(
            "text", list(texts), np.array([vectors[t] for t in texts], np.float32), f"m{seed}", f"{seed}"
        ),
        Features(
            "image", list(images), np.array([vectors[i] for i in images], np.float32), f"m{seed}", f"{seed}"
        ),
    )


@pytest.mark.parametrize("how", ["zscore", "none"])
def test_features_blend_into_the_scores_of_the_ensemble(
    how: Normalize, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Members of different width; up to a constant of each text."""
    monkeypatch.setattr(feature_ensemble, "_PIECE", 5)
    members = [features(0, 6), features(1, 9), features(2, 4, TEXTS[::-1], IMAGES[::-1])]
    ensemble = blend(members, WEIGHTS, how)
    found = ensemble.texts[:] @ ensemble.images[:].T
    plain = [features(0, 6), features(1, 9), features(2, 4)]
    expected = twin([t.vectors @ i.vectors.T for t, i in plain], WEIGHTS, how)
    centred = [s - s.mean(1, keepdims=True) for s in (found, expected)]
    assert np.allclose(*centred, atol=1e-5)
    assert (ensemble.text_ids, ensemble.image_ids) == (TEXTS, IMAGES)
    part = ensemble.images[3:8]
    assert np.array_equal(part, ensemble.images[:][3:8]) and part.shape == (5, 19)


def test_the_spread_needs_no_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_ensemble, "_PIECE", 4)
    texts, images = features(3, 5)
    scores = texts.vectors @ images.vectors.T
    assert feature_spread(UnitRows(texts), UnitRows(images)) == pytest.approx(spread([scores]), rel=1e-5)


def test_a_blend_leaves_out_what_has_no_weight() -> None:
    ensemble = blend([features(0, 6), features(1, 9)], [1.0, 0.0], "none")
    assert ensemble.images[:].shape == (23, 6)


def test_a_blend_refuses_what_does_not_fit() -> None:
    for how in ("minmax", "zscore-query"):
        with pytest.raises(InputError, match=f"--normalize {how}: needs score matrices"):
            blend([features(0, 6)], [1.0], how)
    with pytest.raises(
        InputError, match=r"image features: field image_id: lacks 300, which image features has"
    ):
        blend([features(0, 6), features(1, 6, TEXTS, IMAGES[1:])], [1.0, 1.0], "zscore")
    with pytest.raises(ModelMismatchError):
        blend([(features(0, 6)[0], features(1, 6)[1])], [1.0], "zscore")


def test_vectors_of_another_length_are_brought_to_one() -> None:
    rows = np.array([[3.0, 4.0], [0.6, 0.8]], np.float32)
    assert np.allclose(UnitRows(Features("text", [1, 2], rows))[:], [[0.6, 0.8], [0.6, 0.8]])
    unit = np.array([[0.6, 0.8], [1.0, 0.0]], np.float32)
    assert np.array_equal(UnitRows(Features("text", [1, 2], unit))[:], unit)
    assert np.array_equal(UnitRows(Features("text", [1, 2], unit), np.array([1, 0]))[0:1], unit[1:])
