"""Product photos with Chinese queries, in the MUGE layout, from clones of two public repositories.

Input:
    --grocery    clone of github.com/marcusklasson/GroceryStoreDataset (MIT): `dataset/classes.csv` (class and
                 coarse class of each id) and `dataset/{train,val,test}.txt` (`path[, fine id, coarse id]`)
    --clothing   clone of github.com/alexeygrigorev/clothing-dataset-small (CC0):
                 `{train,validation,test}/{class}/*.jpg`
    --classes    class → Chinese queries, `shop_classes.json` beside this file by default

Output, below `--out`: `{train,valid,test}_imgs.tsv` and `_texts.jsonl`. A photo satisfies the queries of its
class and, for groceries, of its coarse class; every photo that satisfies a query is listed. Photos are JPEG
with a short side of at most 224 pixels. Ids count from 100000 (train), 200000 (valid), 300000 (test): photos
in the order of the lists, then clothing by class and file name; queries in the order of their first photo.

    python preprocess/shop.py --grocery GroceryStoreDataset --clothing clothing-dataset-small --out shop

Expected: 5,708, 637 and 2,857 photos; 173, 141 and 173 queries. A split that is there already is kept.
"""

from __future__ import annotations

import argparse
import base64
import csv
import io
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

if __package__ in (None, ""):  # started as a file: let `cnclip` be found
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cnclip.errors import CnclipError, InputError

SPLITS = {"train": ("train", "train"), "valid": ("val", "validation"), "test": ("test", "test")}
FIRST_ID = {"train": 100_000, "valid": 200_000, "test": 300_000}
SHORT_SIDE, JPEG_QUALITY = 224, 72
EXIT_OK, EXIT_BAD_INPUT = 0, 2
SHOWN_PROBLEMS = 20

Queries = dict[str, dict[str, list[str]]]
OnProgress = Callable[[str, int, int], None]


class Photo(NamedTuple):
    """A photo and the Chinese queries that it satisfies, the most specific ones first."""

    path: Path
    queries: list[str]


@dataclass
class SplitReport:
    """Photos found and written, dropped by reason, queries written, and a line for each dropped photo."""

    split: str
    found: int = 0
    photos: int = 0
    queries: int = 0
    kept_from_before: bool = False
    dropped: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)


def read_classes(path: Path) -> Queries:
    """The table `{"grocery_fine" | "grocery_coarse" | "clothing": {class: [query, …]}}`.

    Raises:
        InputError: unreadable, or of another shape.
    """
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        return {
            kind: {str(name): [str(query) for query in queries] for name, queries in table[kind].items()}
            for kind in ("grocery_fine", "grocery_coarse", "clothing")
        }
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise InputError(f"{path}: not a table of classes and queries ({error!r})") from None


def _text_lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    return ((number, line) for number, line in enumerate(text.splitlines(), start=1) if line.strip())


def read_coarse_classes(path: Path) -> dict[str, tuple[int, str]]:
    """`classes.csv` as class name → (class id, coarse class name). Raises InputError by line."""
    classes = {}
    for number, line in list(_text_lines(path))[1:]:
        row = next(csv.reader([line]))
        try:
            classes[row[0].strip()] = (int(row[1]), row[2].strip())
        except (IndexError, ValueError):
            raise InputError(f"{path}:{number}: expected class,id,coarse class") from None
    return classes


def grocery_photos(clone: Path, split: str, queries: Queries) -> Iterator[Photo]:
    """The photos of one list, in its order. Raises InputError naming the line that does not fit."""
    dataset = clone / "dataset"
    classes = read_coarse_classes(dataset / "classes.csv")
    name_of = {number: name for name, (number, _) in classes.items()}
    source = dataset / f"{SPLITS[split][0]}.txt"
    for line_number, line in _text_lines(source):
        columns = [column.strip() for column in line.split(",")]
        try:  # older lists name no ids; the folder is the class
            name = name_of[int(columns[1])] if len(columns) > 1 else Path(columns[0]).parent.name
            coarse = classes[name][1]
        except (KeyError, ValueError):
            raise InputError(f"{source}:{line_number}: no such class in classes.csv") from None
        relative = Path(columns[0])
        if relative.is_absolute() or ".." in relative.parts:
            raise InputError(f"{source}:{line_number}: field path: leaves the clone")
        fine = queries["grocery_fine"].get(name, [])
        yield Photo(dataset / relative, [*fine, *queries["grocery_coarse"].get(coarse, [])])


def clothing_photos(clone: Path, split: str, queries: Queries) -> Iterator[Photo]:
    """The photos of one folder, by class and file name."""
    folder = clone / SPLITS[split][1]
    if not folder.is_dir():
        raise InputError(f"{folder}: no such directory")
    for directory in sorted(path for path in folder.iterdir() if path.is_dir()):
        for path in sorted(directory.glob("*.jpg")):
            yield Photo(path, queries["clothing"].get(directory.name, []))


def shrink(path: Path) -> bytes:
    """A photo as JPEG, upright, RGB, its short side at most 224 pixels.

    Raises:
        ValueError: why it cannot be read.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as opened:
            image = ImageOps.exif_transpose(opened).convert("RGB")
    except FileNotFoundError:
        raise ValueError("no such file") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        raise ValueError("not a readable picture") from None
    scale = SHORT_SIDE / min(image.size)
    if scale < 1:
        width, height = (max(SHORT_SIDE, round(side * scale)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=3.0)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def write_split(
    photos: Sequence[Photo], out: Path, split: str, on_progress: OnProgress | None = None
) -> SplitReport:
    """Write one split's two files, the texts last; each appears whole or not at all."""
    report = SplitReport(split, found=len(photos))
    images_file, texts_file = out / f"{split}_imgs.tsv", out / f"{split}_texts.jsonl"
    first = FIRST_ID[split]
    wanted: dict[str, list[int]] = {}
    temporary = out / f".{images_file.name}.{os.getpid()}"
    try:
        with temporary.open("w", encoding="ascii") as file:
            for done, photo in enumerate(photos, start=1):
                try:
                    data = shrink(photo.path)
                except ValueError as error:
                    report.dropped[str(error)] += 1
                    report.problems.append(f"{photo.path}: {error}")
                    continue
                image_id = first + report.photos
                file.write(f"{image_id}\t{base64.urlsafe_b64encode(data).decode('ascii')}\n")
                for query in dict.fromkeys(photo.queries):
                    wanted.setdefault(query, []).append(image_id)
                report.photos += 1
                if on_progress is not None:
                    on_progress(split, done, len(photos))
        temporary.replace(images_file)
    finally:
        temporary.unlink(missing_ok=True)
    rows = [
        json.dumps({"text_id": first + i, "text": query, "image_ids": ids}, ensure_ascii=False)
        for i, (query, ids) in enumerate(wanted.items())
    ]
    temporary = out / f".{texts_file.name}.{os.getpid()}"
    temporary.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
    temporary.replace(texts_file)
    report.queries = len(rows)
    return report


def convert(
    grocery: Path,
    clothing: Path,
    out: Path,
    *,
    splits: Sequence[str] = tuple(SPLITS),
    classes: Path | None = None,
    force: bool = False,
    on_progress: OnProgress | None = None,
) -> list[SplitReport]:
    """Write every split that is not there yet (all of them with `force`).

    Raises:
        InputError: an unknown split, a clone without the expected files, a line that does not fit.
    """
    queries = read_classes(classes or Path(__file__).with_name("shop_classes.json"))
    reports = []
    for split in splits:
        if split not in SPLITS:
            raise InputError(f"--splits: unknown split {split!r}; there are {', '.join(SPLITS)}")
        if (out / f"{split}_texts.jsonl").exists() and not force:
            reports.append(SplitReport(split, kept_from_before=True))
            continue
        photos = [*grocery_photos(grocery, split, queries), *clothing_photos(clothing, split, queries)]
        labelled = [photo for photo in photos if photo.queries]
        out.mkdir(parents=True, exist_ok=True)
        report = write_split(labelled, out, split, on_progress)
        if unlabelled := len(photos) - len(labelled):
            report.found += unlabelled
            report.dropped["class without a query"] += unlabelled
        reports.append(report)
    return reports


def _run(args: Mapping[str, str], *, force: bool) -> None:
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table

    splits = [name.strip() for name in args["splits"].split(",") if name.strip()]
    with Progress(console=Console(file=sys.stderr)) as progress:
        tasks = {split: progress.add_task(split, total=None) for split in splits}

        def show(split: str, done: int, total: int) -> None:
            progress.update(tasks[split], completed=done, total=total)

        reports = convert(
            Path(args["grocery"]),
            Path(args["clothing"]),
            Path(args["out"]),
            splits=splits,
            classes=Path(args["classes"]) if args["classes"] else None,
            force=force,
            on_progress=show,
        )
    table = Table("split", "photos in", "photos out", "queries", "dropped")
    for report in reports:
        reasons = "; ".join(f"{count} {reason}" for reason, count in report.dropped.items())
        row = (
            ("kept", "kept", "kept")
            if report.kept_from_before
            else (report.found, report.photos, report.queries)
        )
        table.add_row(report.split, *map(str, row), reasons)
    for line in [line for report in reports for line in report.problems][:SHOWN_PROBLEMS]:
        sys.stderr.write(f"dropped: {line}\n")
    Console(file=sys.stdout).print(table)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the script; returns the exit code (2 on bad input, in one line)."""
    parser = argparse.ArgumentParser(prog="shop.py", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--grocery", required=True, metavar="DIR", help="clone of GroceryStoreDataset")
    parser.add_argument("--clothing", required=True, metavar="DIR", help="clone of clothing-dataset-small")
    parser.add_argument("--out", required=True, metavar="DIR", help="where to write")
    parser.add_argument("--splits", default=",".join(SPLITS), help="default: train,valid,test")
    parser.add_argument("--classes", metavar="FILE", help="class → queries (default: shop_classes.json)")
    parser.add_argument("--force", action="store_true", help="write splits again that are there")
    args = vars(parser.parse_args(argv))
    try:
        _run(args, force=args.pop("force"))
    except CnclipError as error:
        sys.stderr.write(f"shop.py: error: {error}\n")
        return EXIT_BAD_INPUT
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
