"""`{split}_imgs.tsv` → the `imgs` shards, in durable batches that can be taken up again after a kill."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import lmdb
from PIL import Image

from cnclip.data import muge
from cnclip.data.lmdb_env import GrowingEnv
from cnclip.data.lmdb_report import BuildOptions, SplitReport, Tally, none_usable
from cnclip.data.lmdb_store import (
    IMAGES_DB,
    META_DB,
    META_KEY,
    ORDER_DB,
    SCHEMA_VERSION,
    picture_key,
    row_key,
    shard_name,
)
from cnclip.errors import ImageError, InputError
from cnclip.image import MAX_PIXELS, decode_image
from cnclip.printable import printable

OnBytes = Callable[[int, int], None]
"""Called with (bytes read, bytes in all) of the source after each row."""


class ScanImages(Protocol):
    """Reads a file of pictures row by row, from the row after byte `offset` and line `line`."""

    def __call__(self, path: Path, *, offset: int, line: int) -> Iterator[muge.ImageRow | muge.BadRow]: ...


_PROGRESS_KEY = b"progress"


def check_picture(data: bytes, how: str) -> str | None:
    """Why `data` is no usable picture, or None. `how` as in `BuildOptions.check_images`."""
    if how == "off":
        return None
    if how == "decode":
        try:
            decode_image(data, name="picture")
        except ImageError as error:
            return str(error).removeprefix("picture: ")
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns from 89 megapixels on; ours is the limit here
            width, height = Image.open(io.BytesIO(data)).size
    except Image.DecompressionBombError:
        return "too many pixels"
    except (OSError, ValueError, SyntaxError, EOFError, TypeError, KeyError, IndexError, OverflowError):
        return "not a picture"  # Pillow's parsers report damage through any of these
    return "too many pixels" if width * height > MAX_PIXELS else None


class ImageWriter(AbstractContextManager["ImageWriter"]):
    """Writes one split's pictures into `work`; answers whether an id is stored. Close it when done.

    Opening takes up what a killed build left in `work`, if the source and the rules are still those it was
    made of, and starts afresh otherwise. `scan` reads the source; `name` is what messages call it.
    """

    def __init__(
        self,
        source: Path,
        work: Path,
        options: BuildOptions,
        report: SplitReport,
        scan: ScanImages = muge.scan_images,
        name: str = "",
    ) -> None:
        self.source, self.work, self.options, self.report = source, work, options, report
        self._scan, self._name = scan, name or str(source)
        # What decides which rows are kept: a build made under other rules is not taken up.
        self._rules = {
            "schema": SCHEMA_VERSION,
            "check": options.check_images,
            "strict": options.strict,
            "id_length": muge.MAX_ID_LENGTH,
        }
        self._offset = self._line = 0  # of the source, as far as it is durably written
        self._digest = hashlib.sha256()  # of the source up to `_offset`
        self._shards: list[GrowingEnv] = []
        self._counts: list[int] = []
        self._shard_bytes = 0
        self._batch: dict[str, bytes] = {}
        self._batch_bytes = 0
        try:
            resumed = self._resume()
        except InputError:  # what killed the build damaged it, too
            resumed = False
        if not resumed:
            self.close()
            self._digest = hashlib.sha256()
            shutil.rmtree(work, ignore_errors=True)
            self._add_shard()

    def _resume(self) -> bool:
        while (path := self.work / shard_name(len(self._shards))).is_dir():
            self._shards.append(GrowingEnv(path))
        raw = None
        while self._shards and raw is None:
            raw = self._shards[-1].read(_PROGRESS_KEY, self._shards[-1].db(META_DB))
            if raw is None:  # begun, but without a durable batch
                unfinished = self._shards.pop()
                unfinished.close()
                shutil.rmtree(unfinished.path)
        state: dict[str, Any] = json.loads(raw or b"{}")
        if state.get("rules") != self._rules or not self._hash_to(state["offset"]):
            return False
        if self._digest.hexdigest() != state["sha256"]:
            return False
        self._offset, self._line = state["offset"], state["line"]
        self._counts, self._shard_bytes = state["counts"], state["shard_bytes"]
        self.report.images = Tally(**state["images"])
        self.report.image_bytes, self.report.problems = state["image_bytes"], state["problems"]
        self.report.resumed_at = self._line
        return True

    def _hash_to(self, end: int) -> bool:
        """Extend the digest from `_offset` to `end`; False when the source is shorter."""
        left = end - self._offset
        with self.source.open("rb") as file:
            file.seek(self._offset)
            while left and (piece := file.read(min(left, 2**20))):
                self._digest.update(piece)
                left -= len(piece)
        return not left

    def _add_shard(self) -> None:
        self._shards.append(GrowingEnv(self.work / shard_name(len(self._shards))))
        self._counts.append(0)
        self._shard_bytes = 0

    def run(self, on_bytes: OnBytes | None = None) -> None:
        """Read the rest of the source and finish every shard.

        Raises:
            InputError: with `strict` the first broken row; without any usable picture at all.
        """
        size, line, end = self.source.stat().st_size, self._line, self._offset
        for row in self._scan(self.source, offset=self._offset, line=self._line):
            self.report.images.read += 1
            if (why := self._refusal(row)) is not None:
                self._drop(why, row)
            elif isinstance(row, muge.ImageRow):
                self._batch[row.image_id] = row.data
                self._batch_bytes += len(row.data)
            line, end = row.line, row.end
            if self._batch_bytes >= self.options.batch_bytes:
                self._flush(line, end)
            if on_bytes is not None:
                on_bytes(end, size)
        self._flush(line, size)
        if not self.report.images.kept:
            report = self.report
            raise InputError(none_usable(self._name, "picture", report.images.read, report.problems))
        self._finish()

    def _refusal(self, row: muge.ImageRow | muge.BadRow) -> str | None:
        if isinstance(row, muge.BadRow):
            return row.reason
        earlier = self.get(row.image_id)
        if earlier is not None:
            same = "the same" if earlier == row.data else "another"
            return f"field image_id: used by an earlier row for {same} picture"
        why = check_picture(row.data, self.options.check_images)
        return f"field image: {why}" if why else None

    def _drop(self, reason: str, row: muge.ImageRow | muge.BadRow) -> None:
        if isinstance(row, muge.BadRow):
            message = printable(row.message)
        else:
            where = row.where or f"{self.source}:{row.line}"
            message = printable(f"{where}: {reason} (image_id {row.image_id})")
        if self.options.strict:
            raise InputError(message)
        self.report.images.drop(reason)
        self.report.problem(message)

    def get(self, image_id: str) -> bytes | None:
        """The picture stored, or about to be stored, under an id."""
        if image_id in self._batch:
            return self._batch[image_id]
        key = picture_key(image_id)
        return next((data for env in self._shards if (data := env.read(key, env.db(IMAGES_DB)))), None)

    def __contains__(self, image_id: str) -> bool:
        """Whether a picture is stored, or about to be stored, under an id. Reads no picture."""
        key = picture_key(image_id)
        return image_id in self._batch or any(env.has(key, env.db(IMAGES_DB)) for env in self._shards)

    def _flush(self, line: int, end: int) -> None:
        """Write the batch and how far it reaches, in one transaction."""
        if self._batch and self._shard_bytes >= self.options.shard_bytes:
            self._add_shard()
        self._hash_to(end)
        self._line, self._offset = line, end
        first_row, batch = self._counts[-1], self._batch
        self._counts[-1] += len(batch)
        self._shard_bytes += self._batch_bytes
        self.report.images.kept += len(batch)
        self.report.image_bytes += self._batch_bytes
        progress = self._progress()
        env = self._shards[-1]
        images, order, meta = env.db(IMAGES_DB), env.db(ORDER_DB), env.db(META_DB)

        def work(transaction: lmdb.Transaction) -> None:
            for number, (image_id, data) in enumerate(batch.items(), start=first_row):
                transaction.put(picture_key(image_id), data, db=images)
                transaction.put(row_key(number), image_id.encode("utf-8"), db=order, append=True)
            transaction.put(_PROGRESS_KEY, progress, db=meta)

        env.write(work)
        self._batch, self._batch_bytes = {}, 0

    def _progress(self) -> bytes:
        state = {
            "rules": self._rules,
            "line": self._line,
            "offset": self._offset,
            "sha256": self._digest.hexdigest(),
            "counts": self._counts,
            "shard_bytes": self._shard_bytes,
            "images": self.report.images.to_dict(),
            "image_bytes": self.report.image_bytes,
            "problems": self.report.problems,
        }
        return json.dumps(state, ensure_ascii=False).encode("utf-8")

    def _finish(self) -> None:
        names = [env.path.name for env in self._shards]
        self.report.shards = len(names)
        for env, count in zip(self._shards, self._counts, strict=True):
            content = {
                "schema": SCHEMA_VERSION,
                "kind": "images",
                "count": count,
                "total": sum(self._counts),
                "shards": names,
                "source": {
                    "file": self.source.name,
                    "bytes": self._offset,
                    "sha256": self._digest.hexdigest(),
                },
            }
            env.put_json(META_KEY, content, META_DB)

    def close(self) -> None:
        """Sync and close the shards, leaving them to be taken up again or renamed."""
        for env in self._shards:
            env.close()
        self._shards, self._counts = [], []

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
