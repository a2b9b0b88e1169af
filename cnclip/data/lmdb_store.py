"""Reading a split's LMDB shards: pictures by id or position, texts with their pictures.

    {split}/imgs, imgs-00001, …   `images`: id → encoded bytes; `order`: row number → id; `__meta__`
    {split}/pairs                 `texts`: row number → msgpack [text_id, text, [image_id, …]]; `__meta__`

Row numbers are 8 bytes, big endian, so that key order is source order; `picture_key` tells how long ids are
keyed. An environment without `__meta__` is read as the legacy layout (`cnclip.data.legacy`).
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from collections.abc import Iterator
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import msgpack

from cnclip.data import legacy
from cnclip.data.lmdb_env import MAX_KEY_BYTES, EnvHandle, ReadEnv
from cnclip.data.muge import OnError, TextRow
from cnclip.errors import InputError

SCHEMA_VERSION = 1
IMAGES_DB, ORDER_DB, TEXTS_DB, META_DB = b"images", b"order", b"texts", b"__meta__"
META_KEY = b"meta"


def shard_name(number: int) -> str:
    """`imgs`, `imgs-00001`, `imgs-00002`, …: the first one keeps the name that scripts know."""
    return "imgs" if number == 0 else f"imgs-{number:05d}"


def row_key(number: int) -> bytes:
    """The key of row `number` (from 0)."""
    return number.to_bytes(8, "big")


def picture_key(image_id: str) -> bytes:
    """The key of a picture: its id or, where that is longer than LMDB takes, its SHA-256 after a byte that no
    id holds."""
    key = image_id.encode("utf-8")
    return key if len(key) <= MAX_KEY_BYTES else b"\0" + hashlib.sha256(key).digest()


def read_meta(env: ReadEnv) -> dict[str, Any] | None:
    """What the builder wrote about an environment; None for the legacy layout.

    Raises:
        InputError: written by a newer schema, or unreadable.
    """
    if env.db(META_DB) is None:
        return None
    try:
        meta: dict[str, Any] = json.loads(env.get(META_KEY, META_DB) or b"")
        version = int(meta["schema"])
    except (ValueError, KeyError, TypeError):
        raise InputError(
            f"{env.path}: field __meta__: not finished, or not written by this program"
        ) from None
    if version > SCHEMA_VERSION:
        raise InputError(f"{env.path}: schema {version} is newer than this program reads ({SCHEMA_VERSION})")
    return meta


class ImageStore:
    """The pictures of one split, ours or legacy. Picklable; safe for many threads and processes.

    Args:
        path: a split directory (holding `imgs`), or its `imgs` directory.

    Raises:
        InputError: nothing readable there, a shard missing, or a newer schema.
    """

    def __init__(self, path: str | Path) -> None:
        path = Path(path)
        first = path / "imgs" if (path / "imgs").is_dir() else path
        handle = EnvHandle(first)
        meta = read_meta(handle())
        self.legacy = meta is None
        if meta is None:
            self._shards = [handle]
            self.ids = legacy.read_image_ids(handle)
            return
        if meta.get("kind") != "images":
            raise InputError(f"{first}: holds {meta.get('kind')}, not pictures")
        self._shards = [EnvHandle(first.parent / name) for name in meta["shards"]]
        self.ids = []
        """Ids in source order: the order of the gallery."""
        counts = [self._read_order(shard) for shard in self._shards]
        self._starts = [0, *accumulate(counts)]

    def _read_order(self, shard: EnvHandle) -> int:
        with shard().reading(ORDER_DB) as transaction:
            ids = [value.decode("utf-8") for value in transaction.cursor().iternext(keys=False, values=True)]
        self.ids += ids
        return len(ids)

    @cached_property
    def index(self) -> dict[str, int]:
        """Position of each id in `ids`."""
        return {image_id: position for position, image_id in enumerate(self.ids)}

    def __len__(self) -> int:
        return len(self.ids)

    def __contains__(self, image_id: object) -> bool:
        return image_id in self.index

    def __iter__(self) -> Iterator[tuple[str, bytes]]:
        """Every (id, encoded bytes), in source order."""
        return ((image_id, self[image_id]) for image_id in self.ids)

    def __getitem__(self, image_id: str) -> bytes:
        """The encoded bytes of one picture.

        Raises:
            KeyError: no picture of that id.
            InputError: a legacy value that is not base64.
        """
        position = self.index[image_id]
        if self.legacy:
            shard = self._shards[0]
            value = shard().get(image_id.encode("utf-8"))
        else:
            shard = self._shards[bisect_right(self._starts, position) - 1]
            value = shard().get(picture_key(image_id), IMAGES_DB)
        if value is None:
            raise InputError(f"{shard.path}: key {image_id}: listed, but not stored")
        return legacy.decode_image(value, where=f"{shard.path}: key {image_id}") if self.legacy else value


def _unpack_text(value: bytes, where: str) -> TextRow:
    try:
        text_id, text, image_ids = msgpack.unpackb(value)
    except (ValueError, TypeError, msgpack.UnpackException):
        text = image_ids = None
    if not isinstance(text, str) or not isinstance(image_ids, list):
        raise InputError(f"{where}: not a [text_id, text, image_ids] row")
    return TextRow(text_id, text, image_ids)


def read_texts(path: str | Path, on_error: OnError | None = None) -> list[TextRow]:
    """The texts of a split in source order, from a split directory (holding `pairs`) or its `pairs`.

    A split without `pairs` (unlabelled test pictures) has no texts. Legacy rows that are not plain data are
    refused by key: they raise, or go to `on_error`.

    Raises:
        InputError: nothing readable there, or a newer schema.
    """
    path = Path(path)
    pairs = path if path.name == "pairs" or not (path / "imgs").is_dir() else path / "pairs"
    if not pairs.is_dir():
        return []
    handle = EnvHandle(pairs)
    env = handle()
    meta = read_meta(env)
    if meta is None:
        return legacy.read_texts(pairs, on_error)
    if meta.get("kind") != "texts":
        raise InputError(f"{pairs}: holds {meta.get('kind')}, not texts")
    with env.reading(TEXTS_DB) as transaction:
        rows = transaction.cursor().iternext()
        return [_unpack_text(value, f"{pairs}: row {int.from_bytes(key, 'big')}") for key, value in rows]
