"""A model's fingerprint: the same for equal models, whatever file format or compute dtype they come in.

It is written beside every vector a model makes, so that vectors of two models are never compared.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cnclip.model.config import ModelConfig
from cnclip.model.hf_tower import to_stored

_SCHEMA = "cnclip-fingerprint-1"
# Settings that change an embedding though no tensor shows them; names, dropout and initialisation do not.
_VISION_FIELDS = ("tower", "image_resolution", "vision_patch_size", "vision_head_width")
_TEXT_FIELDS = ("text_hidden_act", "text_num_attention_heads", "text_pooling")
_HF_FIELDS = {"vision": ("hf_config", "hf_pooling"), "text": ("hf_config", "hf_tokenizer")}


@dataclass(frozen=True)
class Identity:
    """Fingerprints of a model and of its towers. Models of one `image` (or `text`) fingerprint make the same
    vectors of pictures (or texts); the logit scale counts for `whole` alone."""

    whole: str
    image: str
    text: str


def fingerprint(state_dict: Mapping[str, Tensor], config: ModelConfig) -> str:
    """SHA-256 over the settings, and over name, shape and float16 bytes of every weight in sorted order.

    Weights are compared at float16 precision, so a float32 checkpoint and its float16 copy agree. Compute it
    from the weights as stored, before a cast to bfloat16, which keeps fewer bits. Integer buffers
    (BatchNorm's batch counter) do not count.

    Args:
        state_dict: canonical names (`DualEncoder.state_dict()`), any floating dtype, any device.
        config: the model's configuration.

    Returns: 64 hexadecimal digits.
    """
    return identify(state_dict, config).whole


def identify(state_dict: Mapping[str, Tensor], config: ModelConfig) -> Identity:
    """The fingerprint, and one of each tower, made in the same way."""
    state_dict = to_stored(config, state_dict)  # the same in every version of transformers
    names = sorted(name for name, tensor in state_dict.items() if tensor.is_floating_point())
    settings = _settings(config)
    whole = _begin(settings)
    image = _begin({name: settings[name] for name in ("schema", "vision", "preprocess")})
    text = _begin({name: settings[name] for name in ("schema", "text", "context_length")})
    # hashlib releases the interpreter lock; one tensor per thread keeps the float16 copies few.
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        for name, digest in zip(names, pool.map(lambda n: _digest(state_dict[n]), names), strict=True):
            whole.update(name.encode() + digest)
            if name != "logit_scale":
                (image if name.startswith("visual.") else text).update(name.encode() + digest)
    return Identity(whole.hexdigest(), image.hexdigest(), text.hexdigest())


def _begin(settings: Mapping[str, Any]) -> hashlib._Hash:
    return hashlib.sha256(json.dumps(settings, sort_keys=True, separators=(",", ":")).encode())


def _settings(config: ModelConfig) -> dict[str, Any]:
    values = config.to_dict()
    hf = {
        tower: {name: values[tower][name] for name in names if name in values[tower]}
        for tower, names in _HF_FIELDS.items()
    }
    return {
        "schema": _SCHEMA,
        "vision": {name: values["vision"][name] for name in _VISION_FIELDS} | hf["vision"],
        "text": {name: values["text"][name] for name in _TEXT_FIELDS} | hf["text"],
        "preprocess": values["preprocess"],
        "context_length": config.context_length,
    }


def _digest(tensor: Tensor) -> bytes:
    half = tensor.detach().to("cpu", torch.float16).contiguous()
    digest = hashlib.sha256(repr(tuple(half.shape)).encode())
    values = half.flatten().numpy().astype("<f2", copy=False)  # little-endian on every machine
    digest.update(values.data)
    return digest.digest()
