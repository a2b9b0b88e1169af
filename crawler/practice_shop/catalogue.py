"""Real pictures for the shop: which files belong to which query."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from crawler.errors import SettingsError

SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".webp")
Catalogue = Mapping[str, tuple[Path, ...]]  # query -> picture files, in the order they are shown


def load_catalogue(path: Path) -> Catalogue:
    """Read a folder of `QUERY/*.jpg`, or a JSONL file of `{"query", "image"}` (image: relative to the file).

    Raises:
        SettingsError: naming the folder, or file, line and field.
    """
    try:
        found = _from_folder(path) if path.is_dir() else _from_manifest(path)
    except OSError as error:
        raise SettingsError(f"practice shop: catalogue: {path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise SettingsError(f"practice shop: catalogue: {path}: not UTF-8") from None
    if not found:
        raise SettingsError(f"practice shop: catalogue: {path}: no pictures (QUERY/*.jpg, or a JSONL file)")
    return MappingProxyType(found)


def _from_folder(path: Path) -> dict[str, tuple[Path, ...]]:
    found = {}
    for folder in sorted(path.iterdir()):
        if folder.is_dir():
            files = tuple(file for file in sorted(folder.iterdir()) if file.suffix.lower() in SUFFIXES)
            if files:
                found[folder.name] = files
    return found


def _from_manifest(path: Path) -> dict[str, tuple[Path, ...]]:
    found: dict[str, list[Path]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        row = _row(line, f"practice shop: catalogue: {path}:{number}")
        file = path.parent / row["image"]
        if not file.is_file():
            raise SettingsError(f"practice shop: catalogue: {path}:{number}: image: no file {file}")
        found.setdefault(row["query"], []).append(file)
    return {query: tuple(files) for query, files in found.items()}


def _row(line: str, where: str) -> dict[str, str]:
    try:
        row: Any = json.loads(line)
    except (ValueError, RecursionError):
        raise SettingsError(f"{where}: not JSON") from None
    if not isinstance(row, dict):
        raise SettingsError(f"{where}: not a JSON object")
    for field in ("query", "image"):
        if not isinstance(row.get(field), str) or not row[field]:
            raise SettingsError(f"{where}: {field}: must be a text")
    return row
