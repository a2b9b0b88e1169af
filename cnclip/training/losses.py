"""Contrastive losses. All take unit-length features and return a scalar float32 tensor."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec

import torch
import torch.nn.functional as F
from torch import Tensor

P = ParamSpec("P")


def full_precision(loss: Callable[P, Tensor]) -> Callable[P, Tensor]:
    """Run a loss outside autocast: similarities in bfloat16 have three digits, too few to learn from."""

    @functools.wraps(loss)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> Tensor:
        device = next(a.device.type for a in (*args, *kwargs.values()) if isinstance(a, Tensor))
        with torch.autocast(device, enabled=False):
            return loss(*args, **kwargs)

    return wrapper


def mixed_targets(positives: Tensor, partner: Tensor, share: float, side: str) -> Tensor:
    """Targets of a batch in which each row of one side is share x itself + (1 - share) x its partner.

    Args:
        positives: (B, B), how much text j belongs to picture i, before mixing.
        partner: int64 (B,), a permutation. side: "image" or "text", the side that was mixed.

    Source: MixUpNCE of ZeroVL (Cui et al. 2022), here for any targets.
    """
    positives = positives.float()
    other = positives[partner] if side == "image" else positives[:, partner]
    return share * positives + (1 - share) * other


@full_precision
def multi_positive_info_nce(
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: Tensor,
    positives: Tensor,
    *,
    ignore: Tensor | None = None,
    text_to_image_weight: float = 0.5,
) -> Tensor:
    """Symmetric InfoNCE whose targets are shared by all positives of a row.

    A caption that also fits another picture of the batch is no negative: with plain InfoNCE, repeated
    captions punish the model for being right. With one positive per row this is CLIP's loss.

    Args:
        image_features: (B, D) unit length. text_features: (T, D) unit length.
        logit_scale: (), the factor itself (not its logarithm).
        positives: (B, T), true where the text describes the picture, or by how much it does. Every picture
            needs at least one text; texts without a picture in the batch only serve as negatives.
        ignore: (B, T), true where it is unknown whether the text fits, neither positive nor negative.
        text_to_image_weight: share of the text-to-image direction in the mean.

    Source: Radford et al. 2021 (CLIP); soft targets over positives as in Khosla et al. 2020 (SupCon, "out").
    """
    logits = logit_scale * image_features.float() @ text_features.float().T  # (B, T)
    targets = positives.to(logits.dtype)
    if ignore is not None:
        # not -inf: the cross entropy multiplies it by a zero target
        logits = logits.masked_fill(ignore & (targets == 0), -1e4)
    image_to_text = F.cross_entropy(logits, targets / targets.sum(1, keepdim=True))
    shown = targets.any(0)
    columns = targets[:, shown].T  # (texts with a picture, B)
    text_to_image = F.cross_entropy(logits[:, shown].T, columns / columns.sum(1, keepdim=True))
    return (1 - text_to_image_weight) * image_to_text + text_to_image_weight * text_to_image


@full_precision
def dual_softmax_info_nce(
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: Tensor,
    positives: Tensor,
    *,
    temperature: float = 1000.0,
) -> Tensor:
    """InfoNCE on logits reweighted by a softmax over the other side, both directions summed.

    A picture that every text likes counts less for each of them: L = S * softmax(S / temperature, dim=0) * N.

    Args: as `multi_positive_info_nce`; positives (N, N).

    Source: Cheng et al. 2021 (CAMoE); the temperature and the sum as in Online-CNCLIP.
    """
    logits = logit_scale * image_features.float() @ text_features.float().T  # (N, N)
    targets = positives.to(logits.dtype)
    total = logits.new_zeros(())
    for scores, wanted in ((logits, targets), (logits.T, targets.T)):
        reweighted = scores * F.softmax(scores / temperature, dim=0) * len(scores)
        total = total + F.cross_entropy(reweighted, wanted / wanted.sum(1, keepdim=True))
    return total


@full_precision
def cosine_distillation(student: Tensor, teacher: Tensor) -> Tensor:
    """1 - cosine to the teacher's vector of the same row. student, teacher: (B, D), unit length."""
    return (1 - (student.float() * teacher.float()).sum(1)).mean()


@full_precision
def similarity_distillation(student: Tensor, teacher: Tensor, scale: float = 20.0) -> Tensor:
    """KL between the rows' similarity distributions within the batch: keeps who is whose neighbour, which
    is what retrieval needs (Passalis & Tefas 2018). student, teacher: (B, D), unit length."""
    own = torch.eye(len(student), dtype=torch.bool, device=student.device)
    s = (scale * student.float() @ student.float().T).masked_fill(own, -torch.inf)
    t = (scale * teacher.float() @ teacher.float().T).masked_fill(own, -torch.inf)
    log_p = F.log_softmax(s, 1).masked_fill(own, 0.0)
    q = F.softmax(t, 1)
    log_q = F.log_softmax(t, 1).masked_fill(own, 0.0)
    return (q * (log_q - log_p)).sum(1).mean()
