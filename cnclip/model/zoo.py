"""Dual encoders from two pretrained towers: local Hugging Face folders (`hf:FOLDER`) and our named towers.

Recipe: ZeroVL (Cui et al. 2022), transformers' examples for contrastive image-text training. Folders only:
nothing is fetched, no code in them is run.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cnclip.errors import WeightsError
from cnclip.image import PreprocessConfig
from cnclip.model import ZOO_PREFIX
from cnclip.model.checkpoint_files import read_json, read_preprocessor, read_tensors
from cnclip.model.config import (
    TextConfig,
    VisionConfig,
    named_config,
    text_models,
    vision_models,
)
from cnclip.model.dual_encoder import DualEncoder
from cnclip.model.hf_config import preprocess_from_hf
from cnclip.model.hf_tower import (
    IMAGE_KINDS,
    INDEX_BUFFERS,
    TEXT_KINDS,
    HFText,
    HFVision,
    Kind,
    clean_config,
    positions_of,
    transformers,
    transformers_config,
    width_of,
)
from cnclip.model.key_names import tower_names
from cnclip.model.tokens import parse_tokenizer
from cnclip.model.weights import check_weights

logger = logging.getLogger(__name__)

_ANY_SIZE = ("convnext", "resnet", "dinov2")  # take pictures of any size; the preprocessing decides
_UNUSED = (*INDEX_BUFFERS, "mask_token")  # of pretraining


@dataclass(frozen=True)
class Folder:
    """A Hugging Face folder. Raises WeightsError if it is none."""

    path: Path
    config: dict[str, Any]

    @classmethod
    def open(cls, name: str) -> Folder:
        path = Path(name).expanduser()
        if not path.is_dir():
            raise WeightsError(f"{path}: no such folder; {ZOO_PREFIX} takes a local Hugging Face folder")
        return cls(path, read_json(path / "config.json"))

    def section(self, side: str) -> dict[str, Any]:
        """Configuration of the "vision" or "text" tower: all of it, or a part where a model has both."""
        values = self.config.get(f"{side}_config")
        if not isinstance(values, dict):
            return self.config
        return {"model_type": f"{self.config.get('model_type')}_{side}_model", **values}


def build_zoo_model(
    vision: str, text: str, projection_dim: int = 512, *, pooler: bool = False
) -> DualEncoder:
    """A dual encoder of two pretrained towers and new, random projections, in evaluation mode.

    Args:
        vision, text: "hf:FOLDER", or the name of one of our towers, which then has random weights.
        projection_dim: dimensions of the shared space.
        pooler: take transformers' pooled outputs on both sides, as VisionTextDualEncoder does, instead of
            what suits each kind (see hf_tower.Kind; the mean where the folder is a sentence encoder's).

    Raises: InputError: unknown name or kind, or transformers is missing. WeightsError: a folder is broken.
    """
    names = [None if name.startswith(ZOO_PREFIX) else name for name in (vision, text)]
    config = named_config(names[0] or vision_models()[0], names[1] or text_models()[0])
    config = replace(config, vision=replace(config.vision, embed_dim=projection_dim))
    image_folder = text_folder = None
    if names[0] is None:
        image_folder = Folder.open(vision.removeprefix(ZOO_PREFIX))
        tower, preprocess = image_tower(image_folder, projection_dim, pooler=pooler)
        config = replace(config, vision_name=name_of(image_folder), vision=tower, preprocess=preprocess)
    if names[1] is None:
        text_folder = Folder.open(text.removeprefix(ZOO_PREFIX))
        words = text_tower(text_folder, pooler=pooler)
        config = replace(config, text_name=name_of(text_folder), text=words)
    model = DualEncoder(config)
    for module, folder in ((model.visual, image_folder), (model.bert, text_folder)):
        if folder is not None and isinstance(module, HFVision | HFText):
            fill_tower(module, read_tensors(folder.path), str(folder.path), may_lack_pooler=True)
    return model.eval()


def name_of(folder: Folder) -> str:
    """What a tower from this folder is called."""
    return ZOO_PREFIX + folder.path.resolve().name


def image_tower(
    folder: Folder, embed_dim: int, *, pooler: bool = False
) -> tuple[VisionConfig, PreprocessConfig]:
    """The image tower of a folder, and how it wants its pictures.

    Raises: InputError, WeightsError naming the file and the field.
    """
    where = f"{folder.path}/config.json"
    text = clean_config(folder.section("vision"))
    config = transformers_config(text, IMAGE_KINDS, where)
    values = read_preprocessor(folder.path)
    if values is None:
        raise WeightsError(f"{folder.path}: no preprocessor_config.json, which says how to prepare pictures")
    size = None if config.model_type in _ANY_SIZE else config.image_size
    size = size or (values.get("do_center_crop") and values.get("crop_size")) or values.get("size")
    if isinstance(size, dict):
        size = size.get("height", size.get("shortest_edge"))
    if not isinstance(size, int):
        raise WeightsError(f"{where}: image_size {size!r} is not one number of pixels")
    preprocess = preprocess_from_hf(values, size, f"{folder.path}/preprocessor_config.json")
    width, layers = width_of(config), getattr(config, "depths", None) or config.num_hidden_layers
    vision = VisionConfig(
        embed_dim=embed_dim,
        image_resolution=size,
        vision_layers=tuple(layers) if isinstance(layers, list | tuple) else layers,
        vision_width=width,
        vision_head_width=width,
        tower="hf",
        hf_config=text,
        hf_pooling="pooler" if pooler else IMAGE_KINDS[config.model_type].pooling,
    )
    return vision, preprocess


def text_tower(folder: Folder, *, pooler: bool = False) -> TextConfig:
    """The text tower of a folder, with its tokenizer. Raises: InputError, WeightsError naming the file."""
    where = f"{folder.path}/config.json"
    text = clean_config(folder.section("text"))
    config = transformers_config(text, TEXT_KINDS, where)
    tokenizer = read_tokenizer(folder.path)
    largest = max(parse_tokenizer(tokenizer, str(folder.path)).get_vocab().values(), default=0)
    if largest >= config.vocab_size:
        raise WeightsError(
            f"{folder.path}: its tokenizer has the id {largest}, its weights {config.vocab_size} words"
        )
    kind: Kind = TEXT_KINDS[config.model_type]
    return TextConfig(
        vocab_size=config.vocab_size,
        text_hidden_size=width_of(config),
        text_max_position_embeddings=positions_of(config),
        text_num_attention_heads=config.num_attention_heads,
        text_num_hidden_layers=config.num_hidden_layers,
        text_pooling="pooler" if pooler else "mean" if _averages(folder.path) else kind.pooling,
        text_tower="hf",
        hf_config=text,
        hf_tokenizer=tokenizer,
    )


def _averages(folder: Path) -> bool:
    """Whether this is a sentence-transformers folder that takes the mean over tokens."""
    path = folder / "1_Pooling" / "config.json"
    return path.exists() and read_json(path).get("pooling_mode_mean_tokens") is True


def read_tokenizer(folder: Path) -> str:
    """Content of a tokenizer.json for a folder's tokenizer, in whatever files it keeps it.

    Raises: WeightsError if there is none, or it has no fast form.
    """
    library = transformers()
    try:
        tokenizer = library.AutoTokenizer.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )
        content: str = tokenizer.backend_tokenizer.to_str()
    except Exception as error:  # transformers reports missing and broken files through many types
        line = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise WeightsError(f"{folder}: no tokenizer that can be read ({line})") from error
    plain: str = parse_tokenizer(content, str(folder)).to_str()
    return plain


@torch.no_grad()
def fill_tower(
    tower: HFVision | HFText, tensors: Mapping[str, Tensor], source: str, *, may_lack_pooler: bool = False
) -> None:
    """Put a folder's weights into a tower; every one is accounted for.

    Args:
        tensors: by the names of the folder; heads of pretraining and other towers may be among them.
        may_lack_pooler: a pooled output that the folder lacks (RoBERTa's) stays random, with a warning.

    Raises: WeightsError naming `source`: weights missing, too many, misshapen or not finite.
    """
    model: nn.Module = tower.model
    names = {stored: name for name, stored in tower.stored_names().items()}
    prefixes = (f"{tower.model.base_model_prefix}.", tower.side, tower.side + tower.kind.prefix, "")
    weights = {
        name: tensor
        for name, tensor in tower_names(tensors, names.keys(), prefixes).items()
        if not name.endswith(_UNUSED)
    }
    expected = {stored: model.state_dict()[name] for stored, name in names.items()}
    pooler = {name: tensor for name, tensor in expected.items() if name.startswith("pooler.")}
    if may_lack_pooler and pooler and not pooler.keys() & weights.keys():
        logger.warning("%s has no weights for the pooled output; they begin at random", source)
        weights |= pooler
    check_weights(weights, expected, str(tower.model.config.model_type), source)
    model.load_state_dict({names[stored]: tensor for stored, tensor in weights.items()})
