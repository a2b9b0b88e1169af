"""Rows that are computed in pieces and outlive a kill."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from cnclip.errors import InputError
from cnclip.prediction.partial_rows import PartialRows

MADE_FROM = {"fingerprint": "ab", "texts": "cd"}


def piece(first: int, n: int = 2) -> np.ndarray:
    return np.arange(first, first + 3 * n, dtype=np.float32).reshape(n, 3)


def open_rows(folder: Path, **changes: str) -> PartialRows:
    return PartialRows(folder / "x.y", 3, {**MADE_FROM, **changes})


def test_pieces_add_up_and_are_taken_up_again(tmp_path: Path) -> None:
    with open_rows(tmp_path) as rows:
        assert rows.done == 0 and rows.rows().shape == (0, 3)
        rows.append(piece(0), ["one is broken"])
        rows.append(piece(6))
    with open_rows(tmp_path) as rows:
        assert rows.done == 4 and rows.problems == ["one is broken"]
        rows.append(piece(12, 1), ["另一张"])
        assert np.array_equal(rows.rows(), np.arange(15, dtype=np.float32).reshape(5, 3))
        assert rows.problems == ["one is broken", "另一张"]
        rows.remove()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "tail", [b"", b"{", b'{"rows": 6, "problems": []}', b'{"rows": 99, "problems": []}\n']
)
def test_what_a_kill_cut_short_is_cut_off(tmp_path: Path, tail: bytes) -> None:
    """Rows of the next piece are there, wholly or in part, and its line in the journal is not."""
    with open_rows(tmp_path) as rows:
        rows.append(piece(0))
    with (tmp_path / "x.y.rows").open("ab") as file:
        file.write(b"\1" * 17)
    with (tmp_path / "x.y.journal").open("ab") as file:
        file.write(tail)
    with open_rows(tmp_path) as rows:
        assert rows.done == 2
        rows.append(piece(6))
    with open_rows(tmp_path) as rows:
        assert np.array_equal(rows.rows(), np.arange(12, dtype=np.float32).reshape(4, 3))


def test_a_journal_without_its_rows_counts_for_nothing(tmp_path: Path) -> None:
    with open_rows(tmp_path) as rows:
        rows.append(piece(0))
        rows.append(piece(6))
    (tmp_path / "x.y.rows").write_bytes(piece(0).tobytes() + b"123")
    with open_rows(tmp_path) as rows:
        assert rows.done == 2
        assert np.array_equal(rows.rows(), piece(0))
    (tmp_path / "x.y.rows").unlink()
    with open_rows(tmp_path) as rows:
        assert rows.done == 0


@pytest.mark.parametrize("content", ["", "nonsense\n", '{"a": 1}\n', "\xff", json.dumps([1]) + "\n"])
def test_a_journal_of_something_else_is_begun_anew(tmp_path: Path, content: str) -> None:
    with open_rows(tmp_path) as rows:
        rows.append(piece(0))
    (tmp_path / "x.y.journal").write_text(content, encoding="latin-1")
    with open_rows(tmp_path) as rows:
        assert rows.done == 0 and rows.problems == []
        rows.append(piece(3))
    with open_rows(tmp_path) as rows:
        assert np.array_equal(rows.rows(), piece(3))


def test_other_input_or_another_width_begins_anew(tmp_path: Path) -> None:
    with open_rows(tmp_path) as rows:
        rows.append(piece(0))
    with open_rows(tmp_path, fingerprint="other") as rows:
        assert rows.done == 0
        rows.append(piece(0))
    with PartialRows(tmp_path / "x.y", 2, {**MADE_FROM, "fingerprint": "other"}) as rows:
        assert rows.done == 0


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file: cannot be written"):
        open_rows(tmp_path / "file")
