"""`cnclip doctor`: what works on this machine, what does not, and what to do about it."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from run_scripts.doctor_checks import Line

EXIT_OK, EXIT_NOT_WELL = 0, 1
MARKS = {"ok": ("✓", "green"), "fail": ("✗", "red"), "absent": ("–", "yellow")}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `cnclip doctor`."""
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")


def _print_table(lines: list[Line]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("")
    table.add_column("check", no_wrap=True)
    table.add_column("finding", overflow="fold")
    for line in lines:
        mark, colour = MARKS[line.status]
        table.add_row(f"[{colour}]{mark}[/]", line.name, line.detail.replace("[", r"\["))
        if line.hint and line.status == "fail":
            table.add_row("", "", f"→ {line.hint}".replace("[", r"\["), style="dim")
    Console(file=sys.stdout).print(table)


def run(args: argparse.Namespace) -> int:
    """Run all checks, print them, return 0 when the essential ones passed, else 1."""
    from run_scripts.doctor_checks import BROWSER, run_checks

    lines = list(run_checks())
    well = all(line.status != "fail" for line in lines if line.essential)
    browser_works = any(line.name == BROWSER and line.status == "ok" for line in lines)
    if args.json:
        report = {"ok": well, "browser": browser_works, "checks": [line.to_dict() for line in lines]}
        sys.stdout.write(json.dumps(report, ensure_ascii=False, indent=2) + "\n")
        return EXIT_OK if well else EXIT_NOT_WELL
    _print_table(lines)
    if browser_works:
        sys.stdout.write("安装成功!\n")
    if not well:
        failed = ", ".join(line.name for line in lines if line.essential and line.status == "fail")
        sys.stdout.write(f"not ready: {failed}\n")
    return EXIT_OK if well else EXIT_NOT_WELL
