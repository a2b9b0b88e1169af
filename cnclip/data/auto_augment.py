"""AutoAugment with the policy found for ImageNet, as Chinese-CLIP's `--use-augment` applies it."""

from __future__ import annotations

from typing import Final, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageEnhance, ImageOps

from cnclip.data.augment import random_resized_crop

Op = Literal[
    "ShearX", "Rotate", "Color", "Posterize", "Solarize", "Contrast", "Sharpness", "AutoContrast", "Equalize",
    "Invert",
]  # fmt: skip
Step = tuple[Op, float, int]
Rgb = tuple[int, int, int]

# (operation, probability, level of 0..10) twice: Cubuk et al. 2019, arXiv 1805.09501, appendix, the policy
# found on reduced ImageNet. Five of the 25 come twice, as in the paper.
POLICY: Final[tuple[tuple[Step, Step], ...]] = (
    (("Posterize", 0.4, 8), ("Rotate", 0.6, 9)),
    (("Solarize", 0.6, 5), ("AutoContrast", 0.6, 5)),
    (("Equalize", 0.8, 8), ("Equalize", 0.6, 3)),
    (("Posterize", 0.6, 7), ("Posterize", 0.6, 6)),
    (("Equalize", 0.4, 7), ("Solarize", 0.2, 4)),
    (("Equalize", 0.4, 4), ("Rotate", 0.8, 8)),
    (("Solarize", 0.6, 3), ("Equalize", 0.6, 7)),
    (("Posterize", 0.8, 5), ("Equalize", 1.0, 2)),
    (("Rotate", 0.2, 3), ("Solarize", 0.6, 8)),
    (("Equalize", 0.6, 8), ("Posterize", 0.4, 6)),
    (("Rotate", 0.8, 8), ("Color", 0.4, 0)),
    (("Rotate", 0.4, 9), ("Equalize", 0.6, 2)),
    (("Equalize", 0.0, 7), ("Equalize", 0.8, 8)),
    (("Invert", 0.6, 4), ("Equalize", 1.0, 8)),
    (("Color", 0.6, 4), ("Contrast", 1.0, 8)),
    (("Rotate", 0.8, 8), ("Color", 1.0, 2)),
    (("Color", 0.8, 8), ("Solarize", 0.8, 7)),
    (("Sharpness", 0.4, 7), ("Invert", 0.6, 8)),
    (("ShearX", 0.6, 5), ("Equalize", 1.0, 9)),
    (("Color", 0.4, 0), ("Equalize", 0.6, 3)),
    (("Equalize", 0.4, 7), ("Solarize", 0.2, 4)),
    (("Solarize", 0.6, 5), ("AutoContrast", 0.6, 5)),
    (("Invert", 0.6, 4), ("Equalize", 1.0, 8)),
    (("Color", 0.6, 4), ("Contrast", 1.0, 8)),
    (("Equalize", 0.8, 8), ("Equalize", 0.6, 3)),
)
_BICUBIC = Image.Resampling.BICUBIC


def auto_augment(
    image: Image.Image, rng: np.random.Generator, size: int, *, fill: Rgb
) -> npt.NDArray[np.uint8]:
    """Random crop of 90-100 % of the area, mirror image, one of the policy's pairs of operations.

    Args:
        image: RGB.
        size: side of the result.
        fill: colour of what turning and shearing uncover; the mean of the preprocessing, 0..255.

    Returns:
        uint8 (size, size, 3).

    Source: Chinese-CLIP's training data, which takes timm's policy "original" with bicubic resampling.
    """
    image = random_resized_crop(image, rng, size, area=(0.9, 1.0))
    if rng.random() < 0.5:
        image = ImageOps.mirror(image)
    for op, probability, level in POLICY[rng.integers(len(POLICY))]:
        if rng.random() < probability:
            image = apply(image, op, level, sign=1 if rng.random() < 0.5 else -1, fill=fill)
    return np.asarray(image, dtype=np.uint8)


def apply(image: Image.Image, op: Op, level: int, *, sign: Literal[1, -1], fill: Rgb) -> Image.Image:
    """One operation at level 0..10 of its range (as in Cubuk et al. 2019); `sign` is the direction of
    those that have two. Strength falls with the level of Posterize and Solarize: 10 changes nothing."""
    share = level / 10
    match op:
        case "ShearX":
            matrix = (1, sign * 0.3 * share, 0, 0, 1, 0)
            return image.transform(image.size, Image.Transform.AFFINE, matrix, _BICUBIC, fillcolor=fill)
        case "Rotate":
            return image.rotate(sign * 30 * share, _BICUBIC, fillcolor=fill)
        case "Posterize":
            return ImageOps.posterize(image, 4 + int(4 * share))
        case "Solarize":
            return ImageOps.solarize(image, int(256 * share))
        case "Color":
            return ImageEnhance.Color(image).enhance(0.1 + 1.8 * share)
        case "Contrast":
            return ImageEnhance.Contrast(image).enhance(0.1 + 1.8 * share)
        case "Sharpness":
            return ImageEnhance.Sharpness(image).enhance(0.1 + 1.8 * share)
        case "AutoContrast":
            return ImageOps.autocontrast(image)
        case "Equalize":
            return ImageOps.equalize(image)
        case "Invert":
            return ImageOps.invert(image)
