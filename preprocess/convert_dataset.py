"""Other people's datasets → the LMDB shards that training reads; also `cnclip convert-dataset`.

Input: a dataset as its makers unpack it; each format is described in its module of `preprocess.datasets`.
Output: `{out}/lmdb/{split}/imgs` and `…/pairs`, as `cnclip.data.lmdb_store` describes, and a table of rows
in, out and dropped by reason. What is called val, validation or dev is written as valid.

    python preprocess/convert_dataset.py coco ~/coco --out ${DATAPATH}/datasets/COCO --splits train,valid

Pictures go straight from their files into the shards. A split is there whole or not at all: a killed run goes
on where it was when the same command is given again, and splits that were finished are left as they are.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

if __package__ in (None, ""):  # started as a file: let `cnclip` and `preprocess` be found
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from preprocess.datasets import FORMATS
from preprocess.lmdb_script import EXIT_OK, add_build_flags, build_with_bars, run_script, show_reports

if TYPE_CHECKING:
    from cnclip.data.lmdb_build import OnProgress
    from cnclip.data.lmdb_report import BuildOptions, SplitReport
    from preprocess.datasets.rows import Split


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags, and what each format looks for."""
    width = max(map(len, FORMATS))
    lines = [f"  {name:{width}}  {known.looks_for}" for name, known in FORMATS.items()]
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = "formats, and what is looked for in SOURCE:\n" + "\n".join(lines)
    parser.add_argument("format", choices=tuple(FORMATS), metavar="FORMAT", help="one of those below")
    parser.add_argument("source", metavar="SOURCE", help="folder of the dataset, or its annotation file")
    parser.add_argument("--out", required=True, metavar="DIR", help="write DIR/lmdb/{split}")
    parser.add_argument("--images", metavar="DIR", help="folder of the pictures (default: beside SOURCE)")
    parser.add_argument(
        "--splits", metavar="A,B", help="train,valid,test as there are (default: all of them)"
    )
    add_build_flags(parser)


def run(args: argparse.Namespace) -> int:
    """Convert and report. Raises InputError as `convert` does."""
    from rich.progress import TaskProgressColumn

    from cnclip.data.lmdb_report import BuildOptions
    from cnclip.errors import InputError

    options = BuildOptions(force=args.force, strict=args.strict, check_images=args.check_images)
    images = Path(args.images) if args.images else None
    if images is not None and not images.is_dir():
        raise InputError(f"--images: {images}: no such folder")
    splits = choose(FORMATS[args.format].open(Path(args.source), images), args.splits)
    lmdb_dir = Path(args.out) / "lmdb"
    there = [name for name in splits if (lmdb_dir / name).exists() and not args.force]
    if len(there) == len(splits):
        raise InputError(f"{lmdb_dir / there[0]}: already there (--force replaces it)")
    for name in there:
        sys.stderr.write(f"{lmdb_dir / name}: already there, left as it is (--force replaces it)\n")
        del splits[name]
    build = partial(convert, splits, lmdb_dir, options)
    show_reports(build_with_bars(list(splits), TaskProgressColumn(), build), as_json=args.json)
    return EXIT_OK


def choose(found: dict[str, Split], names: str | None) -> dict[str, Split]:
    """The splits called `names`, comma-separated, or all of them in the order train, restval, valid, test.

    Raises:
        InputError: one that the dataset does not have, or none at all.
    """
    from cnclip.errors import InputError
    from preprocess.datasets.files import SPLIT_NAMES

    order = list(dict.fromkeys(SPLIT_NAMES.values()))
    there = sorted(found, key=order.index)
    asked = [name.strip() for name in names.split(",") if name.strip()] if names is not None else there
    wanted = list(dict.fromkeys(SPLIT_NAMES.get(name, name) for name in asked))
    for name in wanted:
        if name not in found:
            raise InputError(f"--splits: no {name} in this dataset; there is {', '.join(there)}")
    if not wanted:
        raise InputError("--splits: none given" if names is not None else "no split in this dataset")
    return {name: found[name] for name in wanted}


def convert(
    splits: dict[str, Split], lmdb_dir: Path, options: BuildOptions, on_progress: OnProgress | None = None
) -> list[SplitReport]:
    """Build `lmdb_dir/{name}` for each split.

    Args:
        on_progress: called with (split, done, all) after each picture; in bytes of the plan, not of pictures.

    Raises:
        InputError: an existing output without `force`, another conversion under way, annotations that cannot
            be read, no usable picture or no usable text at all, a full disk, or with `strict` the first
            broken row.
    """
    from cnclip.data.lmdb_build import build_split
    from preprocess.datasets.plan import write_plan

    reports = []
    for name, split in splits.items():
        plan = lmdb_dir / f".{name}.plan"
        prepare = partial(write_plan, split, name, plan, strict=options.strict)
        reports.append(build_split(prepare, name, lmdb_dir, options, on_progress))
        shutil.rmtree(plan, ignore_errors=True)
    return reports


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the script; returns the exit code."""
    return run_script("convert_dataset.py", __doc__, add_arguments, run, argv)


if __name__ == "__main__":
    sys.exit(main())
