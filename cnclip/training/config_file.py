"""Where settings come from: YAML files and flags, each remembered by its place, and YAML out again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from cnclip.errors import InputError
from cnclip.flags import did_you_mean
from cnclip.training.config import TrainConfig

_TOWERS = ("vision_model", "text_model")


@dataclass(frozen=True)
class Layer:
    """Settings of one source. `places` says where each was given: "recipe.yaml:3: lr", "--lr"."""

    values: Mapping[str, Any] = field(default_factory=dict)
    places: Mapping[str, str] = field(default_factory=dict)


def flag_name(name: str) -> str:
    """The flag of a field: dashes for underscores."""
    return "--" + name.replace("_", "-")


def flag_layer(values: Mapping[str, Any]) -> Layer:
    """Settings given as flags, by field name."""
    return Layer(values, {name: flag_name(name) for name in values})


def read_yaml(path: Path) -> Layer:
    """The settings of a YAML file: one mapping of field names (dashes do as well) to values.

    Nothing is expanded, and relative paths in it are relative to the current directory.

    Raises: InputError naming file, line and field: not YAML, an unknown or repeated name, a nested value.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{path}: not UTF-8") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        loader = yaml.SafeLoader(text)
        return _settings(loader.get_single_node(), path, loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise InputError(f"{where}: not YAML: {error.problem}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not YAML: {str(error).splitlines()[0]}") from None


def _settings(root: yaml.Node | None, path: Path, loader: yaml.SafeLoader) -> Layer:
    values: dict[str, Any] = {}
    places: dict[str, str] = {}
    if root is None:  # an empty file
        return Layer()
    if not isinstance(root, yaml.MappingNode):
        raise InputError(f"{path}:{root.start_mark.line + 1}: expected lines of `name: value`")
    for key, value in root.value:
        where = f"{path}:{key.start_mark.line + 1}"
        spelled = str(key.value)
        name = spelled.replace("-", "_")
        if name not in TrainConfig.model_fields:
            near = did_you_mean(name, TrainConfig.model_fields)
            raise InputError(f"{where}: {spelled}: no such setting{near}")
        if name in values:
            raise InputError(f"{where}: {spelled}: given before, at {places[name].rpartition(': ')[0]}")
        items = value.value if isinstance(value, yaml.SequenceNode) else [value]
        if not all(isinstance(item, yaml.ScalarNode) for item in items):
            raise InputError(f"{where}: {spelled}: expected one value or a list of them")
        values[name] = loader.construct_object(value, deep=True)
        places[name] = f"{where}: {spelled}"
    return Layer(values, places)


def build_config(*layers: Layer) -> TrainConfig:
    """A configuration from defaults and layers, the later ones over the earlier ones.

    A layer that names weights (`model`) also replaces the towers of the layers below it, and the other way
    round, since weights bring their own towers.

    Raises: InputError naming the place and what is wrong.
    """
    values: dict[str, Any] = {}
    places: dict[str, str] = {}
    for layer in layers:
        replaced: tuple[str, ...] = _TOWERS if layer.values.get("model") not in (None, "None") else ()
        if any(name in layer.values for name in _TOWERS):
            replaced = ("model",)
        for name in replaced:
            values.pop(name, None)
        values.update(layer.values)
        places.update(layer.places)
    try:
        return TrainConfig(**values)
    except ValidationError as error:
        raise InputError(_first_problem(error, places)) from None


def _first_problem(error: ValidationError, places: Mapping[str, str]) -> str:
    first = error.errors()[0]
    message = first["msg"].removeprefix("Value error, ")
    if not first["loc"]:
        return message
    name = str(first["loc"][0])
    if first["type"] == "missing":
        return f"{flag_name(name)} is required (or {name} in the file that --config names)"
    return f"{places.get(name, flag_name(name))}: {message} (got {first['input']!r})"


def to_yaml(config: TrainConfig) -> str:
    """All settings, by section, as YAML that `read_yaml` reads back; no towers where `model` brings them."""
    values = config.model_dump(mode="json", exclude=set(_TOWERS) if config.model else None)
    parts = []
    for section, names in TrainConfig.sections().items():
        chosen = {name: values[name] for name in names if name in values}
        parts.append(f"# {section}\n{yaml.safe_dump(chosen, sort_keys=False, allow_unicode=True)}")
    return "\n".join(parts)
