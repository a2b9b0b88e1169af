"""What a run starts from: the model that the settings describe, ready to be trained."""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from cnclip.errors import InputError
from cnclip.model import ZOO_PREFIX
from cnclip.model.config import named_config
from cnclip.model.device import pick_dtype
from cnclip.model.dual_encoder import DualEncoder
from cnclip.model.encoder import find_weights
from cnclip.model.pixels import Normalizer
from cnclip.model.tower_weights import load_image_tower, load_text_tower
from cnclip.model.weights import build_model, load_checkpoint
from cnclip.model.zoo import build_zoo_model
from cnclip.training.config import TrainConfig
from cnclip.training.distributed import World
from cnclip.training.step import Precision, PrecisionName
from cnclip.training.teacher import Teacher

logger = logging.getLogger(__name__)

_CONVOLUTIONAL = ("resnet", "efficientnet")


def starting_model(config: TrainConfig, world: World, *, going_on: Path | None = None) -> DualEncoder:
    """The model of `config` on this process's device, in float32: from the run's own checkpoint `going_on`,
    else from `resume`, else from `model`, else new with the weights of single towers where given; frozen,
    checkpointed and synchronised as told.

    Raises: InputError, WeightsError for files and settings that do not fit.
    """
    torch.manual_seed(config.seed)  # every process starts from the same new weights
    model = (_weights(config) if going_on is None else build_model(load_checkpoint(going_on))).float()
    if config.temperature is not None:
        with torch.no_grad():
            model.logit_scale.fill_(math.log(1 / config.temperature))
    longest = min(config.context_length, model.config.text.text_max_position_embeddings)
    model.config = replace(model.config, context_length=longest)  # validation and saved models follow
    model.requires_grad_(True)
    model.logit_scale.requires_grad_(config.temperature is None)
    if config.freeze_vision:
        model.visual.requires_grad_(False)
    if config.freeze_text:
        model.bert.requires_grad_(False)
    if config.mask_ratio and model.config.vision.tower != "vit":
        raise InputError(f"--mask-ratio leaves out patches of a ViT; {model.config.vision_name} has none")
    model.set_grad_checkpointing(config.grad_checkpointing)
    if config.use_bn_sync and world.size > 1:
        if world.device.type == "cpu":
            raise InputError("--use-bn-sync needs accelerators: BatchNorm cannot be synchronised on CPU")
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
    if model.config.vision.tower in _CONVOLUTIONAL and not config.fsdp:
        # What convolutions like best; shards are cut from plain memory.
        model.visual.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model.to(world.device)


def _weights(config: TrainConfig) -> DualEncoder:
    if (config.model or config.resume) and (config.clip_weight_path or config.bert_weight_path):
        logger.warning("--clip-weight-path and --bert-weight-path are for new models: not used here")
    zoo = config.vision_model.startswith(ZOO_PREFIX) or config.text_model.startswith(ZOO_PREFIX)
    if config.resume is not None:
        own_towers = zoo or config.model is not None
        expected = None if own_towers else named_config(config.vision_model, config.text_model)
        return build_model(load_checkpoint(config.resume, config=expected))
    if config.model is not None:
        return build_model(load_checkpoint(find_weights(config.model)))
    if zoo:
        model = build_zoo_model(config.vision_model, config.text_model, config.projection_dim)
    else:
        model = DualEncoder(named_config(config.vision_model, config.text_model))
    if config.clip_weight_path is not None:
        load_image_tower(model, config.clip_weight_path)
    if config.bert_weight_path is not None:
        load_text_tower(model, config.bert_weight_path)
    return model


def pick_precision(config: TrainConfig, device: torch.device, tower: str) -> Precision:
    """amp: bfloat16 where the hardware has it, else float16 on accelerators and float32 on CPU.

    tower: kind of the image tower. Convolutions go backwards slower in bfloat16 than in float32 on CPU (lite:
    18 against 25 pairs/s), so amp is float32 for them there.

    Raises: InputError for float16 where there is no loss scaling.
    """
    name: PrecisionName
    if config.precision != "amp":
        name = config.precision
    elif device.type == "cpu" and tower in _CONVOLUTIONAL:
        name = "fp32"
    elif pick_dtype(None, device) == torch.bfloat16:
        name = "bf16"
    else:
        name = "fp32" if device.type == "cpu" else "fp16"
    if name == "fp16" and device.type == "cpu":
        raise InputError("--precision fp16 needs an accelerator; on CPU use bf16 or fp32")
    if name == "fp16" and config.fsdp:
        raise InputError("--precision fp16 does not go with --fsdp; use bf16")
    return Precision(name, device)


def starting_teacher(config: TrainConfig, student: Normalizer, precision: Precision) -> Teacher | None:
    """The model to learn from, if `config` names one. Raises as `starting_model`."""
    if not config.distillation:
        return None
    model = build_model(load_checkpoint(find_weights(str(config.teacher_model_name))))
    logger.info("teacher: %s (%s)", config.teacher_model_name, model.config.name)
    autocast = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision.name)
    return Teacher(model.to(student.device), student, autocast)
