"""MUGE files (`build_lmdb`), or any source of rows (`build_split`) → the LMDB shards that `lmdb_store` reads.

A split is built in `.{split}.building` beside its final place and renamed at the end, so a reader sees all of
it or none. Pictures are written in durable batches that carry their own progress: after a kill the next run
goes on after the last batch, provided the part of the file it had read is still the same, byte for byte.
Broken rows are dropped, counted by reason and reported by line; `strict` raises at the first one instead.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock, Timeout

from cnclip.data import muge
from cnclip.data.lmdb_images import ImageWriter, ScanImages
from cnclip.data.lmdb_report import BuildOptions, SplitReport, none_usable
from cnclip.data.lmdb_texts import ScanTexts, write_texts
from cnclip.errors import InputError

OnProgress = Callable[[str, int, int], None]
"""Called with (split, bytes read, bytes in all) of the picture file."""


class SplitSource(NamedTuple):
    """A file of pictures and one of texts, how each is read, what messages call them, and whether pictures
    without any text are refused."""

    images: Path
    texts: Path
    scan_images: ScanImages = muge.scan_images
    scan_texts: ScanTexts = muge.scan_texts
    name: str = ""
    needs_texts: bool = False


def _check_inputs(data_dir: Path, splits: Sequence[str]) -> None:
    if not splits:
        raise InputError("splits: none given")
    if not data_dir.is_dir():
        raise InputError(f"{data_dir}: no such directory")
    for split in splits:
        if not split or split.startswith(".") or Path(split).name != split:
            raise InputError(f"splits: {split!r} is not a name")
        needed = [f"{split}_imgs.tsv"] + ([] if split == "test" else [f"{split}_texts.jsonl"])
        for name in needed:
            if not (data_dir / name).is_file():
                raise InputError(f"{data_dir / name}: no such file")


def _check_output(lmdb_dir: Path, split: str, force: bool) -> None:
    _restore_interrupted_swap(lmdb_dir, split)
    if (lmdb_dir / split).exists() and not force:
        raise InputError(f"{lmdb_dir / split}: already there (--force replaces it)")


def build_lmdb(
    data_dir: str | Path,
    splits: Sequence[str],
    lmdb_dir: str | Path | None = None,
    *,
    options: BuildOptions | None = None,
    on_progress: OnProgress | None = None,
) -> list[SplitReport]:
    """Build `lmdb_dir/{split}` for each split from `data_dir/{split}_imgs.tsv` and `{split}_texts.jsonl`.

    Args:
        lmdb_dir: `data_dir/lmdb` by default.
        options: see `BuildOptions`.
        on_progress: see `OnProgress`.

    The split "test" may lack its texts file; texts without labels are kept in every split, and a
    split whose texts file is empty has pictures only.

    Raises:
        InputError: a missing input, an existing output without `force`, another build under way, no usable
            picture at all, texts of which none is usable, a full disk, or with `strict` the first broken row.
    """
    data_dir, options = Path(data_dir), options or BuildOptions()
    lmdb_dir = Path(lmdb_dir) if lmdb_dir is not None else data_dir / "lmdb"
    _check_inputs(data_dir, splits)
    for split in splits:
        _check_output(lmdb_dir, split, options.force)
    reports = []
    for split in dict.fromkeys(splits):
        prepare = partial(SplitSource, data_dir / f"{split}_imgs.tsv", data_dir / f"{split}_texts.jsonl")
        reports.append(build_split(prepare, split, lmdb_dir, options, on_progress))
    return reports


def build_split(
    prepare: Callable[[], SplitSource],
    split: str,
    lmdb_dir: Path,
    options: BuildOptions,
    on_progress: OnProgress | None = None,
) -> SplitReport:
    """Build `lmdb_dir/{split}` from what `prepare` returns; it is called once the split is ours alone.

    Raises:
        InputError: as `build_lmdb` does, and what `prepare` raises.
    """
    started = time.monotonic()
    work = lmdb_dir / f".{split}.building"
    report = SplitReport(split)
    _check_output(lmdb_dir, split, options.force)
    try:
        lmdb_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{lmdb_dir}: {error.strerror}") from None
    try:
        with FileLock(lmdb_dir / f".{split}.lock", timeout=0):
            source = prepare()
            with ImageWriter(source.images, work, options, report, source.scan_images, source.name) as images:
                images.run(None if on_progress is None else partial(on_progress, split))
                of_images = len(report.problems)
                write_texts(source.texts, work, options, report, images.__contains__, source.scan_texts)
                if not report.texts.kept and (report.texts.read or source.needs_texts):
                    named, first = source.name or source.texts, report.problems[of_images:] or report.problems
                    raise InputError(none_usable(f"{named}", "text", report.texts.read, first))
            _swap_in(work, lmdb_dir, split)
    except Timeout:
        raise InputError(f"{lmdb_dir / split}: another build of it is under way") from None
    except OSError as error:
        raise InputError(f"{error.filename or work}: {error.strerror or error}") from error
    report.seconds = time.monotonic() - started
    return report


def _swap_in(work: Path, lmdb_dir: Path, split: str) -> None:
    """Rename the finished build into place; the one before it goes last, so one of them is always whole."""
    for lock in work.glob("*/lock.mdb"):
        lock.unlink()  # readers open without locks; a stale one would only puzzle
    final, old = lmdb_dir / split, lmdb_dir / f".{split}.old"
    if final.exists():
        shutil.rmtree(old, ignore_errors=True)
        final.rename(old)
    work.rename(final)
    shutil.rmtree(old, ignore_errors=True)
    descriptor = os.open(lmdb_dir, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _restore_interrupted_swap(lmdb_dir: Path, split: str) -> None:
    """A kill between the two renames of `_swap_in` leaves only the old build: put it back."""
    final, old = lmdb_dir / split, lmdb_dir / f".{split}.old"
    if old.exists() and not final.exists():
        old.rename(final)
