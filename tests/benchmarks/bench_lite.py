"""How fast `lite` embeds pictures: from decoded pixels and from JPEG bytes.

    python -m tests.benchmarks.bench_lite [--pictures photos/]

Without a folder, synthetic JPEGs of 320 x 240 stand in for photos.
"""

from __future__ import annotations

import argparse
import io
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

import cnclip
from cnclip.model.device import tune_malloc

ROUNDS = 5


def synthetic(count: int) -> list[bytes]:
    """Smooth noise: compresses like a photo."""
    rng = np.random.default_rng(0)
    out = []
    for _ in range(count):
        small = Image.fromarray(rng.integers(0, 255, (24, 32, 3), dtype=np.uint8))
        buffer = io.BytesIO()
        small.resize((320, 240), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
        out.append(buffer.getvalue())
    return out


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=Path, help="folder of JPEG files")
    parser.add_argument("--count", type=int, default=512)
    args = parser.parse_args()
    tune_malloc()
    if args.pictures:
        files = sorted(p for p in args.pictures.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg"))
        jpegs = [p.read_bytes() for p in files[: args.count]]
    else:
        jpegs = synthetic(args.count)
    table = Table(
        "dtype", "from pixels, pictures/s", "from JPEG, pictures/s", title=f"lite, {len(jpegs)} pictures"
    )
    for dtype in ("float32", "bfloat16"):
        encoder = cnclip.load("lite", device="cpu", dtype=dtype)
        pixels = np.stack([encoder.prepare_image(data) for data in jpegs])
        encoder.encode_pixels(pixels[:64])
        rates: list[tuple[float, float]] = []
        for _ in range(ROUNDS):
            started = time.perf_counter()
            for start in range(0, len(pixels), 32):
                encoder.encode_pixels(pixels[start : start + 32])
            middle = time.perf_counter()
            encoder.encode_images(jpegs)
            rates.append((len(jpegs) / (middle - started), len(jpegs) / (time.perf_counter() - middle)))
        table.add_row(dtype, *(f"{np.median(column):.0f}" for column in zip(*rates, strict=True)))
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
