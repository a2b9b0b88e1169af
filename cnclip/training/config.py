"""Settings of a fine-tuning run, with Chinese-CLIP's names where it has one."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator


class TrainConfig(BaseModel):
    """Unknown fields are errors. The whole configuration is logged and saved with every checkpoint."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    train_data: Path = Field(description="LMDB split directory to train on")
    val_data: Path | None = Field(None, description="LMDB split directory to validate on")
    model: str = Field("lite", description="model to start from: a name or a weights file")
    logs: Path = Field(Path("./logs"), description="folder of all runs")
    name: str = Field("train_clip", description="folder of this run under --logs", pattern=r"^[^/\x00]+$")
    batch_size: int = Field(64, ge=2, description="pairs per step")
    max_epochs: int = Field(32, ge=1, description="epochs to train")
    max_steps: int | None = Field(None, ge=1, description="steps to train; overrides --max-epochs")
    lr: float = Field(5e-5, gt=0, description="peak learning rate")
    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.98, ge=0, lt=1)
    eps: float = Field(1e-6, gt=0)
    wd: float = Field(0.001, ge=0, description="weight decay")
    warmup: int = Field(100, ge=0, description="warm-up steps")
    max_grad_norm: float = Field(1.0, gt=0, description="gradient norm above which gradients are scaled down")
    context_length: int = Field(52, ge=3, description="most tokens per text")
    use_augment: bool = Field(False, description="random crops, mirror images and colour changes")
    precision: Literal["amp", "bf16", "fp16", "fp32"] = Field(
        "amp", description="amp = bfloat16 where the processor has it, else fp32"
    )
    seed: int = Field(123, ge=0, description="of shuffling, augmentation and dropout")
    num_workers: int = Field(1, ge=0, description="processes that decode pictures")
    log_interval: int = Field(10, ge=1, description="steps between log lines")
    save_step_frequency: int = Field(0, ge=-1, description="steps between checkpoints; 0 or -1: every epoch")
    valid_step_interval: int = Field(0, ge=-1, description="steps between validations; 0 or -1: every epoch")
    device: str | None = Field(
        None, description="as torch names it; by default the accelerator if there is one"
    )

    @field_validator("name")
    @classmethod
    def _inside_logs(cls, name: str) -> str:
        if name in (".", ".."):
            raise ValueError("must name a folder of its own under --logs")
        return name
