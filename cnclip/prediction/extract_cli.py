"""The command line of feature extraction: `cnclip extract`, and Chinese-CLIP's extract_features.py."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from cnclip.errors import InputError

if TYPE_CHECKING:
    from cnclip.data.dataset import ImageSource
    from cnclip.data.muge import TextRow
    from cnclip.model.encoder import Encoder

_DTYPES = {"amp": None, "fp16": "float16", "fp32": "float32"}
_EPILOG = """\
Either --data, for the texts and pictures of a split, or --image-data and --text-data. Files that end in .npy
are of the binary form (with their ids in .ids.json beside), others are JSON lines. An interrupted run goes on
where it was; files of the same model and the same input are kept."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags; those of Chinese-CLIP's script, and shorter ones for a whole split."""
    parser.epilog = _EPILOG
    parser.add_argument(
        "--model", "--resume", required=True, metavar="NAME|PATH", help="a checkpoint, or a name (lite)"
    )
    split = parser.add_argument_group("a whole split")
    split.add_argument(
        "--data", metavar="DIR", type=Path, help="an LMDB root, a split of it, or a folder of MUGE files"
    )
    split.add_argument("--split", default="test", help="default: test")
    split.add_argument(
        "--out", metavar="DIR", type=Path, help="folder for the files (default: that of --data)"
    )
    split.add_argument("--format", choices=("npy", "jsonl"), default="npy", help="default: npy")
    files = parser.add_argument_group("as Chinese-CLIP")
    files.add_argument("--extract-image-feats", action="store_true", help="pictures (default: what has data)")
    files.add_argument("--extract-text-feats", action="store_true", help="texts (default: what has data)")
    files.add_argument("--image-data", metavar="PATH", type=Path, help="lmdb/{split}/imgs, or a *_imgs.tsv")
    files.add_argument("--text-data", metavar="FILE", type=Path, help="a *_texts.jsonl")
    files.add_argument("--image-feat-output-path", metavar="FILE", type=Path)
    files.add_argument("--text-feat-output-path", metavar="FILE", type=Path)
    how = parser.add_argument_group("how")
    how.add_argument("--img-batch-size", metavar="N", type=int, default=64, help="pictures at once (64)")
    how.add_argument("--text-batch-size", metavar="N", type=int, default=64, help="texts at once (64)")
    how.add_argument("--context-length", metavar="N", type=int, help="tokens of a text (the model's own)")
    how.add_argument(
        "--precision", choices=tuple(_DTYPES), default="amp", help="amp: the fastest that is safe (default)"
    )
    how.add_argument(
        "--feature-dtype",
        choices=("float16", "float32"),
        default="float16",
        help="of numbers in .npy files (default: float16)",
    )
    how.add_argument("--device", help="cpu, cuda, … (default: the best there is)")
    how.add_argument("--vision-model", metavar="NAME", help="not needed: read off the checkpoint")
    how.add_argument("--text-model", metavar="NAME", help="not needed: read off the checkpoint")
    how.add_argument("--force", action="store_true", help="make anew what is there already")
    how.add_argument("--debug", action="store_true", help="log more")


class Plan(NamedTuple):
    """What is read and where it goes; None: not this one."""

    pictures: tuple[ImageSource, Path] | None
    texts: tuple[list[TextRow], Path] | None


def run(args: argparse.Namespace) -> int:
    """Extract and print the files. Raises InputError on bad data, WeightsError on a bad model."""
    from cnclip.model.device import tune_malloc
    from cnclip.prediction.bars import bars
    from cnclip.prediction.extract import Extraction
    from cnclip.prediction.loading import find_model, load_model

    if args.debug:
        logging.getLogger().setLevel(logging.DEBUG)
    for flag in ("img_batch_size", "text_batch_size"):
        if getattr(args, flag) < 1:
            raise InputError(f"--{flag.replace('_', '-')}: must be at least 1, not {getattr(args, flag)}")
    plan = _plan_split(args) if args.data is not None else _plan_files(args)
    tune_malloc()
    model = load_model(
        find_model(args.model, None),
        device=args.device,
        dtype=_DTYPES[args.precision],
        context_length=args.context_length,
    )
    _check_towers(args, model)
    with bars() as progress:
        extraction = Extraction(
            model=model,
            dtype=args.feature_dtype,
            batch_size=args.img_batch_size,
            text_batch_size=args.text_batch_size,
            force=args.force,
            progress=progress,
        )
        if plan.texts is not None:
            extraction.texts(*plan.texts)
        if plan.pictures is not None:
            extraction.pictures(*plan.pictures)
    written = [part[1] for part in (plan.texts, plan.pictures) if part is not None]
    sys.stdout.write("".join(f"{path}\n" for path in written))
    return 0


def _wanted(args: argparse.Namespace) -> tuple[bool, bool]:
    """Whether pictures and texts are asked for."""
    if args.extract_image_feats or args.extract_text_feats:
        return args.extract_image_feats, args.extract_text_feats
    if args.data is not None:
        return True, True
    return args.image_data is not None, args.text_data is not None


def _plan_split(args: argparse.Namespace) -> Plan:
    from cnclip.data.dataset import find_split
    from cnclip.prediction.split import open_images, open_prediction_split

    if args.image_data is not None:
        raise InputError("--image-data: not together with --data")
    pictures, texts = _wanted(args)
    out: Path = args.out or args.data
    refused: list[str] = []
    found_pictures = found_texts = None
    if texts:
        split = open_prediction_split(
            args.data, args.split, text_data=args.text_data, on_error=refused.append
        )
        name = args.text_feat_output_path or out / f"{args.split}_texts.txt_feat.{args.format}"
        found_texts = split.texts, name
        images = split.images
    else:
        images = open_images(find_split(args.data, args.split), refused.append)
    if pictures:
        name = args.image_feat_output_path or out / f"{args.split}_imgs.img_feat.{args.format}"
        found_pictures = images, name
    _warn(refused)
    return Plan(found_pictures, found_texts)


def _plan_files(args: argparse.Namespace) -> Plan:
    from cnclip.prediction.split import open_images, open_texts

    pictures, texts = _wanted(args)
    if not pictures and not texts:
        raise InputError("nothing to extract: --data, or --image-data and --text-data, must be given")
    for wanted, flag in ((pictures, "image_data"), (texts, "text_data")):
        if wanted and getattr(args, flag) is None:
            raise InputError(f"--{flag.replace('_', '-')}: must be given for --extract-{flag[:-5]}-feats")
    refused: list[str] = []
    found_texts = found_pictures = None
    if texts:
        stem = args.text_data.name.removesuffix(".jsonl")
        beside = args.text_data.with_name(f"{stem}.txt_feat.jsonl")
        found_texts = open_texts(args.text_data), args.text_feat_output_path or beside
    if pictures:
        name = args.image_feat_output_path or _beside(args.image_data, args.text_data)
        found_pictures = open_images(args.image_data, refused.append), name
    _warn(refused)
    return Plan(found_pictures, found_texts)


def _beside(image_data: Path, text_data: Path | None) -> Path:
    """Where Chinese-CLIP puts the features of pictures: beside the file of texts."""
    if text_data is not None and text_data.name.endswith("_texts.jsonl"):
        return text_data.with_name(text_data.name.replace("_texts.jsonl", "_imgs.img_feat.jsonl"))
    if image_data.is_file():
        return image_data.with_name(f"{image_data.stem}.img_feat.jsonl")
    split = image_data.parent if image_data.name == "imgs" else image_data
    folder = split.parent.parent if split.parent.name == "lmdb" else split.parent
    return folder / f"{split.name}_imgs.img_feat.jsonl"


def _check_towers(args: argparse.Namespace, model: Encoder) -> None:
    config = model.model.config
    for flag, own in (("vision_model", config.vision_name), ("text_model", config.text_name)):
        given = getattr(args, flag)
        if given and given != own:
            name = f"--{flag.replace('_', '-')}"
            logging.getLogger(__name__).warning(
                "%s %s: the checkpoint is %s, which is used", name, given, own
            )


def _warn(problems: list[str]) -> None:
    from cnclip.prediction.extract import tell

    tell(problems)
