"""Ids of texts and pictures in prediction files: how they are written, compared and brought into one order.

Ids are compared as text everywhere: 7 and "7" are the same. What is written is a number where the id reads as
one, since Chinese-CLIP's files have whole numbers there.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from cnclip.errors import InputError
from cnclip.printable import printable

Id = int | str
IntArray = npt.NDArray[np.int64]
_SHOWN = 5


def written_id(value: Id) -> Id:
    """7 for "7"; the text itself where a number would not read the same ("007", "a7")."""
    if isinstance(value, int):
        return value
    digits = value.removeprefix("-")
    if len(digits) <= 18 and digits.isascii() and digits.isdigit() and str(int(value)) == value:
        return int(value)
    return value


def positions(ids: Sequence[Id], what: str, where: object) -> dict[str, int]:
    """The position of each id.

    Args:
        what: "text_id" or "image_id". where: the file, for the message.

    Raises:
        InputError: an id that is there twice, by name.
    """
    found = {str(value): position for position, value in enumerate(ids)}
    if len(found) != len(ids):
        twice = [key for key, count in Counter(map(str, ids)).items() if count > 1]
        raise InputError(f"{where}: field {what}: {named(twice)} more than once")
    return found


def align(wanted: Sequence[Id], ids: Sequence[Id], what: str, where: object, like: object) -> IntArray | None:
    """Where in `ids` each of `wanted` is: int64 (n,), or None where they are in the same order already.

    Args:
        what: "text_id" or "image_id". where: the file of `ids`. like: the file of `wanted`.

    Raises:
        InputError: an id missing in one of the two, or there twice, by name.
    """
    at, reference = positions(ids, what, where), positions(wanted, what, like)
    if missing := [key for key in reference if key not in at]:
        raise InputError(f"{where}: field {what}: lacks {named(missing)}, which {like} has")
    if extra := [key for key in at if key not in reference]:
        raise InputError(f"{like}: field {what}: lacks {named(extra)}, which {where} has")
    order = np.fromiter((at[key] for key in reference), np.int64, len(reference))
    return None if np.array_equal(order, np.arange(len(order))) else order


def named(ids: Iterable[str]) -> str:
    """The first few ids, and how many more there are."""
    listed = list(ids)
    rest = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return printable(", ".join(listed[:_SHOWN])) + rest


def digest(lines: Iterable[str]) -> str:
    """A hash of texts in order: 16 hexadecimal digits."""
    content = hashlib.sha256()
    for line in lines:
        data = line.encode("utf-8", "surrogatepass")
        content.update(len(data).to_bytes(8, "big") + data)
    return content.hexdigest()[:16]
