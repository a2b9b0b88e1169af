"""Arrays on disk with what belongs to them beside: `NAME.npy` and `NAME.ids.json`.

The description is taken away before the array is replaced and written after it, so an array that has one is
whole and is the one described.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cnclip.errors import InputError
from cnclip.model.atomic import replacing

SCHEMA = 1


def description_path(path: Path) -> Path:
    """`NAME.ids.json` of `NAME.npy`."""
    return path.with_name(f"{path.name.removesuffix('.npy')}.ids.json")


def write_described(
    path: Path,
    shape: tuple[int, int],
    dtype: npt.DTypeLike,
    blocks: Iterable[npt.NDArray[Any]],
    description: Mapping[str, Any],
) -> None:
    """Write an array block of rows by block of rows, then its description; only one block is in memory.

    Raises:
        InputError: the folder cannot be written or the disk is full.
    """
    beside = description_path(path)
    with suppress(OSError):
        beside.unlink()
    kind = np.dtype(dtype).newbyteorder("<")
    header = {"descr": np.lib.format.dtype_to_descr(kind), "fortran_order": False, "shape": shape}
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for block in blocks:
            np.ascontiguousarray(block, kind).tofile(file)
    with replacing(beside) as temporary:
        text = json.dumps({"schema": SCHEMA, **description})
        temporary.write_text(text + "\n", encoding="utf-8")


def read_description(path: Path, kind: str) -> dict[str, Any] | None:
    """The description of an array, or None where there is none.

    Raises:
        InputError: it is not one of `kind`, or of a newer schema.
    """
    beside = description_path(path)
    try:
        content = json.loads(beside.read_text(encoding="utf-8", errors="surrogatepass"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError):
        raise InputError(f"{beside}: not a JSON object that describes {path.name}") from None
    if not isinstance(content, dict) or content.get("kind") != kind:
        raise InputError(f"{beside}: field kind: does not describe {kind}")
    if content.get("schema") != SCHEMA:
        raise InputError(f"{beside}: field schema: {content.get('schema')!r}, this program reads {SCHEMA}")
    return content


def read_ids(content: Mapping[str, Any], field: str, where: Path) -> list[int | str]:
    """A list of ids in a description. Raises InputError where it is not one."""
    ids = content.get(field)
    if not isinstance(ids, list) or not all(
        isinstance(value, int | str) and not isinstance(value, bool) for value in ids
    ):
        raise InputError(f"{where}: field {field}: not a list of ids")
    return ids


def open_array(path: Path) -> npt.NDArray[Any]:
    """A two-dimensional array of floats, mapped, not loaded.

    Raises:
        InputError: no such file, truncated, or something else (objects are never unpickled).
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path}: not a whole .npy file ({str(error).splitlines()[0]})") from None
    if not isinstance(array, np.ndarray) or array.ndim != 2 or array.dtype.kind != "f":
        raise InputError(f"{path}: not a two-dimensional array of floats")
    return array
