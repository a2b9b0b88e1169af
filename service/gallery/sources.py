"""Where pictures come from: a folder, a MUGE `*_imgs.tsv`, an LMDB split, or a JSONL catalogue.

A JSONL catalogue has one object per line: `{"id": "sku-1", "image": "pics/1.jpg", "title": "红色连衣裙", …}`.
Further fields are attributes. `image` is relative to the catalogue's folder and stays inside it, or absolute.
Nothing is ever fetched.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from cnclip.data.muge import id_problem
from cnclip.errors import ImageError, InputError
from service.gallery.directory import holds_gallery
from service.gallery.types import AttributeValue, check_attributes, check_id, check_title

PICTURE_SUFFIXES = frozenset(
    (
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".png",
        ".webp",
        ".gif",
        ".bmp",
        ".tif",
        ".tiff",
        ".avif",
        ".ppm",
        ".pgm",
    )
)
MAX_FILE_BYTES = 256 * 2**20

BROKEN_LINE = "broken line"
NOT_A_PICTURE_FILE = "not a picture file"
HIDDEN = "hidden file or folder"
BAD_ID = "unusable id"
UNREADABLE = "unreadable picture"


@dataclass(frozen=True)
class SourceItem:
    """One picture to ingest.

    id: None where the picture has no name of its own (a file in a folder): it is then known by its content.
    load: the encoded bytes; raises ImageError or InputError. name: what messages call it.
    folder, file: for a file in a folder, that folder and the path inside it with "/".
    """

    id: str | None
    load: Callable[[], bytes]
    name: str
    title: str = ""
    attributes: dict[str, AttributeValue] = field(default_factory=dict)
    folder: Path | None = None
    file: str = ""


@dataclass(frozen=True)
class Dropped:
    """Something in a source that is not ingested. `reason` is counted; `message` is shown if there is one."""

    reason: str
    message: str | None = None


class Source(Protocol):
    """Pictures in a fixed order, so that an interrupted run can be repeated."""

    @property
    def total(self) -> int | None:
        """How many entries there are, as far as it is known yet."""
        ...

    def __iter__(self) -> Iterator[SourceItem | Dropped]: ...


def open_source(path: str | Path) -> Source:
    """The source at `path`, by what it is. Raises InputError if it is none of the known kinds."""
    path = Path(path)
    if stat.S_ISDIR(_status(path).st_mode):
        if (path / "imgs").is_dir() or (path / "data.mdb").is_file():
            return LmdbSource(path)
        splits = sorted(child.parent.name for child in path.glob("*/imgs") if (child / "data.mdb").is_file())
        if splits:
            raise InputError(
                f"{path}: holds splits ({', '.join(splits)}); give one, such as {path / splits[0]}"
            )
        return FolderSource(path)
    kinds: dict[str, Callable[[Path], Source]] = {".tsv": TsvSource, ".jsonl": JsonlSource}
    if path.suffix.lower() not in kinds:
        raise InputError(f"{path}: not a folder of pictures, *_imgs.tsv, LMDB folder or .jsonl catalogue")
    return kinds[path.suffix.lower()](path)


class FolderSource:
    """Every picture file below a folder, in the order of their paths. Hidden ones, other files and galleries
    are left out; links to folders are not followed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._entries: list[SourceItem | Dropped] | None = None

    @property
    def total(self) -> int:
        return len(self._list())

    def __iter__(self) -> Iterator[SourceItem | Dropped]:
        return iter(self._list())

    def _list(self) -> list[SourceItem | Dropped]:
        if self._entries is None:
            self._entries = list(self._walk())
        return self._entries

    def _walk(self) -> Iterator[SourceItem | Dropped]:
        failures: list[OSError] = []
        for directory, folders, files in os.walk(self._folder, onerror=failures.append):
            here = Path(directory)
            hidden = [name for name in folders + files if name.startswith(".")]
            yield from (Dropped(HIDDEN) for _ in hidden)
            folders[:] = sorted(n for n in folders if n not in hidden and not holds_gallery(here / n))
            for name in sorted(files):
                if name not in hidden:
                    yield self._entry(here / name)
        for error in failures:
            reason = error.strerror or error
            yield Dropped("unreadable folder", f"{path_text(error.filename)}: cannot be read: {reason}")

    def _entry(self, path: Path) -> SourceItem | Dropped:
        if path.suffix.lower() not in PICTURE_SUFFIXES:
            return Dropped(NOT_A_PICTURE_FILE)
        file = path_text(path.relative_to(self._folder).as_posix())
        name = path_text(path)
        title = file.rsplit("/", 1)[-1].rsplit(".", 1)[0]
        return SourceItem(None, partial(read_file, path, name), name, title, folder=self._folder, file=file)


class TsvSource:
    """The pictures of a MUGE `*_imgs.tsv`: `image_id<TAB>base64`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._size = path.stat().st_size
        self._read = 0
        self._end = 0

    @property
    def total(self) -> int | None:
        """Estimated from the part that was read: counting the lines first would read the file twice."""
        return round(self._size * self._read / self._end) if self._end else None

    def __iter__(self) -> Iterator[SourceItem | Dropped]:
        from cnclip.data.muge import BadRow, scan_images

        self._read = 0
        for row in scan_images(self._path):
            self._read, self._end = self._read + 1, row.end
            if isinstance(row, BadRow):
                yield Dropped(BROKEN_LINE, row.message)
            else:
                name = f"{self._path}:{row.line}: field image"
                yield SourceItem(row.image_id, partial(bytes, row.data), name)


class LmdbSource:
    """The pictures of an LMDB split, ours or Chinese-CLIP's: the split's folder or its `imgs`."""

    def __init__(self, path: Path) -> None:
        from cnclip.data.lmdb_store import ImageStore

        self._path = path
        self._store = ImageStore(path)

    @property
    def total(self) -> int:
        return len(self._store)

    def __iter__(self) -> Iterator[SourceItem | Dropped]:
        for image_id in self._store.ids:
            name = f"{self._path}: key {image_id}"
            if why := id_problem(image_id):
                yield Dropped(BAD_ID, f"{name[:1000]}: {why}")
                continue
            yield SourceItem(image_id, partial(self._store.__getitem__, image_id), name)


class JsonlSource:
    """A JSONL catalogue; see the head of this file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            with path.open("rb") as file:
                self._lines = sum(1 for line in file if line.strip())
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error

    @property
    def total(self) -> int:
        return self._lines

    def __iter__(self) -> Iterator[SourceItem | Dropped]:
        with self._path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                where = f"{self._path}:{number}"
                try:
                    yield self._parse(line, where)
                except InputError as error:
                    yield Dropped(BROKEN_LINE, f"{where}: {error}")

    def _parse(self, line: bytes, where: str) -> SourceItem:
        fields = _parse_object(line)
        for name in ("id", "image"):
            if name not in fields:
                raise InputError(f"field {name}: missing")
        item_id, image, title = fields.pop("id"), fields.pop("image"), fields.pop("title", None)
        if isinstance(item_id, int) and not isinstance(item_id, bool):
            item_id = str(item_id)
        item_id = check_id(item_id)
        title = check_title("" if title is None else title, item_id)
        attributes = check_attributes(fields, item_id)
        name = f"{where}: field image: {image}"
        return SourceItem(item_id, partial(read_file, self._locate(image), name), name, title, attributes)

    def _locate(self, image: object) -> Path:
        if not isinstance(image, str) or not image or "\0" in image:
            raise InputError("field image: must be the path of a file")
        if "://" in image or image.startswith("data:"):
            raise InputError(f"field image: {image[:100]}: only files are read; download it first")
        try:
            os.fsencode(image)
        except UnicodeEncodeError as error:
            raise InputError("field image: not valid Unicode (half of a surrogate pair)") from error
        path = Path(image)
        if not path.is_absolute() and ".." in path.parts:
            raise InputError(
                f"field image: {image[:100]}: leaves the catalogue's folder (absolute paths may)"
            )
        return self._path.parent / path


def read_file(path: Path, name: str) -> bytes:
    """The bytes of a picture file. Raises ImageError: missing, not a file, too large."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # a pipe would be waited for
            raise ImageError(f"{name}: not a file")
        size = status.st_size
        if size > MAX_FILE_BYTES:
            raise ImageError(f"{name}: {size:,} bytes, at most {MAX_FILE_BYTES:,} are read")
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise ImageError(f"{name}: {_why(error, 'no such file')}") from error


def _status(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: {_why(error, 'no such file or folder')}") from error


def _why(error: OSError | ValueError, missing: str) -> str:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return missing
    if isinstance(error, OSError) and error.errno == errno.ELOOP:
        return "a loop of links"
    return f"cannot be read: {getattr(error, 'strerror', None) or error}"


def _parse_object(line: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise InputError("not UTF-8") from error
    except RecursionError as error:
        raise InputError("nested too deeply") from error
    except ValueError as error:
        raise InputError(f"not JSON ({error})") from error
    if not isinstance(fields, dict):
        raise InputError("not a JSON object")
    return fields


def path_text(path: str | Path) -> str:
    """A path as text that can be stored; bytes that are not UTF-8 (an old GBK file name) as \\x escapes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
