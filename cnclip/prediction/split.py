"""What a prediction is made for: the pictures of a split, and the texts that are to be answered.

Unlike training and evaluation, prediction owes every text an answer, labelled or not. So the texts come from
`{split}_texts.jsonl` wherever it is: shards leave out texts whose labelled pictures are not there, and those
of Chinese-CLIP hold (text, picture) pairs only, which an unlabelled split has none of.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from cnclip.data import muge
from cnclip.data.dataset import ImageSource, TsvImages, find_split
from cnclip.data.lmdb_store import ImageStore, read_texts
from cnclip.data.muge import OnError, TextRow
from cnclip.errors import InputError
from cnclip.prediction.ids import digest, positions

_SAMPLED = 16


@dataclass(frozen=True)
class PredictionSplit:
    """Texts to answer, in their order, and the pictures to rank, in gallery order."""

    texts: list[TextRow]
    images: ImageSource
    where: Path

    @property
    def image_ids(self) -> list[str]:
        """Ids of all pictures, readable or not."""
        return self.images.ids

    def image_bytes(self, image_id: str) -> bytes:
        """The encoded bytes of one picture."""
        return self.images[image_id]


def texts_digest(texts: list[TextRow]) -> str:
    """A hash of ids and texts in order."""
    return digest(part for row in texts for part in (str(row.text_id), row.text))


def pictures_digest(images: ImageSource) -> str:
    """A hash of the ids in order and of some pictures: other pictures under the same ids are noticed, and
    nobody reads all of them for it."""
    sample = images.ids[:: max(1, len(images.ids) // _SAMPLED)]

    def content(image_id: str) -> str:
        try:
            return hashlib.sha256(images[image_id]).hexdigest()
        except InputError:
            return ""

    return digest([*images.ids, *map(content, sample)])


def open_images(path: str | Path, on_error: OnError | None = None) -> ImageSource:
    """The pictures of an `imgs` environment, of a split directory that holds one, or of a `*_imgs.tsv`.

    on_error: receives one line for each row of a tsv that cannot be read; without it the first one raises.

    Raises:
        InputError: nothing readable there.
    """
    path = Path(path)
    if path.is_file():
        return TsvImages(path, on_error)
    if not path.is_dir():
        raise InputError(f"{path}: no such file or folder")
    return ImageStore(path)


def open_texts(path: str | Path) -> list[TextRow]:
    """The texts of a `*_texts.jsonl` or of a split's shards.

    Raises:
        InputError: not readable, a broken row by file, line and field, an id used twice, or no text at all.
    """
    path = Path(path)
    if path.is_file():
        texts = muge.read_texts(path)
    elif path.is_dir():
        texts = read_texts(path)
    else:
        raise InputError(f"{path}: no such file or folder")
    if not texts:
        raise InputError(f"{path}: no text to answer")
    positions([row.text_id for row in texts], "text_id", path)
    return texts


def open_prediction_split(
    data: str | Path, split: str, *, text_data: str | Path | None = None, on_error: OnError | None = None
) -> PredictionSplit:
    """Find the pictures of `split` under `data` (as `find_split` does) and its texts.

    Args:
        text_data: a `*_texts.jsonl`; by default `{split}_texts.jsonl` beside the pictures' tsv, beside the
            `lmdb` folder or in `data`, or else the texts in the shards.
        on_error: as in `open_images`.

    Raises:
        InputError: no pictures or no texts there, or as `open_texts`.
    """
    found = find_split(data, split)
    images = open_images(found, on_error)
    if not images.ids:
        raise InputError(f"{found}: no picture to rank")
    if text_data is not None:
        return PredictionSplit(open_texts(text_data), images, found)
    folders = [Path(data), found.parent]
    if found.parent.name == "lmdb":
        folders.append(found.parent.parent)
    files = [folder / f"{split}_texts.jsonl" for folder in folders]
    beside = next((file for file in files if file.is_file()), None)
    if beside is None and (found.is_file() or not read_texts(found)):
        raise InputError(
            f"{found}: holds no texts, and {Path(data) / f'{split}_texts.jsonl'} is not there"
            " (--text-data names them)"
        )
    return PredictionSplit(open_texts(beside or found), images, found)
