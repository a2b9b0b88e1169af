"""Coloured shapes with Chinese names (红色圆形), as MUGE files: a data set to try training on.

Every name gets its own pictures, of random size, place, turn and background, none of them in two splits:

    {out}/{train,valid}_imgs.tsv     image_id<TAB>base64 of a PNG, 64 x 64
    {out}/{train,valid}_texts.jsonl  {"text_id", "text", "image_ids"}

    python -m preprocess.shapes --out DIR [--seed 0]

The same seed gives the same files. What is there already is kept.
"""

from __future__ import annotations

import argparse
import base64
import io
import itertools
import json
import math
import random
import sys
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw

SIZE = 64
PICTURES = {"train": 20, "valid": 4}  # of each name
COLOURS = {
    **{"红色": (214, 40, 40), "橙色": (245, 140, 20), "黄色": (250, 215, 40), "绿色": (40, 160, 70)},
    **{"蓝色": (40, 80, 210), "紫色": (130, 50, 170), "黑色": (25, 25, 25), "棕色": (125, 75, 35)},
}

Point = tuple[float, float]


def _polygon(corners: int, radii: Sequence[float] = (1.0,)) -> list[Point]:
    """Corners on a unit circle, the first one upwards; `radii` take turns."""
    angles = [2 * math.pi * i / corners - math.pi / 2 for i in range(corners)]
    return [(math.cos(a) * r, math.sin(a) * r) for a, r in zip(angles, itertools.cycle(radii), strict=False)]


SHAPES: dict[str, list[Point]] = {
    "圆形": _polygon(60),
    "三角形": _polygon(3),
    "正方形": [(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)],
    "长方形": [(-1.0, -0.4), (1.0, -0.4), (1.0, 0.4), (-1.0, 0.4)],
    "五角星": _polygon(10, (1.0, 0.4)),
    "十字": [
        *((-0.3, -1.0), (0.3, -1.0), (0.3, -0.3), (1.0, -0.3), (1.0, 0.3), (0.3, 0.3)),
        *((0.3, 1.0), (-0.3, 1.0), (-0.3, 0.3), (-1.0, 0.3), (-1.0, -0.3), (-0.3, -0.3)),
    ],
}


def picture(colour: str, shape: str, chance: random.Random) -> bytes:
    """One picture as PNG bytes, drawn at four times its size for smooth edges."""
    light = [chance.randint(200, 255) for _ in range(3)]
    image = Image.new("RGB", (4 * SIZE, 4 * SIZE), tuple(light))
    radius = chance.uniform(0.28, 0.45) * image.width
    x, y = (chance.uniform(radius, image.width - radius) for _ in range(2))
    turn = math.radians(chance.uniform(-15, 15))
    points = [
        (
            x + radius * (px * math.cos(turn) - py * math.sin(turn)),
            y + radius * (px * math.sin(turn) + py * math.cos(turn)),
        )
        for px, py in SHAPES[shape]
    ]
    fill = tuple(min(255, max(0, value + chance.randint(-15, 15))) for value in COLOURS[colour])
    ImageDraw.Draw(image).polygon(points, fill=fill)
    buffer = io.BytesIO()
    image.resize((SIZE, SIZE), Image.Resampling.BOX).save(buffer, "PNG")
    return buffer.getvalue()


def write(out: Path, *, seed: int = 0) -> None:
    """Write both splits below `out`."""
    out.mkdir(parents=True, exist_ok=True)
    names = list(itertools.product(COLOURS, SHAPES))
    for split, count in PICTURES.items():
        chance = random.Random(f"{seed} {split}")
        images, texts = [], []
        for text_id, (colour, shape) in enumerate(names):
            ids = [f"{split}-{text_id}-{i}" for i in range(count)]
            texts.append({"text_id": text_id, "text": colour + shape, "image_ids": ids})
            images += [f"{i}\t{base64.b64encode(picture(colour, shape, chance)).decode()}" for i in ids]
        _write_lines(out / f"{split}_texts.jsonl", [json.dumps(row, ensure_ascii=False) for row in texts])
        _write_lines(out / f"{split}_imgs.tsv", images)


def _write_lines(path: Path, lines: Sequence[str]) -> None:
    """All of the file or none of it."""
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    temporary.replace(path)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; 0 on success, 2 where nothing can be written."""
    parser = argparse.ArgumentParser(prog="python -m preprocess.shapes", description="coloured shapes")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the files go")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="default: 0")
    args = parser.parse_args(argv)
    if not (args.out / "valid_imgs.tsv").exists():  # the last file written
        try:
            write(args.out, seed=args.seed)
        except OSError as error:
            sys.stderr.write(f"shapes: error: {args.out}: {error.strerror}\n")
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
