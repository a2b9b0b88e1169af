"""The sections of the report of online learning: scores, rounds, pictures and where they are from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from cnclip.online.report_html import Cell, Count, Note, count_bars, counted_rounds, details, reasons, table
from cnclip.online.report_rounds import KEPT, ROLLED_BACK, SKIPPED, USED, Fresh, Round
from cnclip.online.report_summary import Change, Summary
from cnclip.online.report_thumbs import Thumbs
from cnclip.online.report_verdict import LABELS, allowed
from cnclip.online.verdict import allowance
from cnclip.training.report_page import Tile, Tone, percent, points, section, text, tiles, tone

MAX_ROWS = 1000  # of a table; the JSON file has them all
MAX_ROUNDS = 24  # that are shown without being asked for
_SHOWN_REFUSED, _SHOWN_REASONS = 8, 8

_METRICS = {
    **{"mAP": "mAP", "R@1": "R@1", "R@5": "R@5", "R@10": "R@10", "mean_recall": "Mean recall"},
    "P@10": "P@10",
}
_MEANING = {
    "taught": "that got a picture in the round",
    "others": "that got none",
    "labelled": "text to image",
    "canary": "training pairs that online learning never sees",
}
_DECISIONS: dict[str, tuple[str, Tone]] = {
    KEPT: ("✓ kept", "good"),
    ROLLED_BACK: ("↺ rolled back", "bad"),
    SKIPPED: ("– skipped", "neutral"),
}


def tiles_section(summary: Summary) -> str:
    """The numbers worth reading first."""
    parts = [f"{summary.decisions[name]:,} {name}" for name in (ROLLED_BACK, SKIPPED)]
    shown = [Tile("Rounds kept", f"{summary.kept:,} of {summary.rounds:,}", ", ".join(parts))]
    for name, change in summary.changes.items():
        if name == "labelled" and "taught" in summary.changes:
            continue
        label, value = f"{LABELS[name]}, {summary.metric}", f"{percent(change.values(summary.metric)[1])} %"
        shown.append(Tile(label, value, *_tile_change(summary, name)))
    refused = sum(summary.refused.values())
    told = f"{refused:,} {'picture' if refused == 1 else 'pictures'} refused"
    shown.append(Tile("Pairs learned from", f"{summary.pairs[KEPT]:,}", told))
    return tiles(shown)


def scores_section(summary: Summary) -> str:
    """Before and after for each group that was measured."""
    titled = [(name, LABELS[name], _MEANING[name], change) for name, change in summary.changes.items()]
    if summary.image_to_text is not None:
        where = [name for name, *_ in titled].index("labelled") + 1
        titled.insert(where, ("labelled", "All pictures", "image to text", summary.image_to_text))
    if not titled:
        return ""
    body = "".join(_scores(summary, *item) for item in titled)
    remark = "In percent. Start: before the first round. End: the weights that were kept."
    if any(summary.trained_between(name) for name in summary.changes):
        remark += " By rounds: what the kept rounds changed; the rest is ordinary training between them."
    if not all(change.same_queries for change in summary.changes.values()):
        remark += (
            " Not all rounds taught the same queries, so start and end of taught and other queries are not "
            "over the same ones. By rounds: the sum of what each kept round changed on its own."
        )
    return section("Before and after", f'<div class="grid">{body}</div>', remark)


def rounds_section(rounds: Sequence[Round], metric: str) -> str:
    """Two rows for each round: what it changed and what was decided, and why."""
    groups = [name for name in LABELS if any(row.groups[name].before for row in rounds)]
    head = ["Round", "Step", "Decision", "Pairs", *(LABELS[name] for name in groups), "Seconds"]
    rows: list[Sequence[str | Cell] | Note] = []
    for row in rounds[-MAX_ROWS:]:
        rows.append(_round_row(row, groups, metric))
        rows += [Note(row.text("why"))] if row.text("why") else []
    body = f'<div class="scroll">{table(head, rows, words=(2,))}</div>'
    if len(rounds) > MAX_ROUNDS:
        shown = f"The last {MAX_ROWS:,} of" if len(rounds) > MAX_ROWS else "All"
        body = details(f"{shown} {len(rounds):,} rounds", body)
    remark = (
        f"{metric} in percent, before the steps of a round and after them, also where they were undone. "
        "Grey: a loss within the tolerance, or none."
    )
    return section("Rounds", body, remark)


def pictures_section(rounds: Sequence[Round], summary: Summary, thumbs: Thumbs) -> str:
    """How many pictures were used and refused, some of the refused ones, and queries that got none."""
    labels: dict[str, tuple[str, Tone]] = {
        KEPT: ("used, round kept", "good"),
        ROLLED_BACK: ("used, round rolled back", "bad"),
        SKIPPED: ("passed, round skipped", "neutral"),
    }
    bars = [Count(label, summary.used[name], mood) for name, (label, mood) in labels.items()]
    bars = [bar for bar in bars if bar.count] + reasons(summary.refused, "refused")
    body = count_bars(bars) + _refused(rounds, summary, thumbs)
    found = section("Pictures used and refused", body) if bars else ""
    misses = count_bars(reasons(summary.missed, "no picture"))
    if misses:
        remark = f"{summary.asked:,} asked over all rounds, {summary.with_pictures:,} with pictures."
        found += section("Queries without a picture", misses, remark)
    return found


def provenance_section(rounds: Sequence[Round], thumbs: Thumbs) -> str:
    """Where every picture is from. Addresses are text: they come from strangers and are not to be clicked."""
    sources = _sources(rounds)
    if not sources:
        return ""
    head = ("", "Query", "No.", "Outcome", "Similarity", "Source", "Title and page", "Fetched", "Rounds")
    rows = [_source_row(source, thumbs) for source in sources[:MAX_ROWS]]
    body = table(head, rows, words=(0, 1, 3, 5, 6, 7, 8))
    noun = "picture" if len(sources) == 1 else "pictures"
    remark = "One line for each picture of a query and what became of it."
    if len(sources) > MAX_ROWS:
        remark += f" The first {MAX_ROWS:,} are shown; online_report.json has them all."
    if thumbs.left_out or thumbs.missing:
        remark += f" Not shown: {thumbs.left_out:,} thumbnails beyond what a page should hold, "
        remark += f"{thumbs.missing:,} without a file."
    return section("Where the pictures are from", details(f"{len(sources):,} {noun}", body), remark)


@dataclass
class _Source:
    picture: Fresh
    name: str
    rounds: list[int] = field(default_factory=list)


def _sources(rounds: Sequence[Round]) -> list[_Source]:
    """Each picture once for each query, number and outcome, with its last similarity."""
    found: dict[tuple[str, str, int | None, str], _Source] = {}
    for row in rounds:
        for picture in row.pictures:
            key = (picture.sha256, picture.query, picture.number, picture.outcome)
            source = found.setdefault(key, _Source(picture, row.text("source")))
            source.picture = picture
            source.rounds.append(row.number)
    return list(found.values())


def _source_row(source: _Source, thumbs: Thumbs) -> tuple[str | Cell, ...]:
    picture, origin = source.picture, source.picture.origin
    where = origin.get("page_url") or origin.get("image_url") or origin.get("file")
    told = "<br>".join(text(part[:400]) for part in (origin.get("title"), where) if part)
    similarity = picture.similarity
    return (
        Cell(thumbs.fresh(picture, small=True)),
        picture.query,
        "–" if picture.number is None else str(picture.number),
        Cell(text(picture.outcome), "good" if picture.outcome == USED else "bad"),
        "–" if similarity is None else _signed(similarity, 3),
        Cell(text((origin.get("source") or source.name or "–")[:40]), narrow=True),
        Cell(told or "–"),
        Cell(text(origin.get("fetched_at", "–")[:40]), narrow=True),
        counted_rounds(source.rounds),
    )


def _refused(rounds: Sequence[Round], summary: Summary, thumbs: Thumbs) -> str:
    """A few different pictures for each of the frequent reasons."""
    by_reason: dict[str, dict[str, Fresh]] = {}
    for row in rounds:
        for picture in row.pictures:
            if picture.outcome != USED:
                by_reason.setdefault(picture.outcome, {}).setdefault(picture.sha256, picture)
    parts = []
    for reason, _ in summary.refused.most_common(_SHOWN_REASONS):
        shots = "".join(_refused_shots(by_reason[reason], thumbs))
        parts.append(f'<p class="what">Refused: {text(reason)}</p><div class="shots">{shots}</div>')
    return "".join(parts)


def _refused_shots(shown: dict[str, Fresh], thumbs: Thumbs) -> Iterator[str]:
    for picture in list(shown.values())[:_SHOWN_REFUSED]:
        similarity = "" if picture.similarity is None else f" ({_signed(picture.similarity, 2)})"
        yield thumbs.fresh(picture, f"{picture.query}{similarity}")


def _tile_change(summary: Summary, name: str) -> tuple[str, Tone]:
    by_rounds, change = summary.by_rounds(name), summary.changes[name]
    if by_rounds is None:
        return ("" if summary.kept else "as before: no round was kept"), "neutral"
    mood = tone(0, by_rounds)
    if name in ("others", "canary") and mood == "bad" and -by_rounds <= allowed(summary, name):
        mood = "neutral"
    if not change.same_queries or summary.trained_between(name):
        return f"{points(0, by_rounds)} points by the kept rounds", mood
    before, after = change.values(summary.metric)
    return f"{points(before, after)} points, from {percent(before)}\u00a0%", mood


def _scores(summary: Summary, name: str, title: str, meaning: str, change: Change) -> str:
    first, last = change.start, change.end
    counts = [point.measured.n_queries for point in (first, last)]
    told = "" if counts[1] is None else f", {counts[1]:,} texts"
    if None not in counts and counts[0] != counts[1]:
        told = f", {counts[0]:,} texts at the start, {counts[1]:,} at the end"
    by_rounds = not change.same_queries or summary.trained_between(name)
    head = ["", f"Start (round {first.number})", f"End (round {last.number})"]
    rows: list[Sequence[str | Cell]] = []
    for metric, label in _METRICS.items():
        before, after = change.values(metric)
        if before is None and after is None:
            continue
        strong = f"<b>{text(label)}</b>" if metric == summary.metric else text(label)
        moved = (0.0, change.by_rounds.get(metric)) if by_rounds else (before, after)
        rows.append(
            (Cell(strong, narrow=True), percent(before), percent(after), Cell(points(*moved), tone(*moved)))
        )
    what = f'<h3>{text(title)}</h3><p class="remark">{text(meaning + told)}</p>'
    shown = table([*head, "By rounds" if by_rounds else "Change"], rows, words=(0,))
    return f'<div>{what}<div class="scroll">{shown}</div></div>'


def _round_row(row: Round, groups: Sequence[str], metric: str) -> tuple[str | Cell, ...]:
    label, mood = _DECISIONS.get(row.decision, (row.decision, "neutral"))
    cells: list[str | Cell] = [
        str(row.number),
        "–" if row.step is None else f"{row.step:,}",
        Cell(text(label), mood, narrow=True),
        f"{row.pairs:,}",
    ]
    for name in groups:
        pair = row.groups[name]
        before = pair.before.metrics.get(metric) if pair.before else None
        after = pair.after.metrics.get(metric) if pair.after else None
        told = percent(before) if after is None else f"{percent(before)} → {percent(after)}"
        mood = tone(before, after)
        if before is not None and after is not None and 0 <= before - after <= allowance(name, row.tolerance):
            mood = "neutral"
        cells.append(Cell(text(told), mood, narrow=True))
    return (*cells, f"{sum(row.seconds.values()):.1f}")


def _signed(value: float, digits: int) -> str:
    """With a minus sign, which none has that is rounded to zero."""
    told = f"{value:.{digits}f}"
    return told.replace("-", "−" if float(told) else "")
