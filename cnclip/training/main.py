"""Fine-tune a model on one LMDB split: configuration in, checkpoints, logs and metrics out."""

from __future__ import annotations

import json
import logging
import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from cnclip.data.dataset import PairDataset
from cnclip.errors import InputError
from cnclip.evaluation.evaluator import evaluate
from cnclip.model.atomic import replacing
from cnclip.model.device import pick_device, pick_dtype, tune_malloc
from cnclip.model.dual_encoder import DualEncoder
from cnclip.model.encoder import Encoder, find_weights
from cnclip.model.save import save_safetensors
from cnclip.model.weights import build_model, load_checkpoint
from cnclip.training.config import TrainConfig
from cnclip.training.data import PairBatches
from cnclip.training.loop import FitConfig, Progress, fit
from cnclip.training.losses import multi_positive_info_nce
from cnclip.training.step import Batch, Precision

logger = logging.getLogger(__name__)

# What a run's weights depend on; these may not change when it is resumed.
_DECISIVE = {
    *("train_data", "model", "batch_size", "lr", "beta1", "beta2", "eps", "wd", "warmup", "max_grad_norm"),
    *("context_length", "use_augment", "precision", "seed"),
}


def contrastive_objective(model: DualEncoder, batch: Batch) -> dict[str, Tensor]:
    """Multi-positive InfoNCE of a batch of pairs, with the in-batch accuracies Chinese-CLIP logs.

    The accuracies depend on the batch size; they are training health, not recall.
    """
    device = model.logit_scale.device
    out = model(batch["image"].to(device), batch["text"].to(device))
    relevance = batch["relevance"].to(device)
    loss = multi_positive_info_nce(out["image_features"], out["text_features"], out["logit_scale"], relevance)
    with torch.no_grad():
        similarity = out["image_features"] @ out["text_features"].T
        rows = torch.arange(len(similarity), device=device)
        i2t = relevance[rows, similarity.argmax(1)].float().mean()
        t2i = relevance[similarity.argmax(0), rows].float().mean()
    return {"loss": loss, "i2t_acc": i2t, "t2i_acc": t2i, "logit_scale": out["logit_scale"]}


def train(config: TrainConfig, on_progress: Callable[[int, int], None] | None = None) -> Path:
    """Run (or resume) a fine-tune. Returns the run's folder.

    Writes {logs}/{name}/: checkpoints/epoch_latest.pt and epoch{N}.pt, best.safetensors (by mean recall of
    the full gallery, never worse than the start), metrics.jsonl, params.json.

    Raises InputError for unusable data or settings, NonFiniteError when training diverges.
    """
    tune_malloc()
    run = config.logs / config.name
    try:
        (run / "checkpoints").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{run}: cannot be written ({error.strerror})") from error
    logger.info("settings: %s", config.model_dump_json())
    device = pick_device(config.device)
    model = build_model(load_checkpoint(find_weights(config.model)))
    model.float().to(device)
    model.requires_grad_(True)
    batches = PairBatches(
        PairDataset(config.train_data),
        model.config.preprocess,
        config.batch_size,
        min(config.context_length, model.config.text.text_max_position_embeddings),
        config.use_augment,
        config.seed,
        config.num_workers,
    )
    total = config.max_steps or config.max_epochs * batches.steps_per_epoch
    watch = _Watch(run, config, model, batches, total, on_progress)
    latest = run / "checkpoints" / "epoch_latest.pt"
    if not latest.exists():
        watch.best.unlink(missing_ok=True)  # of a run that was started over
        with replacing(run / "params.json") as temporary:
            temporary.write_text(config.model_dump_json(indent=2) + "\n", encoding="utf-8")
        watch.validate(0)
    fit(
        model,
        batches,
        contrastive_objective,
        FitConfig(
            total_steps=total,
            lr=config.lr,
            warmup=config.warmup,
            weight_decay=config.wd,
            betas=(config.beta1, config.beta2),
            eps=config.eps,
            max_grad_norm=config.max_grad_norm,
            seed=config.seed,
            log_every=config.log_interval,
            checkpoint_every=max(0, config.save_step_frequency),
            validate_every=config.valid_step_interval
            if config.valid_step_interval > 0
            else batches.steps_per_epoch,
        ),
        _precision(config, device),
        checkpoint=latest,
        settings=config.model_dump(mode="json", include=_DECISIVE),
        on_log=watch.log,
        on_validate=watch.validate,
        on_save=watch.saved,
    )
    return run


def _precision(config: TrainConfig, device: torch.device) -> Precision:
    if config.precision == "fp16" and device.type == "cpu":
        raise InputError("--precision fp16 needs an accelerator; on CPU use bf16 or fp32")
    if config.precision == "amp":
        return Precision("bf16" if pick_dtype(None, device) == torch.bfloat16 else "fp32", device)
    return Precision(config.precision, device)


class _Watch:
    """Log lines, validation, the best model, metrics.jsonl."""

    def __init__(
        self,
        run: Path,
        config: TrainConfig,
        model: DualEncoder,
        batches: PairBatches,
        total: int,
        on_progress: Callable[[int, int], None] | None,
    ) -> None:
        self.run, self.config, self.model, self.batches, self.total = run, config, model, batches, total
        self.on_progress = on_progress
        self.best = run / "best.safetensors"
        self.valid = PairDataset(config.val_data) if config.val_data else None
        self.bf16 = _precision(config, next(model.parameters()).device).name == "bf16"

    def log(self, progress: Progress) -> None:
        """One line per interval, in the wording Chinese-CLIP's users parse."""
        m, size, pairs = progress.metrics, self.batches.batch_size, len(self.batches.dataset)
        done = ((progress.step - 1) % self.batches.steps_per_epoch + 1) * size
        logger.info(
            "Global Steps: %d/%d | Train Epoch: %d [%d/%d (%.0f%%)] | Loss: %.6f | Image2Text Acc: %.2f | "
            "Text2Image Acc: %.2f | Data Time: %.3fs | Batch Time: %.3fs | LR: %.6f | logit_scale: %.3f | "
            "Global Batch Size: %d",
            progress.step, progress.total_steps, progress.epoch, done, pairs, 100 * done / pairs,
            m["loss"], 100 * m["i2t_acc"], 100 * m["t2i_acc"],
            progress.data_s, progress.data_s + progress.step_s, progress.lr, math.log(m["logit_scale"]), size,
        )  # fmt: skip
        self._record(
            {"kind": "train", "step": progress.step, "epoch": progress.epoch, "lr": progress.lr, **m}
        )
        if self.on_progress is not None:
            self.on_progress(progress.step, progress.total_steps)

    def validate(self, step: int) -> None:
        """Full-gallery metrics; keeps the best weights by mean recall (text to image)."""
        if self.valid is None:
            return
        result = evaluate(Encoder.of_training_model(self.model, bf16=self.bf16), self.valid)
        score = result["text_to_image"]["mean_recall"]
        epoch = step // self.batches.steps_per_epoch
        logger.info(
            "Validation Result (epoch %d @ %d steps) | full gallery of %d | text to image "
            "R@1/5/10 %.4f/%.4f/%.4f mAP %.4f P@10 %.4f",
            epoch, step, result["n_gallery"],
            *(result["text_to_image"][k] for k in ("R@1", "R@5", "R@10", "mAP", "P@10")),
        )  # fmt: skip
        best, start = self._scores()
        if best is None or score > best:
            scores = {
                "mean_recall": repr(score),
                "start_mean_recall": repr(score if start is None else start),
            }
            save_safetensors(self.model, self.best, metadata={**scores, "step": str(step)})
        self._record({"kind": "valid", "step": step, "epoch": epoch, "mean_recall": score, "result": result})
        if step == self.total and start is not None and score < start:
            logger.warning(
                "this fine-tune ended below its starting point (mean recall %.4f, was %.4f); "
                "best.safetensors holds the best weights seen",
                score, start,
            )  # fmt: skip

    def saved(self, step: int) -> None:
        """Keep the checkpoint of every epoch's end."""
        epoch, rest = divmod(step, self.batches.steps_per_epoch)
        if rest == 0:
            with replacing(self.run / "checkpoints" / f"epoch{epoch}.pt") as temporary:
                shutil.copyfile(self.run / "checkpoints" / "epoch_latest.pt", temporary)

    def _scores(self) -> tuple[float | None, float | None]:
        """Mean recall of the best weights so far and of the start, kept in the best weights' own file."""
        if not self.best.exists():
            return None, None
        with safe_open(self.best, "pt") as file:
            metadata = file.metadata()
        return float(metadata["mean_recall"]), float(metadata["start_mean_recall"])

    def _record(self, row: dict[str, Any]) -> None:
        with (self.run / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({"time": round(time.time(), 3), **row}) + "\n")
