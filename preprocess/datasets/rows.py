"""What every format is turned into: rows, and the pictures they name.

A format reads its annotations into `Picture`, `Caption` and `Bad` rows (`Split.rows`); nothing here knows a
format, and no format checks ids, captions or paths itself: `preprocess.datasets.plan` does, for all of them.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from os import stat_result
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

from cnclip.errors import InputError

MAX_PICTURE_BYTES = 256 * 2**20
SURROGATE = re.compile("[\ud800-\udfff]")  # what no UTF-8 text holds; Python puts them for undecodable bytes
_WHOLE_NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,17})")


class RowError(Exception):
    """Why a row is left out. `reason` is what the report counts; `detail` says which one, for people."""

    def __init__(self, field: str, why: str, detail: str = "") -> None:
        super().__init__(field, why, detail)
        self.reason, self.detail = f"field {field}: {why}", detail


class Picture(NamedTuple):
    """A picture that exists with or without captions. `name` is what `Pictures` finds it by; `where` names
    the annotation file and the line or record in it."""

    image_id: object
    name: str
    where: str


class Caption(NamedTuple):
    """A text and its picture, which need not have been listed before."""

    text_id: object
    text: object
    image_id: object
    name: str
    where: str


class Bad(NamedTuple):
    """A row that could not be read, counted among the pictures or the texts."""

    error: RowError
    where: str
    kind: Literal["picture", "text"] = "text"


Row = Picture | Caption | Bad


class Pictures(Protocol):
    """Where the pictures of a split are."""

    def stamp(self, name: str) -> list[str | int]:
        """What changes when the picture does. Raises RowError when it is not there."""

    def load(self, name: str) -> bytes:
        """The encoded bytes. Raises RowError when they cannot be read."""


@dataclass(frozen=True)
class Split:
    """One split of a dataset on disk. `label` is the annotation file; `rows` reads it, as often as asked."""

    label: str
    rows: Callable[[], Iterator[Row]]
    pictures: Pictures


class PictureFolder:
    """Pictures in folders; the first one that has a name wins. Names come from annotation files, so they are
    not trusted: what leads out of the folders, by `..`, an absolute path or a link, is not read.

    A folder may itself be a link, since it is the user who names it.

    Raises:
        InputError: none of the folders exists.
    """

    def __init__(self, *folders: Path) -> None:
        self._roots = list(dict.fromkeys(folder.resolve() for folder in folders if folder.is_dir()))
        if not self._roots:
            raise InputError(f"{folders[-1]}: no such folder of pictures")

    def stamp(self, name: str) -> list[str | int]:
        """Path, size in bytes and time of change in ns."""
        path, info = self._find(name)
        return [str(path), info.st_size, info.st_mtime_ns]

    def load(self, name: str) -> bytes:
        path, info = self._find(name)
        if info.st_size > MAX_PICTURE_BYTES:
            raise RowError("image", f"larger than {MAX_PICTURE_BYTES >> 20} MiB", repr(name))
        try:
            return path.read_bytes()
        except OSError as error:
            raise RowError("image", f"cannot be read: {error.strerror}", repr(name)) from None

    def _find(self, name: str) -> tuple[Path, stat_result]:
        if not name.strip():
            raise RowError("image", "empty")
        why = "leads out of the folder of pictures"
        for root in self._roots:
            try:
                path = Path(root, name).resolve()
                if not path.is_relative_to(root):
                    continue
                why = "no such file"
                info = path.stat()
            except (OSError, RuntimeError, ValueError):  # a loop of links, a name too long, a NUL in it
                why = "no such file"
                continue
            if stat.S_ISREG(info.st_mode):
                return path, info
            why = "not a file"
        raise RowError("image", why, repr(name))


def number_or_text(value: str) -> int | str:
    """An id of a text file as a number where it is written as one (so not "007"), else as it is."""
    value = value.strip()
    return int(value) if _WHOLE_NUMBER.fullmatch(value) else value
