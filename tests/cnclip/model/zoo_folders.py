"""Tiny random Hugging Face folders, written by transformers itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from tokenizers.processors import TemplateProcessing
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

TEXTS = ("红色连衣裙", "狗", "一只在雪地里奔跑的狗", "a dog")
LETTERS = sorted({letter for text in TEXTS for letter in text} | set("手机壳杯子苹果"))

_SIZE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
_PICTURE = {"image_size": 32, "patch_size": 8}
_WORDS = {"vocab_size": 64, "max_position_embeddings": 40}
_CONV = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 2, 1]}
IMAGE_CONFIGS: dict[str, dict[str, Any]] = {
    "vit": _SIZE | _PICTURE,
    "deit": _SIZE | _PICTURE,
    "dinov2": _SIZE | _PICTURE | {"image_size": 64},
    "beit": _SIZE | _PICTURE | {"use_relative_position_bias": True, "use_mask_token": True},
    "swin": {"image_size": 32, "patch_size": 2, "embed_dim": 8, "depths": [1, 2], "num_heads": [1, 2]}
    | {"window_size": 4},
    "swinv2": {"image_size": 32, "patch_size": 2, "embed_dim": 8, "depths": [1, 2], "num_heads": [1, 2]}
    | {"window_size": 4},
    "convnext": _CONV,
    "resnet": _CONV | {"embedding_size": 8},
    "clip_vision_model": _SIZE | _PICTURE | {"projection_dim": 16},
    "siglip_vision_model": _SIZE | _PICTURE,
}
TEXT_CONFIGS: dict[str, dict[str, Any]] = {
    "bert": _SIZE | _WORDS | {"pad_token_id": 1},
    "roberta": _SIZE | _WORDS | {"pad_token_id": 1},
    "xlm-roberta": _SIZE | _WORDS | {"pad_token_id": 1},
    "camembert": _SIZE | _WORDS | {"pad_token_id": 1},
    "mpnet": _SIZE | _WORDS | {"pad_token_id": 1},
    "albert": _SIZE | _WORDS | {"pad_token_id": 1, "embedding_size": 16},
    "electra": _SIZE | _WORDS | {"pad_token_id": 1, "embedding_size": 16},
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48, "pad_token_id": 1} | _WORDS,
    "clip_text_model": _SIZE | _WORDS | {"eos_token_id": 2, "bos_token_id": 0, "pad_token_id": 1},
}


def config_of_kind(kind: str, **changes: Any) -> PreTrainedConfig:
    values = {**IMAGE_CONFIGS, **TEXT_CONFIGS}[kind]
    return transformers.AutoConfig.for_model(kind, **{**values, **changes})


def randomised(model: PreTrainedModel, seed: int = 0) -> PreTrainedModel:
    """Every weight drawn anew, so that no term can hide; in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.state_dict().items():
        if not tensor.is_floating_point():
            continue
        if name.endswith("running_var") or (tensor.ndim == 1 and name.endswith(("weight", "lambda1"))):
            tensor.uniform_(0.5, 1.5, generator=generator)
        else:
            tensor.normal_(std=0.15, generator=generator)
    return model.eval()


def random_model(kind: str, seed: int = 0, **changes: Any) -> PreTrainedModel:
    return randomised(AutoModel.from_config(config_of_kind(kind, **changes)), seed)


def write_preprocessor(folder: Path, **changes: Any) -> None:
    values = {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": 32, "width": 32},
        "resample": 2,
        "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.4, 0.3],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps({**values, **changes}))


def write_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """One letter is one token, as RoBERTa numbers the special ones: <s> 0, <pad> 1, </s> 2, <unk> 3.

    </s> comes last in CLIP's vocabulary, and old configurations find it as the largest id.
    """
    vocabulary = {token: i for i, token in enumerate(["<s>", "<pad>", "</s>", "<unk>", *LETTERS])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Split("", "isolated")
    tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    fast.save_pretrained(folder)
    return fast


def image_folder(folder: Path, kind: str = "vit", **changes: Any) -> PreTrainedModel:
    """Write an image tower's folder. Returns the model."""
    model = random_model(kind, **changes)
    model.save_pretrained(folder)
    write_preprocessor(folder)
    return model


def text_folder(folder: Path, kind: str = "roberta", **changes: Any) -> PreTrainedModel:
    """Write a text tower's folder. Returns the model."""
    model = random_model(kind, seed=1, **changes)
    model.save_pretrained(folder)
    write_tokenizer(folder)
    return model
