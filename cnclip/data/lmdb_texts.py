"""`{split}_texts.jsonl` → the `pairs` environment: one row for each text, naming every picture of it."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Literal

import lmdb
import msgpack

from cnclip.data import muge
from cnclip.data.lmdb_env import GrowingEnv
from cnclip.data.lmdb_report import BuildOptions, SplitReport, Tally
from cnclip.data.lmdb_store import META_DB, META_KEY, SCHEMA_VERSION, TEXTS_DB, row_key
from cnclip.errors import InputError
from cnclip.printable import printable

_BATCH_ROWS = 10_000


Flaw = Literal["broken", "no picture", "mended"]
"""Why a row is dropped, or that some of its pictures are not there and it stays without them."""
Complain = Callable[[str, Flaw], None]
"""Receives `file:line: why` of each such row. May raise to stop."""
ScanTexts = Callable[[Path], Iterator[muge.TextRow | muge.BadRow]]
"""Reads a file of texts row by row."""


def collect_texts(
    source: Path,
    has_image: Callable[[str], bool],
    complain: Complain,
    tally: Tally | None = None,
    scan: ScanTexts = muge.scan_texts,
) -> list[muge.TextRow]:
    """Read, check and merge the texts of a split; `tally` receives the counts.

    Ids without a picture are taken out of their row, and a row that had labels but keeps none is dropped. Two
    rows with one id and one text become one; with different texts the later one is dropped.
    """
    kept: dict[str, muge.TextRow] = {}
    tally = Tally() if tally is None else tally
    for row in scan(source):
        tally.read += 1
        if isinstance(row, muge.BadRow):
            complain(printable(row.message), "broken")
            tally.drop(row.reason)
            continue
        where = row.where or f"{source}:{row.line}"
        missing = [image_id for image_id in row.image_ids if not has_image(image_id)]
        if missing:
            flaw: Flaw = "mended" if len(missing) < len(row.image_ids) else "no picture"
            named = ", ".join(missing[:5])
            complain(printable(f"{where}: field image_ids: no such picture: {named}"), flaw)
            tally.note("ids without a picture taken out", len(missing))
        present = [image_id for image_id in row.image_ids if image_id not in set(missing)]
        if missing and not present:
            tally.drop("field image_ids: none of its pictures is there")
            continue
        earlier = kept.get(str(row.text_id))
        if earlier is None:
            kept[str(row.text_id)] = row._replace(image_ids=present)
        elif earlier.text == row.text:
            merged = list(dict.fromkeys(earlier.image_ids + present))
            kept[str(row.text_id)] = earlier._replace(image_ids=merged)
            tally.note("rows merged into an earlier one with the same id and text")
        else:
            reason = "field text_id: used by an earlier row for another text"
            complain(printable(f"{where}: {reason} (text_id {row.text_id})"), "broken")
            tally.drop(reason)
    return list(kept.values())


def write_texts(
    source: Path,
    work: Path,
    options: BuildOptions,
    report: SplitReport,
    has_image: Callable[[str], bool],
    scan: ScanTexts = muge.scan_texts,
) -> None:
    """Write `work/pairs` from a texts file that `scan` reads; without the file, an empty one.

    Raises:
        InputError: with `strict`, at the first row that would be dropped or mended.
    """

    def complain(message: str, _flaw: Flaw) -> None:
        if options.strict:
            raise InputError(message)
        report.problem(message)

    texts = collect_texts(source, has_image, complain, report.texts, scan) if source.is_file() else []
    report.texts.kept = len(texts)
    report.pairs = sum(len(row.image_ids) for row in texts)
    if unlabelled := sum(not row.image_ids for row in texts):
        report.texts.note("kept without labels", unlabelled)
    path = work / "pairs"
    shutil.rmtree(path, ignore_errors=True)  # left by a killed build; written again in a second
    with GrowingEnv(path) as env:
        db = env.db(TEXTS_DB)
        numbered = enumerate(texts)
        while batch := list(islice(numbered, _BATCH_ROWS)):

            def work_batch(
                transaction: lmdb.Transaction, batch: list[tuple[int, muge.TextRow]] = batch
            ) -> None:
                for number, row in batch:
                    value = msgpack.packb([row.text_id, row.text, row.image_ids])
                    transaction.put(row_key(number), value, db=db, append=True)

            env.write(work_batch)
        content = {
            "schema": SCHEMA_VERSION,
            "kind": "texts",
            "count": report.texts.kept,
            "pairs": report.pairs,
            "source": _describe(source),
        }
        env.put_json(META_KEY, content, META_DB)


def _describe(source: Path) -> dict[str, str | int] | None:
    if not source.is_file():
        return None
    with source.open("rb") as file:
        digest = hashlib.sha256()
        while piece := file.read(2**20):
            digest.update(piece)
        return {"file": source.name, "bytes": file.tell(), "sha256": digest.hexdigest()}
