"""Configuration files of Hugging Face ChineseCLIP folders, read and written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from cnclip.errors import InputError, WeightsError
from cnclip.image import Interpolation, PreprocessConfig, ResizeMode
from cnclip.model.config import ModelConfig

_RESAMPLE: dict[int, Interpolation] = {2: "bilinear", 3: "bicubic"}  # PIL's numbers


def apply_hf_config(config: ModelConfig, values: Mapping[str, Any], source: str) -> ModelConfig:
    """What weights cannot show (head counts) from config.json, laid over the inferred configuration.

    Raises: WeightsError if the folder asks for something this model does not do.
    """
    vision, text = _section(values, "vision_config", source), _section(values, "text_config", source)
    for section, field, expected in ((vision, "hidden_act", "quick_gelu"), (text, "hidden_act", "gelu")):
        if section.get(field, expected) != expected:
            raise WeightsError(f"{source}: {field} {section[field]!r} is not supported, only {expected!r}")
    heads = _heads(vision, config.vision.vision_width, f"{source}: vision_config")
    if heads is not None:
        head_width = config.vision.vision_width // heads
        config = replace(config, vision=replace(config.vision, vision_head_width=head_width))
    heads = _heads(text, config.text.text_hidden_size, f"{source}: text_config")
    if heads is not None:
        config = replace(config, text=replace(config.text, text_num_attention_heads=heads))
    return config


def _section(values: Mapping[str, Any], name: str, source: str) -> dict[str, Any]:
    section = values.get(name) or {}
    if not isinstance(section, dict):
        raise WeightsError(f"{source}: field {name!r} is not an object")
    return section


def _heads(section: Mapping[str, Any], width: int, source: str) -> int | None:
    heads = section.get("num_attention_heads")
    if heads is None:
        return None
    if not isinstance(heads, int) or heads < 1 or width % heads:
        raise WeightsError(f"{source}: num_attention_heads {heads!r} does not divide the width {width}")
    return heads


def preprocess_from_hf(values: Mapping[str, Any], resolution: int, source: str) -> PreprocessConfig:
    """preprocessor_config.json to our terms, at the model's resolution.

    Raises: WeightsError naming the field that is unknown or misshapen.
    """
    resample = values.get("resample", 3)
    if not isinstance(resample, int) or resample not in _RESAMPLE:
        raise WeightsError(
            f"{source}: resample {resample!r} is not supported, only 2 (bilinear) and 3 (bicubic)"
        )
    defaults = PreprocessConfig().to_dict()
    if values.get("do_normalize") is False:
        values = {**values, "image_mean": [0.0] * 3, "image_std": [1.0] * 3}
    mode, crop_ratio = _resizing(values, source)
    try:
        mean, std = (
            [float(v) for v in values.get(f"image_{name}", defaults[name])] for name in ("mean", "std")
        )
        if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
            raise WeightsError(f"{source}: image_mean and image_std need three values each, std above 0")
        return PreprocessConfig.from_dict(
            {
                "size": resolution,
                "mean": mean,
                "std": std,
                "resize_mode": mode,
                "interpolation": _RESAMPLE[resample],
                "crop_ratio": crop_ratio,
            }
        )
    except (TypeError, ValueError) as error:
        raise WeightsError(f"{source}: image_mean or image_std is not a list of numbers") from error
    except InputError as error:
        raise WeightsError(f"{source}: {error}") from error


def _resizing(values: Mapping[str, Any], source: str) -> tuple[ResizeMode, float]:
    """Resize mode and crop ratio, by the rules of transformers' image processors."""
    size, crops = values.get("size"), bool(values.get("do_center_crop", False))
    kind = str(values.get("image_processor_type") or values.get("feature_extractor_type") or "CLIP")
    by_short_side = "shortest_edge" in size if isinstance(size, dict) else crops and "CLIP" in kind
    target = _side(size, "size", source)
    ratio = 1.0
    if crops and target and (kept := _side(values.get("crop_size"), "crop_size", source)):
        ratio = min(1.0, kept / target)
    if "ConvNext" in kind and target:  # enlarges the target by a share instead, below 384 pixels
        by_short_side = target < 384
        ratio = float(values.get("crop_pct") or 224 / 256) if by_short_side else 1.0
    return ("crop" if by_short_side else "squash"), ratio


def _side(size: Any, field: str, source: str) -> int | None:
    """One side in pixels of a size in any spelling: a number, {"shortest_edge"} or a square."""
    if isinstance(size, dict):
        sides = {size[name] for name in ("shortest_edge", "height", "width") if name in size}
        if len(sides) != 1:
            raise WeightsError(f"{source}: {field} {size!r} is not supported, only a square or shortest_edge")
        size = sides.pop()
    if size is not None and (type(size) is not int or size < 1):
        raise WeightsError(f"{source}: {field} {size!r} is not a number of pixels")
    return size


def hf_config(config: ModelConfig) -> dict[str, Any]:
    """config.json for transformers' ChineseCLIPModel. Raises InputError for what it cannot express."""
    vision, text = config.vision, config.text
    if vision.tower != "vit" or text.text_pooling != "cls" or config.uses_transformers:
        raise InputError(
            f"{config.name}: a Hugging Face ChineseCLIP folder holds ViT towers with [CLS] pooling only"
        )
    return {
        "architectures": ["ChineseCLIPModel"],
        "model_type": "chinese_clip",
        "projection_dim": vision.embed_dim,
        "logit_scale_init_value": 2.6592,
        "initializer_factor": 1.0,
        "text_config": {
            "model_type": "chinese_clip_text_model",
            "vocab_size": text.vocab_size,
            "hidden_size": text.text_hidden_size,
            "intermediate_size": text.text_intermediate_size,
            "num_hidden_layers": text.text_num_hidden_layers,
            "num_attention_heads": text.text_num_attention_heads,
            "max_position_embeddings": text.text_max_position_embeddings,
            "type_vocab_size": text.text_type_vocab_size,
            "hidden_act": text.text_hidden_act,
            "hidden_dropout_prob": text.text_hidden_dropout_prob,
            "attention_probs_dropout_prob": text.text_attention_probs_dropout_prob,
            "initializer_range": text.text_initializer_range,
            "layer_norm_eps": 1e-12,
            "pad_token_id": 0,
        },
        "vision_config": {
            "model_type": "chinese_clip_vision_model",
            "hidden_size": vision.vision_width,
            "intermediate_size": 4 * vision.vision_width,
            "projection_dim": vision.embed_dim,
            "num_hidden_layers": vision.vision_layers,
            "num_attention_heads": vision.vision_width // vision.vision_head_width,
            "image_size": vision.image_resolution,
            "patch_size": vision.vision_patch_size,
            "hidden_act": "quick_gelu",
            "layer_norm_eps": 1e-5,
        },
    }


def hf_preprocessor(config: PreprocessConfig, family: str) -> dict[str, Any]:
    """preprocessor_config.json for the processor of `family`: "CLIP" or "ChineseCLIP".

    Raises InputError for padding, which it cannot express.
    """
    if config.resize_mode == "pad":
        raise InputError("preprocess: resize_mode 'pad' cannot be written to a Hugging Face folder")
    target = round(config.size / config.crop_ratio)
    square = config.resize_mode == "squash"
    return {
        "feature_extractor_type": f"{family}FeatureExtractor",
        "image_processor_type": f"{family}ImageProcessor",
        "do_resize": True,
        "size": {"height": target, "width": target} if square else {"shortest_edge": target},
        "resample": next(number for number, name in _RESAMPLE.items() if name == config.interpolation),
        "do_center_crop": not square or target != config.size,
        "crop_size": {"height": config.size, "width": config.size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(config.mean),
        "image_std": list(config.std),
        "do_convert_rgb": True,
    }
