"""Prediction jobs: one model, several, and saved matrices."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cnclip.errors import InputError
from cnclip.prediction import embedding
from cnclip.prediction.ensemble_job import predict_ensemble, predict_ensemble_last
from cnclip.prediction.feature_job import model_features, predict_from_features
from cnclip.prediction.ids import Id
from cnclip.prediction.job import Job, Output, predict_single
from cnclip.prediction.weights import REFERENCE, FileMember, WeightsFile
from tests.cnclip.prediction.kit import (
    FakeModel,
    expected_scores,
    expected_top,
    read_lines,
    small_split,
    write_test_split,
)

MODELS = {"a": FakeModel(1, 8), "b": FakeModel(2, 5), "c": FakeModel(3, 12)}


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding, "PICTURES_AT_ONCE", 4)


@pytest.fixture
def job(tmp_path: Path) -> Job:
    split = small_split(tmp_path / "data", n_images=14, n_texts=6, broken=(3,))
    return Job(split=split, results=tmp_path / "results", matrices=tmp_path / "npy_save")


def load(name: str) -> FakeModel:
    return MODELS[name]


def items(path: Path) -> list[list[int]]:
    return [row["item_ids"] for row in read_lines(path)]


def blended(job: Job, weights: dict[str, float], how: Callable[[np.ndarray], np.ndarray]) -> list[list[int]]:
    total: Any = 0
    for name, weight in weights.items():
        ids, scores = expected_scores(MODELS[name], job.split)
        total = total + weight * how(scores.astype(np.float64))
    return expected_top(ids, total, job.top_k)


def zscore(scores: np.ndarray) -> np.ndarray:
    return scores / np.sqrt(scores.var(1).mean())


def test_one_model(job: Job) -> None:
    model = FakeModel(1)
    path = predict_single(job, model)
    ids, scores = expected_scores(model, job.split)
    assert path == job.results / "test_predictions_1.jsonl"
    assert read_lines(path) == [
        {"query_id": i + 1, "item_ids": top} for i, top in enumerate(expected_top(ids, scores, 10))
    ]
    assert np.array_equal(np.load(job.matrices / "matrix-1.npy"), scores)
    beside = json.loads((job.matrices / "matrix-1.ids.json").read_text(encoding="utf-8"))
    assert beside["text_ids"] == [1, 2, 3, 4, 5, 6] and beside["image_ids"] == [int(i) for i in ids]
    assert beside["fingerprint"] == model.fingerprint and len(ids) == 13
    assert sorted(p.name for p in job.matrices.iterdir()) == ["matrix-1.ids.json", "matrix-1.npy"]


def test_the_other_schema_another_k_and_a_small_gallery(job: Job) -> None:
    path = predict_single(replace(job, schema="text_id", top_k=3), FakeModel(1))
    assert set(read_lines(path)[0]) == {"text_id", "image_ids"}
    assert all(len(row["image_ids"]) == 3 for row in read_lines(path))
    path = predict_single(replace(job, top_k=50), FakeModel(1))
    assert all(len(row) == 13 for row in items(path))


def test_a_finished_matrix_is_used_again(job: Job) -> None:
    first, again = FakeModel(1), FakeModel(1)
    path = predict_single(job, first)
    content = path.read_bytes()
    path.unlink()
    assert predict_single(job, again).read_bytes() == content
    assert again.picture_calls == again.text_calls == [] and first.picture_calls == [4, 4, 4, 2]
    predict_single(replace(job, force=True), again)
    assert again.picture_calls == [4, 4, 4, 2]
    other = FakeModel(1)
    other.dtype = "torch.bfloat16"  # type: ignore[misc]
    predict_single(job, other)
    assert other.picture_calls == [4, 4, 4, 2]


def test_a_broken_matrix_is_made_again(job: Job) -> None:
    path = predict_single(job, FakeModel(1))
    content = path.read_bytes()
    matrix = job.matrices / "matrix-1.npy"
    matrix.write_bytes(matrix.read_bytes()[:-3])
    assert predict_single(job, FakeModel(1)).read_bytes() == content
    (job.matrices / "matrix-1.ids.json").write_text("{", encoding="utf-8")
    assert predict_single(job, FakeModel(1)).read_bytes() == content


def test_an_interrupted_job_goes_on_where_it_was(job: Job) -> None:
    with pytest.raises(KeyboardInterrupt):
        predict_single(job, FakeModel(1, dies_after=3))
    assert not list(job.matrices.glob("*.npy"))
    rest = FakeModel(1)
    predict_single(job, rest)
    assert rest.picture_calls == [4, 2] and rest.text_calls == []
    _, scores = expected_scores(rest, job.split)
    assert np.array_equal(np.load(job.matrices / "matrix-1.npy"), scores)
    assert sorted(p.name for p in job.matrices.iterdir()) == ["matrix-1.ids.json", "matrix-1.npy"]


@pytest.mark.parametrize("names", [["a"], ["a", "b"], ["a", "b", "c"]])
def test_an_ensemble_of_any_number(job: Job, names: list[str]) -> None:
    """Members of different widths; equal weights of z-scores by default."""
    path = predict_ensemble(job, names, load)
    assert path == job.results / "test_predictions_ensemble.jsonl"
    assert items(path) == blended(job, dict.fromkeys(names, 1.0), zscore)
    for number, name in enumerate(names, 1):
        single = predict_single(replace(job, results=job.results / "alone"), MODELS[name], number)
        assert (job.results / single.name).read_bytes() == single.read_bytes()


def test_weights_and_normalisation(job: Job) -> None:
    names = ["a", "b", "c"]
    path = predict_ensemble(job, names, load, [0.2, 0.7, 0.1], "none")
    assert items(path) == blended(job, {"a": 0.2, "b": 0.7, "c": 0.1}, lambda s: s)
    with pytest.raises(InputError, match=r"^--weights: 2 for 3 members$"):
        predict_ensemble(job, names, load, [0.5, 0.5])


def test_the_reference_adds_cosines_as_they_are(job: Job) -> None:
    names = ["a", "b", "c", "a", "b", "c", "a", "b"]
    path = predict_ensemble(job, names, load, list(REFERENCE))
    a, b, c = 0.5 + 0.5 + 0.75, 0.5 + 0.5 + 0.7, 0.5 + 1.25
    assert items(path) == blended(job, {"a": a, "b": b, "c": c}, lambda s: s)


def weights_file(how: str = "minmax", **weights: float) -> WeightsFile:
    members = [FileMember(name, MODELS[name].fingerprint, weight) for name, weight in weights.items()]
    return WeightsFile(members, how, path=Path("w.json"))  # type: ignore[arg-type]


def test_learned_weights_go_by_model_and_spare_those_that_do_not_help(job: Job) -> None:
    def minmax(s: np.ndarray) -> np.ndarray:
        return (s - s.min(1, keepdims=True)) / (s.max(1, keepdims=True) - s.min(1, keepdims=True))

    path = predict_ensemble(job, ["c", "b", "a"], load, weights_file(a=0.75, b=0.0, c=0.25))
    assert items(path) == blended(job, {"c": 0.25, "a": 0.75}, minmax)
    made = {file.name for file in (*job.matrices.glob("*.npy"), *job.results.iterdir())}
    assert made == {
        *("matrix-1.npy", "matrix-3.npy", "matrix-ensemble.npy"),
        *("test_predictions_1.jsonl", "test_predictions_3.jsonl", "test_predictions_ensemble.jsonl"),
    }
    with pytest.raises(InputError, match=r"w.json: needs a, not among the models given"):
        predict_ensemble(job, ["c", "b"], load, weights_file(a=0.75, b=0.0, c=0.25))
    with pytest.raises(InputError, match=r"w.json: has no weight for c \(030303"):
        predict_ensemble(job, ["a", "c"], load, weights_file(a=1.0))
    with pytest.raises(InputError, match=r"--normalize none: w.json was learnt with minmax"):
        predict_ensemble(job, ["a"], load, weights_file(a=1.0), "none")


@pytest.mark.parametrize(
    ("weights", "how"), [(None, None), ([0.2, 0.7, 0.1], "minmax"), ([0.5, 0.0, 0.5], "zscore-query")]
)
def test_the_last_ensemble_is_the_same_byte_for_byte(job: Job, weights: Any, how: Any) -> None:
    first = predict_ensemble(job, ["a", "b", "c"], load, weights, how)
    last = job.matrices.with_name("npy_save_last")
    shutil.copytree(job.matrices, last)
    np.save(last / "matrix-9.npy", np.zeros((2, 2)))  # of another ensemble: not one of the members
    output = Output(results=job.results, matrices=last)
    again = predict_ensemble_last(output)
    assert again == job.results / "test_predictions_ensemble_last.jsonl"
    assert again.read_bytes() == first.read_bytes()
    matrices = job.matrices / "matrix-ensemble.npy", last / "matrix-ensemble-last.npy"
    assert matrices[0].read_bytes() == matrices[1].read_bytes()


def test_the_last_ensemble_without_a_record(job: Job) -> None:
    """All matrices, equal weights, unless told otherwise; what a record says of other matrices is ignored."""
    first = predict_ensemble(job, ["a", "b"], load)
    expected = first.read_bytes()
    weighted = predict_ensemble(job, ["a", "b"], load, [0.9, 0.1], "none").read_bytes()
    output = Output(results=job.results, matrices=job.matrices)
    assert predict_ensemble_last(output).read_bytes() == weighted
    assert predict_ensemble_last(output, [0.5, 0.5]).read_bytes() == expected
    (job.matrices / "matrix-ensemble.ids.json").unlink()
    assert predict_ensemble_last(output).read_bytes() == expected
    assert predict_ensemble_last(output, weights_file("none", b=0.1, a=0.9)).read_bytes() == weighted
    predict_ensemble(job, ["a", "b"], load, [0.9, 0.1], "none")
    predict_single(job, MODELS["c"], 2)
    assert items(predict_ensemble_last(output)) == blended(job, {"a": 0.5, "c": 0.5}, zscore)
    with pytest.raises(InputError, match=r"no matrix-1.npy"):
        predict_ensemble_last(replace(output, matrices=job.results))


def test_matrices_of_online_cnclip_take_ids_from_feature_files(job: Job) -> None:
    first = predict_ensemble(job, ["a", "b"], load)
    for beside in job.matrices.glob("*.ids.json"):
        beside.unlink()
    output = Output(results=job.results, matrices=job.matrices)
    with pytest.raises(InputError, match=r"matrix-1.ids.json is not beside it"):
        predict_ensemble_last(output)
    ids: tuple[list[Id], list[Id]] = (
        [row.text_id for row in job.split.texts],
        [int(i) for i in expected_scores(MODELS["a"], job.split)[0]],
    )
    assert predict_ensemble_last(output, ids=ids).read_bytes() == first.read_bytes()


def test_members_with_other_pictures_are_refused(job: Job, tmp_path: Path) -> None:
    predict_single(job, MODELS["a"], 1)
    other = small_split(tmp_path / "other", n_images=12, n_texts=6)
    predict_single(replace(job, split=other), MODELS["b"], 2)
    with pytest.raises(
        InputError, match=r"matrix-2.npy: field image_id: lacks 112, 113, which .*matrix-1.npy"
    ):
        predict_ensemble_last(Output(results=job.results, matrices=job.matrices))


def test_without_matrices_the_predictions_are_the_same(job: Job) -> None:
    first = predict_ensemble(job, ["a", "b", "c"], load, [0.5, 0.3, 0.2])
    bare = replace(job, matrices=job.matrices / "bare", results=job.results / "bare")
    again = predict_ensemble(bare, ["a", "b", "c"], load, [0.5, 0.3, 0.2], matrices=False)
    assert again.read_bytes() == first.read_bytes()
    for number in (1, 2, 3):
        name = f"test_predictions_{number}.jsonl"
        assert (bare.results / name).read_bytes() == (job.results / name).read_bytes()
    assert not list(bare.matrices.glob("matrix*"))
    again_a = FakeModel(1, 8)
    predict_from_features(bare, model_features(bare, again_a, 1), 1)
    assert again_a.picture_calls == [], "features are kept"


def test_texts_changed_on_disk_are_noticed(job: Job, tmp_path: Path) -> None:
    predict_single(job, FakeModel(1))
    write_test_split(tmp_path / "data", n_images=14, n_texts=7, broken=(3,))
    changed = replace(job, split=small_split(tmp_path / "data", n_images=14, n_texts=7, broken=(3,)))
    model = FakeModel(1)
    assert len(read_lines(predict_single(changed, model))) == 7
    assert model.text_calls == [7]
