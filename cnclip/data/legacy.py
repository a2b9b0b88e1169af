"""The LMDB layout of Chinese-CLIP: base64 pictures and pickled pairs, read without running anything in them.

- `imgs`: key `str(image_id)` → base64 text in either alphabet; `num_images` among the ids.
- `pairs`: key `str(i)` → `pickle((image_id, text_id, text))`; `num_samples` among the keys.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import re
from pathlib import Path

from cnclip.data.lmdb_env import EnvHandle
from cnclip.data.muge import OnError, TextRow, decode_base64
from cnclip.errors import InputError

IMAGE_COUNT_KEY, PAIR_COUNT_KEY = b"num_images", b"num_samples"
_MAX_PICKLE_BYTES = 2**20

# Everything a tuple of numbers and text needs in any protocol. Nothing that looks up, calls or builds an
# object, and no PUT with a free index: a huge one makes the unpickler allocate gigabytes.
_SAFE_OPCODES = set(
    re.findall(
        r"\w+",
        """PROTO FRAME STOP MARK POP TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_TUPLE LIST EMPTY_LIST APPEND APPENDS
        INT BININT BININT1 BININT2 LONG LONG1 LONG4 UNICODE SHORT_BINUNICODE BINUNICODE BINUNICODE8
        SHORT_BINSTRING BINSTRING SHORT_BINBYTES BINBYTES MEMOIZE BINPUT GET BINGET LONG_BINGET""",
    )
)


class _NoGlobals(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> object:
        raise pickle.UnpicklingError(f"asks for {module}.{name}")


def unpickle_primitives(value: bytes) -> object:
    """Unpickle tuples, lists, whole numbers, text and bytes; refuse everything else before it can run.

    Raises:
        ValueError: why the value was refused.
    """
    if len(value) > _MAX_PICKLE_BYTES:
        raise ValueError(f"a pickle of {len(value)} bytes where a short tuple belongs")
    try:
        for opcode, argument, _ in pickletools.genops(value):
            small_put = opcode.name in ("PUT", "LONG_BINPUT") and 0 <= int(argument or 0) < len(value)
            if opcode.name not in _SAFE_OPCODES and not small_put:
                named = f" {argument}" if isinstance(argument, str) else ""
                raise ValueError(f"a pickle that would do more than hold data ({opcode.name}{named[:60]})")
        return _NoGlobals(io.BytesIO(value)).load()
    except (pickle.UnpicklingError, EOFError, IndexError, KeyError, TypeError, AttributeError, OverflowError):
        raise ValueError("not a pickled tuple") from None


def parse_pair(value: bytes) -> tuple[str, int | str, str]:
    """Decode one `pairs` value into (image id, text id, text). Raises ValueError saying why not."""
    row = unpickle_primitives(value)
    if not isinstance(row, tuple | list) or len(row) != 3:
        raise ValueError("not (image_id, text_id, text)")
    image_id, text_id, text = row
    if not isinstance(image_id, int | str) or not isinstance(text_id, int | str) or not isinstance(text, str):
        raise ValueError("not (image_id, text_id, text)")
    return str(image_id), text_id, text


def read_image_ids(handle: EnvHandle) -> list[str]:
    """The ids of a legacy `imgs` environment in key order."""
    with handle().reading() as transaction:
        keys = list(transaction.cursor().iternext(keys=True, values=False))
        return [key.decode("utf-8") for key in keys if key != IMAGE_COUNT_KEY]


def decode_image(value: bytes, *, where: str) -> bytes:
    """Decode one `imgs` value. Raises InputError naming `where` when it is not base64."""
    try:
        return decode_base64(value)
    except ValueError as error:
        raise InputError(f"{where}: {error}") from None


def read_texts(path: Path, on_error: OnError | None = None) -> list[TextRow]:
    """Group the rows of a legacy `pairs` environment by text id, in row order.

    Rows that are not plain data are refused by key: they raise InputError, or go to `on_error`.
    """
    texts: dict[int | str, tuple[str, dict[str, None]]] = {}
    with EnvHandle(path)().reading() as transaction:
        rows = [row for row in transaction.cursor().iternext() if row[0] != PAIR_COUNT_KEY]
        rows.sort(key=lambda row: (len(row[0]), row[0]))  # "2" before "10"
        for key, value in rows:
            try:
                image_id, text_id, text = parse_pair(value)
            except ValueError as error:
                message = f"{path}: key {key.decode('utf-8', 'backslashreplace')}: {error}"
                if on_error is None:
                    raise InputError(message) from None
                on_error(message)
                continue
            texts.setdefault(text_id, (text, {}))[1][image_id] = None
    return [TextRow(text_id, text, list(image_ids)) for text_id, (text, image_ids) in texts.items()]
