"""Pictures/s of the image towers, float32 against bfloat16, interleaved in one run.

    python -m tests.benchmarks.bench_image [--models lite ViT-B-16] [--count 64] [--batch-size 32]

"plain": BatchNorm as it was trained, planes of channels one after the other, float32. "ours": what
`cnclip.load` makes of it: BatchNorm folded into the convolutions and channels-last (EfficientNet, ResNet).
"from JPEG": decoding and resizing included. Random weights and noise pictures; the best round counts.

2026-11-21, AMD EPYC with AVX-512 bf16, torch 2.13, 2 threads, beside a training job (only the ratios say
something): lite 2.2x in float32 and 4.1x in bfloat16; ViT-B-16 2.9x in bfloat16, cosine 0.99995.
"""

from __future__ import annotations

import argparse
import copy
import io
import sys
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

from cnclip.model.config import LITE_TEXT, LITE_VISION, ModelConfig, named_config
from cnclip.model.device import tune_malloc
from cnclip.model.dual_encoder import DualEncoder
from cnclip.model.encoder import Encoder, fold_batch_norm

_JPEG_SIDE = 800


def configuration(name: str) -> ModelConfig:
    return named_config(LITE_VISION, LITE_TEXT) if name == "lite" else named_config(name, "RBT3-chinese")


def prepared(model: DualEncoder, dtype: torch.dtype) -> Encoder:
    """The encoder as `cnclip.load` sets it up."""
    model = copy.deepcopy(model).requires_grad_(False)
    fold_batch_norm(model.visual)
    model = model.to(dtype)
    if model.config.vision.tower != "vit":
        model.visual.to(memory_format=torch.channels_last)
    return Encoder(model, name="benchmark", fingerprint="")


def jpeg_photos(count: int) -> list[bytes]:
    """Smooth noise of 800 x 800 pixels, as JPEG."""
    rng = np.random.default_rng(0)
    photos = []
    for _ in range(count):
        small = Image.fromarray(rng.integers(0, 256, (50, 50, 3), dtype=np.uint8))
        file = io.BytesIO()
        small.resize((_JPEG_SIDE, _JPEG_SIDE), Image.Resampling.BICUBIC).save(file, "JPEG", quality=85)
        photos.append(file.getvalue())
    return photos


def measure(name: str, count: int, batch_size: int, rounds: int) -> list[tuple[str, float, float]]:
    """(way, pictures/s, lowest cosine to the plain float32 model) of one model."""
    torch.manual_seed(0)
    model = DualEncoder(configuration(name)).eval()
    side = model.config.preprocess.size
    pixels = np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    photos = jpeg_photos(count)
    plain = Encoder(model, name="benchmark", fingerprint="")
    float32, bfloat16 = prepared(model, torch.float32), prepared(model, torch.bfloat16)

    def in_batches(encoder: Encoder) -> Callable[[], object]:
        return lambda: np.concatenate(
            [encoder.encode_pixels(pixels[i : i + batch_size]) for i in range(0, count, batch_size)]
        )

    def plain_batches() -> object:
        out = []
        with torch.inference_mode():
            for i in range(0, count, batch_size):
                raw = torch.from_numpy(pixels[i : i + batch_size]).permute(0, 3, 1, 2).contiguous()
                out.append(model.encode_image(plain.normalize(raw)).numpy())
        return np.concatenate(out)

    ways: dict[str, Callable[[], object]] = {
        "plain, float32": plain_batches,
        "ours, float32": in_batches(float32),
        "ours, bfloat16": in_batches(bfloat16),
        f"ours, bfloat16, from JPEG of {_JPEG_SIDE} px": lambda: bfloat16.encode_images(
            photos, batch_size=batch_size
        ),
    }
    expected = np.asarray(plain_batches())
    cosines = [float((np.asarray(run()) * expected).sum(-1).min()) for run in list(ways.values())[:3]]
    ways[next(reversed(ways))]()  # warm-up
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(rounds):
        for way, run in ways.items():
            start = time.perf_counter()
            run()
            best[way] = min(best[way], time.perf_counter() - start)
    return [
        (way, count / best[way], cosine) for way, cosine in zip(ways, [*cosines, float("nan")], strict=True)
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; exit code 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["lite", "ViT-B-16"])
    parser.add_argument("--count", type=int, default=64, help="pictures per round")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args(argv)
    tune_malloc()
    table = Table("model", "way", "pictures/s", "ratio", "lowest cosine")
    for name in args.models:
        rows = measure(name, args.count, args.batch_size, args.rounds)
        for way, rate, cosine in rows:
            shown = "–" if cosine != cosine else f"{cosine:.6f}"
            table.add_row(name, way, f"{rate:.1f}", f"{rate / rows[0][1]:.2f}x", shown)
    console = Console(file=sys.stdout)
    console.print(f"batches of {args.batch_size}, {torch.get_num_threads()} threads")
    console.print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
