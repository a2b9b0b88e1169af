"""`cnclip search`: search a gallery from the terminal."""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from service.gallery import Gallery, Hit
    from service.gallery.types import Vector

MODES = ("vector", "keyword", "hybrid")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("query", metavar="QUERY", nargs="?", help="what to look for, in words")
    parser.add_argument("--gallery", metavar="DIR", type=Path, required=True, help="the gallery to search")
    parser.add_argument("--image", metavar="FILE", type=Path, help="search by this picture, not by words")
    parser.add_argument("-k", metavar="N", type=int, default=10, help="number of results (10)")
    parser.add_argument(
        "--mode",
        choices=MODES,
        default="vector",
        help="vector: by meaning, with the model (default); keyword: by words of the titles; hybrid: both",
    )
    parser.add_argument(
        "--filter", metavar="JSON", help='only items with these attributes, such as {"price": {"lt": 100}}'
    )
    parser.add_argument(
        "--min-relevance", metavar="C", type=float, help="only results with at least this cosine (-1 to 1)"
    )
    parser.add_argument("--model", metavar="NAME|PATH", help="the model, where it is not where it was")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    parser.add_argument("--sheet", metavar="PNG", type=Path, help="write the results as one picture")


def run(args: argparse.Namespace) -> int:
    from service.gallery import Gallery

    _check(args)
    filter = _parse_filter(args.filter)
    with Gallery.open(args.gallery, read_only=True) as gallery:
        hits = gallery.search(
            _query_vector(args, gallery),
            args.k,
            text=args.query,
            mode=args.mode,
            filter=filter,
            min_relevance=args.min_relevance,
            model=None if args.mode == "keyword" else gallery.manifest.fingerprint,
        )
        query = args.query if args.image is None else str(args.image)
        if args.sheet is not None:
            _write_sheet(args.sheet, gallery, query, hits)
        if args.json:
            _print_json(gallery, query, args.mode, hits)
        else:
            _print_table(gallery, query, hits)
    if args.sheet is not None and not args.json:
        sys.stdout.write(f"{args.sheet}\n")
    return 0


def _check(args: argparse.Namespace) -> None:
    from cnclip.errors import InputError

    if (args.query is None) == (args.image is None):
        raise InputError("give either a QUERY or --image FILE")
    if args.query is not None and not args.query.strip():
        raise InputError("QUERY: is empty")
    if args.image is not None and args.mode != "vector":
        raise InputError(f"--mode {args.mode}: needs a QUERY; a picture is searched by its vector")
    if args.k < 1:
        raise InputError(f"-k: must be at least 1, not {args.k}")
    if args.min_relevance is not None:
        if not math.isfinite(args.min_relevance):
            raise InputError(f"--min-relevance: must be a finite number, not {args.min_relevance}")
        if args.mode == "keyword":
            raise InputError("--min-relevance: needs --mode vector or hybrid; words have no cosine")


def _parse_filter(text: str | None) -> dict[str, Any] | None:
    from cnclip.errors import InputError

    if text is None:
        return None
    try:
        parsed = json.loads(text)
    except RecursionError:
        raise InputError("--filter: not JSON that can be read (nested too deeply)") from None
    except ValueError as error:
        raise InputError(f"--filter: not JSON ({error})") from error
    if not isinstance(parsed, dict):
        raise InputError('--filter: must be a JSON object, such as {"brand": "小米"}')
    return parsed


def _query_vector(args: argparse.Namespace, gallery: Gallery) -> Vector | None:
    if args.mode == "keyword":
        return None
    import cnclip
    from cnclip.model.device import tune_malloc
    from service.gallery import find_model

    tune_malloc()
    encoder = cnclip.load(args.model or find_model(gallery.path, gallery.models().active))
    gallery.check_model(encoder.fingerprint, args.model or encoder.name)
    if args.image is not None:
        vectors = encoder.encode_images([args.image])
    else:
        vectors = encoder.encode_texts([args.query])
    query: Vector = vectors[0]
    return query


def _print_json(gallery: Gallery, query: str, mode: str, hits: list[Hit]) -> None:
    results = []
    for hit in hits:
        path = gallery.image_path(hit.row)
        results.append(
            {
                "id": hit.row.id,
                "score": round(hit.score, 6),
                "cosine": None if hit.cosine is None else round(hit.cosine, 6),
                "title": hit.row.title,
                "attributes": hit.row.attributes,
                "image": None if path is None else str(path),
            }
        )
    answer = {"query": query, "mode": mode, "no_match": not results, "results": results}
    sys.stdout.write(json.dumps(answer, ensure_ascii=False, indent=2) + "\n")


def _print_table(gallery: Gallery, query: str, hits: list[Hit]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from cnclip.printable import printable

    if not hits:
        sys.stdout.write(f"no match for {query!r} among {len(gallery):,} items of {gallery.path}\n")
        return
    table = Table("#", "score", "id", "title", "attributes")
    for rank, hit in enumerate(hits, start=1):
        attributes = ", ".join(f"{name}={_brief(value)}" for name, value in hit.row.attributes.items())
        cells = (str(rank), f"{hit.score:.4g}", hit.row.id, hit.row.title, attributes)
        # Text: brackets in a title are not markup. printable: nor does it steer the terminal.
        table.add_row(*(Text(printable(cell)) for cell in cells))
    Console().print(table)


def _brief(value: Any) -> str:
    return "|".join(str(element) for element in value) if isinstance(value, list) else str(value)


def _write_sheet(path: Path, gallery: Gallery, query: str, hits: list[Hit]) -> None:
    from cache.errors import CacheError
    from cnclip.errors import InputError
    from service.gallery.sheet import Tile, contact_sheet

    tiles = []
    for rank, hit in enumerate(hits, start=1):
        try:
            image = gallery.read_image(hit.row)
        except CacheError as error:
            sys.stderr.write(f"cnclip search: {error}\n")
            image = None
        tiles.append(Tile(image, [f"{rank}  {hit.score:.3f}  {hit.row.title}", hit.row.id]))
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        contact_sheet(tiles, query).save(temporary, format="PNG")
        temporary.replace(path)
    except OSError as error:
        raise InputError(f"--sheet: {path}: cannot be written: {error.strerror or error}") from error
