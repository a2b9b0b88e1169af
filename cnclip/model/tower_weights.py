"""Pretrained weights for one tower: `--clip-weight-path` and `--bert-weight-path`.

Every weight of the file's tower is accounted for; what belongs to other parts of the file's model is left.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cnclip.errors import InputError, WeightsError
from cnclip.model.bert import Bert
from cnclip.model.checkpoint_files import read_json, read_tensors
from cnclip.model.dual_encoder import DualEncoder
from cnclip.model.hf_tower import HFVision
from cnclip.model.key_names import canonical, tower_names
from cnclip.model.weights import check_weights, fit_positions

logger = logging.getLogger(__name__)

_VISUAL = "visual."


@torch.no_grad()
def load_image_tower(model: DualEncoder, path: str | Path) -> None:
    """Put pretrained weights into the image tower, and into the logit scale if the file has one.

    Positional embeddings are interpolated to the model's picture size.

    Args:
        path: a state dict of OpenAI's CLIP or a Chinese-CLIP checkpoint (`visual.*`; .pt, .safetensors), or
            a Hugging Face CLIP or ChineseCLIP (`vision_model.*`; a folder or its weights file).

    Raises: WeightsError naming the path: unreadable, a TorchScript archive (OpenAI's own download, which
        only opens by running its code), or weights that do not fit. InputError for an hf: tower.
    """
    path, config = Path(path), model.config.vision
    if isinstance(model.visual, HFVision):
        raise InputError(f"{path}: the image tower {model.config.vision_name} brings its own weights")
    values = _hf_values(path).get("vision_config")
    if isinstance(values, dict):
        heads = config.vision_width // config.vision_head_width
        _check_setting(path, values, "hidden_act", "quick_gelu")
        _check_setting(path, values, "num_attention_heads", heads)
    tensors, _ = canonical(read_tensors(path), str(path))
    state = {name: tensor for name, tensor in tensors.items() if name.startswith(_VISUAL)}
    if not state:
        raise WeightsError(f"{path}: no image tower (visual.* or vision_model.*) in it")
    fit_positions(state, config)
    state = {name.removeprefix(_VISUAL): tensor for name, tensor in state.items()}
    check_weights(state, model.visual.state_dict(), model.config.vision_name, str(path))
    model.visual.load_state_dict(state)
    scale = tensors.get("logit_scale")
    if scale is not None:
        check_weights({"logit_scale": scale}, {"logit_scale": model.logit_scale}, "a model", str(path))
        model.logit_scale.copy_(scale)
    logger.info("image tower from %s: %d weights", path, len(state))


@torch.no_grad()
def load_text_tower(model: DualEncoder, path: str | Path) -> None:
    """Put pretrained weights into the text tower.

    Args:
        path: a Hugging Face BERT (RoBERTa-wwm-ext, RBT3 and their like; a folder, pytorch_model.bin or
            model.safetensors, `bert.*` or bare names, `cls.*` and the pooler left out), a Hugging Face
            ChineseCLIP folder, or a Chinese-CLIP checkpoint.

    Raises: WeightsError naming the path: unreadable, or weights that do not fit. InputError for an hf: tower.
    """
    path = Path(path)
    if not isinstance(model.bert, Bert):
        raise InputError(f"{path}: the text tower {model.config.text_name} brings its own weights")
    values = _hf_values(path)
    values = values.get("text_config", values)
    if isinstance(values, dict):
        _check_setting(path, values, "hidden_act", "gelu")
        _check_setting(path, values, "num_attention_heads", model.config.text.text_num_attention_heads)
    tensors, _ = canonical(read_tensors(path), str(path))
    expected = model.bert.state_dict()
    state: dict[str, Tensor] = tower_names(tensors, expected.keys(), ("bert.", ""))
    check_weights(state, expected, model.config.text_name, str(path))
    model.bert.load_state_dict(state)
    logger.info("text tower from %s: %d weights", path, len(state))


def _hf_values(path: Path) -> dict[str, Any]:
    """config.json of the Hugging Face folder that `path` is, or is the weights of; else nothing."""
    folder = path if path.is_dir() else path.parent
    is_folder = path.is_dir() or path.name in ("model.safetensors", "pytorch_model.bin")
    config = folder / "config.json"
    return read_json(config) if is_folder and config.exists() else {}


def _check_setting(path: Path, values: dict[str, Any], field: str, ours: object) -> None:
    """Refuse a file whose weights have the right shapes, yet mean something else."""
    if field in values and values[field] != ours:
        raise WeightsError(f"{path}: does not fit: its {field} is {values[field]!r}, the model's {ours!r}")
