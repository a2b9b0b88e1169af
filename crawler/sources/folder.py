"""Pictures that are on disk: a folder for each query, or a manifest that says which file shows what.

A folder is found by the query its `meta.json` names, else by its own name: the query, or what
Online-CNCLIP's caches call it. A manifest is JSONL:

    {"query": "红裙", "image": "a.jpg", "title": "…", "item_id": "…"}

with `image` relative to the manifest and below its directory, or absolute; title and item_id may be absent.
"""

from __future__ import annotations

import json
import mimetypes
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from cache.names import canonical, hashed_name, plain_name
from cache.picture_meta import META_NAME
from crawler.errors import SettingsError
from crawler.picture_checks import check_picture
from crawler.types import Candidate, PageState, Picture, Refusal, Refused, SearchResult

MAX_BYTES = 10_000_000  # of a picture
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".avif", ".bmp")
_SENTINEL = re.compile(r"0(_[0-9]+)?\.jpg")  # Online-CNCLIP's "in progress"


@dataclass(frozen=True)
class _Row:
    """A line of a manifest; `image` is absolute."""

    query: str
    image: Path
    title: str
    item_id: str


class FolderSource:
    """`path` is a directory with one folder for each query, or a manifest. Asks no network."""

    name = "folder"

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path).absolute()
        self._root = self._path
        self._named: set[Path] = set()  # files a manifest names by absolute paths
        self._rows: dict[str, list[_Row]] = {}
        self._folders: dict[tuple[str, str], Path] = {}  # ("query" or "name", its value)

    def open(self) -> None:
        """Read the manifest, or which folders there are. Raises SettingsError."""
        try:
            if self._path.is_dir():
                self._root = self._path.resolve()
                self._folders = _read_folders(self._path)
            else:
                self._root = self._path.parent.resolve()
                self._rows, self._named = _read_manifest(self._path)
        except OSError as error:
            raise SettingsError(f"{error.filename or self._path}: cannot be read: {error.strerror}") from None

    def ensure_session(self) -> None:
        """Nobody needs to log in here."""

    def search(self, query: str, limit: int) -> SearchResult:
        """The first `limit` files of the query, in the manifest's order or by name (2 before 10)."""
        query = canonical(query).strip()
        try:
            rows = self._rows.get(query) or self._in_folder(query)
        except OSError as error:
            return SearchResult(PageState.SERVER_ERROR, detail=f"cannot be read: {error}")
        if not rows:
            return SearchResult(PageState.EMPTY, layout=self.name, url=self._path.as_uri())
        candidates = tuple(
            Candidate(row.item_id, (row.image.as_uri(),), title=row.title, rank=rank)
            for rank, row in enumerate(rows[:limit])
        )
        return SearchResult(PageState.RESULTS, candidates, layout=self.name, url=self._path.as_uri())

    def wait_for_human(self, query: str, limit: int) -> SearchResult | None:  # noqa: ARG002
        """No human is needed here."""
        return None

    def fetch(self, candidate: Candidate, url: str) -> Picture | Refused:  # noqa: ARG002 - as every source
        """Read a file and check it; only what is below the folder, or named by the manifest, is read."""
        if urlsplit(url).scheme != "file":
            return Refused(Refusal.HOST, url, "not a file")
        path = Path(url2pathname(urlsplit(url).path))
        try:
            if path not in self._named and not path.resolve().is_relative_to(self._root):
                return Refused(Refusal.HOST, url, f"outside of {self._root}")
            if not stat.S_ISREG(path.stat().st_mode):
                return Refused(Refusal.NOT_IMAGE, url, "not a regular file")
            with path.open("rb") as file:
                data = file.read(MAX_BYTES + 1)
        except FileNotFoundError:
            return Refused(Refusal.GONE, url, "no such file")
        except (OSError, RuntimeError, ValueError) as error:  # also loops of links, NUL in a name
            return Refused(Refusal.NETWORK, url, f"cannot be read: {error}"[:200])
        if len(data) > MAX_BYTES:
            return Refused(Refusal.TOO_MANY_BYTES, url, f"more than {MAX_BYTES} bytes")
        return check_picture(data, url, mimetypes.guess_type(path.name)[0] or "")

    def dump(self, folder: Path, name: str) -> None:
        """There is no page to keep."""

    def close(self) -> None:
        """Nothing was started."""

    def _in_folder(self, query: str) -> list[_Row]:
        names = (("query", query), ("name", query), ("name", plain_name(query)), ("name", hashed_name(query)))
        folder = next((self._folders[key] for key in names if key in self._folders), None)
        if folder is None:
            return []
        return [_Row(query, path, "", f"{folder.name}/{path.name}") for path in _pictures(folder)]


def _pictures(folder: Path) -> list[Path]:
    """Picture files by name, numbers by their value."""
    found = [
        path
        for path in folder.iterdir()
        if path.suffix.lower() in SUFFIXES and path.name[0] != "." and not _SENTINEL.fullmatch(path.name)
    ]
    return sorted(found, key=lambda path: [(int(n), t) for t, n in _pieces(path.name)])


def _pieces(name: str) -> Iterator[tuple[str, str]]:
    """("", "10"), (".jpg", "0") of "10.jpg"."""
    for text, digits in re.findall(r"([^0-9]+)|([0-9]+)", name):
        yield text, digits or "0"


def _read_folders(path: Path) -> dict[tuple[str, str], Path]:
    folders = {}
    for folder in sorted(child for child in path.iterdir() if child.name[0] != "." and child.is_dir()):
        query = _query_of(folder / META_NAME)
        folders[("name", folder.name) if query is None else ("query", query)] = folder
    if not folders:
        raise SettingsError(f"{path}: no folders in it; one for each query is needed")
    return folders


def _query_of(meta: Path) -> str | None:
    """The query a folder's sidecar names; None if there is none."""
    if not meta.is_file():
        return None
    values = _json_object(meta.read_bytes(), str(meta))
    return canonical(_text(values, "query", str(meta))).strip() if "query" in values else None


def _read_manifest(path: Path) -> tuple[dict[str, list[_Row]], set[Path]]:
    rows: dict[str, list[_Row]] = {}
    named = set()
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            row, is_absolute = _row(line.removeprefix(b"\xef\xbb\xbf"), path, f"{path}:{number}")
            rows.setdefault(row.query, []).append(row)
            if is_absolute:
                named.add(row.image)
    if not rows:
        raise SettingsError(f"{path}: nothing in it")
    return rows, named


def _row(line: bytes, manifest: Path, place: str) -> tuple[_Row, bool]:
    """A line of a manifest, and whether its image was absolute. Raises SettingsError."""
    values = _json_object(line, place)
    query = canonical(_text(values, "query", place)).strip()
    image = _text(values, "image", place)
    if not query or not image or "\0" in image:
        raise SettingsError(f"{place}: field {'image' if query else 'query'}: not usable")
    # lexically: what a link leads to is checked when the file is read
    within = Path(os.path.normpath(image))
    if not within.is_absolute() and (within.parts[:1] == ("..",) or within.drive or within.root):
        raise SettingsError(f"{place}: field image: {image} is not below {manifest.parent}")
    item_id = _text(values, "item_id", place, image)
    return _Row(
        query, manifest.parent / within, _text(values, "title", place, ""), item_id
    ), within.is_absolute()


def _json_object(data: bytes, place: str) -> dict[str, Any]:
    try:
        values = json.loads(data.decode("utf-8"))
    except UnicodeDecodeError:
        raise SettingsError(f"{place}: not UTF-8") from None
    except (ValueError, RecursionError):
        raise SettingsError(f"{place}: not JSON") from None
    if not isinstance(values, dict):
        raise SettingsError(f"{place}: not a JSON object")
    return values


def _text(values: dict[str, Any], field: str, place: str, default: str | None = None) -> str:
    value = values.get(field, default)
    if not isinstance(value, str):
        raise SettingsError(f"{place}: field {field}: {'not a text' if field in values else 'missing'}")
    return value
