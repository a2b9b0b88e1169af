"""MUGE files → LMDB shards; the same flags as Chinese-CLIP's script of this name, and `cnclip build-lmdb`.

Input, for each split, in `--data_dir`:
    {split}_imgs.tsv      image_id<TAB>base64 of an encoded picture, either alphabet
    {split}_texts.jsonl   {"text_id": 7, "text": "红色连衣裙", "image_ids": [3, 5]}; [] where unlabelled
Output: `{lmdb_dir}/{split}/imgs` (and imgs-00001, … when large) and `{lmdb_dir}/{split}/pairs`, as
`cnclip.data.lmdb_store` describes, and a table of rows in, out and dropped by reason.

    python preprocess/build_lmdb_dataset.py --data_dir ${DATAPATH}/datasets/MUGE --splits train,valid,test

A killed run goes on where it was when the same command is given again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

if __package__ in (None, ""):  # started as a file: let `cnclip` and `preprocess` be found
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from preprocess.lmdb_script import EXIT_OK, add_build_flags, build_with_bars, run_script, show_reports


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags; the spellings of Chinese-CLIP's script work too."""
    parser.add_argument(
        "--data-dir",
        "--data_dir",
        required=True,
        metavar="DIR",
        help="where {split}_imgs.tsv and _texts.jsonl are",
    )
    parser.add_argument(
        "--splits", required=True, metavar="A,B", help="splits to build, comma-separated: train,valid,test"
    )
    parser.add_argument(
        "--lmdb-dir", "--lmdb_dir", metavar="DIR", help="where to write (default: DATA_DIR/lmdb)"
    )
    parser.add_argument(
        "--shard-gb",
        type=float,
        default=8.0,
        metavar="N",
        help="start another shard after N GiB (default: 8)",
    )
    add_build_flags(parser)


def run(args: argparse.Namespace) -> int:
    """Build and report. Raises InputError as `cnclip.data.lmdb_build.build_lmdb` does."""
    from rich.progress import DownloadColumn

    from cnclip.data.lmdb_build import build_lmdb
    from cnclip.data.lmdb_report import BuildOptions
    from cnclip.errors import InputError

    if not args.shard_gb > 0:
        raise InputError(f"--shard-gb: must be above 0, not {args.shard_gb}")
    options = BuildOptions(
        force=args.force,
        strict=args.strict,
        check_images=args.check_images,
        shard_bytes=max(1, int(args.shard_gb * 2**30)),
    )
    splits = [name.strip() for name in args.splits.split(",") if name.strip()]
    build = partial(build_lmdb, args.data_dir, splits, args.lmdb_dir, options=options)
    reports = build_with_bars(splits, DownloadColumn(), lambda show: build(on_progress=show))
    for report in reports:
        if not report.pairs:
            sys.stderr.write(
                f"warning: {report.split}: 0 pairs: no text names a picture of it, so that nothing can be"
                " learnt from it or scored on it\n"
            )
    show_reports(reports, as_json=args.json)
    return EXIT_OK


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the script; returns the exit code."""
    return run_script("build_lmdb_dataset.py", __doc__, add_arguments, run, argv)


if __name__ == "__main__":
    sys.exit(main())
