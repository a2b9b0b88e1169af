"""Lists of captions, one a line, as Flickr30k, Flickr30k-CN and COCO-CN come.

1000092795.jpg#0<TAB>Two young guys …          results_20130124.token (Flickr30k's own)
1000092795#zhb#0 两 个 年轻人                   seg.….caption.txt (weiyuk/fluent-cap)
COCO_train2014_000000123456#0<TAB>一个男人      imageid.….txt (li-xirong/coco-cn)
1000092795.jpg| 0| Two young guys …            results.csv (Kaggle), after a header
1000092795.jpg,"Two young guys, …"             flickr30k_*_karpathy.txt (mehdidc/retrieval_annotations),
                                               csv after the header image,caption
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from preprocess.datasets.files import lines, records
from preprocess.datasets.rows import RowError

_KEYED = re.compile(r"([^\s#]+)#(\S+)(?:\s+(.*))?")
_PIPED = re.compile(r"([^|]+)\|([^|]*)\|(.*)")
_EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif")


class Listed(NamedTuple):
    """A caption with the id its list gives it (made of picture and number where it has none), and its picture
    as the list calls it."""

    key: str
    name: str
    text: str

    @property
    def stem(self) -> str:
        """The picture's name without the extension of its file."""
        extension = next((ending for ending in _EXTENSIONS if self.name.lower().endswith(ending)), "")
        return self.name[: len(self.name) - len(extension)]

    @property
    def file_name(self) -> str:
        """The picture's file; lists may leave `.jpg` out, and mean no other extension then."""
        return f"{self.name}.jpg" if self.name == self.stem else self.name


def read_list(path: Path) -> Iterator[tuple[str, Listed | RowError]]:
    """Every caption of a list as (`file:line`, caption), or why a line is none.

    Raises:
        InputError: the file cannot be read.
    """
    first = next((line for _, line in lines(path)), "")
    if isinstance(first, str) and re.fullmatch(r"image\s*,\s*caption", first):
        yield from _comma_separated(path)
        return
    piped = isinstance(first, str) and first.startswith("image_name|")
    for number, (where, line) in enumerate(lines(path)):
        if isinstance(line, RowError):
            yield where, line
        elif not piped:
            yield where, _keyed(line)
        elif number:  # the first line is the header
            yield where, _piped(line)


def _keyed(line: str) -> Listed | RowError:
    match = _KEYED.fullmatch(line)
    if match is None:
        return RowError("(all)", "expected image#number and a caption")
    return Listed(f"{match[1]}#{match[2]}", match[1], match[3] or "")


def _piped(line: str) -> Listed | RowError:
    match = _PIPED.fullmatch(line)
    if match is None:
        return RowError("(all)", "expected image| number| caption")
    name = match[1].strip()
    return Listed(f"{name}#{match[2].strip()}", name, match[3])


def _comma_separated(path: Path) -> Iterator[tuple[str, Listed | RowError]]:
    numbers: Counter[str] = Counter()
    for where, record in records(path, ["image", "caption"]):
        if isinstance(record, RowError):
            yield where, record
        else:
            name = record["image"].strip()
            yield where, Listed(f"{name}#{numbers[name]}", name, record["caption"])
            numbers[name] += 1
