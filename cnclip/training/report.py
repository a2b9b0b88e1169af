"""The report at the end of a run: was it worth it, where did the time go, with what settings."""

from __future__ import annotations

import logging
import time
from pathlib import Path

from cnclip import __version__
from cnclip.model.atomic import replacing
from cnclip.training.curves import draw_curves
from cnclip.training.history import History, Scores, read_history
from cnclip.training.report_page import (
    Tile,
    Verdict,
    bullets,
    facts,
    page,
    percent,
    picture,
    points,
    scores_table,
    section,
    share_bar,
    tiles,
    tone,
)
from cnclip.training.report_style import DARK, LIGHT
from cnclip.training.sinks import INSTALL

logger = logging.getLogger(__name__)

_HARDWARE = {
    "accelerators": "Accelerators",
    "processor": "Processor",
    "cores": "Processor cores",
    "memory_gib": "Memory, GiB",
    "processes": "Training processes",
    "threads": "Threads per process",
    "system": "System",
    "torch": "PyTorch",
    "python": "Python",
}


def write_report(folder: Path) -> Path:
    """Write `folder`/curves.png and `folder`/report.html from metrics.jsonl and the newest params file.

    The page is one file that loads nothing. Where matplotlib is missing it has no curves; where nothing was
    recorded, or nothing readable, it says so. Returns the page's path.

    Raises: InputError if the files cannot be written.
    """
    history = read_history(folder)
    curves = _curves(history, folder / "curves.png") if history.train or history.valid else ""
    path = folder / "report.html"
    with replacing(path) as temporary:
        temporary.write_text(training_page(history, curves), encoding="utf-8")
    logger.info("report: %s", path)
    return path


def verdict(start: Scores | None, best: Scores | None, end: Scores | None) -> Verdict:
    """Better or worse than the start, by mean recall from text to image over the full gallery."""
    before = start.get("mean_recall") if start else None
    after = end.get("mean_recall") if end else None
    if end is None or after is None:
        return Verdict("neutral", "No verdict", "Nothing was measured on a validation split after the start.")
    if before is None:
        found = f"Mean recall from text to image is {percent(after)} % at step {end.step}."
        return Verdict("neutral", "No verdict", f"{found} The start was not measured.")
    change = f"from {percent(before)} % to {percent(after)} % ({points(before, after)} points)"
    sentence = f"Mean recall from text to image went {change} by step {end.step}."
    if best is not None and tone(after, best.get("mean_recall")) == "good":
        where = "before the first step" if best.step == 0 else f"at step {best.step}"
        sentence += f" The best, {percent(best.get('mean_recall'))} %, was {where}."
    headline = {
        "good": "Better than the start",
        "bad": "Worse than the start",
        "neutral": "Same as the start",
    }
    mood = tone(before, after)
    if after != before and end.n_queries and abs(after - before) <= 1 / end.n_queries:
        return Verdict("neutral", "About as good as the start", f"{sentence} A single text decides as much.")
    return Verdict(mood, headline[mood], sentence)


def training_page(history: History, curves: str = "") -> str:
    """The report of a run as one HTML document. curves: HTML of the picture."""
    start, best, end = history.start, history.best, history.end
    sections = []
    if history.train or history.valid:
        sections.append(tiles(_tiles(history)))
    if history.valid:
        table = scores_table({"Start": start, "Best": best, "End": end}, ("Start", "End"))
        sections.append(section("Before and after", table, _scope(end or best or history.valid[-1])))
    if curves:
        sections.append(section("Curves", curves))
    split = share_bar(history.step_times(), "s")
    if split:
        sections.append(
            section("Time of a step", split, "Mean seconds per optimizer step, without validation.")
        )
    remarks = [f"Step {step}: {note}" for step, note in history.notes]
    remarks += [f"Resumed after step {step}." for step in history.starts[1:]] + history.problems
    if remarks:
        sections.append(section("Notes and warnings", bullets(remarks)))
    if history.settings:
        sections.append(section("Settings", facts(history.settings)))
    hardware = [
        (label, _words(history.hardware[name]))
        for name, label in _HARDWARE.items()
        if name in history.hardware
    ]
    if hardware:
        sections.append(section("Hardware", facts(hardware)))
    made = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    outcome = verdict(start, best, end)
    if not history.train and not history.valid:
        outcome = Verdict(
            "neutral", "Nothing to report", "No step and no validation of this run was recorded."
        )
    footer = f"cnclip {__version__}, {made}"
    return page(
        title=history.name,
        kicker="Fine-tuning report",
        byline=_byline(history),
        verdict=outcome,
        sections=sections,
        footer=footer,
    )


def _curves(history: History, path: Path) -> str:
    """Draw them to `path`; HTML of the picture, empty without matplotlib."""
    try:
        light, dark = draw_curves(history, LIGHT), draw_curves(history, DARK)
    except ImportError:
        logger.info("no curves are drawn (to have them: %s)", INSTALL.format("train"))
        return ""
    with replacing(path) as temporary:
        temporary.write_bytes(light)
    return picture(
        light, dark, "Recall, loss, in-batch accuracy, learning rate, speed and step time over the steps"
    )


def _tiles(history: History) -> list[Tile]:
    found = []
    start, end = history.start, history.end
    for label, metric, direction in (
        ("Mean recall, text to image", "mean_recall", "text_to_image"),
        ("R@1, text to image", "R@1", "text_to_image"),
        ("Mean recall, image to text", "mean_recall", "image_to_text"),
    ):
        before = start.get(metric, direction) if start else None
        after = end.get(metric, direction) if end else None
        if after is not None:
            remark = "" if before is None else f"{points(before, after)} points since the start"
            found.append(Tile(label, f"{percent(after)} %", remark, tone(before, after)))
    speed, memory = history.typical("samples_per_s"), history.typical("peak_memory_mib")
    if speed is not None:
        remark = "" if memory is None else f"peak memory {memory / 1024:.1f} GiB"
        found.append(Tile("Samples per second", f"{speed:,.0f}" if speed >= 10 else f"{speed:.2f}", remark))
    return found


def _scope(scores: Scores) -> str:
    """What the table's numbers are over, and how fine they can be."""
    if not scores.n_queries or not scores.n_gallery:
        return "Over the full gallery of the validation split, in percent."
    step = 100 / scores.n_queries
    return (
        f"Over the full gallery: {scores.n_queries:,} texts, {scores.n_gallery:,} pictures, in percent. "
        f"One text is worth {step:.2g} points of R@k from text to image."
    )


def _byline(history: History) -> str:
    parts = [f"{history.steps:,} steps"]
    epochs = [value for _, value in history.column("epoch")]
    if epochs:
        parts.append(f"epoch {max(epochs):.0f}")
    if history.seconds:
        parts.append(duration(history.seconds))
    return " · ".join(parts)


def duration(seconds: float) -> str:
    """In hours, minutes and seconds, the two that matter."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def _words(value: object) -> object:
    """A list as its different items, counted; an empty one as none."""
    if not isinstance(value, list):
        return value
    names = [str(item) for item in value]
    counted = (
        f"{names.count(name)} × {name}" if names.count(name) > 1 else name for name in dict.fromkeys(names)
    )
    return ", ".join(counted) or "none"
