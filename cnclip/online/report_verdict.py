"""Whether to keep the model that online learning left behind, in a sentence and on a terminal."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from cnclip.online.report_rounds import KEPT, ROLLED_BACK, SKIPPED, read_rounds
from cnclip.online.report_summary import SAME, Summary, summarize
from cnclip.online.verdict import allowance
from cnclip.printable import printable
from cnclip.training.report_page import Tone, Verdict, percent, points

LABELS = {
    "taught": "Taught queries",
    "others": "Other queries",
    "labelled": "All queries",
    "canary": "Canary",
}
_IN_A_SENTENCE = {"taught": "the taught queries", "others": "the other queries", "labelled": "all queries"}


def verdict(summary: Summary) -> Verdict:
    """The advice, by what the kept rounds changed in the metric that decides."""
    if not summary.rounds:
        return Verdict("neutral", "Nothing to report", "No round of online learning was recorded.")
    told = [_rounds(summary)]
    if not summary.kept:
        headline = "Nothing was kept" if summary.decisions[ROLLED_BACK] else "Nothing was learned"
        return Verdict("neutral", headline, f"{told[0]} The weights are those that the rounds started from.")
    gained = "taught" if summary.by_rounds("taught") is not None else "labelled"
    told += [_moved(summary, name) for name in dict.fromkeys((gained, "others"))]
    if not all(change.same_queries for change in summary.changes.values()):
        told.append("Not all rounds taught the same queries.")
    told.append(_canary(summary))
    fallen = {name: change for name in LABELS if (change := _fall(summary, name)) is not None}
    mood, headline = _advice(summary, summary.by_rounds(gained), fallen)
    told += [
        f"{LABELS[name]} lost {-100 * change:.2f} points over the kept rounds, more than the "
        f"{100 * allowance(name, summary.tolerance):.2f} allowed."
        for name, change in fallen.items()
    ]
    return Verdict(mood, headline, " ".join(filter(None, told)))


def allowed(summary: Summary, group: str) -> float:
    """What a group may lose over all kept rounds together before that is called forgetting."""
    return allowance(group, summary.tolerance) + SAME


def _advice(summary: Summary, gain: float | None, fallen: dict[str, float]) -> tuple[Tone, str]:
    worst = -min(fallen.values(), default=0.0)
    if worst and (gain is None or gain <= worst):
        return "bad", "Do not keep the model"
    if worst:
        return "neutral", "Look before you keep it: it also forgot"
    canary = summary.by_rounds("canary")
    if gain is None:
        return (
            "neutral",
            "No verdict" if canary is None else "Nothing was forgotten, the gain is not measured",
        )
    if gain < SAME:
        return "neutral", "No gain"
    if canary is None:
        return "neutral", "Look before you keep it: there was no canary"
    return "good", "Keep the model"


def _rounds(summary: Summary) -> str:
    counts = summary.decisions
    noun = "round was" if summary.rounds == 1 else "rounds were"
    told = f"{summary.kept} of {summary.rounds} {noun} kept"
    for name in (ROLLED_BACK, SKIPPED):
        told += f", {counts[name]} {name}" if counts[name] else ""
    return f"{told}."


def _moved(summary: Summary, group: str) -> str:
    """What one group's metric did from the start to the end."""
    if summary.by_rounds(group) is None:
        return ""
    return f"{summary.metric} of {_IN_A_SENTENCE[group]} went from {_from_to(summary, group)}."


def _canary(summary: Summary) -> str:
    change = summary.by_rounds("canary")
    if change is None:
        return "There was no canary."
    held = change >= -allowed(summary, "canary")
    return f"The canary {'held' if held else 'fell'}: {_from_to(summary, 'canary')}."


def _from_to(summary: Summary, group: str) -> str:
    change, by_rounds = summary.changes[group], points(0, summary.by_rounds(group))
    before, after = change.values(summary.metric)
    if not change.same_queries:
        told = f"{by_rounds} points over the kept rounds"
    elif summary.trained_between(group):
        told = f"{points(before, after)} points in all, {by_rounds} by the kept rounds"
    else:
        told = f"{points(before, after)} points"
    return f"{percent(before)} % to {percent(after)} % ({told})"


def _fall(summary: Summary, group: str) -> float | None:
    change = summary.by_rounds(group)
    return change if change is not None and change < -allowed(summary, group) else None


def summary_lines(run: Path) -> list[str]:
    """The report of the run in `run` for a terminal or a log: the verdict, a small table, counts.

    Every line is fit for printing; titles and reasons from outside are made so.
    """
    log = read_rounds(run)
    summary = summarize(log)
    said = verdict(summary)
    lines = [f"{said.headline}. {said.sentence}"]
    if summary.changes:
        lines.append(f"{summary.metric + ', %':<16}{'start':>8}{'end':>8}{'by the kept rounds':>20}")
    for name, change in summary.changes.items():
        before, after = change.values(summary.metric)
        count = change.end.measured.n_queries
        told = f"{points(0, summary.by_rounds(name)):>20}" + ("" if count is None else f"   {count:,} texts")
        lines.append(f"{LABELS[name]:<16}{percent(before):>8}{percent(after):>8}{told}")
    if summary.rounds:
        lines += [
            f"pairs in kept rounds: {summary.pairs[KEPT]:,}; replayed in all rounds: {summary.replayed:,}",
            _counted("pictures refused, over all rounds", summary.refused),
            _counted("queries without a picture, over all rounds", summary.missed),
        ]
    return [printable(line) for line in [*filter(None, lines), *log.problems]]


def _counted(what: str, reasons: Counter[str]) -> str:
    if not reasons:
        return ""
    told = ", ".join(f"{count:,} {reason}" for reason, count in reasons.most_common())
    return f"{what}: {sum(reasons.values()):,} ({told})"
