"""`cnclip models`: list, describe, download, convert and join models."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

EXIT_OK = 0
_BUFFERS = (".running_mean", ".running_var", ".num_batches_tracked")  # of BatchNorm; not parameters


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `cnclip models` and its actions."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="models that have a name, and which are on this machine")
    listing.add_argument("--json", action="store_true", help="print JSON")
    info = actions.add_parser(
        "info", help="describe a model: architecture, weights, preprocessing, fingerprint"
    )
    info.add_argument("model", metavar="NAME|FILE", help="a name, a checkpoint, or a Hugging Face folder")
    info.add_argument("--json", action="store_true", help="print JSON")
    download = actions.add_parser("download", help="fetch a public Chinese-CLIP checkpoint; resumes")
    download.add_argument("name", metavar="NAME", help="as `cnclip models list` shows it")
    download.add_argument("--folder", type=Path, metavar="DIR", help="where to (default: ~/.cache/cnclip)")
    download.add_argument(
        "--mirror",
        metavar="URL",
        help="a base address instead of the public places; may hold {repository} and {file} "
        "(environment: CNCLIP_MIRROR)",
    )
    convert = actions.add_parser("convert", help="write a model in another format and compare")
    convert.add_argument("source", metavar="IN", help="a name, a checkpoint, or a Hugging Face folder")
    convert.add_argument(
        "target", metavar="OUT", type=Path, help=".pt, .safetensors, or a folder (Hugging Face)"
    )
    convert.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="of the stored weights")
    convert.add_argument(
        "--resolution", type=int, metavar="PIXELS", help="interpolate to another picture size"
    )
    convert.add_argument("--force", action="store_true", help="replace OUT if it exists")
    dual = actions.add_parser(
        "save-dual-encoder", help="join two pretrained towers in a Hugging Face folder to fine-tune"
    )
    for side, kinds in (("vision", "ViT, Swin, CLIP …"), ("text", "BERT, RoBERTa, CLIP …")):
        dual.add_argument(
            f"--{side}", required=True, metavar="hf:FOLDER", help=f"{side} tower: local folder of a {kinds}"
        )
    dual.add_argument(
        "--projection-dim", type=_dimension, default=512, metavar="N", help="of the shared space"
    )
    dual.add_argument("target", metavar="OUT", type=Path, help="a new folder (VisionTextDualEncoder)")


def run(args: argparse.Namespace) -> int:
    """Do one action. Raises InputError or WeightsError (one line) on bad input or a broken file."""
    actions = {
        "list": _list,
        "info": _info,
        "download": _download,
        "convert": _convert,
        "save-dual-encoder": _save_dual_encoder,
    }
    return actions[args.action](args)


def _dimension(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 65536:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of dimensions, 1..65536")
    return int(text)


def _list(args: argparse.Namespace) -> int:
    from cnclip.model.config import LITE_TEXT, LITE_VISION, named_config
    from cnclip.model.download import local_path, public_models

    lite = Path(__file__).parents[2] / "cnclip" / "weights" / "lite.safetensors"
    models: list[tuple[str, str, str, int | None, Path | None]] = [
        ("lite", LITE_VISION, LITE_TEXT, None, lite if lite.exists() else None)
    ]
    models += [
        (m.name, m.name, m.text_name, m.parameters, local_path(m.name)) for m in public_models().values()
    ]
    rows: list[dict[str, Any]] = []
    for name, vision_name, text_name, parameters, path in models:
        config = named_config(vision_name, text_name)
        rows.append(
            {
                "name": name,
                "image_tower": vision_name,
                "text_tower": text_name,
                "parameters": parameters if parameters is not None or path is None else _count(path),
                "dim": config.vision.embed_dim,
                "resolution": config.vision.image_resolution,
                "path": str(path) if path else None,
            }
        )
    if args.json:
        return _print_json(rows)
    table = _table("name", "text tower", "parameters", "dim", "pixels", "here")
    for row in rows:
        millions = f"{row['parameters'] / 1e6:.0f} M" if row["parameters"] else "–"
        dim, pixels = str(row["dim"]), str(row["resolution"])
        table.add_row(row["name"], row["text_tower"], millions, dim, pixels, "yes" if row["path"] else "no")
    return _print(table)


def _count(path: Path) -> int:
    """Weights in a safetensors file, from its header alone."""
    import math

    from safetensors import safe_open

    with safe_open(path, framework="np") as file:
        names = [name for name in file.keys() if not name.endswith(_BUFFERS)]  # noqa: SIM118
        return sum(math.prod(file.get_slice(name).get_shape()) for name in names)


def _info(args: argparse.Namespace) -> int:
    from collections import Counter

    from cnclip.model.encoder import find_weights
    from cnclip.model.fingerprint import fingerprint
    from cnclip.model.weights import load_checkpoint

    loaded = load_checkpoint(find_weights(args.model))
    config, weights = loaded.config, loaded.state_dict
    files = [loaded.path] if loaded.path.is_file() else list(loaded.path.iterdir())
    dtypes = Counter(str(tensor.dtype).removeprefix("torch.") for tensor in weights.values())
    facts: dict[str, Any] = {
        "path": str(loaded.path),
        "format": loaded.source_format,
        "size_bytes": sum(file.stat().st_size for file in files if file.is_file()),
        "image_tower": config.vision_name,
        "text_tower": config.text_name,
        "dim": config.vision.embed_dim,
        "resolution": config.vision.image_resolution,
        "context_length": min(config.context_length, config.text.text_max_position_embeddings),
        "tensors": len(weights),
        "parameters": sum(t.numel() for name, t in weights.items() if not name.endswith(_BUFFERS)),
        "dtypes": dict(dtypes),
        "logit_scale": round(float(weights["logit_scale"].float().exp()), 4),
        "preprocess": config.preprocess.to_dict(),
        "checkpoint": loaded.info,
        "fingerprint": fingerprint(weights, config),
    }
    if args.json:
        return _print_json(facts)
    table = _table("", "")
    table.show_header = False
    for key, value in facts.items():
        if isinstance(value, dict):
            value = ", ".join(f"{k} {v}" for k, v in value.items()) or "–"
        table.add_row(key.replace("_", " "), f"{value:,}" if isinstance(value, int) else str(value))
    return _print(table)


def _download(args: argparse.Namespace) -> int:
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    from cnclip.model.download import download

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), transient=True) as bar:
        task = bar.add_task(args.name, total=None)
        path = download(
            args.name,
            folder=args.folder,
            mirror=args.mirror,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    sys.stdout.write(f"{path}\n")
    return EXIT_OK


def _convert(args: argparse.Namespace) -> int:
    import torch

    from cnclip.model.convert import convert
    from cnclip.model.encoder import find_weights

    result = convert(
        find_weights(args.source),
        args.target,
        dtype=getattr(torch, args.dtype) if args.dtype else None,
        resolution=args.resolution,
        overwrite=args.force,
    )
    same = result.source_fingerprint == result.target_fingerprint
    sys.stdout.write(
        f"{result.target} ({result.target_format}): cosine to the source: "
        f"images {result.image_cosine:.7f}, texts {result.text_cosine:.7f}; "
        f"fingerprint {result.target_fingerprint} ({'unchanged' if same else 'changed'})\n"
    )
    return EXIT_OK


def _save_dual_encoder(args: argparse.Namespace) -> int:
    from cnclip.model.dual_folder import save_dual_encoder

    result = save_dual_encoder(args.vision, args.text, args.projection_dim, args.target)
    sys.stdout.write(
        f"{result.folder}: cosine of our reading to transformers': "
        f"images {result.image_cosine:.7f}, texts {result.text_cosine:.7f}; "
        f"fingerprint {result.fingerprint}\n"
    )
    return EXIT_OK


def _print_json(values: Any) -> int:
    sys.stdout.write(json.dumps(values, ensure_ascii=False, indent=2) + "\n")
    return EXIT_OK


def _table(*columns: str) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _print(table: Table) -> int:
    from rich.console import Console

    Console(file=sys.stdout).print(table)
    return EXIT_OK
