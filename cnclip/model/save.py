"""Writing models: Chinese-CLIP .pt, our safetensors, Hugging Face folders. Every file is whole or absent."""

from __future__ import annotations

import json
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
from cnclip.model.hf_tower import to_stored
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
    state: Mapping[str, Tensor] | None = None,
    prefix: str = "module.",
) -> None:
    """Write a checkpoint that Chinese-CLIP reads: epoch, step, name, state_dict with `module.`, optimizer.

    The model's configuration rides along under "cnclip". `extra`: further entries (tensors, plain values).
    `state`: the weights, where they are not simply the model's own (sharded training). `prefix`: of their
    names; Chinese-CLIP also reads those without.
    Raises: InputError if it cannot be written.
    """
    payload: dict[str, Any] = {
        **(extra or {}),
        "epoch": epoch,
        "step": step,
        "name": name,
        "state_dict": {f"{prefix}{key}": tensor for key, tensor in _weights(model, state=state).items()},
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
    state: Mapping[str, Tensor] | None = None,
) -> None:
    """Write weights with configuration and preprocessing as JSON in the file's metadata.

    Args:
        dtype: of the stored weights; by default as they are. float16 keeps the fingerprint.
        metadata: further entries, for example a licence or the command that trained it.
        state: the weights, where they are not simply the model's own (sharded training).

    Raises: InputError if it cannot be written, or a weight does not fit `dtype`.
    """
    entries = {"format": "pt", **(metadata or {}), METADATA_KEY: json.dumps(config_entry(model.config))}
    weights = {name: tensor.contiguous() for name, tensor in _weights(model, dtype, state).items()}
    with replacing(Path(path)) as temporary:
        save_file(weights, temporary, metadata=entries)


def save_hf(model: DualEncoder, folder: str | Path, *, dtype: torch.dtype | None = None) -> None:
    """Write a folder that transformers loads, processor included.

    As ChineseCLIPModel: our ViT and BERT. As VisionTextDualEncoderModel: two hf: towers with pooled outputs.

    Each file is replaced whole; config.json comes last, so a folder that has it is complete.
    Raises: InputError if the architecture or the preprocessing cannot be expressed, or writing fails.
    """
    folder, config, weights = Path(folder), model.config, _weights(model, dtype)
    if config.uses_transformers:
        from cnclip.model.dual_folder import to_dual_encoder

        values, weights, words = to_dual_encoder(config, weights)
        preprocessor = hf_preprocessor(config.preprocess, "CLIP")
    else:
        values, weights, words = hf_config(config), to_hf(weights), _bert_tokenizer(config)
        preprocessor = hf_preprocessor(config.preprocess, "ChineseCLIP")
    values["torch_dtype"] = str(weights["visual_projection.weight"].dtype).removeprefix("torch.")
    with replacing(folder / "model.safetensors") as temporary:
        save_file(weights, temporary, metadata={"format": "pt"})
    texts = {**words, "preprocessor_config.json": _json(preprocessor), "config.json": _json(values)}
    for name, text in texts.items():
        with replacing(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")


def _bert_tokenizer(config: ModelConfig) -> dict[str, str]:
    """Our tokenizer as files of transformers' BertTokenizer."""
    settings = {
        "tokenizer_class": "BertTokenizer",
        "do_lower_case": True,
        "model_max_length": config.context_length,
    }
    return {"vocab.txt": VOCAB_PATH.read_text(encoding="utf-8"), "tokenizer_config.json": _json(settings)}


def _json(values: Mapping[str, Any]) -> str:
    return json.dumps(values, indent=2, ensure_ascii=False) + "\n"


def _weights(
    model: DualEncoder, dtype: torch.dtype | None = None, state: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    whole = to_stored(model.config, model.state_dict() if state is None else state)
    weights = {name: tensor.detach().cpu() for name, tensor in whole.items()}
    if dtype is None:
        return weights
    cast = {name: t.to(dtype) if t.is_floating_point() else t for name, t in weights.items()}
    for name, tensor in cast.items():
        if tensor.is_floating_point() and weights[name].isfinite().all() and not tensor.isfinite().all():
            raise InputError(
                f"weight {name!r} has values that {str(dtype).removeprefix('torch.')} cannot hold"
            )
    return cast
