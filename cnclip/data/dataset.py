"""One split as (picture, text) pairs, from LMDB shards or straight from MUGE files. No torch needed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from cnclip.data import muge
from cnclip.data.lmdb_store import ImageStore, read_texts
from cnclip.data.lmdb_texts import Flaw, collect_texts
from cnclip.data.muge import OnError, TextRow
from cnclip.errors import InputError
from cnclip.printable import printable

IntArray = npt.NDArray[np.int64]


class Pairs(NamedTuple):
    """Pair i is picture `image[i]` with text `text[i]`: positions in `image_ids` and `texts`, int64 (n,)."""

    image: IntArray
    text: IntArray


class ImageSource(Protocol):
    """Pictures in gallery order, by id."""

    @property
    def ids(self) -> list[str]: ...
    @property
    def index(self) -> dict[str, int]: ...
    def __getitem__(self, image_id: str) -> bytes: ...


class TsvImages:
    """The pictures of a `*_imgs.tsv`, read in place: one pass finds the rows, later reads seek to them."""

    def __init__(self, path: str | Path, on_error: OnError | None = None) -> None:
        self.path = Path(path)
        self.ids: list[str] = []
        self.index: dict[str, int] = {}
        self._rows: list[tuple[int, int]] = []  # (file offset after the row before, lines before)
        before = (0, 0)
        for row in muge.scan_images(path):
            if isinstance(row, muge.BadRow):
                problem = row.message
            elif row.image_id in self.index:
                used = f"{path}:{row.line}: field image_id: {row.image_id} is used by an earlier row"
                problem = printable(used)
            else:
                self.index[row.image_id] = len(self.ids)
                self.ids.append(row.image_id)
                self._rows.append(before)
                problem = ""
            before = (row.end, row.line)
            if problem and on_error is None:
                raise InputError(problem)
            if problem and on_error is not None:
                on_error(problem)

    def __getitem__(self, image_id: str) -> bytes:
        """The encoded bytes of one picture; KeyError when there is none of that id."""
        offset, line = self._rows[self.index[image_id]]
        row = next(muge.scan_images(self.path, offset=offset, line=line), None)
        if not isinstance(row, muge.ImageRow) or row.image_id != image_id:
            raise InputError(f"{self.path}:{line + 1}: changed since it was opened")
        return row.data


class PairDataset:
    """Every (picture, text) pair of one split. Picklable; environments open lazily in each process.

    Args:
        split_dir: `lmdb/{split}` of ours or of Chinese-CLIP.
        transform: applied to a picture's encoded bytes by `dataset[i]`; bytes by default.
        on_error: receives one line for each legacy row that is refused; without it the first one raises.

    `image_ids` (gallery order) and `texts` (source order) are what `pairs` and `relevance` count in.

    Raises:
        InputError: nothing readable there.
    """

    def __init__(
        self,
        split_dir: str | Path,
        *,
        transform: Callable[[bytes], Any] | None = None,
        on_error: OnError | None = None,
    ) -> None:
        self._setup(Path(split_dir), ImageStore(split_dir), read_texts(split_dir, on_error), transform)

    @classmethod
    def from_muge(
        cls,
        folder: str | Path,
        split: str,
        *,
        transform: Callable[[bytes], Any] | None = None,
        on_error: OnError | None = None,
    ) -> PairDataset:
        """Read `{split}_imgs.tsv` and `{split}_texts.jsonl` in place, without building anything.

        The texts are those that `build_lmdb` would write: ids that no picture has are taken out, a row that
        loses all its pictures so is left out, and rows with one id and one text become one. Pictures are not
        opened here; one that turns out to be unreadable stays listed, where a build would leave it out.
        `on_error` also receives the rows without any picture left.

        Raises:
            InputError: without `on_error`, a broken row, or an id that is used for two pictures or two texts.
        """
        folder = Path(folder)
        images = TsvImages(folder / f"{split}_imgs.tsv", on_error)

        def complain(message: str, flaw: Flaw) -> None:
            if on_error is not None and flaw != "mended":
                on_error(message)
            elif flaw == "broken":  # pictures may be missing: a split can be a part of its data
                raise InputError(message)

        texts = collect_texts(folder / f"{split}_texts.jsonl", images.index.__contains__, complain)
        dataset = cls.__new__(cls)
        dataset._setup(folder, images, texts, transform)
        return dataset

    def _setup(
        self, path: Path, images: ImageSource, texts: list[TextRow], transform: Callable[[bytes], Any] | None
    ) -> None:
        self.path, self._images, self.texts, self.transform = path, images, texts, transform

    @property
    def image_ids(self) -> list[str]:
        """Ids of all pictures in gallery order, with or without a text."""
        return self._images.ids

    def image_bytes(self, image_id: str) -> bytes:
        """The encoded bytes of one picture; KeyError when there is none of that id."""
        return self._images[image_id]

    @cached_property
    def pairs(self) -> Pairs:
        """All pairs, text by text. Ids that no picture has are left out."""
        index = self._images.index
        found = [
            (index[image_id], number)
            for number, row in enumerate(self.texts)
            for image_id in row.image_ids
            if image_id in index
        ]
        image, text = np.array(found, dtype=np.int64).reshape(-1, 2).T
        return Pairs(np.ascontiguousarray(image), np.ascontiguousarray(text))

    def digest(self) -> str:
        """A hash of the pictures' ids, the texts and who belongs to whom; not of the pictures."""
        content = hashlib.sha256("\n".join(self.image_ids).encode("utf-8", "surrogatepass"))
        content.update("\n".join(row.text for row in self.texts).encode("utf-8", "surrogatepass"))
        content.update(np.stack(self.pairs).tobytes())
        return content.hexdigest()[:12]

    def relevance(self) -> list[IntArray]:
        """For each text, the positions of its pictures in `image_ids`, ascending; possibly none."""
        image, text = self.pairs
        order = np.lexsort((image, text))
        bounds = np.searchsorted(text[order], np.arange(1, len(self.texts)))
        return np.split(image[order], bounds) if self.texts else []

    def __len__(self) -> int:
        return len(self.pairs.image)

    def __getitem__(self, i: int) -> dict[str, Any]:
        """Pair i as `{image, text, image_id, text_id}`; `image` is the transform of the encoded bytes."""
        image_id = self.image_ids[int(self.pairs.image[i])]
        row = self.texts[int(self.pairs.text[i])]
        data = self.image_bytes(image_id)
        image = data if self.transform is None else self.transform(data)
        return {"image": image, "text": row.text, "image_id": image_id, "text_id": row.text_id}


def find_split(path: str | Path, split: str) -> Path:
    """Where split `split` is under `path`: the directory that holds its `imgs`, or its `{split}_imgs.tsv`.

    Raises:
        InputError: neither is there; the message lists what was looked for.
    """
    path = Path(path)
    own_name = split in (path.name, path.resolve().name)  # "." has no name before it is resolved
    for candidate in (path / split, path / "lmdb" / split, *([path] if own_name else [])):
        if (candidate / "imgs").is_dir():
            return candidate
    if (path / f"{split}_imgs.tsv").is_file():
        return path / f"{split}_imgs.tsv"
    if (path / "imgs").is_dir():
        name = path.resolve().name
        raise InputError(
            f"{path}: is split {name!r}, not {split!r}; ask for {name!r}, or give its parent folder"
        )
    raise InputError(f"{path}: neither {split}/imgs, lmdb/{split}/imgs, imgs nor {split}_imgs.tsv is there")


def open_split(path: str | Path, split: str, *, on_error: OnError | None = None) -> PairDataset:
    """Find split `split` under `path`: an LMDB root, a data directory, MUGE files, or the directory of that
    split itself, which has its name.

    Raises:
        InputError: none of these is there; the message lists what was looked for.
    """
    found = find_split(path, split)
    if found.is_dir():
        return PairDataset(found, on_error=on_error)
    return PairDataset.from_muge(path, split, on_error=on_error)
