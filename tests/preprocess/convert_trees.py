"""Tiny datasets on disk in the layouts of others, with generated pictures, and what a conversion gave."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from cnclip.data.dataset import PairDataset
from cnclip.data.lmdb_report import BuildOptions, SplitReport
from preprocess.convert_dataset import choose, convert
from preprocess.datasets import FORMATS
from tests.cnclip.data.muge_files import picture

Pair = tuple[str, bytes, int | str, str]
"""(image id, encoded picture, text id, text)."""


def put_pictures(folder: Path, names: Iterable[str]) -> dict[str, bytes]:
    """Write one small picture for each name, all different; returns their bytes by name."""
    written = {}
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        written[name] = picture(sum(name.encode()) * 7 + len(name))
        path.write_bytes(written[name])
    return written


def put_text(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def put_json(path: Path, content: object) -> Path:
    return put_text(path, json.dumps(content, ensure_ascii=False))


def convert_all(
    kind: str,
    source: Path,
    out: Path,
    images: Path | None = None,
    splits: str | None = None,
    **options: object,
) -> dict[str, SplitReport]:
    """Convert as the command does; the reports by split."""
    found = choose(FORMATS[kind].open(source, images), splits)
    reports = convert(found, out / "lmdb", BuildOptions(**options))  # type: ignore[arg-type]
    return {report.split: report for report in reports}


def pairs_of(split_dir: Path) -> list[Pair]:
    """Every pair of a split, sorted, as a reader of the shards sees them."""
    dataset = PairDataset(split_dir)
    rows = [dataset[i] for i in range(len(dataset))]
    return sorted(
        ((row["image_id"], row["image"], row["text_id"], row["text"]) for row in rows),
        key=lambda p: str(p[2:]),
    )


def expected(pictures: Mapping[str, bytes], rows: Iterable[tuple[str, str, int | str, str]]) -> list[Pair]:
    """The same from (image id, name of the picture, text id, text)."""
    return sorted(((row[0], pictures[row[1]], *row[2:]) for row in rows), key=lambda p: str(p[2:]))
