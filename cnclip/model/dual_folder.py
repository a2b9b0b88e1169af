"""Folders of transformers' VisionTextDualEncoderModel, read and written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cnclip.errors import InputError, WeightsError
from cnclip.model.checkpoint_files import DUAL_ENCODER, RawCheckpoint
from cnclip.model.config import ModelConfig
from cnclip.model.dual_encoder import DualEncoder
from cnclip.model.fingerprint import fingerprint
from cnclip.model.hf_tower import (
    IMAGE_KINDS,
    TEXT_KINDS,
    HFText,
    HFVision,
    transformers,
    transformers_config,
)
from cnclip.model.save import save_hf
from cnclip.model.tokens import parse_tokenizer, tokenizer_of
from cnclip.model.weights import build_model, load_checkpoint
from cnclip.model.zoo import Folder, build_zoo_model, fill_tower, image_tower, name_of, text_tower

# (theirs, ours); the projections are each other's transpose
_SCALE = "logit_scale"
_PROJECTIONS = (("visual_projection.weight", "visual.proj"), ("text_projection.weight", "text_projection"))
_PROBE_TEXTS = ("a red dress", "红色连衣裙", "two dogs run through the snow")


def from_dual_encoder(path: Path, raw: RawCheckpoint) -> tuple[dict[str, Tensor], ModelConfig]:
    """Weights by our names and their configuration, of a folder that is read already.

    Raises: InputError, WeightsError naming the path.
    """
    folder = Folder(path, raw.hf_config or {})
    for name, ndim in ((_SCALE, 0), *((theirs, 2) for theirs, _ in _PROJECTIONS)):
        if name not in raw.tensors or raw.tensors[name].ndim != ndim:
            raise WeightsError(f"{path}: weight {name!r} is missing or misshapen; not a whole {DUAL_ENCODER}")
    projection = raw.tensors["visual_projection.weight"]
    vision, preprocess = image_tower(folder, len(projection), pooler=True)
    config = ModelConfig(
        vision_name=name_of(folder),
        text_name=name_of(folder),
        vision=vision,
        text=text_tower(folder, pooler=True),
        preprocess=preprocess,
    )
    model = DualEncoder(config)
    for tower in (model.visual, model.bert):
        if isinstance(tower, HFVision | HFText):
            fill_tower(tower, raw.tensors, str(path))
    state = model.state_dict()
    for theirs, name in _PROJECTIONS:
        state[name] = raw.tensors[theirs].t()
    state[_SCALE] = raw.tensors[_SCALE]
    return state, config


def to_dual_encoder(
    config: ModelConfig, weights: Mapping[str, Tensor]
) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, str]]:
    """What such a folder holds: config.json, the weights, and the tokenizer's files by name.

    Args:
        weights: by the names of stored files (`hf_tower.to_stored`).

    Raises: InputError if one of the towers is not an hf: tower with a pooled output.
    """
    vision, text = config.vision, config.text
    if vision.hf_pooling != "pooler" or text.text_pooling != "pooler":
        raise InputError(
            f"{config.name}: a {DUAL_ENCODER} folder holds two hf: towers with pooled outputs only; "
            f"`cnclip models save-dual-encoder` makes such a model"
        )
    sections = {"vision_config": json.loads(vision.hf_config), "text_config": json.loads(text.hf_config)}
    values = {
        "architectures": ["VisionTextDualEncoderModel"],
        "model_type": DUAL_ENCODER,
        "projection_dim": vision.embed_dim,
        "logit_scale_init_value": 2.6592,
        **sections,
    }
    # transformers before version 5 wants its inner prefix, later versions take both
    towers = {
        "visual.model.": HFVision.side + IMAGE_KINDS[sections["vision_config"]["model_type"]].prefix,
        "bert.model.": HFText.side + TEXT_KINDS[sections["text_config"]["model_type"]].prefix,
    }
    out = {theirs: weights[name].t().contiguous() for theirs, name in _PROJECTIONS}
    out[_SCALE] = weights[_SCALE]
    for ours, theirs in towers.items():
        for name, tensor in weights.items():
            if name.startswith(ours):
                out[theirs + name.removeprefix(ours)] = tensor.contiguous()
    return values, out, _tokenizer_files(config)


def _tokenizer_files(config: ModelConfig) -> dict[str, str]:
    pad_id = transformers_config(config.text.hf_config, TEXT_KINDS, config.text_name).pad_token_id
    tokenizer = parse_tokenizer(config.text.hf_tokenizer, config.text_name)
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": config.text.text_max_position_embeddings,
        "pad_token": tokenizer.id_to_token(pad_id or 0),
    }
    return {
        "tokenizer.json": config.text.hf_tokenizer,
        "tokenizer_config.json": json.dumps(settings, indent=2, ensure_ascii=False) + "\n",
    }


@dataclass(frozen=True)
class Written:
    """A folder and its proof: the lowest cosines of our embeddings from it to transformers'."""

    folder: Path
    image_cosine: float
    text_cosine: float
    fingerprint: str


def save_dual_encoder(vision: str, text: str, projection_dim: int, folder: Path) -> Written:
    """Join two pretrained towers in a VisionTextDualEncoder folder, and compare our reading to transformers'.

    Args:
        vision, text: "hf:FOLDER" (see zoo.build_zoo_model).

    Raises: InputError, WeightsError: one line.
    """
    if folder.exists() and any(folder.iterdir()):
        raise InputError(f"{folder}: exists already; choose another folder")
    save_hf(build_zoo_model(vision, text, projection_dim, pooler=True), folder)
    loaded = load_checkpoint(folder)
    ours, theirs = _ours(build_model(loaded)), _theirs(folder, loaded.config)
    image_cosine, text_cosine = (
        float(F.cosine_similarity(a, b).min()) for a, b in zip(ours, theirs, strict=True)
    )
    return Written(folder, image_cosine, text_cosine, fingerprint(loaded.state_dict, loaded.config))


def _probe_images(config: ModelConfig) -> Tensor:
    side = config.vision.image_resolution
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def _ours(model: DualEncoder) -> tuple[Tensor, Tensor]:
    length = min(model.config.context_length, model.config.text.text_max_position_embeddings)
    ids = torch.from_numpy(tokenizer_of(model.config)(_PROBE_TEXTS, length))
    return model.encode_image(_probe_images(model.config)), model.encode_text(ids)


@torch.no_grad()
def _theirs(folder: Path, config: ModelConfig) -> tuple[Tensor, Tensor]:
    library = transformers()
    model = library.VisionTextDualEncoderModel.from_pretrained(str(folder), local_files_only=True).eval()
    tokenizer = library.AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    length = min(config.context_length, config.text.text_max_position_embeddings)
    words = tokenizer(
        list(_PROBE_TEXTS), padding=True, truncation=True, max_length=length, return_tensors="pt"
    )
    out = model(
        input_ids=words["input_ids"],
        attention_mask=words["attention_mask"],
        pixel_values=_probe_images(config),
    )
    return out.image_embeds, out.text_embeds
