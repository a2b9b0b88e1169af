"""Evaluation results as tables for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

_DIRECTIONS = {"text_to_image": "text → image", "image_to_text": "image → text"}


def metrics_table(report: Mapping[str, Any]) -> Table:
    """The numbers of `evaluate` in percent, one row per direction."""
    names = list(report["text_to_image"])
    title = f"{escape(report['model'])}: {report['n_queries']} texts, {report['n_gallery']} pictures"
    table = Table(title=title)
    table.add_column("direction")
    for name in names:
        table.add_column(name, justify="right")
    for key, label in _DIRECTIONS.items():
        table.add_row(label, *(f"{100 * report[key][name]:.2f}" for name in names))
    return table


def queries_table(rows: Sequence[Mapping[str, Any]], *, shown: int = 5) -> Table:
    """The rows of `per_query`: numbers in percent and the first `shown` pictures, ✓ where relevant."""
    table = Table(title="worst queries")
    table.add_column("text")
    for name in ("AP", "P@10", "first rank", "relevant"):
        table.add_column(name, justify="right")
    table.add_column("first pictures")
    for row in rows:
        pictures = "  ".join(
            f"{'✓' if item['relevant'] else '✗'} {item['image_id']}" for item in row["top"][:shown]
        )
        table.add_row(
            escape(row["text"]),
            f"{100 * row['AP']:.1f}",
            f"{100 * row['P@10']:.1f}",
            str(row["first_rank"]),
            str(row["n_relevant"]),
            escape(pictures),
        )
    return table
