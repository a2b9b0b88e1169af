"""Several splits as one table, against brute force over their files."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnclip.data.dataset import PairDataset
from cnclip.data.sources import PairSources
from cnclip.errors import InputError
from tests.cnclip.data.muge_files import image_line, picture, text_line, write_lines

# Quotes and letters that normalising makes equal, within a split and across splits.
TEXTS = ["红 Apple", "红 apple", "“绿”", '"绿"', "蓝", "黄", "黑"]


def make_split(folder: Path, name: str, n_images: int, rows: list[tuple[str, list[int]]]) -> PairDataset:
    folder.mkdir(exist_ok=True)
    write_lines(folder / f"{name}_imgs.tsv", (image_line(i, picture(i)) for i in range(n_images)))
    write_lines(folder / f"{name}_texts.jsonl", (text_line(n, *row) for n, row in enumerate(rows)))
    return PairDataset.from_muge(folder, name)


def canonical(text: str) -> str:
    return text.replace("“", '"').replace("”", '"').lower()


@pytest.fixture
def two(tmp_path: Path) -> PairSources:
    first = make_split(
        tmp_path, "a", 4, [("红 Apple", [0, 1]), ("“绿”", [2]), ("红 apple", [1, 3]), ("无", [])]
    )
    second = make_split(tmp_path, "b", 3, [('"绿"', [0, 1]), ("黄", [2]), ("红 Apple", [2])])
    return PairSources([first, second])


def test_pairs_lie_side_by_side_and_know_their_split(two: PairSources) -> None:
    first, second = two.datasets
    assert len(two) == len(first) + len(second) == 9
    assert two.source.tolist() == [0] * 5 + [1] * 4
    for pair in range(9):
        dataset, row = (first, pair) if pair < 5 else (second, pair - 5)
        expected = dataset[row]
        found, image_id = two.image(pair)
        assert found is dataset and image_id == expected["image_id"]
        assert (two.text(pair).text, two.text(pair).text_id) == (expected["text"], expected["text_id"])
    names = [canonical(two.text(pair).text) for pair in range(9)]
    same = np.array([[a == b for a in names] for b in names])
    assert np.array_equal(two.pairs.text[:, None] == two.pairs.text[None], same)
    assert two.pairs.image.tolist() == [0, 1, 2, 1, 3, 4, 5, 6, 6]  # picture 0 of each split is its own


def test_a_pickled_table_is_the_same(two: PairSources) -> None:
    again = pickle.loads(pickle.dumps(two))
    pairs = np.arange(9)
    assert np.array_equal(again.relevance(pairs), two.relevance(pairs)) and again.image(7)[1] == "2"


ROWS = st.lists(
    st.tuples(st.sampled_from(TEXTS), st.lists(st.integers(0, 4), max_size=5, unique=True)),
    min_size=1,
    max_size=6,
)


@settings(deadline=None, max_examples=60)
@given(st.lists(ROWS, min_size=1, max_size=3), st.randoms(use_true_random=False))
def test_relevance_is_what_any_split_says(tmp_path_factory, splits, random) -> None:  # type: ignore[no-untyped-def]
    folder = tmp_path_factory.mktemp("splits")
    datasets = [make_split(folder, f"s{n}", 5, rows) for n, rows in enumerate(splits)]
    if not all(len(dataset) for dataset in datasets):
        with pytest.raises(InputError, match=r"no text of it names a picture"):
            PairSources(datasets)
        return
    table = PairSources(datasets)
    labels = {
        (number, image, canonical(text))
        for number, rows in enumerate(splits)
        for text, images in rows
        for image in images
    }
    pairs = [random.randrange(len(table)) for _ in range(random.randrange(1, 12))]  # repeated pairs too
    pictures = [(int(table.source[pair]), int(table.image(pair)[1])) for pair in pairs]
    texts = [canonical(table.text(pair).text) for pair in pairs]
    expected = [[(*picture_, text) in labels for text in texts] for picture_ in pictures]
    relevance = table.relevance(np.array(pairs))
    assert relevance.dtype == np.bool_ and relevance.tolist() == expected
    shared = [pictures.count(p) > 1 or texts.count(t) > 1 for p, t in zip(pictures, texts, strict=True)]
    assert table.duplicate_rate(np.array(pairs)) == pytest.approx(sum(shared) / len(shared))
