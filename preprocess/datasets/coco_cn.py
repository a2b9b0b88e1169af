"""COCO-CN: Chinese captions of pictures of COCO 2014.

    coco-cn_{train,val,test}.txt           the pictures of a split: COCO_train2014_000000123456, one a line
    imageid.human-written-caption.txt      COCO_train2014_000000123456#0<TAB>一个男人在骑马, of all splits
    train2014/, val2014/                   COCO's own folders of pictures
Source: li-xirong/coco-cn and the check script in its archive, coco-cn-version1805v1.1. Chinese-CLIP is
measured on the human-written captions of the test split, 1,053 of 1,000 pictures (OFA-Sys/Chinese-CLIP, issue
175). Other lists of the archive (`imageid.manually-translated-caption.txt`, `….bosonseg.txt` with words apart
and tagged) are read when one is given as SOURCE. A picture's id is its number at COCO.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from cnclip.errors import InputError
from preprocess.datasets.caption_lists import read_list
from preprocess.datasets.chinese import unsegment
from preprocess.datasets.files import find, lines, one_each
from preprocess.datasets.karpathy import coco_folders
from preprocess.datasets.rows import Bad, Caption, Picture, PictureFolder, Row, RowError, Split

_COCO_NAME = re.compile(r"COCO_(?:train|val)2014_0*([0-9]+)")


def open_coco_cn(source: Path, images: Path | None) -> dict[str, Split]:
    """SOURCE: the folder of the archive or the one above, or one list of captions; IMAGES: COCO's root."""
    captions = find(source, ["*.txt", "*/*.txt"], r"imageid\.human-(written-)?caption\.txt")
    if len(captions) > 1:
        raise InputError(f"{captions[0]} and {captions[1]}: give one of them as SOURCE")
    lists = one_each(sorted(captions[0].parent.glob("coco-cn_*.txt")))
    if not lists:
        raise InputError(f"{captions[0].parent}: no coco-cn_train.txt, coco-cn_val.txt or coco-cn_test.txt")
    pictures = PictureFolder(*coco_folders(images or captions[0].parent))
    return {
        name: Split(str(captions[0]), partial(_rows, captions[0], lists, name), pictures) for name in lists
    }


def _rows(captions: Path, lists: Mapping[str, Path], split: str) -> Iterator[Row]:
    members: set[str] = set()
    for where, stem in lines(lists[split]):
        if isinstance(stem, RowError):
            yield Bad(stem, where, "picture")
        else:
            members.add(stem)
            yield Picture(_image_id(stem), f"{stem}.jpg", where)
    others = {stem for name, path in lists.items() if name != split for _, stem in lines(path)}
    for where, listed in read_list(captions):
        if isinstance(listed, RowError):
            yield Bad(listed, where)
        elif listed.stem in members:
            text, image_id = unsegment(listed.text), _image_id(listed.stem)
            yield Caption(listed.key, text, image_id, listed.file_name, where)
        elif listed.stem not in others:
            yield Bad(RowError("image_id", "in no list of a split", repr(listed.stem)), where)


def _image_id(stem: str) -> int | str:
    match = _COCO_NAME.fullmatch(stem)
    return int(match[1]) if match else stem
