"""What goes into a gallery and what comes out, with the checks at its door."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from cnclip.data.muge import MAX_ID_LENGTH, id_problem
from cnclip.errors import CnclipError, InputError

Vector = npt.NDArray[np.float32]
Nums = npt.NDArray[np.int64]
SearchMode = Literal["vector", "keyword", "hybrid"]
Scalar = str | int | float | bool
AttributeValue = Scalar | list[Any]

MAX_TEXT_LENGTH = 10_000
UNIT_TOLERANCE = 1e-2  # vectors computed in half precision are this close to unit length
_INT64 = range(-(2**63), 2**63)


class GalleryError(InputError):
    """A gallery that is missing, damaged, or not where it is said to be."""


class GalleryLocked(CnclipError):
    """Another process is writing to the gallery."""


class ModelChanged(CnclipError):
    """The gallery's vectors are of another model by now; what was made with the one before is of no use."""


@dataclass(frozen=True)
class StoredImage:
    """A picture that is in the gallery's blob store already: from `Gallery.put_image`, or an item's own.

    pin: of `put_image`, which keeps the picture until an item has it; None for the picture of an item.
    """

    sha256: str
    mime: str
    pin: int | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Item:
    """What `Gallery.upsert` takes. It replaces an item of the same id as a whole.

    vector: float32 (dim,), unit length. attributes: string, number, boolean, or a list of these.
    image: the encoded picture (JPEG, PNG, …), or one that is stored already; None is no picture.
    """

    id: str
    vector: Vector
    title: str = ""
    attributes: Mapping[str, AttributeValue] = field(default_factory=dict)
    image: bytes | StoredImage | None = None


@dataclass(frozen=True)
class Row:
    """An item as the catalogue holds it, without its vector. `num` is the gallery's own number for it."""

    id: str
    title: str
    attributes: dict[str, Any]
    image_sha256: str | None
    image_mime: str | None
    num: int = -1

    @property
    def image(self) -> StoredImage | None:
        """The picture, to be kept when the item is upserted again."""
        if self.image_sha256 is None:
            return None
        return StoredImage(self.image_sha256, self.image_mime or UNKNOWN_MIME)


@dataclass(frozen=True)
class Hit:
    """One result. `score` is what the results are ordered by: the cosine (vector), BM25 (keyword), or the
    reciprocal-rank sum (hybrid). `cosine` is None where there was no query vector."""

    row: Row
    score: float
    cosine: float | None


@dataclass(frozen=True)
class UpsertResult:
    """How many items of an upsert were new, changed, and already there as they are."""

    added: int = 0
    updated: int = 0
    unchanged: int = 0


UNKNOWN_MIME = "application/octet-stream"
_MAGIC: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\xff\xd8\xff", "image/jpeg"),
    (0, b"\x89PNG\r\n\x1a\n", "image/png"),
    (0, b"GIF8", "image/gif"),
    (8, b"WEBP", "image/webp"),
    (0, b"BM", "image/bmp"),
    (0, b"II*\0", "image/tiff"),
    (0, b"MM\0*", "image/tiff"),
    (4, b"ftypavif", "image/avif"),
)


def sniff_mime(data: bytes) -> str:
    """MIME type by the first bytes, never by a name; only types that a browser shows as a picture."""
    for offset, magic, mime in _MAGIC:
        if data.startswith(magic, offset):
            return mime
    return UNKNOWN_MIME


def check_id(value: object) -> str:
    """An item's id. Raises InputError."""
    if not isinstance(value, str) or not value or len(value) > MAX_ID_LENGTH:
        raise InputError(f"item {str(value)[:80]!r}: id must be a text of 1 to {MAX_ID_LENGTH} characters")
    if why := id_problem(value):
        raise InputError(f"item {value[:80]!r}: id {why}")
    return _check_text(value, f"item {value[:80]!r}: id")


def check_title(value: object, item_id: str) -> str:
    """An item's title. Raises InputError."""
    if not isinstance(value, str):
        raise InputError(f"item {item_id!r}: title must be a text, not {type(value).__name__}")
    return _check_text(value, f"item {item_id!r}: title")


def check_attributes(attributes: Mapping[str, Any], item_id: str) -> dict[str, AttributeValue]:
    """Attributes that the catalogue can hold; those that are None are left out. Raises InputError."""
    checked: dict[str, AttributeValue] = {}
    for name, value in attributes.items():
        where = f"item {item_id!r}: attribute {str(name)[:80]!r}"
        if not isinstance(name, str) or not name:
            raise InputError(f"{where}: the name must be a text that is not empty")
        _check_text(name, where)
        if isinstance(value, list | tuple):
            checked[name] = [check_scalar(element, where) for element in value]
        elif value is not None:
            checked[name] = check_scalar(value, where)
    return checked


def check_scalar(value: object, where: str) -> Scalar:
    """A text, number or boolean that SQLite and JSON can hold. Raises InputError that begins with `where`."""
    if isinstance(value, str):
        return _check_text(value, where)
    if isinstance(value, int):
        if value not in _INT64:
            raise InputError(f"{where}: {str(value)[:40]} does not fit 64 bits")
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise InputError(f"{where}: {value} is not a number that can be stored")
        return value
    raise InputError(
        f"{where}: must be a text, number, boolean or a list of these, not {type(value).__name__}"
    )


def check_vector(vector: object, dim: int, where: str) -> Vector:
    """A finite float32 vector (dim,) of unit length. Raises InputError that begins with `where`."""
    array = np.asarray(vector)
    if array.shape != (dim,) or array.dtype.kind != "f":
        raise InputError(f"{where}: vector must be floats of shape ({dim},), not {array.dtype} {array.shape}")
    checked = np.ascontiguousarray(array, dtype=np.float32)
    if not np.isfinite(checked).all():
        raise InputError(f"{where}: vector holds a value that is not finite")
    norm = float(np.linalg.norm(checked))
    if abs(norm - 1.0) > UNIT_TOLERANCE:
        raise InputError(f"{where}: vector must have unit length, not {norm:.4g}")
    return checked


def _check_text(value: str, where: str) -> str:
    if len(value) > MAX_TEXT_LENGTH:
        raise InputError(f"{where}: {len(value):,} characters, at most {MAX_TEXT_LENGTH:,} are taken")
    if "\0" in value:  # SQLite's text functions end there: it would never be found again
        raise InputError(f"{where}: holds a NUL character")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(f"{where}: not valid Unicode (half of a surrogate pair)") from error
    return value
