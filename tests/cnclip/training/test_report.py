"""The report of a run: its numbers against the rows they come from, hostile texts, broken records."""

from __future__ import annotations

import base64
import html
import json
import logging
import re
import sys
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cnclip.training.history import Scores, read_history
from cnclip.training.records import Records, write_params
from cnclip.training.report import training_page, verdict, write_report
from cnclip.training.report_page import percent, points, share_bar

HOSTILE = "<script>alert('商品')</script>\" onload=x\n\u202e&amp;"
NAMES = ("R@1", "R@5", "R@10", "mean_recall", "mAP", "MRR", "P@10")


class Page(HTMLParser):
    """Tags, attributes and the text of the table cells of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.rows: list[list[str]] = []
        self._in_cell = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self._in_cell = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._in_cell = False

    def handle_data(self, data: str) -> None:
        if self._in_cell:
            self.rows[-1][-1] += data


def result(base: float) -> dict[str, Any]:
    """Every metric a different number, image to text a tenth above text to image."""
    numbers = {name: base + index / 100 for index, name in enumerate(NAMES)}
    other = {name: value + 0.1 for name, value in numbers.items()}
    return {
        "text_to_image": numbers,
        "image_to_text": other,
        "n_queries": 141,
        "n_gallery": 812,
        "in_batch": {"loss": base},
    }


def write_run(folder: Path, bases: Mapping[int, float], **changes: object) -> Path:
    """A run with a validation of each step of `bases`."""
    write_params(folder, {"lr": 5e-5, "model": "lite", **changes})
    with Records(folder, settings={}, tensorboard=False) as records:
        for step, base in bases.items():
            if step > 0:
                times = {
                    "data_s": 0.1,
                    "forward_s": 0.3,
                    "gather_s": 0.0,
                    "backward_s": 0.5,
                    "optimizer_s": 0.1,
                }
                health = {"i2t_acc": 0.5, "t2i_acc": 0.25, "samples_per_s": 64.0, "peak_memory_mib": 2048.0}
                records.train(step, 1 + step // 100, {"loss": 1 / step, "lr": 5e-8, **times, **health})
            records.valid(step, 1 + step // 100, result(base))
        records.note(200, "below its starting point")
    return folder


@pytest.fixture
def no_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)


@pytest.mark.usefixtures("no_matplotlib")
def test_the_table_holds_the_numbers_of_start_best_and_end(tmp_path: Path) -> None:
    page = Page(write_report(write_run(tmp_path, {0: 0.3, 100: 0.5, 200: 0.45})).read_text(encoding="utf-8"))
    labels = {"R@1": "R@1", "R@5": "R@5", "R@10": "R@10", "mean_recall": "Mean recall", "mAP": "mAP"}
    expected = [["", "Start (step 0)", "Best (step 100)", "End (step 200)", "Change"]]
    for title, shift in (("Text to image", 0.0), ("Image to text", 0.1)):
        expected.append([title])
        for name, label in labels.items():
            values = [100 * (base + NAMES.index(name) / 100 + shift) for base in (0.3, 0.5, 0.45)]
            expected.append([label, *(f"{value:.2f}" for value in values), "+15.00"])
    assert page.rows == expected


def test_the_page_loads_nothing_and_shows_what_curves_png_shows(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    text = write_report(write_run(tmp_path, {0: 0.3, 100: 0.5})).read_text(encoding="utf-8")
    page = Page(text)
    links = [value for name, value in page.attributes if name in ("src", "href", "srcset", "action")]
    assert len(links) == 2
    assert all(link.startswith("data:image/png;base64,") for link in links)
    light = (tmp_path / "curves.png").read_bytes()
    assert base64.b64decode(links[1].partition(",")[2]) == light
    assert {"script", "link", "iframe"}.isdisjoint(page.tags)
    assert "@import" not in text
    assert "url(" not in text
    assert "default-src 'none'" in html.unescape(text)
    assert "prefers-color-scheme: dark" in text
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".html", ".jsonl", ".png", ".txt"]


@pytest.mark.usefixtures("no_matplotlib")
def test_settings_notes_hardware_and_times_are_told(tmp_path: Path) -> None:
    run = write_run(tmp_path / "商品", {0: 0.3, 200: 0.2}, batch_size=128)
    text = html.unescape(write_report(run).read_text(encoding="utf-8"))
    for told in (
        *("<h1>商品</h1>", "Worse than the start", "from 33.00 % to 23.00 % (−10.00 points)"),
        *(
            "<dt>batch_size</dt><dd>128</dd>",
            "<dt>lr</dt><dd>5e-05</dd>",
            "Processor cores",
            "peak memory 2.0 GiB",
        ),
        *("Step 200: below its starting point", "backward<b>0.500 s</b><em>50 %</em>", "200 steps · epoch 3"),
        *("141 texts, 812 pictures", "One text is worth 0.71 points"),
    ):
        assert told in text, told
    assert "resumed" not in text.lower()
    assert [scores.loss for scores in read_history(run).valid] == [0.3, 0.2]


@pytest.mark.usefixtures("no_matplotlib")
def test_every_text_is_escaped(tmp_path: Path) -> None:
    rows = [
        {"kind": "start", "step": 0, "hardware": {"processor": HOSTILE, "accelerators": [HOSTILE, HOSTILE]}},
        {"kind": "valid", "step": 0, "result": {**result(0.3), "model": HOSTILE}},
        {"kind": "note", "step": 1, "text": HOSTILE + "\ud800"},
    ]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "params_x.txt").write_text(f"{HOSTILE}\na: {HOSTILE}", encoding="utf-8")
    history = read_history(tmp_path)
    history.name = HOSTILE
    text = training_page(history)
    page = Page(text)
    assert "script" not in page.tags
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert "\u202e" not in text
    assert text.count("&lt;script&gt;alert(&#x27;商品&#x27;)") >= 5
    text.encode("utf-8")


def scores(step: int, recall: float | None, queries: int | None = None) -> Scores:
    return Scores(step, {} if recall is None else {"text_to_image": {"mean_recall": recall}}, queries)


@pytest.mark.parametrize(
    ("start", "best", "end", "headline", "part"),
    [
        (
            scores(0, 0.4),
            scores(9, 0.5),
            scores(9, 0.5),
            "Better than the start",
            "from 40.00 % to 50.00 % (+10.00",
        ),
        (
            scores(0, 0.4),
            scores(5, 0.6),
            scores(9, 0.5),
            "Better than the start",
            "best, 60.00 %, was at step 5",
        ),
        (scores(0, 0.4), scores(0, 0.4), scores(9, 0.3), "Worse than the start", "was before the first step"),
        (scores(0, 0.4), scores(0, 0.4), scores(9, 0.4), "Same as the start", "(+0.00 points)"),
        (scores(0, 0.4), scores(0, 0.4), scores(9, 0.391, 100), "About as good as the start", "single text"),
        (scores(0, 0.4), scores(0, 0.4), scores(9, 0.389, 100), "Worse than the start", "(−1.10 points)"),
        (None, scores(9, 0.5), scores(9, 0.5), "No verdict", "The start was not measured"),
        (scores(0, 0.4), scores(0, 0.4), None, "No verdict", "Nothing was measured"),
        (scores(0, 0.4), scores(0, 0.4), scores(9, None), "No verdict", "Nothing was measured"),
        (None, None, None, "No verdict", "Nothing was measured"),
    ],
)
def test_the_verdict(
    start: Scores | None, best: Scores | None, end: Scores | None, headline: str, part: str
) -> None:
    said = verdict(start, best, end)
    assert said.headline == headline
    assert part in said.sentence
    assert said.tone == {"B": "good", "W": "bad"}.get(headline[0], "neutral")


def test_percent_and_points() -> None:
    assert [percent(0.12345), percent(None)] == ["12.35", "–"]
    assert [points(0.5, 0.25), points(0.25, 0.5), points(None, 1)] == ["−25.00", "+25.00", "–"]
    assert share_bar({"data": 0.0}, "s") == ""


def test_a_resumed_run_says_so_and_its_pause_does_not_count(tmp_path: Path) -> None:
    rows = [
        *(
            {"kind": "start", "step": 0, "time": 100.0},
            {"kind": "train", "step": 5, "time": 160.0, "loss": 1.0},
        ),
        *(
            {"kind": "start", "step": 5, "time": 9000.0},
            {"kind": "train", "step": 9, "time": 9030.5, "loss": 1.0},
        ),
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    history = read_history(tmp_path)
    assert (history.seconds, history.starts, history.steps) == (90.5, [0, 5], 9)
    text = training_page(history)
    assert "Resumed after step 5." in text
    assert "9 steps · 1 min 30 s" in text


@pytest.mark.parametrize("content", [None, b"", b"\n\n", b"\x00\xff{", b'{"kind": "train"', b"[[[[" * 9000])
def test_nothing_readable_makes_a_short_report(
    tmp_path: Path, content: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    if content is not None:
        (tmp_path / "metrics.jsonl").write_bytes(content)
    text = write_report(tmp_path).read_text(encoding="utf-8")
    assert "Nothing to report" in text
    assert ("could not be read" in text or "cannot be read" in text) == (
        content is None or content.strip() != b""
    )
    assert not (tmp_path / "curves.png").exists()
    assert "Traceback" not in caplog.text


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*NAMES, "loss", "x"]), inner, max_size=4)
    ),
    max_leaves=8,
)
FIELDS = st.fixed_dictionaries(
    {"kind": st.sampled_from(["start", "train", "valid", "note", "other"]), "step": st.integers(-1, 2**60)},
    optional={
        **dict.fromkeys(("hardware", "text", "loss", "lr", "time", "epoch", "samples_per_s"), VALUES),
        **dict.fromkeys(("data_s", "backward_s", "peak_memory_mib"), VALUES),
        "result": VALUES
        | st.fixed_dictionaries(
            {"text_to_image": VALUES, "image_to_text": VALUES, "n_queries": VALUES, "in_batch": VALUES}
        ),
    },
)


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(FIELDS, max_size=6))
def test_no_record_breaks_the_page(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = training_page(read_history(tmp_path))
    text.encode("utf-8")
    assert "</html>" in text
    assert not re.search(
        r"\bnan\b|\binf\b", re.sub(r"<style>.*</style>", "", text, flags=re.S).split("<section")[1]
    )


@pytest.mark.usefixtures("no_matplotlib")
def test_without_matplotlib_there_is_a_page_and_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    text = write_report(write_run(tmp_path, {0: 0.3, 100: 0.5})).read_text(encoding="utf-8")
    assert "<img" not in text
    assert "Before and after" in text
    assert [message for message in caplog.messages if ".[train]" in message] == [
        "no curves are drawn (to have them: pip install -c constraints.txt -e '.[train]')"
    ]
