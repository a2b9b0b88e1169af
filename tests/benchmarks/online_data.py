"""What bench_online works on: shop photos without a dozen kinds, a `lite` that has never seen those, and
caches of fresh pictures of them, good and bad."""

from __future__ import annotations

import base64
import io
import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from cache.picture_cache import PictureCache
from cnclip.model.config import CONFIG_DIR

KINDS, PICTURES, STOCK = 12, 5, 8  # withheld; of a query in the cache; of a query in the shop
WRONG_SHARE = 0.2
_SHORTER = {"distill": {"total_steps": 900, "warmup": 100}, "joint": {"epochs": 3}}  # than lite's own recipe


def withhold(shop: Path, out: Path) -> list[str]:
    """Write `out`: the shop data without the training photos of KINDS kinds, drawn from those that have words
    of their own in the validation split. Returns the queries that are left without any training photo."""
    classes = json.loads((shop / "classes.json").read_text(encoding="utf-8"))
    rows = {split: _rows(shop / f"{split}_texts.jsonl") for split in ("train", "valid")}
    asked = {row["text"] for row in rows["valid"]}
    named = {
        kind: words
        for group in ("grocery_fine", "clothing")
        for kind, words in classes[group].items()
        if len(words) >= 2 and asked.issuperset(words)
    }
    words = {word for kind in random.Random(0).sample(list(named), KINDS) for word in named[kind]}
    gone = {i for row in rows["train"] if row["text"] in words for i in row["image_ids"]}
    left = [{**row, "image_ids": [i for i in row["image_ids"] if i not in gone]} for row in rows["train"]]
    withheld = [row["text"] for row in left if not row["image_ids"]]
    out.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in left if row["image_ids"]]
    (out / "train_texts.jsonl").write_text("".join(lines), encoding="utf-8")
    with (shop / "train_imgs.tsv").open() as source, (out / "train_imgs.tsv").open("w") as target:
        target.writelines(line for line in source if int(line.partition("\t")[0]) not in gone)
    for name in ("valid_imgs.tsv", "valid_texts.jsonl"):
        (out / name).write_bytes((shop / name).read_bytes())
    (out / "withheld.json").write_text(json.dumps(withheld, ensure_ascii=False), encoding="utf-8")
    return withheld


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def train_base(data: Path, shop: Path, work: Path, out: Path) -> None:
    """`lite` by a shorter form of its recipe, from ImageNet weights and the sentence encoder, without the
    withheld photos (extras `demo` and `lite`; half an hour on two cores)."""
    recipe = json.loads((CONFIG_DIR / "recipes" / "lite.json").read_text(encoding="utf-8"))
    for part, changes in _SHORTER.items():
        recipe[part] |= changes
    work.mkdir(parents=True, exist_ok=True)
    (work / "recipe.json").write_text(json.dumps(recipe), encoding="utf-8")
    corpus, emoji = work / "corpus", work / "openmoji"
    if not (corpus / "texts.txt").exists():
        run("preprocess.lite_corpus", "--queries", shop / "train_texts.jsonl", "--out", corpus)
    run("preprocess.openmoji", "--out", emoji)
    run(
        "cnclip.training.lite_recipe", "--data", data, "--emoji", emoji, "--corpus", corpus,
        "--recipe", work / "recipe.json", "--work", work / "towers", "--out", out,
    )  # fmt: skip


def run(module: str, *arguments: object, fine: tuple[int, ...] = (0,)) -> None:
    """`python -m module …`; ends with it unless its exit code is fine."""
    done = subprocess.run([sys.executable, "-m", module, *map(str, arguments)], check=False)
    if done.returncode not in fine:
        sys.exit(done.returncode)


def stock_shop(shop: Path, withheld: list[str], out: Path) -> None:
    """QUERY/*.jpg: training photos of the withheld queries, each photo for one query only."""
    photos = _photos(shop / "train_imgs.tsv")
    labels = {row["text"]: row["image_ids"] for row in _rows(shop / "train_texts.jsonl")}
    rng, taken = random.Random(1), set[int]()
    for query in withheld:
        free = [i for i in labels[query] if i not in taken]
        for number, i in enumerate(rng.sample(free, min(STOCK, len(free))), 1):
            taken.add(i)
            path = out / query / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(photos[i])


def _photos(tsv: Path) -> dict[int, bytes]:
    found = {}
    with tsv.open() as file:
        for line in file:
            i, _, data = line.rstrip("\n").partition("\t")
            found[int(i)] = base64.b64decode(data, altchars=b"-_" if set(data) & set("-_") else None)
    return found


def crawl(withheld: list[str], stock: Path, cache: Path) -> None:
    """Fill `cache` from a practice shop with that stock, through the login, the browser and the crawler."""
    queries = cache.parent / "queries.txt"
    cache.parent.mkdir(parents=True, exist_ok=True)
    queries.write_text("".join(f"{query}\n" for query in withheld), encoding="utf-8")
    run(
        "run_scripts.cli", "crawl", "--source", "practice-shop", "--shop-catalogue", stock,
        "--queries", queries, "--out", cache, "-n", PICTURES, "--headless", "--max-queries", 1000,
        fine=(0, 2),  # a query may have fewer pictures
    )  # fmt: skip


def spoil(clean: Path, out: Path, share: float, instead: Callable[[str], bytes]) -> int:
    """A copy of a cache in which `share` of the pictures are replaced. Returns how many."""
    cache, spoilt = PictureCache(clean), PictureCache(out)
    places = [(e.query, n) for e in cache.queries() if e.query for n in sorted(cache.pictures(e.query))]
    wrong = set(random.Random(2).sample(places, round(share * len(places))))
    for query, number in places:
        path = cache.get(query, number)
        assert path is not None
        provenance = cache.provenance(query, number)
        if (query, number) in wrong or provenance is None:
            spoilt.adopt(query, number, instead(query))
        else:
            spoilt.put(query, number, path.read_bytes(), provenance)
    return len(wrong)


def wrong_pictures(data: Path, clean: Path) -> Callable[[str], bytes]:
    """Pictures of something else: half of them of another withheld query, half of what training knows."""
    rng, cache = random.Random(3), PictureCache(clean)
    known = list(_photos(data / "train_imgs.tsv").values())
    same = {row["text"]: set(row["image_ids"]) for row in _rows(data / "valid_texts.jsonl")}
    others = [entry.query for entry in cache.queries() if entry.query]

    def instead(query: str) -> bytes:
        strangers = [other for other in others if not same[other] & same[query]]
        if rng.random() < 0.5:
            return _stored(rng.choice(known))
        path = rng.choice(list(cache.pictures(rng.choice(strangers)).values()))
        return _stored(path.read_bytes())

    return instead


def _stored(data: bytes) -> bytes:
    """As the cache wants it; a corner cut off, so that it is no copy of a picture that is there."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    box = (image.width // 12, image.height // 12, image.width, image.height)
    buffer = io.BytesIO()
    image.crop(box).resize((224, 224)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def placeholder(_query: str) -> bytes:
    """What a failed download leaves in Online-CNCLIP's cache: one grey picture that says so."""
    image = Image.new("RGB", (224, 224), (200, 200, 200))
    ImageDraw.Draw(image).text((70, 100), "NO IMAGE 404", fill=(90, 90, 90))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()
