"""The journal as a file: another process reads it while it is written; damage is one line."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from service import journal as module
from service.journal import Journal, JournalError

ROOT = Path(__file__).resolve().parents[2]
FINGERPRINT = "f" * 64


def add(journal: Journal, number: int) -> int:
    return journal.add_feedback(
        float(number), f"查询{number}", f"i{number}", number % 2 == 0, None, FINGERPRINT
    )


def test_nothing_is_there_before_it_is_made(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.sqlite")
    assert list(journal.feedback()) == list(journal.queries()) == journal.recent_queries(3) == []
    assert not journal.path.exists()
    journal.path.touch()  # by somebody who is about to make it
    assert list(journal.feedback()) == []
    with pytest.raises(JournalError, match="closed"):
        add(journal, 1)
    journal.open()
    assert add(journal, 1) == 1
    journal.close()
    journal.close()
    with pytest.raises(JournalError, match="closed"):
        add(journal, 2)
    assert [one.query for one in journal.feedback()] == ["查询1"]
    again = Journal(tmp_path / "journal.sqlite").open()
    assert add(again, 2) == 2
    again.close()


def test_ids_are_not_used_again(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.sqlite").open()
    journal.add_queries([(1.0, "a", 3, FINGERPRINT), (2.0, "b", 0, FINGERPRINT)], keep=10)
    with sqlite3.connect(journal.path) as connection:
        connection.execute("DELETE FROM queries")
    connection.close()
    journal.add_queries([(3.0, "c", 1, FINGERPRINT)], keep=10)
    assert [(one.id, one.time, one.text, one.results) for one in journal.queries()] == [(3, 3.0, "c", 1)]
    journal.close()


def test_long_journals_are_read_in_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PAGE", 4)
    journal = Journal(tmp_path / "journal.sqlite").open()
    for number in range(1, 11):
        add(journal, number)
    reading = journal.feedback(since=1)
    first = [next(reading) for _ in range(5)]
    assert add(journal, 11) == 11  # a reader that dawdles sees it, too
    assert [one.id for one in [*first, *reading]] == list(range(2, 12))
    journal.close()


READER = """
import sys
from service.journal import Journal
journal = Journal(sys.argv[1])
last = 0
for line in sys.stdin:
    for feedback in journal.feedback(since=last):
        last = feedback.id
        print(feedback.id, feedback.query, feedback.relevant, flush=True)
    print("-", flush=True)
"""


def test_another_process_reads_while_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    command = [sys.executable, "-c", READER, str(path)]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
    ) as reader:
        assert reader.stdin is not None and reader.stdout is not None

        def read() -> list[str]:
            assert reader.stdin is not None and reader.stdout is not None
            reader.stdin.write("\n")
            reader.stdin.flush()
            lines = []
            while (line := reader.stdout.readline().strip()) != "-":
                assert line
                lines.append(line)
            return lines

        assert read() == []
        journal = Journal(path).open()
        assert read() == []
        add(journal, 1)
        add(journal, 2)
        assert read() == ["1 查询1 False", "2 查询2 True"]
        assert read() == []
        add(journal, 3)
        assert read() == ["3 查询3 False"]
        journal.close()
        assert read() == []
        reader.stdin.close()
    assert reader.returncode == 0


def test_many_threads_write(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.sqlite").open()
    ids: list[int] = []

    def work(start: int) -> None:
        for number in range(start, start + 10):
            ids.append(add(journal, number))
            journal.add_queries([(1.0, f"q{number}", 0, FINGERPRINT)], keep=25)

    threads = [threading.Thread(target=work, args=(100 * i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(ids) == list(range(1, 41)) == [one.id for one in journal.feedback()]
    assert [one.id for one in journal.queries()] == list(range(16, 41))
    journal.close()


def test_damage_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    path.write_bytes(b"not a database at all" * 100)
    for use in (lambda: Journal(path).open(), lambda: list(Journal(path).feedback())):
        with pytest.raises(JournalError, match=r"journal\.sqlite: file is not a database") as raised:
            use()
        assert "\n" not in str(raised.value)
    path.unlink()
    Journal(path).open().close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE meta SET value = 99")
    connection.close()
    for use in (lambda: Journal(path).open(), lambda: list(Journal(path).feedback())):
        with pytest.raises(JournalError, match="newer version"):
            use()
    with pytest.raises(JournalError, match="nowhere"):
        Journal(tmp_path / "nowhere" / "journal.sqlite").open()


def test_a_copy_on_a_disk_that_cannot_be_written_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(tmp_path / "journal.sqlite").open()
    add(journal, 1)
    journal.close()
    connect = Journal._connect

    def no_log(self: Journal, mode: str) -> sqlite3.Connection:
        if mode == "ro":
            raise sqlite3.OperationalError("unable to open database file")
        return connect(self, mode)

    monkeypatch.setattr(Journal, "_connect", no_log)
    assert [one.query for one in journal.feedback()] == ["查询1"]
