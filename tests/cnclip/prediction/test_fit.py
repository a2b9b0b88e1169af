"""Learning the weights of an ensemble."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cnclip.errors import InputError
from cnclip.evaluation.ranks import metrics
from cnclip.evaluation.score_ranks import score_ranks
from cnclip.prediction import fit as fit_module
from cnclip.prediction.ensemble import align_members, ensemble_blocks
from cnclip.prediction.fit import METRICS, Fit, best_single, equal_weights, fit_weights, learned_weights
from cnclip.prediction.fit_job import fit_ensemble, relevant_columns
from cnclip.prediction.fit_pool import Pool, build_pool, pool_metric
from cnclip.prediction.matrix import ScoreMatrix, open_matrix, write_matrix
from cnclip.prediction.weights import read_weights, write_weights

N_TEXTS, N_IMAGES = 60, 80


def truth(seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.choice(N_IMAGES, rng.integers(1, 4), replace=False) for _ in range(N_TEXTS)]


def noisy(relevant: list[np.ndarray], noise: float, seed: int, scale: float = 1.0) -> np.ndarray:
    """Scores of 1 for what is relevant, under noise; `scale` is what a normalisation has to see through."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(0, noise, (N_TEXTS, N_IMAGES))
    for row, columns in zip(scores, relevant, strict=True):
        row[columns] += 1
    return (0.2 + scale * scores).astype(np.float32)


def save(folder: Path, *scores: np.ndarray) -> list[ScoreMatrix]:
    for i, values in enumerate(scores):
        description = {"model": f"m{i}", "fingerprint": f"f{i}"}
        ids = [f"t{n}" for n in range(N_TEXTS)], [f"g{n}" for n in range(N_IMAGES)]
        write_matrix(folder / f"{i}.npy", *ids, [values], description)
    return [open_matrix(folder / f"{i}.npy") for i in range(len(scores))]


def labels_of(relevant: list[np.ndarray]) -> dict[str, list[str]]:
    return {f"t{i}": [f"g{column}" for column in columns] for i, columns in enumerate(relevant)}


@pytest.fixture
def useful(tmp_path: Path) -> tuple[list[ScoreMatrix], list[np.ndarray]]:
    """Two members whose errors are their own, on different scales, and one that knows nothing."""
    relevant = truth(0)
    scores = noisy(relevant, 0.5, 1), noisy(relevant, 0.5, 2, 0.05), noisy(relevant, 50.0, 3)
    return save(tmp_path, *scores), relevant


@pytest.mark.parametrize("metric", METRICS)
def test_metrics_of_the_pool_are_those_of_the_gallery(
    useful: tuple[list[ScoreMatrix], list[np.ndarray]], metric: str
) -> None:
    matrices, relevant = useful
    relevant = [columns if i % 7 else columns[:0] for i, columns in enumerate(relevant)]
    members = align_members(matrices, "zscore")
    pool = build_pool(members, relevant, N_IMAGES)
    weights = np.array([0.5, 0.3, 0.2])
    expected = metrics(score_ranks(ensemble_blocks(members, weights), relevant))[metric]
    assert pool_metric(pool, weights, metric).mean() == pytest.approx(expected, abs=1e-12)
    assert len(pool.queries) == sum(len(columns) > 0 for columns in relevant)
    if metric != "mAP":  # which looks at the tail, too
        smaller = build_pool(members, relevant, 20)
        assert smaller.scores.shape[2] < N_IMAGES
        assert pool_metric(smaller, weights, metric).mean() == pytest.approx(expected, abs=1e-12)


def test_learned_weights_beat_the_best_member_and_drop_the_useless_one(
    useful: tuple[list[ScoreMatrix], list[np.ndarray]],
) -> None:
    matrices, relevant = useful
    fitted = fit_ensemble(matrices, labels_of(relevant), metric="mAP")
    by_name = {result.name: result.values.mean() for result in fitted.results}
    assert fitted.fit.chosen == "learned"
    assert by_name["chosen"] > by_name["m0"] + 0.03 and by_name["chosen"] > by_name["m1"] + 0.03
    assert by_name["chosen"] > by_name["equal"] + 0.03
    assert fitted.gain.low > 0
    weights = [member.weight for member in fitted.weights.members]
    assert weights[2] == 0 and weights[0] == pytest.approx(0.5, abs=0.1) and sum(weights) == pytest.approx(1)
    assert fitted.weights.details["dropped"] == ["m2"]
    assert fitted.held_out["learned"].mean > fitted.held_out["single"].mean + 0.03


def test_the_gradient_leads_to_the_best_likelihood(
    useful: tuple[list[ScoreMatrix], list[np.ndarray]],
) -> None:
    """A grid around the solution has nothing better; shares are those of the unscaled weights."""
    from cnclip.prediction.fit import _loss

    matrices, relevant = useful
    pool = build_pool(align_members(matrices, "zscore"), relevant).members([0, 1])
    weights = learned_weights(pool, "mAP")
    scales = np.geomspace(0.1, 100, 120)
    best = min(_loss(pool, scale * weights)[0] for scale in scales)
    for share in np.linspace(0, 1, 21):
        other = np.array([share, 1 - share])
        assert min(_loss(pool, scale * other)[0] for scale in scales) >= best - 1e-4


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("seed", range(4))
def test_never_worse_than_the_best_member(tmp_path: Path, metric: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    relevant = truth(seed)
    scores = [noisy(relevant, rng.uniform(0.3, 3), 10 * seed + i, rng.uniform(0.01, 2)) for i in range(4)]
    fitted = fit_ensemble(save(tmp_path, *scores), labels_of(relevant), metric=metric, seed=seed)
    alone = [result.values.mean() for result in fitted.results[:4]]
    chosen = fitted.results[-1].values.mean()
    assert chosen >= max(alone) and fitted.best == int(np.argmax(alone))
    weights = [member.weight for member in fitted.weights.members]
    exact = np.concatenate(list(ensemble_blocks(align_members(save(tmp_path, *scores), "zscore"), weights)))
    assert metrics(score_ranks([exact], relevant))[metric] == pytest.approx(chosen, abs=1e-6)


def test_a_member_that_is_right_alone_stays_alone(tmp_path: Path) -> None:
    relevant = truth(5)
    matrices = save(tmp_path, noisy(relevant, 0.01, 1), noisy(relevant, 5.0, 2))
    fitted = fit_ensemble(matrices, labels_of(relevant), metric="R@1")
    assert [member.weight for member in fitted.weights.members] == [1.0, 0.0]
    assert fitted.results[-1].values.mean() == 1.0


def test_copies_of_one_model_gain_nothing(tmp_path: Path) -> None:
    relevant = truth(6)
    scores = noisy(relevant, 0.7, 1)
    fitted = fit_ensemble(save(tmp_path, scores, scores.copy()), labels_of(relevant), metric="mAP")
    assert fitted.fit.chosen == "single" and fitted.gain == (0.0, 0.0, 0.0)


def test_the_same_twice(useful: tuple[list[ScoreMatrix], list[np.ndarray]], tmp_path: Path) -> None:
    matrices, relevant = useful
    one, other = (fit_ensemble(matrices, labels_of(relevant), metric="mAP") for _ in range(2))
    assert one.weights == other.weights
    write_weights(tmp_path / "w.json", one.weights)
    assert read_weights(tmp_path / "w.json").members == one.weights.members


def test_choices_by_hand(useful: tuple[list[ScoreMatrix], list[np.ndarray]]) -> None:
    matrices, relevant = useful
    pool = build_pool(align_members(matrices, "zscore"), relevant)
    assert equal_weights(pool, "mAP").tolist() == [1 / 3] * 3
    scores = [pool_metric(pool, one, "mAP").mean() for one in np.eye(3)]
    assert best_single(pool, "mAP").tolist() == np.eye(3)[np.argmax(scores)].tolist()


def test_what_cannot_be_learnt_from_is_refused(useful: tuple[list[ScoreMatrix], list[np.ndarray]]) -> None:
    matrices, relevant = useful
    ids = matrices[0].text_ids, matrices[0].image_ids
    with pytest.raises(InputError, match="labels: field text_id: x not in the score matrices"):
        relevant_columns(*ids, {"x": ["g1"]})
    with pytest.raises(InputError, match="labels: no text of the score matrices has a picture of theirs"):
        relevant_columns(*ids, {"t1": [], "t2": ["elsewhere"]})
    found = relevant_columns(*ids, {"t1": ["g5", "g2", "g5", "elsewhere"]})
    assert found[1].tolist() == [2, 5] and found[0].tolist() == []
    pool = build_pool(align_members(matrices, "zscore"), relevant)
    for folds in (1, N_TEXTS + 1):
        with pytest.raises(InputError, match=f"--folds: {folds} for 60 labelled queries"):
            fit_weights(pool, "mAP", folds=folds)
    with pytest.raises(InputError, match="--metric: 'nDCG' is not one of mean_recall, mAP"):
        fit_weights(pool, "nDCG")


def test_where_learning_ends_badly_the_best_member_it_is(
    useful: tuple[list[ScoreMatrix], list[np.ndarray]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A method that convinces on parts of the queries and fails on all of them."""
    matrices, relevant = useful
    pool = build_pool(align_members(matrices, "zscore"), relevant)

    def fickle(part: Pool, metric: str) -> np.ndarray:
        whole = len(part.queries) == N_TEXTS
        return np.array([0.0, 0.0, 1.0]) if whole else learned_weights(part, metric)

    monkeypatch.setitem(fit_module.METHODS, "learned", fickle)
    fit = fit_weights(pool, "mAP")
    assert fit.chosen == "single" and fit.weights.tolist() == best_single(pool, "mAP").tolist()


def test_the_whole_gallery_has_the_last_word(
    useful: tuple[list[ScoreMatrix], list[np.ndarray]], monkeypatch: pytest.MonkeyPatch
) -> None:
    matrices, relevant = useful

    def misled(*_: object, **__: object) -> Fit:
        return Fit("learned", np.array([0.0, 0.0, 1.0]), {"single": np.zeros(N_TEXTS)})

    monkeypatch.setattr("cnclip.prediction.fit_job.fit_weights", misled)
    monkeypatch.setattr("cnclip.prediction.fit_job.METHODS", ["single"])
    fitted = fit_ensemble(matrices, labels_of(relevant), metric="mAP")
    assert fitted.fit.chosen == "single"
    assert fitted.results[-1].values.mean() == fitted.results[fitted.best].values.mean()
    assert fitted.weights.members[fitted.best].weight == 1.0
