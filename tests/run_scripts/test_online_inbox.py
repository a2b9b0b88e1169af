"""What the worker listens to."""

from __future__ import annotations

import io
import os
import time
from pathlib import Path

import pytest

from cache.blob_store import BlobStore
from cnclip.errors import InputError
from cnclip.online.worker_state import Said
from run_scripts.online_inbox import FileQueries, Inbox, StreamQueries
from service.journal import Journal


def test_a_file_is_read_again_when_it_has_changed(tmp_path: Path) -> None:
    path = tmp_path / "queries.txt"
    path.write_text("红裙\n番茄\n", encoding="utf-8")
    queries = FileQueries(str(path))
    assert queries.take() == ["红裙", "番茄"] and queries.take() == []
    path.write_text("红裙\n番茄\n帆布鞋\n", encoding="utf-8")
    os.utime(path, (1, 1))
    assert queries.take() == ["红裙", "番茄", "帆布鞋"] and queries.take() == []
    path.unlink()
    assert queries.take() == [] and not queries.ended
    with pytest.raises(InputError, match="cannot be read"):
        FileQueries(str(path))


def test_standard_input_as_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO('红裙\n{"query": "番茄"}\n\n'))
    queries = StreamQueries()
    queries.wait()
    assert queries.ended and queries.take() == ["红裙", "番茄"] and queries.take() == []


def test_a_broken_line_ends_standard_input_and_costs_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("红裙\n{broken\n番茄\n"))
    queries = StreamQueries()
    queries.wait()
    assert queries.take() == ["红裙"]


def test_a_journal_and_the_pictures_of_its_items(tmp_path: Path) -> None:
    journal, pictures = Journal(tmp_path / "j.sqlite"), BlobStore(tmp_path / "images")
    inbox = Inbox(Journal(tmp_path / "j.sqlite"), pictures, None)
    assert list(inbox.opinions(0)) == [] and list(inbox.logged(0)) == []  # nobody has written yet
    digest = pictures.put(b"a picture")
    journal.open()
    journal.add_feedback(time.time(), "红裙", "sku-1", True, digest, "f")
    journal.add_feedback(time.time(), "红裙", "sku-2", False, None, "f")
    journal.add_queries([(1.0, "番茄", 3, "f"), (2.0, "红裙", 0, "f")], 100)
    said = list(inbox.opinions(0))
    assert [(one.query, one.item_id, one.relevant) for one in said] == [
        ("红裙", "sku-1", True), ("红裙", "sku-2", False),
    ]  # fmt: skip
    assert [one.item_id for one in inbox.opinions(said[0].id)] == ["sku-2"]
    assert [text for _, text in inbox.logged(0)] == ["番茄", "红裙"]
    assert not inbox.ended and inbox.queries() == []

    def remembered(image_sha256: str | None) -> Said:
        return Said(1, 1.0, "红裙", "红裙", "sku-1", True, image_sha256)

    assert inbox.picture_of(remembered(digest)) == b"a picture"
    assert inbox.picture_of(remembered("0" * 64)) is None and inbox.picture_of(remembered(None)) is None
    pictures.path(digest).write_bytes(b"damaged")
    assert inbox.picture_of(remembered(digest)) is None
    journal.close()


def test_nobody_to_listen_to() -> None:
    inbox = Inbox(None, None, None)
    assert inbox.ended and inbox.queries() == [] and list(inbox.opinions(0)) == []
    inbox.wait()
