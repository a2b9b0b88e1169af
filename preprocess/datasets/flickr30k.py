"""Flickr30k (and Flickr8k), English or Chinese.

English: `results_20130124.token` or `results.csv`, all pictures as one split, train; Karpathy's splits as
    `dataset_flickr30k.json` or `flickr30k_{train,val,test}_karpathy.txt`.
Chinese (Flickr30k-CN, Flickr30k-CNA):
    flickr30kzhbbosontrain/TextData/seg.flickr30kzhbbosontrain.caption.txt, …val, flickr30kzhmbosontest:
        words apart, and tagged in the test split, whose captions people translated (weiyuk/fluent-cap)
    flickr30k_cn_{train,val,test}.txt (OpenGVLab/InternVL), flickr30k_{train,val,test}_zh.txt
        (mehdidc/retrieval_annotations, read by LAION-AI/CLIP_benchmark): csv, image,caption
    train/flickr30k_cna_train.txt, val/flickr30k_cna_val.txt, test/flickr30k_cn_test.txt (Flickr30k-CNA, as
        IDEA-CCNL's Fengshenbang reads it): `1000092795.jpg#0<TAB>caption`, in whole sentences
The lines are those of `preprocess.datasets.caption_lists`. A picture's id is its number at Flickr.
Assumed: pictures are JPEGs in `flickr30k-images`, `flickr30k_images`, `images` or the folder itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from preprocess.datasets.caption_lists import read_list
from preprocess.datasets.chinese import unsegment
from preprocess.datasets.files import SPLIT_NAMES, find, one_each, split_of
from preprocess.datasets.karpathy import karpathy_file, open_karpathy
from preprocess.datasets.rows import Bad, Caption, PictureFolder, Row, RowError, Split

_ENGLISH = r"results_20130124\.token|results\.csv|dataset_flickr(8|30)k\.json|flickr(8|30)k_\w+_karpathy\.txt"
_CHINESE = r"flickr(8|30)k_cna?_\w+\.txt|flickr(8|30)k_\w+_zh\.txt|seg\.flickr\w+boson\w+\.caption\.txt"


def open_flickr30k(source: Path, images: Path | None) -> dict[str, Split]:
    """SOURCE: the folder of the annotations, or one file of them."""
    files = find(source, ["*.token", "*.csv", "*.json", "*.txt"], _ENGLISH)
    folders = _picture_folders(images or files[0].parent)
    if path := karpathy_file(files):
        return open_karpathy(path, folders)
    return {
        name: Split(str(path), partial(_rows, path, str), PictureFolder(*folders))
        for name, path in one_each(files).items()
    }


def open_flickr30k_cn(source: Path, images: Path | None) -> dict[str, Split]:
    """SOURCE: the folder of the annotations, at most two above them, or one file of them."""
    files = find(source, ["*.txt", "*/*.txt", "*/TextData/*.txt"], _CHINESE)
    folders = _picture_folders(images or (source if source.is_dir() else source.parent))
    return {
        name: Split(str(path), partial(_rows, path, unsegment), PictureFolder(*folders))
        for name, path in one_each(files, _chinese_split).items()
    }


def _picture_folders(root: Path) -> list[Path]:
    names = ("flickr30k-images", "flickr30k_images", "images", "Images")
    return [*(root / name for name in names), root]


def _chinese_split(name: str) -> str:
    glued = re.search(r"boson(train|val|test)\.", name)
    return SPLIT_NAMES[glued[1]] if glued else split_of(name)


def _rows(path: Path, clean: Callable[[str], str]) -> Iterator[Row]:
    for where, listed in read_list(path):
        if isinstance(listed, RowError):
            yield Bad(listed, where)
        else:
            yield Caption(listed.key, clean(listed.text), listed.stem, listed.file_name, where)
