"""The pictures in the report of online learning: movers, refusals, origins, thumbnails."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import pytest

from cnclip.online import report_parts
from cnclip.online.report_movers import moved
from cnclip.online.report_rounds import Fresh, Hit, to_round
from cnclip.online.report_thumbs import MAX_BYTES, Thumbs
from tests.cnclip.online.report_pages import page, part
from tests.cnclip.online.round_records import fresh, jpeg, mover, record, write_rounds
from tests.cnclip.training.test_report import Page


def test_movers_have_their_pictures_right_and_wrong_told_by_more_than_colour(tmp_path: Path) -> None:
    text = part(page(write_rounds(tmp_path, [record(0)])), "Queries that moved most")
    gained, lost = text.split("Lost most")
    assert "<h3>芒果<" in gained and "+30.00" in gained
    assert "<h3>苹果<" in lost and "−10.00" in lost and "not taught" in lost
    before, after = gained.split("First pictures after")
    assert re.findall('class="shot (right|wrong)"', before.split("First pictures before")[1]) == (
        ["wrong", "wrong", "right"]
    )
    assert re.findall('class="shot (right|wrong)".*?class="mark">(.)<', after) == (
        [("right", "✓"), ("wrong", "✗"), ("wrong", "✗")]
    )
    sha256 = fresh("芒果")["sha256"]
    data = (tmp_path / "online/thumbs" / f"{sha256}.jpg").read_bytes()
    assert base64.b64encode(data).decode("ascii") in gained.split("First pictures before")[0]


def test_a_query_is_followed_over_the_kept_rounds_only() -> None:
    rows = [
        record(0, movers=[mover("芒果", 0.1, 0.3)]),
        record(1, "rolled back", movers=[mover("芒果", 0.3, 0.9)], pictures=[fresh("芒果", 2)]),
        record(2, movers=[mover("芒果", 0.35, 0.5), mover("梨", 0.6, 0.5)], pictures=[fresh("芒果", 3)]),
    ]
    rounds = [to_round(row) for row in rows]
    found = moved([row for row in rounds if row.kept])
    assert [(item.text, item.ap, item.rounds) for item in found] == [
        ("芒果", (0.1, 0.5), (0, 2)),
        ("梨", (0.6, 0.5), (2,)),
    ]
    assert [picture.number for picture in found[0].pictures] == [1, 3]


def test_refusals_and_misses_are_counted_by_reason_and_shown(tmp_path: Path) -> None:
    rows = [record(0), record(1, "rolled back"), record(2, "skipped")]
    text = page(write_rounds(tmp_path, rows))
    found = re.findall('class="name">(.*?)</span>.*?class="amount">(.*?)</span>', text)
    assert found == [
        ("used, round kept", "2"),
        ("used, round rolled back", "2"),
        ("passed, round skipped", "2"),
        ("refused: near-duplicate", "3"),
        ("no picture: empty", "390"),
        ("no picture: timeout", "24"),
    ]
    assert "酸奶 (0.05)" in part(text, "Pictures used and refused")


def test_every_picture_has_its_origin_once(tmp_path: Path) -> None:
    rows = [
        record(n, pictures=[fresh("芒果"), fresh("牛奶", 2, "similarity", page_url="", source="")])
        for n in range(7)
    ]
    found = Page(part(page(write_rounds(tmp_path, rows)), "Where the pictures are from")).rows
    assert found[1:] == [
        ["", "芒果", "1", "used", "0.310", "practice-shop", "芒果 新款http://127.0.0.1/item?id=1",
         "2026-01-31T12:00:00Z", "0, 1, …, 6 (7)"],
        ["", "牛奶", "2", "similarity", "0.050", "practice-shop", "牛奶 新款", "2026-01-31T12:00:00Z",
         "0, 1, …, 6 (7)"],
    ]  # fmt: skip


def test_long_tables_are_bounded_and_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_parts, "MAX_ROWS", 3)
    run = write_rounds(tmp_path, [record(0, pictures=[fresh("q", n) for n in range(9)])])
    text = part(page(run), "Where the pictures are from")
    assert len(Page(text).rows) == 1 + 3
    assert "The first 3 are shown" in text
    assert "<summary>9 pictures</summary>" in text
    run = write_rounds(tmp_path, [record(n) for n in range(30)])
    text = part(page(run), "Rounds")
    assert [cells[0] for cells in Page(text).rows[1::2]] == ["27", "28", "29"]
    assert "<summary>The last 3 of 30 rounds</summary>" in text


def test_missing_pictures_cost_nothing_but_themselves(tmp_path: Path) -> None:
    text = page(write_rounds(tmp_path, [record(0)], thumbs=False))
    assert "<img" not in text
    cards, refused, listed = (1 + 3 + 3) + (3 + 3), 1, 3
    assert f"{cards + refused + listed} without a file" in text
    assert "芒果-2, right" in text


def test_a_thumbnail_is_a_small_jpeg_of_this_run(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "online" / "thumbs"
    folder.mkdir(parents=True)
    (tmp_path / "run" / "secret.jpg").write_bytes(jpeg(1))
    contents = {"a": jpeg(1), "b": b"<svg onload=x>", "c": jpeg(1) + b"\0" * MAX_BYTES, "d": b""}
    for letter, data in contents.items():
        (folder / f"{letter * 64}.jpg").write_bytes(data)
    (folder / f"{'e' * 64}.jpg").mkdir()

    def shown(sha256: str) -> bool:
        return "<img" in Thumbs(tmp_path / "run").fresh(Fresh("q", 1, "used", None, sha256, {}))

    assert [letter for letter in "abcdef" if shown(letter * 64)] == ["a"]
    assert not shown("../../secret")
    assert not shown("a" * 63 + "\n")


def test_thumbnails_are_bounded_and_the_rest_counted(tmp_path: Path) -> None:
    run = write_rounds(tmp_path, [record(0)])
    thumbs = Thumbs(run, limit=2)
    text = thumbs.hits([Hit("芒果-0", True)] * 5)
    assert (text.count("<img"), thumbs.left_out, thumbs.missing) == (2, 3, 0)
