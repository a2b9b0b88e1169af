"""The log lines that users of Chinese-CLIP parse, in its wording (github.com/OFA-Sys/Chinese-CLIP,
cn_clip/training/train.py), and our own lines beside them. Nothing here has side effects.

Shares (accuracies, recalls) come in as fractions 0..1 and are printed in percent, seconds as seconds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cnclip.printable import printable
from cnclip.training.schedule import epoch_of

_DIRECTIONS = {"text_to_image": "Text2Image", "image_to_text": "Image2Text"}
_RECALLS = {"R@1": "R@1", "R@5": "R@5", "R@10": "R@10", "mean_recall": "Mean Recall"}
# Keys of `StepTimes.take` behind the contract's fields, with their labels and formats.
_APPENDED = {
    "forward_s": "Forward: {:.3f}s",
    "gather_s": "Gather: {:.3f}s",
    "backward_s": "Backward: {:.3f}s",
    "optimizer_s": "Optimizer: {:.3f}s",
    "samples_per_s": "Samples/s: {:.1f}",
    "peak_memory_mib": "Peak Memory: {:.0f} MiB",
}


def train_line(
    *,
    step: int,
    total_steps: int,
    steps_per_epoch: int,
    global_batch_size: int,
    loss: float,
    lr: float,
    logit_scale: float,
    times: Mapping[str, float],
    accuracies: tuple[float, float] | None = None,
) -> str:
    """`Global Steps: … | Train Epoch: … | Loss: … | … | Global Batch Size: …` and what we append.

    Args:
        step: steps done, from 1; the epoch and the pairs seen in it follow from it.
        logit_scale: the learnt parameter, which is the natural logarithm of the factor.
        times: of `StepTimes.take`; "data_s" and "batch_s" are the contract's, what else it knows is appended.
        accuracies: in-batch (image to text, text to image), which Chinese-CLIP prints only on request.
    """
    epoch = epoch_of(step, steps_per_epoch)
    into = step - (epoch - 1) * steps_per_epoch
    done, pairs = into * global_batch_size, steps_per_epoch * global_batch_size
    fields = [
        f"Global Steps: {step}/{total_steps}",
        f"Train Epoch: {epoch} [{done}/{pairs} ({100 * into / steps_per_epoch:.0f}%)]",
        f"Loss: {loss:.6f}",
    ]
    if accuracies is not None:
        fields += _accuracies(*accuracies)
    fields += [
        f"Data Time: {times['data_s']:.3f}s",
        f"Batch Time: {times['batch_s']:.3f}s",
        f"LR: {learning_rate(lr)}",
        f"logit_scale: {logit_scale:.3f}",
        f"Global Batch Size: {global_batch_size}",
    ]
    fields += [text.format(times[key]) for key, text in _APPENDED.items() if key in times]
    return " | ".join(fields)


def begin_line(epoch: int, step: int) -> str:
    """Before a validation."""
    return f"Begin to eval on validation set (epoch {epoch} @ {step} steps)..."


def validation_line(
    *,
    epoch: int,
    step: int,
    loss: float,
    accuracies: tuple[float, float],
    logit_scale: float,
    batch_size: int,
) -> str:
    """`Validation Result (epoch … @ … steps) | Valid Loss: … | …`.

    The accuracies (image to text, text to image) are in-batch: they depend on the batch size, are no recall.
    """
    fields = [
        f"Validation Result (epoch {epoch} @ {step} steps)",
        f"Valid Loss: {loss:.6f}",
        *_accuracies(*accuracies),
        f"logit_scale: {logit_scale:.3f}",
        f"Valid Batch Size: {batch_size}",
    ]
    return " | ".join(fields)


def gallery_line(*, epoch: int, step: int, result: Mapping[str, Any]) -> str:
    """Our own line: full-gallery recall in both directions, of what `evaluate` returns."""
    fields = [f"Full Gallery (epoch {epoch} @ {step} steps)"]
    for key, direction in _DIRECTIONS.items():
        fields += [f"{direction} {label}: {100 * result[key][name]:.2f}" for name, label in _RECALLS.items()]
    fields += [f"Queries: {result['n_queries']}", f"Gallery: {result['n_gallery']}"]
    return " | ".join(fields)


def online_line(*, epoch: int, step: int, record: Mapping[str, Any]) -> str:
    """Our own line: what a round of online learning did (see `cnclip.online.record`)."""
    pairs, metric = sum(step["pairs"] for step in record["steps"]), record["metric"]
    fields = [
        f"Online Learning (epoch {epoch} @ {step} steps)",
        f"Decision: {record['decision']}",
        f"Steps: {len(record['steps'])}",
        f"Pairs: {pairs}",
    ]
    fields += [
        f"{label} {metric}: {100 * found['before'][metric]:.2f} -> {100 * found['after'][metric]:.2f}"
        for label, name in (("Taught", "taught"), ("Others", "others"), ("Canary", "canary"))
        if (found := record[name]) is not None and found["after"] is not None
    ]
    return " | ".join([*fields, record["why"]])


def saved_line(path: Path, *, epoch: int, step: int, seconds: float) -> str:
    """After a checkpoint was written."""
    name = printable(str(path))
    return f"Saved checkpoint {name} (epoch {epoch} @ {step} steps) (writing took {seconds:.3f} seconds)"


def learning_rate(lr: float) -> str:
    """In plain decimals, six of them or as many as four significant digits need: a parser that takes digits
    and a point would read 5 out of 5e-08, and 0.000000 says nothing."""
    if not math.isfinite(lr) or lr == 0:
        return f"{lr:.6f}"
    decimals = max(6, 3 - math.floor(math.log10(abs(lr))))
    whole, _, fraction = f"{lr:.{decimals}f}".partition(".")
    return f"{whole}.{fraction.rstrip('0'):0<6}"


def _accuracies(image_to_text: float, text_to_image: float) -> list[str]:
    return [f"Image2Text Acc: {100 * image_to_text:.2f}", f"Text2Image Acc: {100 * text_to_image:.2f}"]
