"""The report of online learning: whether to keep the model and why, for people and for programs."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Any

from cnclip import __version__
from cnclip.model.atomic import replacing
from cnclip.online.report_curves import draw_rounds
from cnclip.online.report_html import HTML_STYLE, details
from cnclip.online.report_movers import MOVERS_STYLE, movers_section
from cnclip.online.report_parts import (
    pictures_section,
    provenance_section,
    rounds_section,
    scores_section,
    tiles_section,
)
from cnclip.online.report_rounds import Log, read_rounds
from cnclip.online.report_summary import Summary, summarize
from cnclip.online.report_thumbs import THUMBS_STYLE, Thumbs
from cnclip.online.report_verdict import verdict
from cnclip.training.history import read_history
from cnclip.training.report import duration
from cnclip.training.report_page import bullets, facts, page, picture, section, share_bar
from cnclip.training.report_style import DARK, LIGHT
from cnclip.training.sinks import INSTALL

logger = logging.getLogger(__name__)

SCHEMA_VERSION = 1
_STAGES_SHOWN = 5  # as many as there are colours for


def write_online_report(run: Path) -> Path:
    """Write `run`/online_report.json, online_report.html and, where matplotlib is there, online_curves.png
    from online/rounds.jsonl, its thumbnails and the newest params file.

    The page is one file that loads nothing. Where nothing was recorded, or nothing readable, it says so.
    online_report.json is `{"schema_version", "cnclip", "made_at", "run", "verdict": {"tone", "headline",
    "sentence"}, "summary", "torn_lines", "replaced_records", "problems", "rounds"}`; "summary" is what
    `Summary.as_json` says, "rounds" are the records as they were written. Returns the page's path.

    Raises: InputError if the files cannot be written.
    """
    log = read_rounds(run)
    summary = summarize(log)
    with replacing(run / "online_report.json") as temporary:
        temporary.write_bytes(_json(log, summary))
    curves = _curves(log, run / "online_curves.png") if log.rounds else ""
    path = run / "online_report.html"
    with replacing(path) as temporary:
        temporary.write_text(online_page(run, log, summary, curves), encoding="utf-8")
    logger.info("report: %s", path)
    return path


def online_page(run: Path, log: Log, summary: Summary, curves: str = "") -> str:
    """The report as one HTML document. curves: HTML of the picture."""
    thumbs, sections = Thumbs(run), []
    if log.rounds:
        sections += [tiles_section(summary), scores_section(summary)]
        sections.append(
            section("Over the rounds", f'<div class="chart scroll">{curves}</div>') if curves else ""
        )
        sections.append(movers_section(log.rounds, thumbs))
        sections.append(rounds_section(log.rounds, summary.metric))
        sections.append(pictures_section(log.rounds, summary, thumbs))
        sections.append(provenance_section(log.rounds, thumbs))
        spent = share_bar(_stages(summary.seconds), "s")
        sections.append(section("Time of all rounds", spent) if spent else "")
    if log.replaced or log.problems:
        noun = "round was" if log.replaced == 1 else "rounds were"
        again = [f"{log.replaced:,} {noun} done again after a resume; the later ones count."]
        sections.append(section("Notes and warnings", bullets(again * bool(log.replaced) + log.problems)))
    settings = read_history(run).settings
    if settings:
        settings.sort(key=lambda item: not item[0].startswith("online"))
        sections.append(section("Settings", details(f"{len(settings):,} settings", facts(settings))))
    made = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    return page(
        title=log.name,
        kicker="Online learning report",
        byline=_byline(log, summary),
        verdict=verdict(summary),
        sections=sections,
        footer=f"cnclip {__version__}, {made}",
        style=HTML_STYLE + THUMBS_STYLE + MOVERS_STYLE,
    )


def _json(log: Log, summary: Summary) -> bytes:
    said = verdict(summary)
    content: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "cnclip": __version__,
        "made_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "run": log.name,
        "verdict": {"tone": said.tone, "headline": said.headline, "sentence": said.sentence},
        "summary": summary.as_json(),
        "torn_lines": log.torn,
        "replaced_records": log.replaced,
        "problems": log.problems,
        "rounds": [row.raw for row in log.rounds],
    }
    # Half surrogate pairs (file names that are not UTF-8) become what JSON writes for them.
    return json.dumps(content, ensure_ascii=False, indent=1).encode("utf-8", "backslashreplace") + b"\n"


def _curves(log: Log, path: Path) -> str:
    """Draw them to `path`; HTML of the picture, empty without matplotlib."""
    try:
        light, dark = draw_rounds(log, LIGHT), draw_rounds(log, DARK)
    except ImportError:
        logger.info("no curves are drawn (to have them: %s)", INSTALL.format("train"))
        return ""
    with replacing(path) as temporary:
        temporary.write_bytes(light)
    return picture(light, dark, "Each group's metric before and after, pairs and seconds over the rounds")


def _stages(seconds: dict[str, float]) -> dict[str, float]:
    """The stages, those beyond what can be shown as one."""
    if len(seconds) <= _STAGES_SHOWN:
        return seconds
    names = list(seconds)
    shown = {name: seconds[name] for name in names[: _STAGES_SHOWN - 1]}
    return shown | {"other": sum(seconds[name] for name in names[_STAGES_SHOWN - 1 :])}


def _byline(log: Log, summary: Summary) -> str:
    if not log.rounds:
        return ""
    parts = [f"{summary.rounds:,} {'round' if summary.rounds == 1 else 'rounds'}"]
    steps = sorted({row.step for row in log.rounds if row.step is not None})
    if any(steps):
        first, last = steps[0], steps[-1]
        parts.append(f"step {last:,}" if first == last else f"steps {first:,} to {last:,}")
    parts += list(dict.fromkeys(filter(None, (row.text("source") for row in log.rounds))))[:3]
    spent = sum(summary.seconds.values())
    return " · ".join([*parts, duration(spent)] if spent else parts)
