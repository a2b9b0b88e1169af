"""Turning one weights format into another, with proof that the model is still the same."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from cnclip.errors import InputError
from cnclip.model.dual_encoder import DualEncoder
from cnclip.model.fingerprint import fingerprint
from cnclip.model.save import save_hf, save_pt, save_safetensors
from cnclip.model.tokens import tokenizer_of
from cnclip.model.weights import LoadedWeights, build_model, load_checkpoint

_PROBE_TEXTS = ("红色连衣裙", "一只在雪地里奔跑的狗", 'Apple "iPhone" 手机壳')
_PROBE_IMAGES = 2
_FILE_FORMATS = {".pt": "pt", ".pth": "pt", ".safetensors": "safetensors"}


@dataclass(frozen=True)
class Conversion:
    """What a conversion wrote. Cosines: the lowest between embeddings before and after, in float32."""

    target: Path
    target_format: str
    image_cosine: float
    text_cosine: float
    source_fingerprint: str
    target_fingerprint: str


def format_of(target: Path) -> str:
    """The format a path asks for: .pt, .safetensors, or a Hugging Face folder (no extension)."""
    if target.suffix in _FILE_FORMATS:
        return _FILE_FORMATS[target.suffix]
    if target.suffix and not target.is_dir():
        raise InputError(f"{target}: write to a .pt file, a .safetensors file, or a folder without a dot")
    return "huggingface"


def convert(
    source: Path,
    target: Path,
    *,
    dtype: torch.dtype | None = None,
    resolution: int | None = None,
    overwrite: bool = False,
) -> Conversion:
    """Write the model of `source` to `target` in the format its name asks for, read it back and compare.

    Args:
        dtype: of the stored weights; by default the source's.
        resolution: interpolate positional embeddings to this picture side in pixels.

    Raises: InputError, WeightsError: one line.
    """
    kind = format_of(target)
    occupied = any(target.iterdir()) if target.is_dir() else target.exists()
    if occupied and not overwrite:
        raise InputError(f"{target}: exists already; use --force to replace it")
    if target.exists() and target.samefile(source):
        raise InputError(f"{target}: is the source itself")
    loaded = load_checkpoint(source, resolution=resolution)
    stored = dtype or loaded.state_dict["text_projection"].dtype
    model = build_model(loaded, dtype=stored)
    if kind == "pt":
        counters = {
            key: loaded.info[key] for key in ("epoch", "step") if isinstance(loaded.info.get(key), int)
        }
        save_pt(model, target, name=str(loaded.info.get("name", source.stem)), **counters)
    elif kind == "safetensors":
        save_safetensors(model, target, dtype=stored)
    else:
        save_hf(model, target, dtype=stored)
    del model
    before = _probe(build_model(loaded))
    written = load_checkpoint(target)
    after = _probe(build_model(written))
    image_cosine, text_cosine = (
        float(F.cosine_similarity(a, b).min()) for a, b in zip(before, after, strict=True)
    )
    return Conversion(target, kind, image_cosine, text_cosine, _identity(loaded), _identity(written))


def _identity(loaded: LoadedWeights) -> str:
    return fingerprint(loaded.state_dict, loaded.config)


@torch.no_grad()
def _probe(model: DualEncoder) -> tuple[Tensor, Tensor]:
    """Embeddings of fixed noise pictures (B, D) and fixed texts (T, D)."""
    side = model.config.vision.image_resolution
    images = torch.randn(_PROBE_IMAGES, 3, side, side, generator=torch.Generator().manual_seed(0))
    length = min(model.config.context_length, model.config.text.text_max_position_embeddings)
    ids = torch.from_numpy(tokenizer_of(model.config)(_PROBE_TEXTS, length))
    return model.encode_image(images), model.encode_text(ids)
