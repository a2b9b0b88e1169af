"""Names of weights: Chinese-CLIP's variants and Hugging Face's ChineseCLIP, brought to one form and back.

The one form is Chinese-CLIP's own (`visual.*`, `bert.*`, `text_projection`, `logit_scale`).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from cnclip.errors import WeightsError

_WRAPPERS = re.compile(r"^(?:module\.|_orig_mod\.)+")  # DistributedDataParallel, torch.compile
# Never used by the model: BERT's pooler, and index buffers that old library versions stored.
_DROPPED = re.compile(r"^(?:bert|text_model)\.pooler\.|\.(?:position_ids|token_type_ids)$")

# (Hugging Face, ours), applied in order
_HF_RENAMES = (
    ("vision_model.embeddings.class_embedding", "visual.class_embedding"),
    ("vision_model.embeddings.patch_embedding.", "visual.conv1."),
    ("vision_model.embeddings.position_embedding.weight", "visual.positional_embedding"),
    ("vision_model.pre_layrnorm.", "visual.ln_pre."),
    ("vision_model.post_layernorm.", "visual.ln_post."),
    ("vision_model.encoder.layers.", "visual.transformer.resblocks."),
    ("visual_projection.weight", "visual.proj"),
    ("text_projection.weight", "text_projection"),
    ("text_model.", "bert."),
)
_HF_BLOCK_RENAMES = (
    (".layer_norm1.", ".ln_1."),
    (".layer_norm2.", ".ln_2."),
    (".mlp.fc1.", ".mlp.c_fc."),
    (".mlp.fc2.", ".mlp.c_proj."),
    (".self_attn.", ".attn."),
)
_HF_QKV = re.compile(r"^(visual\.transformer\.resblocks\.\d+\.attn\.)([qkv])_proj\.(weight|bias)$")
_BLOCK_PREFIX = "visual.transformer.resblocks."
_TRANSPOSED = ("visual.proj", "text_projection")


def canonical(tensors: Mapping[str, Tensor], source: str) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Bring any known naming to Chinese-CLIP's.

    Returns: the renamed tensors (views where possible), and the names left out on purpose.
    Raises: WeightsError if two names mean the same weight, or a packed q/k/v weight is incomplete.
    """
    plain: dict[str, Tensor] = {}
    dropped: list[str] = []
    for name, tensor in tensors.items():
        short = _WRAPPERS.sub("", name)
        if _DROPPED.search(short):
            dropped.append(short)
        elif short in plain:
            raise WeightsError(f"{source}: weight {short!r} is there twice")
        else:
            plain[short] = tensor
    if any(name.startswith(("vision_model.", "text_model.")) for name in plain):
        return _from_hf(plain, source), tuple(dropped)
    return _unpack_flash(plain, source), tuple(dropped)


def tower_names(
    tensors: Mapping[str, Tensor], wanted: Collection[str], prefixes: Sequence[str]
) -> dict[str, Tensor]:
    """The tensors of one tower out of a file that may hold more (heads of pretraining, another tower).

    Args:
        wanted: the tower's own names.
        prefixes: under which a file may keep it; the one that fits most is taken.

    Returns: by the tower's names, all that belongs to one of its parts, also what is not wanted.
    """
    plain = {_old_layer_norm(name): tensor for name, tensor in tensors.items()}
    prefix = max(prefixes, key=lambda p: sum(p + name in plain for name in wanted))
    parts = {name.partition(".")[0] for name in wanted}
    own = {name[len(prefix) :]: tensor for name, tensor in plain.items() if name.startswith(prefix)}
    return {name: tensor for name, tensor in own.items() if name.partition(".")[0] in parts}


def _old_layer_norm(name: str) -> str:
    """BERT's first files call the weights of LayerNorm as TensorFlow does."""
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")


def _unpack_flash(tensors: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """Undo the names FlashAttention training uses in both towers."""
    out: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if ".attention.self.Wqkv." in name:
            if tensor.shape[0] % 3:
                raise WeightsError(
                    f"{source}: weight {name!r} of {tuple(tensor.shape)} cannot be split in three"
                )
            for part, third in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                out[name.replace("Wqkv", part)] = third
        else:
            renamed = name.replace(".attn.Wqkv.", ".attn.in_proj_")
            out[renamed.replace(".attention.self.out_proj.", ".attention.output.dense.")] = tensor
    return out


def _from_hf(tensors: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    out: dict[str, Tensor] = {}
    qkv: dict[str, dict[str, Tensor]] = {}
    for hf_name, tensor in tensors.items():
        name = hf_name
        for theirs, ours in _HF_RENAMES:
            if name.startswith(theirs):
                name = ours + name[len(theirs) :]
                break
        if name.startswith(_BLOCK_PREFIX):
            for theirs, ours in _HF_BLOCK_RENAMES:
                name = name.replace(theirs, ours)
        if part := _HF_QKV.match(name):
            qkv.setdefault(f"{part[1]}in_proj_{part[3]}", {})[part[2]] = tensor
        else:
            out[name] = tensor.t() if name in _TRANSPOSED and tensor.ndim == 2 else tensor
    for name, parts in qkv.items():
        if set(parts) != set("qkv") or len({part.shape for part in parts.values()}) != 1:
            raise WeightsError(
                f"{source}: q_proj, k_proj and v_proj of {name.rsplit('.', 1)[0]} do not match"
            )
        out[name] = torch.cat([parts[letter] for letter in "qkv"])
    return out


def to_hf(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Chinese-CLIP names (ViT towers) to those of transformers' ChineseCLIPModel; tensors contiguous."""
    out: dict[str, Tensor] = {}
    for name, tensor in state_dict.items():
        if ".attn.in_proj_" in name:
            for letter, third in zip("qkv", tensor.chunk(3), strict=True):
                out[_hf_name(name.replace("in_proj_", f"{letter}_proj."))] = third.contiguous()
        else:
            out[_hf_name(name)] = (tensor.t() if name in _TRANSPOSED else tensor).contiguous()
    return out


def _hf_name(name: str) -> str:
    if name.startswith(_BLOCK_PREFIX):
        for theirs, ours in _HF_BLOCK_RENAMES:
            name = name.replace(ours, theirs)
    for theirs, ours in _HF_RENAMES:
        if name.startswith(ours):
            return theirs + name[len(ours) :]
    return name
