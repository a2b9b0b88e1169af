"""LMDB environments: opened once per process for reading, growing by themselves for writing.

LMDB forbids using an environment across fork and opening one twice in a process, so readers share a
registry keyed by path, which a forked child empties (http://www.lmdb.tech/doc/, "Caveats").
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar
from weakref import WeakValueDictionary

import lmdb

from cnclip.errors import InputError
from cnclip.printable import printable

MAX_KEY_BYTES = 511
FIRST_MAP_SIZE = 16 * 2**20
_Result = TypeVar("_Result")


def _open(path: Path, **options: Any) -> Any:
    try:
        return lmdb.open(str(path), **options)
    except UnicodeEncodeError:  # py-lmdb takes no other names, not even as bytes
        why = "LMDB opens no folder whose path is not UTF-8; rename it"
    except (lmdb.Error, OSError) as error:
        why = f"not a readable LMDB directory: {error}"
    raise InputError(printable(f"{path}: {why}"))


@contextmanager
def _damage_named(path: Path, cure: str = "build it again") -> Iterator[None]:
    """Turn what is wrong with pages that are read, or with text in them, into an InputError."""
    try:
        yield
    except (lmdb.Error, UnicodeDecodeError) as error:
        raise InputError(printable(f"{path / 'data.mdb'}: damaged ({error}); {cure}")) from None


class ReadEnv:
    """A read-only environment of this process. `dbs` caches the handles of its named databases."""

    def __init__(self, path: Path) -> None:
        self.path, self.pid = path, os.getpid()
        # No lock file is needed: builders write aside and rename, so nobody writes what we read.
        self.env = _open(path, readonly=True, lock=False, max_dbs=4, readahead=False, create=False)
        self._check_size()
        self._dbs: dict[bytes, Any] = {}

    def _check_size(self) -> None:
        """Refuse a cut-off file: reading past its end would kill the process with SIGBUS."""
        file = self.path / "data.mdb"
        promised = (self.env.info()["last_pgno"] + 1) * self.env.stat()["psize"]
        if (size := file.stat().st_size) < promised:
            self.env.close()
            raise InputError(f"{file}: truncated: {size} bytes of {promised}")

    def db(self, name: bytes) -> Any | None:
        """The handle of a named database, or None where the environment has none of that name."""
        if name not in self._dbs:
            with _damage_named(self.path):
                try:
                    self._dbs[name] = self.env.open_db(name, create=False)
                except (lmdb.NotFoundError, lmdb.IncompatibleError):
                    self._dbs[name] = None
        return self._dbs[name]

    @contextmanager
    def reading(self, db: bytes | None = None) -> Iterator[Any]:
        """A transaction on a named database, or the unnamed one.

        Raises:
            InputError: a damaged page, or text decoded within that is not UTF-8.
        """
        with _damage_named(self.path), self.env.begin(db=None if db is None else self.db(db)) as transaction:
            yield transaction

    def get(self, key: bytes, db: bytes | None = None) -> bytes | None:
        """The value under `key` (copied out of the map), or None. Raises InputError at a damaged page."""
        with self.reading(db) as transaction:
            value: bytes | None = transaction.get(key)
        return value


def _why_none(path: Path, error: OSError) -> str:
    """Why there is no `data.mdb` in `path`."""
    if isinstance(error, FileNotFoundError) and path.is_dir():
        splits = sorted(
            str(found.parent.parent)
            for pattern in ("*/imgs/data.mdb", "lmdb/*/imgs/data.mdb")
            for found in path.glob(pattern)
            if not found.parent.parent.name.startswith(".")  # a build under way
        )
        hint = f"; did you mean {' or '.join(splits[:4])}?" if splits else ""
        return f"not an LMDB directory (no data.mdb){hint}"
    if isinstance(error, FileNotFoundError):
        return "no such folder"
    if isinstance(error, NotADirectoryError):
        return "not an LMDB directory, but a file" if path.is_file() else "no such folder"
    return f"not an LMDB directory: {error.strerror}"


_shared: WeakValueDictionary[tuple[str, int, int], ReadEnv] = WeakValueDictionary()
_lock = threading.RLock()


def _forget_after_fork() -> None:
    global _lock
    _lock = threading.RLock()
    for inherited in list(_shared.values()):
        inherited.env.close()  # this process's copy of the map and descriptor; the parent keeps its own
    _shared.clear()


os.register_at_fork(after_in_child=_forget_after_fork)


class EnvHandle:
    """The environment at `path`, opened on first use in each process; pickles as its path."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._env: ReadEnv | None = None

    def __call__(self) -> ReadEnv:
        """Raises InputError when there is no readable environment at the path."""
        env = self._env
        if env is None or env.pid != os.getpid():
            env = self._env = self._acquire()
        return env

    def _acquire(self) -> ReadEnv:
        try:
            file = (self.path / "data.mdb").stat()
        except OSError as error:
            raise InputError(printable(f"{self.path}: {_why_none(self.path, error)}")) from None
        if not file.st_size:
            raise InputError(printable(f"{self.path / 'data.mdb'}: empty file; build it again"))
        key = (str(self.path.resolve()), file.st_dev, file.st_ino)  # a rebuilt directory is another one
        with _lock:
            env = _shared.get(key)
            if env is None:
                env = _shared[key] = ReadEnv(self.path)
            return env

    def __getstate__(self) -> Path:
        return self.path

    def __setstate__(self, state: Path) -> None:
        self.path, self._env = state, None


class GrowingEnv:
    """A writable environment whose map starts small and doubles whenever it is full."""

    def __init__(self, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._env = _open(path, map_size=FIRST_MAP_SIZE, max_dbs=4)

    def db(self, name: bytes) -> Any:
        """The handle of a named database, created when missing."""
        with self._reading():
            return self._env.open_db(name)

    def _reading(self) -> AbstractContextManager[None]:
        return _damage_named(self.path, f"remove {self.path.parent} and build again")

    def read(self, key: bytes, db: Any) -> bytes | None:
        """The committed value under `key`, or None. Raises InputError at a damaged page."""
        with self._reading(), self._env.begin(db=db) as transaction:
            value: bytes | None = transaction.get(key)
        return value

    def has(self, key: bytes, db: Any) -> bool:
        """Whether a value is committed under `key`; does not read it. Raises InputError at a damaged page."""
        with self._reading(), self._env.begin(db=db) as transaction:
            found: bool = transaction.cursor().set_key(key)
        return found

    def write(self, work: Callable[[lmdb.Transaction], _Result]) -> _Result:
        """Run `work` in one durable transaction; where the map is full, double it and run `work` again.

        `work` must have no effect outside the transaction.

        Raises:
            InputError: the disk is full or cannot be written.
        """
        while True:
            try:
                with self._env.begin(write=True) as transaction:
                    return work(transaction)
            except lmdb.MapFullError:
                self._env.set_mapsize(2 * self._env.info()["map_size"])
            except lmdb.Error as error:  # a full disk, a file size limit, an I/O error
                raise InputError(f"{self.path}: cannot be written: {error}") from None

    def put_json(self, key: bytes, content: dict[str, Any], db: bytes) -> None:
        """Write one JSON value durably."""
        value, handle = json.dumps(content, ensure_ascii=False).encode("utf-8"), self.db(db)
        self.write(lambda transaction: transaction.put(key, value, db=handle))

    def close(self) -> None:
        """Sync and close."""
        self._env.sync(True)
        self._env.close()

    def __enter__(self) -> GrowingEnv:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
