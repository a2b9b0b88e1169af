"""Pairs/s of one training step of a ViT and a BERT: Chinese-CLIP's way against ours, side by side.

    python -m tests.benchmarks.bench_train [--batch 16] [--steps 3] [--vision ViT-B-16] [--device cpu]

Chinese-CLIP's way is a twin of its code: texts padded to 52 tokens, BERT's attention written out,
nn.MultiheadAttention (need_weights=False) with the tokens first, torch's default AdamW, float32 (on GPUs
float16 autocast with loss scaling, its default there). Ours: `train_step` as `cnclip train` calls it. Same
weights, pictures, texts and dropout. Each round runs every way in a process of its own, so that memory and
malloc settings are its own and a busy machine hits all; the best step counts. Queries come from
CNCLIP_SHOP_DATA where that is set. "of GEMM" is the share of the machine's measured matrix-product speed, in
the precision of the way, that goes into work on real tokens (on a GPU: MFU).

Before it is timed, each way takes one step without dropout: losses and gradient norms in float32 must agree
(to 1e-4 and 1e-3), else the exit code is 1. Bar: ours in the default precision (bfloat16 here) 2x.

2026-11-21, AMD EPYC with AVX-512 bf16, torch 2.13, two threads beside other jobs (the ratios of CPU time say
most): 1.5x in float32, 4.8x in bfloat16 (one thread: 3.9x), memory 6.6, 5.6 and 4.5 GiB. The package itself
takes 24.2 s of CPU time for a step, the twin 24.0 s.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from cnclip.model.bert import Bert, BertSelfAttention
from cnclip.model.config import ModelConfig, named_config
from cnclip.model.device import tune_malloc
from cnclip.model.dual_encoder import MAX_LOGIT_SCALE, DualEncoder
from cnclip.model.pixels import Normalizer
from cnclip.model.vit import VisionTransformer
from cnclip.text import tokenize
from cnclip.training.contrastive import Contrastive
from cnclip.training.distributed import World
from cnclip.training.optim import build_optimizer
from cnclip.training.parallel import Parallel
from cnclip.training.step import Precision, train_step
from cnclip.training.step_times import peak_memory_mib
from tests.benchmarks.bench_text import product_queries, seconds

WAYS = ("Chinese-CLIP's", "ours, fp32", "ours, bf16")
TEXT_TOWER = "RoBERTa-wwm-ext-base-chinese"
BETAS, EPS, DECAY, LR, DROPOUT = (0.9, 0.98), 1e-6, 1e-3, 5e-5, 0.1

Step = Callable[[int], tuple[float, float]]  # number of the step -> (loss, gradient norm)


@dataclass(frozen=True)
class Measured:
    """Of one process: the step without dropout, the best of the timed ones, and the memory of all."""

    loss: float
    grad_norm: float
    seconds: float
    cpu_seconds: float
    memory_mib: float
    utilisation: float


def queries(count: int) -> list[str]:
    folder = os.environ.get("CNCLIP_SHOP_DATA")
    if not folder:
        return product_queries(count, seed=0)
    lines = (Path(folder) / "valid_texts.jsonl").read_text(encoding="utf-8").splitlines()
    return random.Random(0).sample([json.loads(line)["text"] for line in lines], count)


def pictures(count: int, side: int) -> Tensor:
    """Noise, uint8 (count, 3, side, side)."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(0, 256, (count, side, side, 3), dtype=torch.uint8, generator=generator)
    return rows.permute(0, 3, 1, 2)


def set_dropout(model: DualEncoder, p: float) -> None:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = p
        elif isinstance(module, BertSelfAttention):
            module.dropout_p = p


def naive_vit(tower: VisionTransformer, images: Tensor) -> Tensor:
    """The reference's image tower: (B, 3, R, R) -> (B, D)."""
    x = tower.conv1(images)
    x = x.reshape(x.shape[0], x.shape[1], -1).permute(0, 2, 1)
    zeros = torch.zeros(x.shape[0], 1, x.shape[-1], dtype=x.dtype, device=x.device)
    x = torch.cat([tower.class_embedding.to(x.dtype) + zeros, x], dim=1) + tower.positional_embedding
    x = tower.ln_pre(x).permute(1, 0, 2)  # (L, B, W)
    for block in tower.transformer.resblocks:
        y, attention = block.ln_1(x), block.attn
        x = x + F.multi_head_attention_forward(
            *(y, y, y, y.shape[-1], attention.heads, attention.in_proj_weight, attention.in_proj_bias),
            *(None, None, False, 0.0, attention.out_proj.weight, attention.out_proj.bias),
            need_weights=False,
        )[0]  # fmt: skip
        y = block.mlp.c_fc(block.ln_2(x))
        x = x + block.mlp.c_proj(y * torch.sigmoid(1.702 * y))
    return tower.ln_post(x.permute(1, 0, 2)[:, 0]) @ tower.proj


def naive_bert(bert: Bert, ids: Tensor) -> Tensor:
    """The reference's text tower while it learns: additive mask, explicit softmax. (B, L) -> (B, W)."""
    e, heads = bert.embeddings, bert.config.text_num_attention_heads
    positions = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    x = e.word_embeddings(ids) + e.position_embeddings(positions)
    x = e.dropout(e.LayerNorm(x + e.token_type_embeddings(torch.zeros_like(ids))))
    mask = (1.0 - ids.ne(0).to(x.dtype))[:, None, None, :] * -10000.0
    for layer in bert.encoder.layer:
        attention, output = layer.attention.self, layer.attention.output
        q, k, v = (
            proj(x).view(*ids.shape, heads, -1).permute(0, 2, 1, 3)
            for proj in (attention.query, attention.key, attention.value)
        )
        scores = torch.matmul(q, k.transpose(-1, -2)) / math.sqrt(q.shape[-1]) + mask
        y = torch.matmul(F.dropout(scores.softmax(-1), attention.dropout_p), v)
        y = y.permute(0, 2, 1, 3).contiguous().view_as(x)
        x = output.LayerNorm(output.dropout(output.dense(y)) + x)
        y = layer.intermediate.dense(x)
        y = y * 0.5 * (1.0 + torch.erf(y / math.sqrt(2.0)))
        x = layer.output.LayerNorm(layer.output.dropout(layer.output.dense(y)) + x)
    return x[:, 0]


def naive_step(model: DualEncoder, images: Tensor, texts: list[str], device: torch.device) -> Step:
    """As Chinese-CLIP's train.py takes it."""
    ids = torch.from_numpy(tokenize(texts, 52, pad_to="max")).to(device)
    images = Normalizer(model.config.preprocess, device).normalize(images).contiguous()
    truth = torch.arange(len(texts), device=device)
    plain = ("bn", "ln", "bias", "logit_scale")
    split: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for name, parameter in model.named_parameters():
        split[not any(mark in name for mark in plain)].append(parameter)
    groups = [{"params": params, "weight_decay": DECAY * decay} for decay, params in split.items()]
    optimizer = torch.optim.AdamW(groups, lr=LR, betas=BETAS, eps=EPS)
    scaler = torch.amp.GradScaler(device.type, enabled=device.type != "cpu")

    def step(number: int) -> tuple[float, float]:
        model.train()
        optimizer.zero_grad()
        with torch.autocast(device.type, dtype=torch.float16, enabled=scaler.is_enabled() and number > 0):
            image = naive_vit(model.visual, images)  # type: ignore[arg-type]
            text = naive_bert(model.bert, ids) @ model.text_projection
            image = image / image.norm(dim=-1, keepdim=True)
            text = text / text.norm(dim=-1, keepdim=True)
            logits = model.logit_scale.exp() * image @ text.t()
            loss = (F.cross_entropy(logits, truth) + F.cross_entropy(logits.t(), truth)) / 2
        scaler.scale(loss).backward()
        norm = 0.0
        if number == 0:
            scaler.unscale_(optimizer)
            norm = float(nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None]))
        scaler.step(optimizer)
        scaler.update()
        model.logit_scale.data.clamp_(0, MAX_LOGIT_SCALE)
        return float(loss.detach()), norm

    return step


def our_step(
    model: DualEncoder, images: Tensor, texts: list[str], device: torch.device, precision: Precision
) -> Step:
    """As `cnclip train` takes it."""
    relevance = torch.eye(len(texts), dtype=torch.bool)
    batch = {"image": images, "text": torch.from_numpy(tokenize(texts, 52)), "relevance": relevance}
    batch["valid"] = torch.ones(len(texts), dtype=torch.bool)
    objective = Contrastive(
        Parallel(model, World(device=device)), Normalizer(model.config.preprocess, device)
    )
    optimizer = build_optimizer(model, weight_decay=DECAY, betas=BETAS, eps=EPS)

    def step(number: int) -> tuple[float, float]:
        values = train_step(model, batch, objective, optimizer, lr=LR, precision=precision, seed=number)
        return values["loss"], values["grad_norm"]

    return step


def step_flops(config: ModelConfig, batch: int, length: int) -> float:
    """Operations of the matrix products, forward and backward, for texts of `length` tokens."""
    v, t = config.vision, config.text
    patch = v.vision_patch_size or 1
    patches = (v.image_resolution // patch) ** 2
    tokens, width = patches + 1, v.vision_width
    layers = v.vision_layers if isinstance(v.vision_layers, int) else 0
    image = layers * tokens * (24 * width**2 + 4 * tokens * width) + patches * 6 * patch**2 * width
    width = t.text_hidden_size
    layer = 8 * width**2 + 4 * width * t.text_intermediate_size + 4 * length * width
    return 3.0 * batch * (image + t.text_num_hidden_layers * length * layer)


def timed(run: Callable[[], object], device: torch.device) -> tuple[float, float]:
    """Seconds of the wall clock, and of this process's CPU time."""

    def whole() -> None:
        run()
        if device.type != "cpu":
            torch.accelerator.synchronize(device)

    return seconds(whole)


def gemm_rate(width: int, dtype: torch.dtype, device: torch.device) -> float:
    """Best measured floating-point operations per second of a layer's largest product."""
    rows = 4096
    x = torch.randn(rows, width, device=device, dtype=dtype)
    w = torch.randn(4 * width, width, device=device, dtype=dtype)
    return 2 * rows * width * 4 * width / min(timed(lambda: F.linear(x, w), device)[0] for _ in range(8))


def measure(way: str, args: argparse.Namespace) -> Measured:
    """One way, in this process."""
    device = torch.device(args.device)
    ours, bf16 = way != WAYS[0], way == WAYS[2]
    if ours:
        tune_malloc()  # `cnclip train` does, Chinese-CLIP does not
    torch.manual_seed(0)
    config = named_config(args.vision, TEXT_TOWER)
    model = DualEncoder(config).to(device)
    images, texts = pictures(args.batch, config.preprocess.size), queries(args.batch)
    precision = Precision("bf16" if bf16 else "fp32", device)
    inputs = (model, images, texts, device)
    step = our_step(*inputs, precision) if ours else naive_step(*inputs)
    set_dropout(model, 0.0)
    loss, norm = step(0)
    set_dropout(model, DROPOUT)
    times = [timed(lambda n=number: step(n), device) for number in range(1, args.steps + 1)]
    wall, cpu = (min(column) for column in zip(*times, strict=True))
    dtype = torch.bfloat16 if bf16 else torch.float32 if ours or device.type == "cpu" else torch.float16
    rate = gemm_rate(config.vision.vision_width, dtype, device)
    flops = step_flops(config, args.batch, tokenize(texts, 52).shape[1])
    memory = peak_memory_mib(device) or math.nan
    return Measured(loss, norm, wall, cpu, memory, flops / wall / rate)


def in_a_process(way: str, args: argparse.Namespace) -> Measured:
    command = [sys.executable, "-m", "tests.benchmarks.bench_train", "--way", way, "--device", args.device]
    command += ["--vision", args.vision, "--batch", str(args.batch), "--steps", str(args.steps)]
    return Measured(**json.loads(subprocess.check_output(command, text=True)))


def show(rows: dict[str, list[Measured]], batch: int) -> None:
    def best(way: str, field: str) -> float:
        return min(float(getattr(run, field)) for run in rows[way])

    table = Table("way", "pairs/s", "ratio", "CPU time", "loss", "memory", "of GEMM")
    for way, runs in rows.items():
        table.add_row(
            way,
            f"{batch / best(way, 'seconds'):.2f}",
            *(f"{best(WAYS[0], f) / best(way, f):.2f}x" for f in ("seconds", "cpu_seconds")),
            f"{runs[0].loss:.6f}",
            f"{max(run.memory_mib for run in runs):,.0f} MiB",
            f"{max(run.utilisation for run in runs):.0%}",
        )
    Console(file=sys.stdout).print(table)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table. Exit code 1 if the ways do not compute the same."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--vision", default="ViT-B-16", help="a ViT")
    parser.add_argument("--batch", type=int, default=16, help="pairs")
    parser.add_argument("--steps", type=int, default=3, help="timed steps of each way in each round")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.way:
        sys.stdout.write(json.dumps(vars(measure(args.way, args)), default=float))
        return 0
    rounds = [[in_a_process(way, args) for way in WAYS] for _ in range(args.rounds)]
    rows = {way: [each[number] for each in rounds] for number, way in enumerate(WAYS)}
    where = f"{args.device}, {torch.get_num_threads()} threads"
    Console(file=sys.stdout).print(f"{args.vision} + {TEXT_TOWER}, {args.batch} pairs, {where}")
    show(rows, args.batch)
    naive, ours = rows[WAYS[0]][0], rows[WAYS[1]][0]
    agree = abs(naive.loss - ours.loss) < 1e-4 and math.isclose(naive.grad_norm, ours.grad_norm, rel_tol=1e-3)
    sys.stdout.write("" if agree else f"float32 differs: {naive}, {ours}\n")
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
