"""Prediction files: both schemas, small galleries, and what a kill leaves of a long one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from cnclip.errors import InputError
from cnclip.prediction.predictions import best_rows, prediction_line, write_predictions, write_resumable


def test_the_schemas() -> None:
    assert prediction_line("query_id", 7, ["3", "x"]) == '{"query_id": 7, "item_ids": [3, "x"]}'
    assert prediction_line("text_id", "q", [3]) == '{"text_id": "q", "image_ids": [3]}'
    assert prediction_line("image_id", 3, [7, 8]) == '{"image_id": 3, "text_ids": [7, 8]}'


def test_best_rows_against_a_plain_sort() -> None:
    rng = np.random.default_rng(1)
    scores = rng.integers(0, 6, (40, 25)).astype(np.float32)  # many ties
    expected = [sorted(range(25), key=lambda j, row=row: (-row[j], j))[:10] for row in scores]
    assert best_rows(scores, 10, "m").tolist() == expected
    assert best_rows(scores[:, :4], 10, "m").shape == (40, 4)
    scores[3, 3] = np.nan
    with pytest.raises(InputError, match=r"^m: holds scores that are not finite$"):
        best_rows(scores, 10, "m")


def test_a_file_is_whole_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "results" / "p.jsonl"
    blocks = [np.array([[1, 0], [0, 2]]), np.array([[2, 1]])]
    write_predictions(path, "query_id", [5, 6, 7], [10, 11, 12], blocks)
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert lines == [
        {"query_id": 5, "item_ids": [11, 10]},
        {"query_id": 6, "item_ids": [10, 12]},
        {"query_id": 7, "item_ids": [12, 11]},
    ]

    def broken() -> Iterator[np.ndarray]:
        yield blocks[0]
        raise KeyboardInterrupt

    before = path.read_bytes()
    with pytest.raises(KeyboardInterrupt):
        write_predictions(path, "query_id", [5, 6, 7], [10, 11, 12], broken())
    assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]


class Killed:
    """Blocks of two queries; stops like a kill before the block that begins with `stops_at`."""

    def __init__(self, stops_at: int | None = None) -> None:
        self.started_at: list[int] = []
        self._stops_at = stops_at

    def __call__(self, done: int) -> Iterator[np.ndarray]:
        self.started_at.append(done)
        for start in range(done, 6, 2):
            if start == self._stops_at:
                raise KeyboardInterrupt
            yield np.array([[q % 3, (q + 1) % 3] for q in range(start, min(start + 2, 6))])


@pytest.mark.parametrize("torn", [b"", b'{"query_id": 4, "item'])
def test_a_kill_costs_one_block(tmp_path: Path, torn: bytes) -> None:
    whole, path = tmp_path / "whole.jsonl", tmp_path / "p.jsonl"
    common = ("query_id", list(range(6)), [10, 11, 12], "k1")
    assert write_resumable(whole, *common, Killed()) == 0  # type: ignore[arg-type]
    with pytest.raises(KeyboardInterrupt):
        write_resumable(path, *common, Killed(stops_at=4))  # type: ignore[arg-type]
    assert not path.exists()
    (part,) = tmp_path.glob(".p.jsonl.*.part")
    part.write_bytes(part.read_bytes() + torn)
    again = Killed()
    assert write_resumable(path, *common, again) == 4 and again.started_at == [4]  # type: ignore[arg-type]
    assert path.read_bytes() == whole.read_bytes()
    assert sorted(tmp_path.iterdir()) == [path, whole]


def test_what_other_input_left_behind_is_not_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    with pytest.raises(KeyboardInterrupt):
        write_resumable(path, "query_id", list(range(6)), [10, 11, 12], "k1", Killed(stops_at=4))
    again = Killed()
    assert write_resumable(path, "query_id", list(range(6)), [20, 21, 22], "k2", again) == 0
    assert list(tmp_path.iterdir()) == [path], "and it is cleared away"
    assert json.loads(path.read_text(encoding="utf-8").splitlines()[0]) == {
        "query_id": 0,
        "item_ids": [20, 21],
    }


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        write_resumable(tmp_path / "file" / "p.jsonl", "query_id", [1], [2], "k", lambda _: [])
    with pytest.raises(InputError, match="cannot be written"):
        write_predictions(tmp_path / "file" / "p.jsonl", "query_id", [1], [2], [])
