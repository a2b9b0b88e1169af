"""Writing models: Chinese-CLIP .pt, our safetensors, Hugging Face folders. Every file is whole or absent."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from cnclip.errors import InputError
from cnclip.model.atomic import replacing
from cnclip.model.checkpoint_files import METADATA_KEY, SCHEMA
from cnclip.model.config import ModelConfig
from cnclip.model.dual_encoder import DualEncoder
from cnclip.model.hf_config import hf_config, hf_preprocessor
from cnclip.model.key_names import to_hf
from cnclip.text import VOCAB_PATH


def config_entry(config: ModelConfig) -> dict[str, Any]:
    """What our files say about a model beside its weights: plain values, for JSON or a .pt."""
    entry: dict[str, Any] = json.loads(json.dumps({"schema": SCHEMA, "config": config.to_dict()}))
    return entry


def save_pt(
    model: DualEncoder,
    path: str | Path,
    *,
    epoch: int = 0,
    step: int = 0,
    name: str = "cnclip",
    optimizer: Mapping[str, Any] | None = None,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write a checkpoint that Chinese-CLIP reads: epoch, step, name, state_dict with `module.`, optimizer.

    The model's configuration rides along under "cnclip". `extra`: further entries (tensors, plain values).
    Raises: InputError if it cannot be written.
    """
    payload: dict[str, Any] = {
        **(extra or {}),
        "epoch": epoch,
        "step": step,
        "name": name,
        "state_dict": {f"module.{key}": tensor for key, tensor in _weights(model).items()},
        METADATA_KEY: config_entry(model.config),
    }
    if optimizer is not None:
        payload["optimizer"] = dict(optimizer)
    with replacing(Path(path)) as temporary:
        torch.save(payload, temporary)


def save_safetensors(
    model: DualEncoder,
    path: str | Path,
    *,
    dtype: torch.dtype | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write weights with configuration and preprocessing as JSON in the file's metadata.

    Args:
        dtype: of the stored weights; by default as they are. float16 keeps the fingerprint.
        metadata: further entries, for example a licence or the command that trained it.

    Raises: InputError if it cannot be written, or a weight does not fit `dtype`.
    """
    entries = {"format": "pt", **(metadata or {}), METADATA_KEY: json.dumps(config_entry(model.config))}
    weights = {name: tensor.contiguous() for name, tensor in _weights(model, dtype).items()}
    with replacing(Path(path)) as temporary:
        save_file(weights, temporary, metadata=entries)


def save_hf(model: DualEncoder, folder: str | Path, *, dtype: torch.dtype | None = None) -> None:
    """Write a folder that transformers' ChineseCLIPModel and its processor load. ViT towers only.

    Each file is replaced whole; config.json comes last, so a folder that has it is complete.
    Raises: InputError if the architecture or the preprocessing cannot be expressed, or writing fails.
    """
    folder = Path(folder)
    config, preprocessor = hf_config(model.config), hf_preprocessor(model.config.preprocess)
    weights = to_hf(_weights(model, dtype))
    config["torch_dtype"] = str(weights["visual_projection.weight"].dtype).removeprefix("torch.")
    with replacing(folder / "model.safetensors") as temporary:
        save_file(weights, temporary, metadata={"format": "pt"})
    with replacing(folder / "vocab.txt") as temporary:
        shutil.copyfile(VOCAB_PATH, temporary)
    tokenizer = {
        "tokenizer_class": "BertTokenizer",
        "do_lower_case": True,
        "model_max_length": model.config.context_length,
    }
    _write_json(folder / "tokenizer_config.json", tokenizer)
    _write_json(folder / "preprocessor_config.json", preprocessor)
    _write_json(folder / "config.json", config)


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _weights(model: DualEncoder, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    weights = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    if dtype is None:
        return weights
    cast = {name: t.to(dtype) if t.is_floating_point() else t for name, t in weights.items()}
    for name, tensor in cast.items():
        if tensor.is_floating_point() and weights[name].isfinite().all() and not tensor.isfinite().all():
            raise InputError(
                f"weight {name!r} has values that {str(dtype).removeprefix('torch.')} cannot hold"
            )
    return cast
