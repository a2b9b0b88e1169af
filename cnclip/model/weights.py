"""Loading models from any supported file: read, rename, recognise, check, build."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cnclip.errors import InputError, WeightsError
from cnclip.model.checkpoint_files import DUAL_ENCODER, RawCheckpoint, read_checkpoint
from cnclip.model.config import ModelConfig, VisionConfig
from cnclip.model.dual_encoder import DualEncoder
from cnclip.model.hf_config import apply_hf_config, preprocess_from_hf
from cnclip.model.hf_tower import from_stored
from cnclip.model.infer import infer_config, same_architecture
from cnclip.model.key_names import canonical

__all__ = [
    "LoadedWeights",
    "build_model",
    "check_weights",
    "infer_config",
    "load_checkpoint",
    "load_model",
    "resize_positions",
]

_SHOWN = 3  # weights named in a message before "and N more"
_POSITIONS = {"vit": "visual.positional_embedding", "resnet": "visual.attnpool.positional_embedding"}
_RESNET_STRIDE = 32


@dataclass(frozen=True)
class LoadedWeights:
    """Weights that are complete and fit `config`.

    state_dict: Chinese-CLIP's names, dtypes as stored, maybe mapped from the file (do not write to them).
    source_format: "pt" | "safetensors" | "huggingface" | "vision-text-dual-encoder".
    info: epoch, step, name of a .pt.
    dropped: names left out on purpose (BERT's pooler, index buffers).
    """

    path: Path
    state_dict: dict[str, Tensor]
    config: ModelConfig
    source_format: str
    info: dict[str, Any]
    dropped: tuple[str, ...] = ()


def load_checkpoint(
    path: str | Path, *, config: ModelConfig | None = None, resolution: int | None = None
) -> LoadedWeights:
    """Read a Chinese-CLIP .pt, a Hugging Face folder or our safetensors, and check every weight.

    Folders: ChineseCLIP, and VisionTextDualEncoder (needs transformers, as every model with hf: towers does).

    Args:
        config: what the caller expects; the file must fit it up to the resolution, to which positional
            embeddings are interpolated. By default the file's own, else the one its shapes show.
        resolution: picture side in pixels to interpolate to; wins over `config`'s.

    Raises: WeightsError, one line naming the path, what is wrong (first few weights) and what to do.
    """
    path = Path(path)
    try:
        raw = read_checkpoint(path)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror or error})") from error
    if raw.source_format == DUAL_ENCODER:
        from cnclip.model.dual_folder import from_dual_encoder

        state, found = from_dual_encoder(path, raw)
        dropped: tuple[str, ...] = ()
    else:
        state, dropped = canonical(raw.tensors, str(path))
        if raw.config is not None:
            state = from_stored(raw.config, state)
        found = _recognise(raw, state, str(path))
    if config is not None:
        if not same_architecture(config, found):
            raise WeightsError(
                f"{path}: looks like {found.name}, not {config.name}; "
                f"use --vision-model {found.vision_name} --text-model {found.text_name}"
            )
        resolution = resolution or config.vision.image_resolution
    if resolution is not None and resolution != found.vision.image_resolution:
        found = _at_resolution(found, resolution, state, str(path))
    _check(state, found, str(path))
    return LoadedWeights(path, state, found, raw.source_format, raw.info, dropped)


def build_model(
    loaded: LoadedWeights, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> DualEncoder:
    """A model with a copy of the weights, in evaluation mode. The logit scale stays float32."""
    # A tower of transformers makes some buffers itself, which no file holds.
    with torch.device(device if loaded.config.uses_transformers else "meta"):
        model = DualEncoder(loaded.config)
    state = {
        name: tensor.to(device, _dtype_for(name, tensor, dtype), copy=True)
        for name, tensor in loaded.state_dict.items()
    }
    model.load_state_dict(state, assign=True)
    return model.eval()


def load_model(
    path: str | Path,
    *,
    config: ModelConfig | None = None,
    resolution: int | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> DualEncoder:
    """`load_checkpoint` and `build_model` in one."""
    return build_model(
        load_checkpoint(path, config=config, resolution=resolution), dtype=dtype, device=device
    )


def fit_positions(state: dict[str, Tensor], config: VisionConfig) -> None:
    """Interpolate the positional embeddings in `state` (names of a whole model) to the picture size."""
    name, step = _POSITIONS.get(config.tower), config.vision_patch_size or _RESNET_STRIDE
    if name is not None and name in state:
        state[name] = resize_positions(state[name], config.image_resolution // step)


def resize_positions(positions: Tensor, grid: int) -> Tensor:
    """Interpolate positional embeddings (1 + g*g, W) to (1 + grid*grid, W); the first row stays.

    Bicubic with aligned corners, as Chinese-CLIP does. The grid is row by row.
    """
    side = round((len(positions) - 1) ** 0.5)
    if side == grid:
        return positions
    cells = positions[1:].float().reshape(1, side, side, -1).permute(0, 3, 1, 2)  # (1, W, g, g)
    cells = F.interpolate(cells, size=(grid, grid), mode="bicubic", align_corners=True)
    cells = cells.permute(0, 2, 3, 1).reshape(grid * grid, -1)
    return torch.cat([positions[:1], cells.to(positions.dtype)])


def _recognise(raw: RawCheckpoint, state: Mapping[str, Tensor], source: str) -> ModelConfig:
    if raw.config is not None and raw.config.uses_transformers:
        return raw.config  # states its architecture in full
    shown = infer_config(state, source)
    if raw.config is not None:
        stated = raw.config
        if not same_architecture(stated, shown):
            raise WeightsError(
                f"{source}: its configuration says {stated.name}, its weights look like {shown.name}"
            )
        if (
            stated.vision.tower != "efficientnet"
            and stated.vision.image_resolution != shown.vision.image_resolution
        ):
            raise WeightsError(
                f"{source}: its configuration says {stated.vision.image_resolution} pixels, "
                f"its positional embeddings {shown.vision.image_resolution}"
            )
        return stated
    if raw.hf_config is not None:
        shown = apply_hf_config(shown, raw.hf_config, f"{source}/config.json")
    if raw.hf_preprocessor is not None:
        where = f"{source}/preprocessor_config.json"
        preprocess = preprocess_from_hf(raw.hf_preprocessor, shown.vision.image_resolution, where)
        shown = replace(shown, preprocess=preprocess)
    return shown


def _at_resolution(
    config: ModelConfig, resolution: int, state: dict[str, Tensor], source: str
) -> ModelConfig:
    vision = config.vision
    if vision.tower == "hf":
        raise WeightsError(f"{source}: the resolution of an hf: image tower cannot be changed")
    step = vision.vision_patch_size if vision.tower == "vit" else _RESNET_STRIDE
    if step is None or resolution < step or (resolution % step and vision.tower in _POSITIONS):
        raise WeightsError(f"{source}: resolution {resolution} is not a multiple of {step} pixels")
    try:
        preprocess = replace(config.preprocess, size=resolution)
    except InputError as error:
        raise WeightsError(f"{source}: {error}") from error
    vision = replace(vision, image_resolution=resolution)
    fit_positions(state, vision)
    return replace(config, vision=vision, preprocess=preprocess)


def _check(state: dict[str, Tensor], config: ModelConfig, source: str) -> None:
    text, vision = config.text, config.vision
    vision_width = vision.vision_width * (_RESNET_STRIDE if vision.tower == "resnet" else 1)
    if text.text_hidden_size % text.text_num_attention_heads or vision_width % vision.vision_head_width:
        raise WeightsError(f"{source}: heads of its configuration do not divide the width")
    with torch.device("meta"):
        expected = DualEncoder(config).state_dict()
    check_weights(state, expected, config.name, source)


def check_weights(state: dict[str, Tensor], expected: Mapping[str, Tensor], what: str, source: str) -> None:
    """Every expected weight there, none too many, each of the right shape, floating and finite.

    Args:
        state: by the names of `expected`; BatchNorm's batch counters are added where they lack.
        what: has these weights, for the message.

    Raises: WeightsError, one line with the first few weights of each problem.
    """
    for name, tensor in expected.items():
        if name.endswith(".num_batches_tracked"):  # old checkpoints lack it, and inference never reads it
            state.setdefault(name, torch.zeros((), dtype=tensor.dtype))
    problems = {
        "missing": [name for name in expected if name not in state],
        "unexpected": [name for name in state if name not in expected],
        "misshapen": [
            f"{name} {tuple(state[name].shape)} instead of {tuple(tensor.shape)}"
            for name, tensor in expected.items()
            if name in state and state[name].shape != tensor.shape
        ],
        "not floating point": [
            f"{name} ({state[name].dtype})"
            for name, tensor in expected.items()
            if name in state and tensor.is_floating_point() and not state[name].is_floating_point()
        ],
    }
    if not any(problems.values()):
        problems["not finite"] = [name for name, tensor in state.items() if not _finite(tensor)]
    parts = [f"{len(names)} {kind} ({_first(names)})" for kind, names in problems.items() if names]
    if parts:
        advice = (
            "train or download it again"
            if "not finite" in parts[-1]
            else "check that it is whole and unchanged"
        )
        raise WeightsError(f"{source}: does not fit {what}: weights {'; '.join(parts)}; {advice}")


def _first(names: list[str]) -> str:
    rest = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + rest


def _finite(tensor: Tensor) -> bool:
    """One pass without a copy: NaN wins both ends, infinity one."""
    return not tensor.is_floating_point() or all(bool(end.isfinite()) for end in tensor.aminmax())


def _dtype_for(name: str, tensor: Tensor, dtype: torch.dtype) -> torch.dtype:
    if not tensor.is_floating_point():
        return tensor.dtype
    return torch.float32 if name == "logit_scale" else dtype
