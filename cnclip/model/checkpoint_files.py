"""Reading weight files of any supported format into plain tensors. Nothing in a file is ever executed."""

from __future__ import annotations

import json
import pickle
import pickletools
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from cnclip.errors import InputError, WeightsError
from cnclip.model.config import ModelConfig

SCHEMA = 1  # of the "cnclip" entry in safetensors metadata and .pt files
METADATA_KEY = "cnclip"
_LEGACY_PICKLE = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
DUAL_ENCODER = "vision-text-dual-encoder"  # transformers' VisionTextDualEncoder
_HF_WEIGHTS = ("model.safetensors", "pytorch_model.bin")


@dataclass(frozen=True)
class RawCheckpoint:
    """Tensors as a file names them. config: if the file brings one. info: epoch, step, name of a .pt."""

    tensors: dict[str, Tensor]
    source_format: str
    config: ModelConfig | None = None
    info: dict[str, Any] = field(default_factory=dict)
    hf_config: dict[str, Any] | None = None
    hf_preprocessor: dict[str, Any] | None = None


def read_checkpoint(path: Path) -> RawCheckpoint:
    """Read a Chinese-CLIP .pt, a safetensors file or a Hugging Face folder; told apart by content.

    Raises: WeightsError naming the path: missing, empty, truncated, unsafe, or of another kind.
    """
    if path.is_dir():
        return _read_folder(path)
    if not path.exists():
        raise WeightsError(f"{path}: no such file")
    with path.open("rb") as file:
        head = file.read(16)
    if not head:
        raise WeightsError(f"{path}: empty (0 bytes); download or copy it again")
    # A safetensors file starts with a length, whose bytes may look like anything; its JSON header is sure.
    if not head.startswith(b"PK\x03\x04") and head[8:9] == b"{":
        return _read_safetensors(path)
    if head.startswith((b"PK\x03\x04", *_LEGACY_PICKLE)):
        return _read_pt(path)
    if head.lstrip().startswith(b"<"):
        raise WeightsError(f"{path}: a web page, not weights; the download went wrong")
    if head.startswith(b"version https://"):
        raise WeightsError(f"{path}: a Git LFS pointer, not the weights; fetch the real file (git lfs pull)")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    raise WeightsError(f"{path}: neither a PyTorch checkpoint nor safetensors (or cut at the start)")


def _read_pt(path: Path) -> RawCheckpoint:
    content = torch_load(path)
    if not isinstance(content, Mapping):
        raise WeightsError(f"{path}: holds a {type(content).__name__}, not a dict of weights")
    tensors = content.get("state_dict", content)
    if not isinstance(tensors, Mapping):
        raise WeightsError(f"{path}: 'state_dict' is a {type(tensors).__name__}, not a dict of weights")
    config = None
    if METADATA_KEY in content and tensors is not content:
        config = _read_config(content[METADATA_KEY], str(path))
    info = {key: content[key] for key in ("epoch", "step", "name") if isinstance(content.get(key), int | str)}
    return RawCheckpoint(_only_tensors(tensors, path), "pt", config, info)


def torch_load(path: Path) -> Any:
    """What a .pt file holds, read without running any code in it. Raises WeightsError naming the file."""
    is_zip = zipfile.is_zipfile(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols; what matters is raised
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except pickle.UnpicklingError as error:
        wanted = re.search(r"(?:GLOBAL|class|function) ([\w.]+)", str(error))
        name = wanted[1] if wanted else None if is_zip else _first_global(path)
        if name is None:
            raise WeightsError(
                f"{path}: damaged or not a PyTorch checkpoint; download or copy it again"
            ) from error
        raise WeightsError(
            f"{path}: refused: opening it would run code ({name}); ask for a file that holds weights only"
        ) from error
    except MemoryError as error:
        raise WeightsError(f"{path}: not enough memory to read it") from error
    except Exception as error:
        # torch reports damage through many types (RuntimeError, EOFError, KeyError, struct.error, ...).
        if "TorchScript" in str(error):
            raise WeightsError(
                f"{path}: a TorchScript archive, which cannot be read without running code in it; "
                f"use the same model as a Hugging Face folder, or its state_dict saved as .pt"
            ) from error
        raise WeightsError(
            f"{path}: truncated or damaged ({_brief(error)}); download or copy it again"
        ) from error


def _first_global(path: Path) -> str | None:
    """The first thing a bare pickle would import, found without unpickling."""
    strings: list[str] = []
    try:
        with path.open("rb") as file:
            for opcode, argument, _ in pickletools.genops(file):
                if opcode.name == "GLOBAL":
                    return str(argument).replace(" ", ".")
                if opcode.name == "STACK_GLOBAL":
                    return ".".join(strings[-2:])
                if isinstance(argument, str):
                    strings.append(argument)
    except (ValueError, EOFError):  # cut off
        return None
    return None


def _only_tensors(values: Mapping[Any, Any], path: Path) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for name, value in values.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise WeightsError(f"{path}: {str(name)!r} is a {type(value).__name__}, not a weight")
        tensors[name] = value
    if not tensors:
        raise WeightsError(f"{path}: holds no weights")
    return tensors


def _read_safetensors(path: Path) -> RawCheckpoint:
    tensors, metadata = _load_safetensors(path)
    config = None
    if METADATA_KEY in metadata:
        try:
            config = _read_config(json.loads(metadata[METADATA_KEY]), str(path))
        except (json.JSONDecodeError, RecursionError) as error:
            raise WeightsError(f"{path}: its {METADATA_KEY!r} metadata is not JSON ({error})") from error
    return RawCheckpoint(tensors, "safetensors", config)


def _load_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise WeightsError(
            f"{path}: truncated or damaged ({_brief(error)}); download or copy it again"
        ) from error
    if not tensors:
        raise WeightsError(f"{path}: holds no weights")
    return tensors, metadata


def _read_config(values: Any, source: str) -> ModelConfig:
    if not isinstance(values, dict) or not isinstance(values.get("config"), dict):
        raise WeightsError(f"{source}: its {METADATA_KEY!r} entry holds no model configuration")
    if values.get("schema") != SCHEMA:
        raise WeightsError(
            f"{source}: configuration schema {values.get('schema')!r}, this version reads {SCHEMA}"
        )
    try:
        return ModelConfig.from_dict(values["config"], source=source)
    except InputError as error:
        raise WeightsError(str(error)) from error


def _read_folder(folder: Path) -> RawCheckpoint:
    tensors = read_tensors(folder)
    config = read_json(folder / "config.json")
    kind = config.get("model_type")
    if kind not in (None, "chinese_clip", DUAL_ENCODER):
        raise WeightsError(
            f"{folder}/config.json: model_type {kind!r} is not 'chinese_clip' or '{DUAL_ENCODER}'; "
            f"one tower alone is given as hf:{folder}"
        )
    source_format = DUAL_ENCODER if kind == DUAL_ENCODER else "huggingface"
    return RawCheckpoint(tensors, source_format, hf_config=config, hf_preprocessor=read_preprocessor(folder))


def read_preprocessor(folder: Path) -> dict[str, Any] | None:
    """How a Hugging Face folder prepares pictures, as it says itself; None if it does not."""
    if (folder / "preprocessor_config.json").exists():
        return read_json(folder / "preprocessor_config.json")
    if (folder / "processor_config.json").exists():  # where newer transformers keep it
        values = read_json(folder / "processor_config.json").get("image_processor")
        return values if isinstance(values, dict) else None
    return None


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The weights of a checkpoint or of a Hugging Face folder of any kind, by the file's own names.

    Raises: WeightsError, see `read_checkpoint`.
    """
    return _read_folder_tensors(path) if path.is_dir() else read_checkpoint(path).tensors


def _read_folder_tensors(folder: Path) -> dict[str, Tensor]:
    for name in _HF_WEIGHTS:
        path, index = folder / name, folder / f"{name}.index.json"
        if path.exists():
            return dict(read_checkpoint(path).tensors)
        if index.exists():
            return _read_shards(index)
    single = sorted(p.name for p in folder.glob("clip_cn_*.pt"))
    hint = f"; give {folder / single[0]} itself" if single else ""
    raise WeightsError(f"{folder}: no {' or '.join(_HF_WEIGHTS)} in this folder{hint}")


def _read_shards(index: Path) -> dict[str, Tensor]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise WeightsError(f"{index}: field 'weight_map' is missing")
    tensors: dict[str, Tensor] = {}
    for name in sorted({str(shard) for shard in weight_map.values()}):
        if Path(name).name != name:
            raise WeightsError(f"{index}: shard {name!r} lies outside the folder")
        tensors.update(read_checkpoint(index.parent / name).tensors)
    return tensors


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of a Hugging Face folder. Raises: WeightsError naming the path."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise WeightsError(f"{path}: no such file; a Hugging Face folder needs it") from error
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise WeightsError(f"{path}: not valid JSON ({_brief(error)})") from error
    if not isinstance(values, dict):
        raise WeightsError(f"{path}: a {type(values).__name__}, not a JSON object")
    return values


def _brief(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return (text.splitlines() or [type(error).__name__])[0].split(". ")[0][:120]
