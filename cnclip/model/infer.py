"""Which architecture a set of weights has, told from names and shapes alone."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from functools import cache

import torch
from torch import Tensor

from cnclip.errors import WeightsError
from cnclip.image import PreprocessConfig
from cnclip.model.config import (
    ModelConfig,
    TextConfig,
    VisionConfig,
    named_config,
    text_models,
    vision_models,
)
from cnclip.model.efficientnet import EfficientNetLite

_HEAD_WIDTH = 64  # of every released tower but ViT-H-14, which is known by name
_RESNET_STRIDE = 32
# (width, depth) multipliers of EfficientNet-Lite0 to Lite4
_LITE_MULTIPLIERS = ((1.0, 1.0), (1.0, 1.1), (1.1, 1.2), (1.2, 1.4), (1.4, 1.8))

Shapes = Mapping[str, tuple[int, ...]]


def infer_config(state_dict: Mapping[str, Tensor], source: str = "checkpoint") -> ModelConfig:
    """The configuration of canonical weights: a named one where the shapes fit, else one built from shapes.

    The resolution follows from the positional embeddings. What shapes cannot tell comes from the named
    configurations, else: heads of width 64, [CLS] pooling, Chinese-CLIP's preprocessing.

    Raises: WeightsError naming the weight that is missing or misshapen.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in state_dict.items()}
    vision_name, vision = _infer_vision(shapes, source)
    text_name, text = _infer_text(shapes, source)
    preprocess = PreprocessConfig(size=vision.image_resolution)
    if vision_name in vision_models():
        named = named_config(vision_name, text_models()[0])
        preprocess = replace(named.preprocess, size=vision.image_resolution)
    return ModelConfig(vision_name, text_name, vision, text, preprocess)


def _infer_vision(shapes: Shapes, source: str) -> tuple[str, VisionConfig]:
    if "visual.stem.0.weight" in shapes:
        found = _efficientnet(shapes, source)
    elif "visual.layer1.0.conv1.weight" in shapes:
        found = _resnet(shapes, source)
    elif any(name.startswith("visual.transformer.resblocks.") for name in shapes):
        found = _vit(shapes, source)
    else:
        raise WeightsError(f"{source}: no image tower (visual.*) found; not a CN-CLIP checkpoint")
    candidates = [(name, _named_vision(name)) for name in vision_models()]
    for name, known in candidates:  # the exact resolution first: ViT-L-14-336 before ViT-L-14
        if _vision_key(known) == _vision_key(found) and known.image_resolution == found.image_resolution:
            return name, known
    for name, known in candidates:
        if _vision_key(known) == _vision_key(found) and found.tower != "efficientnet":
            return name, replace(known, image_resolution=found.image_resolution)
    patch = f"-{found.vision_patch_size}" if found.vision_patch_size else ""
    return f"{found.tower}-{found.vision_width}x{found.vision_layers}{patch}", found


def _vit(shapes: Shapes, source: str) -> VisionConfig:
    width, _, patch, _ = _shape(shapes, "visual.conv1.weight", 4, source)
    positions, _ = _shape(shapes, "visual.positional_embedding", 2, source)
    return VisionConfig(
        embed_dim=_shape(shapes, "visual.proj", 2, source)[1],
        image_resolution=_grid(positions, "visual.positional_embedding", source) * patch,
        vision_layers=_depth(shapes, "visual.transformer.resblocks."),
        vision_width=width,
        vision_patch_size=patch,
        vision_head_width=math.gcd(width, _HEAD_WIDTH),
    )


def _resnet(shapes: Shapes, source: str) -> VisionConfig:
    width = _shape(shapes, "visual.layer1.0.conv1.weight", 4, source)[0]
    positions, _ = _shape(shapes, "visual.attnpool.positional_embedding", 2, source)
    return VisionConfig(
        embed_dim=_shape(shapes, "visual.attnpool.c_proj.weight", 2, source)[0],
        image_resolution=_grid(positions, "visual.attnpool.positional_embedding", source) * _RESNET_STRIDE,
        vision_layers=tuple(_depth(shapes, f"visual.layer{stage}.") for stage in range(1, 5)),
        vision_width=width,
        vision_head_width=_HEAD_WIDTH,
        tower="resnet",
    )


def _efficientnet(shapes: Shapes, source: str) -> VisionConfig:
    embed_dim = _shape(shapes, "visual.proj.weight", 2, source)[0]
    base = _named_vision("EfficientNet-Lite0")
    body = {
        name.removeprefix("visual."): shape for name, shape in shapes.items() if name.startswith("visual.")
    }
    weights = {name: shape for name, shape in body.items() if len(shape) == 4}
    for width, depth in _LITE_MULTIPLIERS:
        config = replace(base, embed_dim=embed_dim, width_multiplier=width, depth_multiplier=depth)
        with torch.device("meta"):
            expected = EfficientNetLite(config).state_dict()
        if {name: tuple(t.shape) for name, t in expected.items() if t.ndim == 4} == weights:
            return config
    # Damaged rather than foreign: let the check by name say which weight is wrong.
    return replace(base, embed_dim=embed_dim)


def _infer_text(shapes: Shapes, source: str) -> tuple[str, TextConfig]:
    if not any(name.startswith("bert.") for name in shapes):
        raise WeightsError(f"{source}: no text tower (bert.*) found; not a CN-CLIP checkpoint")
    embeddings = "bert.embeddings"
    vocabulary, width = _shape(shapes, f"{embeddings}.word_embeddings.weight", 2, source)
    found = TextConfig(
        vocab_size=vocabulary,
        text_hidden_size=width,
        text_intermediate_size=_shape(shapes, "bert.encoder.layer.0.intermediate.dense.weight", 2, source)[0],
        text_max_position_embeddings=_shape(shapes, f"{embeddings}.position_embeddings.weight", 2, source)[0],
        text_num_attention_heads=width // math.gcd(width, _HEAD_WIDTH),
        text_num_hidden_layers=_depth(shapes, "bert.encoder.layer."),
        text_type_vocab_size=_shape(shapes, f"{embeddings}.token_type_embeddings.weight", 2, source)[0],
    )
    for name in text_models():
        known = named_config(vision_models()[0], name).text
        if _text_key(known) == _text_key(found):
            return name, known
    return f"bert-{width}x{found.text_num_hidden_layers}", found


@cache
def _named_vision(name: str) -> VisionConfig:
    return named_config(name, text_models()[0]).vision


def _vision_key(config: VisionConfig) -> tuple[object, ...]:
    if config.tower == "hf":
        return (config.tower, config.embed_dim, config.hf_config, config.hf_pooling)
    if config.tower == "efficientnet":
        return (config.tower, config.embed_dim, config.width_multiplier, config.depth_multiplier)
    return (
        config.tower,
        config.embed_dim,
        config.vision_layers,
        config.vision_width,
        config.vision_patch_size,
    )


def _text_key(config: TextConfig) -> tuple[object, ...]:
    if config.text_tower == "hf":
        return (config.text_tower, config.hf_config, config.text_pooling, config.hf_tokenizer)
    return (
        config.vocab_size,
        config.text_hidden_size,
        config.text_intermediate_size,
        config.text_max_position_embeddings,
        config.text_num_hidden_layers,
        config.text_type_vocab_size,
    )


def same_architecture(one: ModelConfig, other: ModelConfig) -> bool:
    """Whether weights of one fit the other, up to the resolution."""
    return (_vision_key(one.vision), _text_key(one.text)) == (
        _vision_key(other.vision),
        _text_key(other.text),
    )


def _shape(shapes: Shapes, name: str, ndim: int, source: str) -> tuple[int, ...]:
    if name not in shapes:
        raise WeightsError(f"{source}: weight {name!r} is missing; not a whole CN-CLIP checkpoint")
    if len(shapes[name]) != ndim or 0 in shapes[name]:
        raise WeightsError(f"{source}: weight {name!r} has shape {shapes[name]}, {ndim} dimensions expected")
    return shapes[name]


def _grid(positions: int, name: str, source: str) -> int:
    side = math.isqrt(positions - 1)
    if side < 1 or side**2 != positions - 1:
        raise WeightsError(f"{source}: {name!r} has {positions} rows, not 1 + a square number")
    return side


def _depth(shapes: Shapes, prefix: str) -> int:
    """Number of distinct layers. A stray huge index must not make a huge model."""
    found = (re.match(re.escape(prefix) + r"(\d+)\.", name) for name in shapes)
    return len({match[1] for match in found if match})
