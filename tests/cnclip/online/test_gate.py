"""What the gate refuses and why, on made-up vectors and on small pictures."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from cnclip.online.gate import (
    FITS_ANOTHER,
    FLAT,
    LEAK,
    REPEATED,
    SHARED,
    TOO_SMALL,
    UNLIKE,
    UNREADABLE,
    Bearings,
    Candidate,
    Guarded,
    Judged,
    judge,
    low_outliers,
    peers,
)
from cnclip.online.looks import difference_hash, nearest
from cnclip.online.source import FreshPicture

RNG = np.random.default_rng(0)
DIM = 64


def jpeg(image: Image.Image, quality: int = 90) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def photo(seed: int, side: int = 200) -> Image.Image:
    """Something with large shapes, so that its hash means something."""
    cells = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(cells).resize((side, side), Image.Resampling.BICUBIC)


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def candidate(query: str, seed: int, number: int = 1) -> Candidate:
    return Candidate.of(FreshPicture(query, number, jpeg(photo(seed))))


@pytest.mark.parametrize(
    "data, problem",
    [
        (b"<html>not a picture</html>", UNREADABLE),
        (jpeg(photo(1))[:400], UNREADABLE),
        (jpeg(photo(1, 40)), TOO_SMALL),
        (jpeg(Image.new("RGB", (224, 224), (128, 128, 128))), FLAT),
        (jpeg(photo(1)), ""),
    ],
)
def test_what_can_be_seen_of_a_picture_alone(data: bytes, problem: str) -> None:
    assert Candidate.of(FreshPicture("红色", 1, data)).problem == problem


def test_the_hash_survives_copying_and_tells_pictures_apart() -> None:
    hashes = [difference_hash(photo(seed)) for seed in range(40)]
    for seed in range(40):
        image = photo(seed)
        small = Image.open(io.BytesIO(jpeg(image.resize((120, 150)), 60))).convert("RGB")
        bright = image.point(lambda value: min(255, int(value * 1.1)))
        for copy in (small, bright):
            assert nearest([difference_hash(copy)], [hashes[seed]])[0] <= 8
    others = [hashes[:i] + hashes[i + 1 :] for i in range(40)]
    assert min(nearest([hashes[i]], others[i])[0] for i in range(40)) > 8
    assert nearest([1, 3], []).tolist() == [64, 64]
    assert nearest([0b1011], [0, 0b1111])[0] == 1


def world(n_queries: int, each: int, noise: float = 0.6) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Query vectors, picture vectors near their queries, and whose picture each is."""
    rng = np.random.default_rng([n_queries, each])  # the same in every test
    queries = unit(rng.normal(size=(n_queries, DIM)))
    asked = [query for query in range(n_queries) for _ in range(each)]
    spread = rng.normal(size=(len(asked), DIM)) * noise / np.sqrt(DIM)
    return queries, unit(queries[asked] + spread), asked


def bearings(queries: np.ndarray) -> Bearings:
    same = np.eye(len(queries), dtype=bool)
    return Bearings(queries, queries, same, same)


def run(vectors: np.ndarray, asked: list[int], of: Bearings, **more: object) -> list[Judged]:
    candidates = [candidate(f"q{query}", seed) for seed, query in enumerate(asked)]
    guarded = Guarded([], np.zeros((0, DIM), np.float32))
    options = {"guarded": guarded, "used": {}, **more}
    return judge(candidates, vectors, asked, of, **options)  # type: ignore[arg-type]


def test_good_pictures_pass_and_wrong_ones_stand_out() -> None:
    queries, vectors, asked = world(10, 5)
    good = run(vectors, asked, bearings(queries))
    assert sum(bool(one.reason) for one in good) <= 6  # 1.5 deviations: one side of a bell curve
    wrong = [3, 11, 17, 24, 30, 38, 41, 47]
    for row in wrong:  # shows what another query is about
        vectors[row] = vectors[(row + 25) % 50]
    judged = run(vectors, asked, bearings(queries))
    assert {judged[row].reason for row in wrong} <= {FITS_ANOTHER, UNLIKE}
    assert sum(bool(one.reason) for row, one in enumerate(judged) if row not in wrong) <= 6
    assert judged[0].similarity == pytest.approx(float(vectors[0] @ queries[0]), abs=1e-6)


def test_a_query_the_model_does_not_know_may_still_be_taught() -> None:
    """Its pictures fit other texts better, all of them: the similarity alone would refuse every one."""
    _, vectors, asked = world(10, 5)
    unknown = unit(RNG.normal(size=(10, DIM)))  # where it puts the texts has nothing to do with the pictures
    judged = run(vectors, asked, bearings(unknown))
    assert sum(bool(one.reason) for one in judged) <= 8


def test_in_a_muddle_no_picture_is_trusted() -> None:
    """All wrong: nothing stands out, but pictures of one query have nothing to do with each other."""
    queries, vectors, asked = world(10, 5)
    shuffled = vectors[np.random.default_rng(4).permutation(50)]
    judged = run(shuffled, asked, bearings(queries))
    assert all(one.reason in (UNLIKE, FITS_ANOTHER) for one in judged)


def test_a_text_of_the_same_meaning_is_no_rival() -> None:
    queries, vectors, asked = world(10, 5)
    doubled = np.concatenate([queries, queries])  # every text again, as a synonym
    near = np.concatenate([np.eye(10, dtype=bool)] * 2, axis=1)
    alone = run(vectors, asked, bearings(queries))
    judged = run(vectors, asked, Bearings(queries, doubled, near, np.eye(10, dtype=bool)))
    assert [one.reason for one in judged] == [one.reason for one in alone]


def test_gallery_pictures_are_refused_scaled_mirrored_or_cut() -> None:
    queries, vectors, _ = world(2, 5)
    gallery = unit(RNG.normal(size=(50, DIM)))
    image = photo(77)
    copies = [image, image.resize((90, 140)), ImageOps.mirror(image)]
    candidates = [Candidate.of(FreshPicture("q0", n, jpeg(copy))) for n, copy in enumerate(copies)]
    candidates += [candidate("q1", 99)]
    shown = np.stack([vectors[0], vectors[1], unit(gallery[7] + 0.01), vectors[5]])
    guarded = Guarded([difference_hash(image), *range(49)], gallery)
    reasons = [one.reason for one in judge(candidates, shown, [0, 0, 0, 1], bearings(queries), guarded, {})]
    assert reasons == [LEAK, LEAK, LEAK, ""]


def test_one_picture_one_query() -> None:
    queries, vectors, _ = world(4, 5)
    seeds = [(0, 1), (0, 1), (1, 2), (2, 2), (3, 3)]  # (query, picture)
    candidates = [candidate(f"q{query}", seed) for query, seed in seeds]
    asked = [query for query, _ in seeds]
    alike = np.eye(4, dtype=bool)
    guarded = Guarded([], np.zeros((0, DIM), np.float32))

    def reasons(alike: np.ndarray, used: dict[int, int]) -> list[str]:
        of = Bearings(queries, queries, np.eye(4, dtype=bool), alike)
        return [one.reason for one in judge(candidates, vectors[:5], asked, of, guarded, used)]

    assert reasons(alike, {}) == ["", REPEATED, SHARED, SHARED, ""]
    synonyms = alike.copy()
    synonyms[1, 2] = synonyms[2, 1] = True
    assert reasons(synonyms, {}) == ["", REPEATED, "", REPEATED, ""]
    assert reasons(alike, {candidates[4].hash: 0, candidates[0].hash: 0}) == [
        "", REPEATED, SHARED, SHARED, SHARED,
    ]  # fmt: skip


def test_peers_against_plain_loops() -> None:
    _, vectors, asked = world(5, 4)
    vectors, asked = vectors[:-3], asked[:-3]  # the last query has one picture
    alike = np.eye(5, dtype=bool)
    alike[0, 1] = alike[1, 0] = True
    got = peers(vectors, np.array(asked), alike)
    for i, query in enumerate(asked):
        mine = [float(vectors[i] @ vectors[j]) for j in range(len(asked)) if asked[j] == query and j != i]
        if len(mine) < 2:
            assert np.isnan(got[i])
            continue
        others = [
            np.mean([float(vectors[i] @ vectors[j]) for j in range(len(asked)) if asked[j] == other])
            for other in set(asked)
            if not alike[query, other]
        ]
        assert got[i] == pytest.approx(np.mean(mine) - max(others), abs=1e-5)


def test_outliers_need_something_to_stand_out_from() -> None:
    values = np.concatenate([np.linspace(0.4, 0.6, 30), [0.0, 1.2]])
    assert np.flatnonzero(low_outliers(values)).tolist() == [30]
    assert not low_outliers(np.array([0.5, 0.5, -9.0])).any()
    assert not low_outliers(np.zeros(20)).any()


def test_nothing_offered_nothing_judged() -> None:
    queries, vectors, _ = world(3, 1)
    assert run(vectors[:0], [], bearings(queries)) == []
