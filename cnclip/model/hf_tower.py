"""Image and text towers whose code is transformers', in the frame of `DualEncoder`.

A tower is its transformers configuration (JSON text kept in our own), a way to pool and a projection.
Nothing here opens a file or the network: weights arrive as those of any other tower do.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from cnclip.errors import InputError
from cnclip.model.config import ModelConfig, TextConfig, VisionConfig
from cnclip.text import PAD_ID

Pooling = Literal["cls", "mean", "pooler"]


@dataclass(frozen=True)
class Kind:
    """One `model_type` of transformers that can be a tower.

    pooling: used by default. "pooler" where the pooled output is part of the pretrained tower (CLIP's
    LayerNorm on [CLS], Swin's mean, SigLIP's attention head); "cls" where it is a dense layer that
    pretraining left behind (ViT, BERT), which is then removed.
    prefix: under which transformers before version 5 keeps the weights inside the tower.
    """

    pooling: Pooling
    has_pooler: bool = True
    prefix: str = ""


IMAGE_KINDS = {
    "vit": Kind("cls"),
    "deit": Kind("cls"),
    "dinov2": Kind("cls"),
    "beit": Kind("pooler"),
    "swin": Kind("pooler"),
    "swinv2": Kind("pooler"),
    "convnext": Kind("pooler"),
    "resnet": Kind("pooler"),
    "clip_vision_model": Kind("pooler", prefix="vision_model."),
    "siglip_vision_model": Kind("pooler", prefix="vision_model."),
}
TEXT_KINDS = {
    "bert": Kind("cls"),
    "roberta": Kind("cls"),
    "xlm-roberta": Kind("cls"),
    "camembert": Kind("cls"),
    "mpnet": Kind("cls"),
    "albert": Kind("cls"),
    "electra": Kind("cls", has_pooler=False),
    "distilbert": Kind("cls", has_pooler=False),
    "clip_text_model": Kind("pooler", prefix="text_model."),
}
# Positions count from behind the padding token.
_POSITIONS_AFTER_PAD = ("roberta", "xlm-roberta", "camembert", "mpnet")
# What says where a model came from or how to run it, not what it is; some of it could fetch or run code.
_FOREIGN = {
    *("_name_or_path", "architectures", "transformers_version", "torch_dtype", "dtype", "auto_map"),
    *("attn_implementation", "_attn_implementation", "_attn_implementation_internal", "quantization_config"),
    *("id2label", "label2id", "use_cache", "output_hidden_states", "output_attentions", "return_dict"),
    *("torchscript", "is_decoder", "add_cross_attention", "gradient_checkpointing"),
}
# Buffers that follow from the configuration, which some versions of transformers keep among the weights
INDEX_BUFFERS = ("position_ids", "token_type_ids", "relative_position_index", "relative_coords_table")
_MAX_LAYERS = 1000


def transformers() -> Any:
    """The library. Raises InputError naming the extra that brings it."""
    try:
        import transformers as library
    except ImportError as error:
        raise InputError("hf: towers need transformers; pip install 'cnclip[zoo]'") from error
    return library


def clean_config(values: Mapping[str, Any]) -> str:
    """The JSON text that stands for a tower in our configuration: without origin and runtime options."""
    return json.dumps({k: v for k, v in values.items() if k not in _FOREIGN}, sort_keys=True)


def transformers_config(text: str, kinds: Mapping[str, Kind], source: str) -> Any:
    """A transformers configuration from JSON text, which may come from an untrusted file.

    Raises: InputError naming `source` and what is wrong.
    """
    try:
        values = json.loads(text)
        kind = values.get("model_type")
    except (ValueError, AttributeError, RecursionError) as error:
        raise InputError(f"{source}: hf_config is not a JSON object") from error
    if kind not in kinds:
        raise InputError(f"{source}: model_type {kind!r} cannot be this tower; known: {', '.join(kinds)}")
    values = {k: v for k, v in values.items() if k not in _FOREIGN and k != "model_type"}
    auto_config = transformers().AutoConfig
    try:
        config = auto_config.for_model(kind, **values)
    except Exception as error:  # each kind checks its fields with errors of its own
        raise InputError(f"{source}: bad {kind} configuration ({_line(error)})") from error
    config.use_cache = False  # of decoders
    layers = getattr(config, "num_hidden_layers", 1)
    if not isinstance(layers, int) or layers > _MAX_LAYERS:
        raise InputError(f"{source}: num_hidden_layers must be at most {_MAX_LAYERS}, not {layers!r}")
    return config


def width_of(config: Any) -> int:
    """Width of the states that a tower gives out."""
    width = getattr(config, "hidden_size", None) or config.hidden_sizes[-1]
    return int(width)


def positions_of(config: Any) -> int:
    """Most tokens a text tower takes."""
    offset = (config.pad_token_id or 0) + 1 if config.model_type in _POSITIONS_AFTER_PAD else 0
    return int(config.max_position_embeddings) - offset


class _HFTower(nn.Module):
    """A transformers model without the parts that would never get a gradient.

    side: prefix of this tower's weights in files that hold both.
    """

    side: str

    def __init__(self, text: str, pooling: str, kinds: Mapping[str, Kind], source: str) -> None:
        super().__init__()
        config = transformers_config(text, kinds, source)
        self.kind, self.pooling = kinds[config.model_type], pooling
        if pooling == "pooler" and not self.kind.has_pooler:
            raise InputError(f"{source}: {config.model_type} has no pooled output")
        try:
            self.model = transformers().AutoModel.from_config(config)
        except Exception as error:  # whatever the numbers of a configuration lead to
            raise InputError(f"{source}: bad {config.model_type} configuration ({_line(error)})") from error
        if pooling != "pooler" and isinstance(getattr(self.model, "pooler", None), nn.Module):
            self.model.pooler = None
        if getattr(getattr(self.model, "embeddings", None), "mask_token", None) is not None:
            self.model.embeddings.mask_token = None  # of pretraining
        for module in self.model.modules():
            for name, buffer in list(module.named_buffers(recurse=False)):
                if name in INDEX_BUFFERS:
                    module.register_buffer(name, buffer, persistent=False)

    def set_grad_checkpointing(self, enabled: bool) -> None:
        """Recompute layers in the backward pass, where the kind can (convolutional ones cannot)."""
        if self.model.supports_gradient_checkpointing:
            # The public way would also make the embeddings of a frozen tower ask for gradients.
            self.model._set_gradient_checkpointing(
                enable=enabled, gradient_checkpointing_func=partial(checkpoint, use_reentrant=False)
            )

    def stored_names(self) -> dict[str, str]:
        """Name of each weight in this version of transformers -> its name in published files, in all."""
        names = list(self.model.state_dict())
        try:
            from transformers.core_model_loading import revert_weight_conversion
        except ImportError:  # before version 5 they are the same
            return {name: name.removeprefix(self.kind.prefix) for name in names}
        marked = {name: torch.tensor(number) for number, name in enumerate(names)}
        reverted = revert_weight_conversion(self.model, marked)
        return {names[int(mark)]: stored.removeprefix(self.kind.prefix) for stored, mark in reverted.items()}


class HFVision(_HFTower):
    """Pictures (B, 3, R, R), normalised, to embeddings (B, embed_dim), not of unit length."""

    side = "vision_model."

    def __init__(self, config: VisionConfig) -> None:
        super().__init__(config.hf_config, config.hf_pooling, IMAGE_KINDS, "image tower")
        width = width_of(self.model.config)
        self.proj = nn.Parameter(width**-0.5 * torch.randn(width, config.embed_dim))

    def forward(self, images: Tensor) -> Tensor:
        out = self.model(pixel_values=images)
        pooled = out.pooler_output.flatten(1) if self.pooling == "pooler" else out.last_hidden_state[:, 0]
        embeddings: Tensor = pooled @ self.proj
        return embeddings


class HFText(_HFTower):
    """Token ids to one vector per text (B, W).

    Args (forward):
        ids: int64 (B, L): the tokenizer's ids + 1, zero = padding (see cnclip.model.tokens).
        mix: mixup on the word embeddings, as in Bert.
    """

    side = "text_model."

    def __init__(self, config: TextConfig) -> None:
        super().__init__(config.hf_config, config.text_pooling, TEXT_KINDS, "text tower")

    def forward(self, ids: Tensor, mix: tuple[Tensor, float] | None = None) -> Tensor:
        present = ids.ne(PAD_ID)  # (B, L)
        # Some kinds count positions by their padding token, or look for the end of the text by its id.
        real = torch.where(present, ids - 1, self.model.config.pad_token_id or 0)
        inputs = {"input_ids": real}
        if mix is not None:
            partner, share = mix
            x = self.model.get_input_embeddings()(real)  # (B, L, W)
            inputs = {"inputs_embeds": share * x + (1 - share) * x[partner]}
            present = present | present[partner]
        try:
            out = self.model(**inputs, attention_mask=present.long())
        except ValueError as error:
            if mix is None:
                raise
            kind = self.model.config.model_type
            raise InputError(f"mixup of texts is not possible with a {kind} tower") from error
        if self.pooling == "pooler":
            pooled: Tensor = out.pooler_output
            return pooled
        states: Tensor = out.last_hidden_state  # (B, L, W)
        if self.pooling == "cls":
            return states[:, 0]
        weights = present[:, :, None].to(states.dtype)
        return (states * weights).sum(1) / weights.sum(1)


def stored_names(model: nn.Module) -> dict[str, str]:
    """Names of a whole model's weights, `visual.*` and `bert.*`, that differ in stored files.

    transformers renames its modules from version to version, and published files keep the first names; so
    do ours.
    """
    return {
        f"{tower}.model.{name}": f"{tower}.model.{stored}"
        for tower, module in model.named_children()
        if isinstance(module, _HFTower)
        for name, stored in module.stored_names().items()
        if name != stored
    }


def to_stored(config: ModelConfig, state: Mapping[str, Any]) -> dict[str, Any]:
    """A state by the names of stored files. Ordinary models: unchanged."""
    names = _renames(config)
    return {names.get(name, name): value for name, value in state.items()}


def from_stored(config: ModelConfig, state: Mapping[str, Any]) -> dict[str, Any]:
    """A stored state by the names of the modules here. Ordinary models: unchanged."""
    names = {stored: name for name, stored in _renames(config).items()}
    return {names.get(name, name): value for name, value in state.items()}


def _renames(config: ModelConfig) -> dict[str, str]:
    if not config.uses_transformers:
        return {}
    from cnclip.model.dual_encoder import DualEncoder

    with torch.device("meta"):
        model = DualEncoder(config)
    return stored_names(model)


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
