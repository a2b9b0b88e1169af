"""What an online worker remembers."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from cnclip.errors import InputError
from cnclip.online.worker_records import WorkerBook
from cnclip.online.worker_state import Done, WorkerState


def test_the_memory_by_itself(tmp_path: Path) -> None:
    state = WorkerState(tmp_path / "s.sqlite")
    state.want(["红裙", " 红裙 ", "A", "a", "", "坏\ud800"], bookmark=("queries", 9))
    state.want(["番茄"])
    assert [one.text for one in state.due(9, 1.0)] == ["红裙", "A", "番茄"]
    assert [one.text for one in state.due(1, 1.0)] == ["红裙"] and state.bookmark("queries") == 9
    state.commit(Done(4, "skipped", [], {"红裙": (3, 50.0), "a": (6, 0.0)}))
    assert [tuple(one) for one in state.due(9, 49.0)] == [("番茄", 1)]
    assert [tuple(one) for one in state.due(9, 50.0)] == [("番茄", 1), ("红裙", 3)]
    assert state.round == 5
    state.commit(Done(2, "late", [], {"红裙": (2, 0.0)}))
    assert (
        state.round == 5 and {one.text: one.number for one in state.due(9, 50.0)}["红裙"] == 3
    )  # never back
    state.close()
    (tmp_path / "broken").write_bytes(b"not a database, " * 99)
    with pytest.raises(InputError, match="broken: "):
        WorkerState(tmp_path / "broken")


def test_the_memory_does_not_grow_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cnclip.online.worker_state.MAX_QUERIES", 3)
    state = WorkerState(tmp_path / "s.sqlite")
    for batch in (["一", "二"], ["三", "四"], ["五"]):
        state.want(batch)
        time.sleep(0.002)
    assert [one.text for one in state.due(9, 1.0)] == ["三", "四", "五"]
    state.close()


def test_records_are_trimmed_with_their_small_pictures(tmp_path: Path) -> None:
    book = WorkerBook(tmp_path)
    thumbs = tmp_path / "online" / "thumbs"
    thumbs.mkdir(parents=True)
    for number in range(5):
        digest = f"{number:064x}"
        (thumbs / f"{digest}.jpg").write_bytes(b"x")
        row: Mapping[str, Any] = {"round": number, "pictures": [{"sha256": digest}], "movers": []}
        book.write(row)
    book.trim(keep=2)
    assert [row["round"] for row in book.rows()] == [3, 4]
    assert sorted(path.name for path in thumbs.iterdir()) == [f"{3:064x}.jpg", f"{4:064x}.jpg"]
    book.trim(keep=2)
    assert len(book.rows()) == 2
