"""Architectures as data: JSON files in `cnclip/configs/`, with Chinese-CLIP's names and fields."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from cnclip.errors import InputError
from cnclip.image import PreprocessConfig

CONFIG_DIR = Path(__file__).parent.parent / "configs"
LITE_VISION, LITE_TEXT = "EfficientNet-Lite0", "RBT-tiny-chinese"
# Fields that only towers of transformers use; left out of files where they have these values.
_HF_DEFAULTS = {"hf_config": "", "hf_pooling": "", "hf_tokenizer": "", "text_tower": "bert"}


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**31


def _is_number(value: object, low: float, high: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


def _positive_ints(config: object, *names: str) -> None:
    for name in names:
        if not _is_count(getattr(config, name)):
            raise InputError(f"{name} must be a positive integer, not {getattr(config, name)!r}")


@dataclass(frozen=True)
class VisionConfig:
    """Image tower. `vision_layers` is a depth for ViT, four stage depths for ResNet, unused by EfficientNet.

    tower: "vit" | "resnet" | "efficientnet" | "hf". Of "hf" only (see cnclip.model.hf_tower): hf_config, the
    tower's transformers configuration as JSON text; hf_pooling, "cls" or "pooler".
    """

    embed_dim: int
    image_resolution: int
    vision_layers: int | tuple[int, ...]
    vision_width: int
    vision_patch_size: int | None = None
    vision_head_width: int = 64
    tower: str = "vit"
    width_multiplier: float = 1.0
    depth_multiplier: float = 1.0
    hf_config: str = ""
    hf_pooling: str = ""

    def __post_init__(self) -> None:
        layers = self.vision_layers if isinstance(self.vision_layers, tuple) else (self.vision_layers,)
        _positive_ints(self, "embed_dim", "image_resolution", "vision_width", "vision_head_width")
        if not layers or not all(_is_count(depth) for depth in layers):
            raise InputError(f"vision_layers must be positive integers, not {self.vision_layers!r}")
        if self.vision_patch_size is not None:
            _positive_ints(self, "vision_patch_size")
        for name in ("width_multiplier", "depth_multiplier"):
            if not _is_number(getattr(self, name), 0.1, 10.0):
                raise InputError(f"{name} must be between 0.1 and 10, not {getattr(self, name)!r}")


@dataclass(frozen=True)
class TextConfig:
    """Text tower. `text_pooling`: "cls" as in Chinese-CLIP, or "mean" over the tokens of the text.

    text_tower: "bert" | "hf". Of "hf" only (see cnclip.model.hf_tower): hf_config, the tower's transformers
    configuration as JSON text; hf_tokenizer, the content of its tokenizer.json; text_pooling "pooler".
    """

    vocab_size: int = 21128
    text_attention_probs_dropout_prob: float = 0.1
    text_hidden_act: str = "gelu"
    text_hidden_dropout_prob: float = 0.1
    text_hidden_size: int = 768
    text_initializer_range: float = 0.02
    text_intermediate_size: int = 3072
    text_max_position_embeddings: int = 512
    text_num_attention_heads: int = 12
    text_num_hidden_layers: int = 12
    text_type_vocab_size: int = 2
    text_pooling: str = "cls"
    text_tower: str = "bert"
    hf_config: str = ""
    hf_tokenizer: str = ""

    def __post_init__(self) -> None:
        sizes = ("hidden_size", "intermediate_size", "max_position_embeddings", "num_attention_heads")
        names = (*sizes, "num_hidden_layers", "type_vocab_size")
        _positive_ints(self, "vocab_size", *(f"text_{name}" for name in names))
        if self.text_hidden_size % self.text_num_attention_heads:
            raise InputError("text_hidden_size must be a multiple of text_num_attention_heads")
        for name in ("attention_probs_dropout_prob", "hidden_dropout_prob", "initializer_range"):
            if not _is_number(getattr(self, f"text_{name}"), 0.0, 1.0):
                raise InputError(
                    f"text_{name} must be between 0 and 1, not {getattr(self, f'text_{name}')!r}"
                )
        if self.text_hidden_act != "gelu":
            raise InputError(f"text_hidden_act must be 'gelu', not {self.text_hidden_act!r}")
        if self.text_tower not in ("bert", "hf"):
            raise InputError(f"text_tower must be 'bert' or 'hf', not {self.text_tower!r}")
        known = ("cls", "mean") if self.text_tower == "bert" else ("cls", "mean", "pooler")
        if self.text_pooling not in known:
            raise InputError(f"text_pooling must be 'cls' or 'mean', not {self.text_pooling!r}")


@dataclass(frozen=True)
class ModelConfig:
    """A dual encoder: names and settings of both towers, and the preprocessing that belongs to them."""

    vision_name: str
    text_name: str
    vision: VisionConfig
    text: TextConfig
    preprocess: PreprocessConfig = field(default_factory=PreprocessConfig)
    context_length: int = 52

    @property
    def name(self) -> str:
        return f"{self.vision_name}@{self.text_name}"

    @property
    def uses_transformers(self) -> bool:
        """Whether a tower is one of transformers' (cnclip.model.hf_tower)."""
        return self.vision.tower == "hf" or self.text.text_tower == "hf"

    def to_dict(self) -> dict[str, Any]:
        values = asdict(self)
        for tower in ("vision", "text"):
            values[tower] = {k: v for k, v in values[tower].items() if (k, v) not in _HF_DEFAULTS.items()}
        return {**values, "preprocess": self.preprocess.to_dict()}

    @classmethod
    def from_dict(cls, values: dict[str, Any], *, source: str = "config") -> ModelConfig:
        """Raises InputError naming `source` and the field that is unknown or missing."""
        try:
            return cls(
                vision_name=str(values["vision_name"]),
                text_name=str(values["text_name"]),
                vision=_from_dict(VisionConfig, values["vision"], source),
                text=_from_dict(TextConfig, values["text"], source),
                preprocess=PreprocessConfig.from_dict(values["preprocess"]),
                context_length=int(values.get("context_length", 52)),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{source}: missing or bad field {error}") from error


T = TypeVar("T", VisionConfig, TextConfig)


def _from_dict(cls: type[T], values: dict[str, Any], source: str) -> T:
    unknown = set(values) - {f.name for f in fields(cls)}
    if unknown:
        raise InputError(f"{source}: unknown field {sorted(unknown)[0]!r}")
    values = dict(values)
    if isinstance(values.get("vision_layers"), list):
        values["vision_layers"] = tuple(values["vision_layers"])
    try:
        return cls(**values)
    except (TypeError, InputError) as error:
        raise InputError(f"{source}: {error}") from error


def _read(kind: str, name: str) -> dict[str, Any]:
    path = CONFIG_DIR / kind / f"{name}.json"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in (CONFIG_DIR / kind).glob("*.json")))
        raise InputError(f"unknown {kind} model {name!r}; known: {known}")
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return values


def vision_models() -> list[str]:
    """Names for `--vision-model`."""
    return sorted(p.stem for p in (CONFIG_DIR / "vision").glob("*.json"))


def text_models() -> list[str]:
    """Names for `--text-model`."""
    return sorted(p.stem for p in (CONFIG_DIR / "text").glob("*.json"))


def named_config(vision_name: str, text_name: str) -> ModelConfig:
    """The configuration of a pair of named towers. Raises InputError listing the known names."""
    vision_values = _read("vision", vision_name)
    preprocess = vision_values.pop("preprocess", {})
    vision = _from_dict(VisionConfig, vision_values, f"vision/{vision_name}.json")
    text = _from_dict(TextConfig, _read("text", text_name), f"text/{text_name}.json")
    defaults = PreprocessConfig(size=vision.image_resolution).to_dict()
    return ModelConfig(
        vision_name, text_name, vision, text, PreprocessConfig.from_dict({**defaults, **preprocess})
    )
