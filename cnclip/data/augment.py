"""Training-time augmentation with Pillow; deterministic given the random generator."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageEnhance, ImageOps


def random_resized_crop(
    image: Image.Image,
    rng: np.random.Generator,
    size: int,
    *,
    area: tuple[float, float] = (0.4, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Image.Image:
    """Crop a random part (share of the area, aspect ratio), resized to size x size (Szegedy et al. 2015)."""
    width, height = image.size
    for _ in range(8):
        target = width * height * rng.uniform(*area)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = math.sqrt(target * aspect), math.sqrt(target / aspect)
        if w <= width and h <= height:
            left, top = rng.uniform(0, width - w), rng.uniform(0, height - h)
            box = (left, top, left + w, top + h)
            return image.resize((size, size), Image.Resampling.BICUBIC, box=box)
    return image.resize((size, size), Image.Resampling.BICUBIC)


def augment(
    image: Image.Image, rng: np.random.Generator, size: int, *, jitter: float = 0.2
) -> npt.NDArray[np.uint8]:
    """Random crop, mirror image, brightness / contrast / saturation. Returns uint8 (size, size, 3)."""
    image = random_resized_crop(image, rng, size)
    if rng.random() < 0.5:
        image = ImageOps.mirror(image)
    if jitter:
        for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
            image = enhance(image).enhance(rng.uniform(1 - jitter, 1 + jitter))
    return np.asarray(image, dtype=np.uint8)


def random_erase(
    pixels: npt.NDArray[np.uint8],
    rng: np.random.Generator,
    probability: float,
    *,
    area: tuple[float, float] = (0.02, 1 / 3),
    ratio: tuple[float, float] = (0.3, 1 / 0.3),
) -> npt.NDArray[np.uint8]:
    """Fill a random rectangle with noise, with the given probability; the input is left as it is.

    Args:
        pixels: uint8 (H, W, 3).
        area: share of the picture, uniform. ratio: height / width, log-uniform.

    Source: Zhong et al. 2020, "Random Erasing Data Augmentation" (a random value for each pixel).
    """
    if rng.random() >= probability:
        return pixels
    height, width, channels = pixels.shape
    for _ in range(10):
        target = height * width * rng.uniform(*area)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        h, w = round(math.sqrt(target * aspect)), round(math.sqrt(target / aspect))
        if h <= height and w <= width:
            top, left = rng.integers(height - h, endpoint=True), rng.integers(width - w, endpoint=True)
            erased: npt.NDArray[np.uint8] = pixels.copy()
            erased[top : top + h, left : left + w] = rng.integers(0, 256, (h, w, channels), dtype=np.uint8)
            return erased
    return pixels
