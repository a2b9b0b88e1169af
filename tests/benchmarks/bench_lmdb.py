"""Pictures per second out of LMDB, decoded and resized: ours beside the way of Chinese-CLIP's dataset.

    python -m tests.benchmarks.bench_lmdb [--photos DIR/valid_imgs.tsv] [--count 600] [--side 800]

One process, the same pictures in the same random order for both, alternating, best of `--repeat`. The naive
twin holds base64 text and pickled pairs, decodes every picture in full, resizes with bicubic to 224 × 224 and
normalises in float32, picture by picture. Ours holds raw bytes, uses the JPEG draft mode for large photos and
hands uint8 on (the model normalises whole batches on its device). Tokenising is left out of both. Without
`--photos` (whose sides are then as they are) synthetic photos of `--side` pixels are used.
"""

from __future__ import annotations

import argparse
import base64
import io
import pickle
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import numpy.typing as npt
from PIL import Image

from cnclip.data.dataset import PairDataset
from cnclip.data.lmdb_build import build_lmdb
from cnclip.data.muge import iter_images
from cnclip.image import CLIP_MEAN, CLIP_STD, PreprocessConfig, decode_image, resize_pixels

SIZE, BATCH = 224, 64


def synthetic_photo(rng: np.random.Generator, side: int) -> bytes:
    """A JPEG with the smoothness of a photo: low-frequency noise, enlarged."""
    small = Image.fromarray(rng.integers(0, 256, (side // 8, side // 8, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    small.resize((side, side), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def write_both(folder: Path, photos: Sequence[bytes]) -> None:
    """The same split as MUGE files → ours, and as the legacy layout."""
    with (folder / "x_imgs.tsv").open("w", encoding="ascii") as file:
        for i, data in enumerate(photos):
            file.write(f"{i}\t{base64.urlsafe_b64encode(data).decode()}\n")
    with (folder / "x_texts.jsonl").open("w", encoding="utf-8") as file:
        for i in range(len(photos)):
            file.write(f'{{"text_id": {i}, "text": "第{i}张商品照片", "image_ids": [{i}]}}\n')
    build_lmdb(folder, ["x"])
    legacy = {
        "imgs": [(str(i), base64.urlsafe_b64encode(data)) for i, data in enumerate(photos)],
        "pairs": [(str(i), pickle.dumps((i, i, f"第{i}张商品照片"))) for i in range(len(photos))],
    }
    for name, rows in legacy.items():
        path = folder / "legacy" / name
        path.mkdir(parents=True)
        with lmdb.open(str(path), map_size=2**40) as env, env.begin(write=True) as transaction:
            for key, value in rows:
                transaction.put(key.encode(), value)


class NaiveTwin:
    """What Chinese-CLIP's dataset does for one row, written anew: pickle, base64, PIL, float32."""

    def __init__(self, folder: Path) -> None:
        self._pairs = lmdb.open(str(folder / "pairs"), readonly=True, lock=False).begin(buffers=True)
        self._images = lmdb.open(str(folder / "imgs"), readonly=True, lock=False).begin(buffers=True)
        self._mean = np.array(CLIP_MEAN, np.float32)[:, None, None]
        self._std = np.array(CLIP_STD, np.float32)[:, None, None]

    def __getitem__(self, i: int) -> dict[str, Any]:
        image_id, text_id, text = pickle.loads(bytes(self._pairs.get(str(i).encode())))
        encoded = bytes(self._images.get(str(image_id).encode()))
        image = Image.open(io.BytesIO(base64.urlsafe_b64decode(encoded)))
        image = image.resize((SIZE, SIZE), Image.Resampling.BICUBIC).convert("RGB")
        pixels = np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1)).astype(np.float32) / 255.0
        pixels = (pixels - self._mean) / self._std
        return {"image": pixels, "text": text, "image_id": image_id, "text_id": text_id}


def ours(config: PreprocessConfig) -> Callable[[bytes], npt.NDArray[np.uint8]]:
    """The transform that evaluation and serving use."""
    return lambda data: resize_pixels(decode_image(data, min_side=config.size), config)


def seconds(dataset: Any, order: Sequence[int]) -> float:
    """Time to make all batches of `order`."""
    started = time.perf_counter()
    for first in range(0, len(order), BATCH):
        np.stack([dataset[i]["image"] for i in order[first : first + BATCH]])
    return time.perf_counter() - started


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--photos", type=Path, help="a *_imgs.tsv; synthetic photos without it")
    parser.add_argument("--count", type=int, default=600)
    parser.add_argument("--side", type=int, default=800)
    parser.add_argument("--repeat", type=int, default=5)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    if args.photos:
        photos = [row.data for row, _ in zip(iter_images(args.photos), range(args.count), strict=False)]
    else:
        distinct = [synthetic_photo(rng, args.side) for _ in range(20)]
        photos = [distinct[i % 20] for i in range(args.count)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_both(folder, photos)
        sizes = [
            sum(path.stat().st_size for path in (folder / part).rglob("data.mdb"))
            for part in ("lmdb/x", "legacy")
        ]
        mine = PairDataset(folder / "lmdb" / "x", transform=ours(PreprocessConfig(size=SIZE)))
        twin = NaiveTwin(folder / "legacy")
        order = rng.permutation(len(photos)).tolist()
        times = [(seconds(mine, order), seconds(twin, order)) for _ in range(args.repeat)]
    best_ours, best_twin = (len(photos) / min(column) for column in zip(*times, strict=True))
    sys.stdout.write(
        f"{len(photos)} pictures, {sum(map(len, photos)) / len(photos) / 1024:.0f} KiB each\n"
        f"ours   {best_ours:7.0f} pictures/s   {sizes[0] / 2**20:7.1f} MiB\n"
        f"naive  {best_twin:7.0f} pictures/s   {sizes[1] / 2**20:7.1f} MiB\n"
        f"ratio  {best_ours / best_twin:7.2f}            {sizes[0] / sizes[1]:7.2f}\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
