"""The page of online learning: what it shows, that it loads nothing, hostile texts, missing pictures."""

from __future__ import annotations

import base64
import html
import json
import logging
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cnclip.errors import InputError
from cnclip.online.report import write_online_report
from cnclip.online.report_rounds import read_rounds
from cnclip.online.report_summary import summarize
from cnclip.training.records import write_params
from tests.cnclip.online.report_pages import Balance, page, part
from tests.cnclip.online.round_records import fresh, mover, record, write_rounds
from tests.cnclip.training.test_report import HOSTILE, Page


def test_the_page_loads_nothing_and_shows_what_online_curves_png_shows(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    run = write_rounds(tmp_path, [record(0), record(1, "rolled back")])
    assert write_online_report(run) == run / "online_report.html"
    text = (run / "online_report.html").read_text(encoding="utf-8")
    parsed = Page(text)
    links = [value for name, value in parsed.attributes if name in ("src", "srcset", "action", "background")]
    assert all(re.match("data:image/(png|jpeg);base64,", link) for link in links)
    pictures = [base64.b64decode(link.partition(",")[2]) for link in links]
    assert (run / "online_curves.png").read_bytes() in pictures
    assert {"script", "link", "iframe", "a", "form", "object"}.isdisjoint(parsed.tags)
    assert "href" not in {name for name, _ in parsed.attributes}
    assert "@import" not in text
    assert "url(" not in text
    assert "default-src 'none'" in html.unescape(text)
    names = sorted(path.name for path in run.iterdir())
    assert names == ["online", "online_curves.png", "online_report.html", "online_report.json"]


def test_the_verdict_comes_first_and_the_tables_hold_the_numbers(tmp_path: Path) -> None:
    text = page(write_rounds(tmp_path, [record(0), record(1, taught=(0.3, 0.45))]))
    first = text.split("<section")[1]
    assert first.startswith(' class="verdict good">')
    assert "2 of 2 rounds were kept" in first
    rows = Page(part(text, "Before and after")).rows
    assert rows[:2] == [
        ["", "Start (round 0)", "End (round 1)", "Change"],
        ["mAP", "20.00", "45.00", "+25.00"],
    ]
    titles = re.findall("<h3>(.*?)</h3>", part(text, "Before and after"))
    assert titles == ["Taught queries", "Other queries", "All queries", "All pictures", "Canary"]
    tiles = re.findall('class="value">(.*?)</p>', text)
    assert tiles == ["2 of 2", "45.00 %", "79.90 %", "89.90 %", "4"]


def test_the_rounds_say_what_was_decided_and_why(tmp_path: Path) -> None:
    rows = [
        record(0),
        record(1, "rolled back", canary=(0.899, 0.8), why="the canary fell"),
        record(2, "skipped"),
    ]
    found = Page(part(page(write_rounds(tmp_path, rows)), "Rounds")).rows
    assert found[3:] == [
        ["1", "50", "↺ rolled back", "2", *("20.00 → 30.00", "80.00 → 79.90", "60.00 → 62.00"),
         "89.90 → 80.00", "14.8"],
        ["the canary fell"],
        ["2", "100", "– skipped", "0", "20.00", "80.00", "60.00", "90.00", "6.8"],
        ["reason of round 2"],
    ]  # fmt: skip


def test_where_nothing_was_kept_the_page_says_what_would_have_been(tmp_path: Path) -> None:
    text = page(write_rounds(tmp_path, [record(0, "rolled back")]))
    assert "None of this is in the model." in part(
        text, "What the last round that was rolled back would have done"
    )
    assert "Nothing was kept" in text.split("<section")[1]
    assert text.count("as before: no round was kept") == 3
    assert "by the kept rounds" not in text


def test_every_text_is_escaped_and_no_address_can_be_clicked(tmp_path: Path) -> None:
    origin = dict.fromkeys(("source", "title", "page_url", "fetched_at"), HOSTILE)
    pictures = [
        fresh(HOSTILE, 1, **origin),
        fresh(HOSTILE, 2, HOSTILE),
        fresh("q", page_url="javascript:alert(1)"),
    ]
    row = record(0, pictures=pictures, source=HOSTILE, why=HOSTILE, movers=[mover(HOSTILE, 0.1, 0.2)])
    row["queries"]["missed"] = {HOSTILE: 1}
    row["seconds"] = {HOSTILE: 1.0}
    row["decision"] = "kept"
    odd = record(1, HOSTILE)
    run = write_rounds(tmp_path, [row, odd])
    write_params(run, {"online_lr": HOSTILE})
    text = page(run)
    parsed = Page(text)
    assert "script" not in parsed.tags
    assert not [name for name, _ in parsed.attributes if name.startswith("on") or name == "href"]
    assert "\u202e" not in text
    assert text.count("&lt;script&gt;alert(&#x27;商品&#x27;)") >= 14
    assert "javascript:alert(1)" in text  # as text
    text.encode("utf-8")


def test_an_unlabelled_run_shows_the_canary(tmp_path: Path) -> None:
    row = record(0, labelled=None, taught=None, others=None, movers=[])
    text = page(write_rounds(tmp_path, [row]))
    assert "the gain is not measured" in text.split("<section")[1]
    assert re.findall("<h3>(.*?)</h3>", part(text, "Before and after")) == ["Canary"]
    assert "Queries that moved most" not in text
    assert "Taught" not in text.split("<section")[1]


def test_a_skipped_round_may_have_measured_nothing(tmp_path: Path) -> None:
    """Without a step there is nothing to measure."""
    row = record(0, "skipped", labelled=None, taught=None, others=None, canary=None)
    text = page(write_rounds(tmp_path, [row]))
    assert "Nothing was learned" in text
    assert "Before and after" not in text


@pytest.mark.parametrize("content", [None, b"", b"\n\n", b"\x00\xff{", b'{"round": 1', b"[[[[" * 9000])
def test_nothing_readable_makes_a_short_report(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "online").mkdir()
        (tmp_path / "online/rounds.jsonl").write_bytes(content)
    text = write_online_report(tmp_path).read_text(encoding="utf-8")
    assert "Nothing to report" in text
    assert Balance(text).open == []
    told = content is None or content.strip() != b""
    assert ("could not be read" in text or "cannot be read" in text) == told
    assert json.loads((tmp_path / "online_report.json").read_text(encoding="utf-8"))["rounds"] == []
    assert not (tmp_path / "online_curves.png").exists()


def test_resumes_torn_lines_and_settings_are_told(tmp_path: Path) -> None:
    run = write_rounds(tmp_path, [record(0), record(1), record(1, "rolled back")])
    with (run / "online/rounds.jsonl").open("ab") as file:
        file.write(b'{"round": 2, "deci')
    write_params(run, {"lr": 5e-5, "online_lr": 1e-4})
    text = page(run)
    notes = part(text, "Notes and warnings")
    assert "1 round was done again after a resume; the later ones count." in notes
    assert "rounds.jsonl: 1 line could not be read" in notes
    assert re.findall("<dt>(.*?)</dt><dd>(.*?)</dd>", part(text, "Settings")) == (
        [("online_lr", "0.0001"), ("lr", "5e-05")]
    )
    assert "2 rounds · steps 0 to 50 · practice-shop · 0 min 30 s" in text


def test_without_matplotlib_there_is_a_page_and_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    caplog.set_level(logging.INFO)
    text = write_online_report(write_rounds(tmp_path, [record(0)])).read_text(encoding="utf-8")
    assert "Over the rounds" not in text
    assert "Before and after" in text
    assert [message for message in caplog.messages if ".[train]" in message] == [
        "no curves are drawn (to have them: pip install -c constraints.txt -e '.[train]')"
    ]


def test_a_report_that_cannot_be_written_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "online_report.html").mkdir()
    with pytest.raises(InputError, match=r"online_report\.html: cannot be written"):
        write_online_report(tmp_path)
    assert not list(tmp_path.glob(".*"))


NAMES = (
    "before after mAP n_queries text_to_image pairs fetch missed asked query outcome sha256 origin AP text"
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from([*NAMES.split(), "top_before", "image_id", "similarity"]), inner, max_size=4
        )
    ),
    max_leaves=10,
)
FIELDS = st.fixed_dictionaries(
    {"round": st.integers(0, 4), "decision": st.sampled_from(["kept", "rolled back", "skipped", "?"])},
    optional=dict.fromkeys(record(0).keys() - {"round", "decision"}, VALUES),
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(FIELDS, max_size=5))
def test_no_record_breaks_the_page(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    (tmp_path / "online").mkdir(exist_ok=True)
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "online/rounds.jsonl").write_text(lines)
    text = page(tmp_path)
    text.encode("utf-8")
    log = read_rounds(tmp_path)
    json.dumps(summarize(log).as_json(), allow_nan=False)
