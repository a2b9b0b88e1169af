"""Settings of a training run, with Chinese-CLIP's names and defaults where it has them."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from cnclip.flags import did_you_mean
from cnclip.model import ZOO_PREFIX

CONFIG_DIR = Path(__file__).parent.parent / "configs"


def tower_names(kind: str) -> list[str]:
    """Named architectures; kind: "vision" or "text". Read off the folder, so that `--help` needs no torch."""
    return sorted(path.stem for path in (CONFIG_DIR / kind).glob("*.json"))


def _setting(section: str, default: Any, description: str, **bounds: Any) -> Any:
    return Field(default, description=description, json_schema_extra={"section": section}, **bounds)


_data, _model, _loss = partial(_setting, "data"), partial(_setting, "model"), partial(_setting, "loss")
_optimizer, _schedule = partial(_setting, "optimizer"), partial(_setting, "schedule")
_validation, _records = partial(_setting, "validation"), partial(_setting, "records")
_online, _source = partial(_setting, "online"), partial(_setting, "source")
_machine = partial(_setting, "machine")


class TrainConfig(BaseModel):
    """Unknown fields are errors. The whole configuration is logged and saved with every checkpoint.

    Where a number counts steps or epochs between two events, -1 and 0 mean never. The text "None" means None
    wherever None is allowed. `sections` groups the fields for people.
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        coerce_numbers_to_str=True,
    )

    train_data: tuple[Path, ...] = _data(
        ..., "LMDB split directories to train on, with commas between", min_length=1
    )
    sampler: Literal["distinct", "shuffle", "sequential", "debias"] = _data(
        "distinct", "how batches are drawn; debias: each from one data set"
    )
    context_length: int = _data(52, "most tokens per text, [CLS] and [SEP] included", ge=3, le=512)
    use_augment: bool = _data(False, "change the pictures at random")
    augment: Literal["auto", "light"] = _data(
        "auto", "with --use-augment: AutoAugment, or crops, mirror images and colours"
    )
    random_erasing: float = _data(0.0, "probability of a rectangle of noise in a picture", ge=0, le=1)
    num_workers: int = _data(4, "processes that decode training pictures, for each device", ge=0)

    model: str | None = _model(
        None, "weights to start from, towers included: lite, a downloaded model, a file or a folder"
    )
    vision_model: str = _model("ViT-B-16", f"image tower: {', '.join(tower_names('vision'))}, or hf:FOLDER")
    text_model: str = _model(
        "RoBERTa-wwm-ext-base-chinese", f"text tower: {', '.join(tower_names('text'))}, or hf:FOLDER"
    )
    projection_dim: int = _model(512, "dimensions of the shared space of hf: towers", ge=1, le=65536)
    clip_weight_path: Path | None = _model(None, "OpenAI CLIP weights for the image tower")
    bert_weight_path: Path | None = _model(None, "BERT weights for the text tower")
    resume: Path | None = _model(None, "checkpoint to go on from (default: the newest of this run)")
    reset_optimizer: bool = _model(False, "with --resume: leave the optimizer's state behind")
    reset_data_offset: bool = _model(False, "with --resume: count steps and epochs from zero")
    restart: bool = _model(False, "start over where --logs/--name already holds a run")
    freeze_vision: bool = _model(False, "leave the image tower as it is")
    freeze_text: bool = _model(False, "leave the text tower as it is")
    mask_ratio: float = _model(0.0, "share of a ViT's patches left out at random (FLIP)", ge=0, lt=1)
    use_bn_sync: bool = _model(False, "BatchNorm statistics over all devices")
    grad_checkpointing: bool = _model(False, "recompute activations: less memory, more time")
    use_flash_attention: bool = _model(False, "accepted; the fastest attention here is always used")

    loss: Literal["multi-positive", "info-nce", "dual-softmax"] = _loss(
        "multi-positive", "multi-positive counts every labelled pair of a batch as a match"
    )
    temperature: float | None = _loss(None, "fixed temperature instead of a learnt one", gt=0, le=100)
    mixup_beta: float = _loss(0.0, "beta of ZeroVL's coin-flipping mixup; 0 = off", ge=0)
    accum_freq: int = _loss(1, "sub-batches that make one step's batch on each device", ge=1)
    gather_with_grad: bool = _loss(False, "accepted; gradients are exact over all devices anyway")
    skip_aggregate: bool = _loss(False, "compare pairs within each device only")
    distillation: bool = _loss(False, "learn from a teacher's features as well")
    teacher_model_name: str | None = _loss(None, "the teacher: a model's name, file or folder")
    kd_loss_weight: float = _loss(0.5, "weight of the teacher's part of the loss", ge=0)

    batch_size: int = _optimizer(64, "pairs per device and sub-batch", ge=2)
    optimizer: Literal["adamw", "lamb"] = _optimizer("adamw", "rule of the update")
    lr: float | None = _optimizer(None, "peak learning rate (default: by image tower)", gt=0)
    beta1: float | None = _optimizer(None, "decay of the mean (default: by image tower)", ge=0, lt=1)
    beta2: float | None = _optimizer(None, "decay of the variance (default: by image tower)", ge=0, lt=1)
    eps: float | None = _optimizer(None, "keeps divisions finite (default: by image tower)", gt=0)
    wd: float = _optimizer(0.2, "weight decay", ge=0)
    layer_decay: float = _optimizer(1.0, "learning rate factor per layer downwards", gt=0, le=1)
    scale_lr: bool = _optimizer(False, "multiply the learning rate by the global batch / 1024")
    max_grad_norm: float = _optimizer(1.0, "longer gradients are shortened to this; 0 = off", ge=0)

    max_epochs: int = _schedule(32, "epochs to train", ge=1)
    max_steps: int | None = _schedule(None, "steps to train, instead of --max-epochs", ge=1)
    schedule: Literal["cosine", "constant", "step"] = _schedule("cosine", "of the learning rate")
    warmup: int = _schedule(500, "steps of linear warm-up", ge=0)
    warmup_proportion: float | None = _schedule(
        None, "warm-up as a share of all steps, instead of --warmup", ge=0, le=1
    )
    lr_floor: float = _schedule(0.0, "lowest learning rate, as a share of the peak", ge=0, le=1)
    lr_decay_steps: int = _schedule(20_000, "schedule step: steps between two divisions", ge=1)
    lr_decay_factor: float = _schedule(10.0, "schedule step: what is divided by", ge=1)
    skip_scheduler: bool = _schedule(False, "the peak learning rate from the first step to the last")

    val_data: Path | None = _validation(None, "LMDB split directory to validate on (default: none)")
    valid_batch_size: int = _validation(64, "pairs at once in validation", ge=1)
    valid_num_workers: int = _validation(1, "accepted; validation decodes in threads", ge=0)
    valid_step_interval: int | None = _validation(None, "steps between validations (default: none)", ge=-1)
    valid_epoch_interval: int | None = _validation(1, "epochs between validations", ge=-1)
    skip_initial_validation: bool = _validation(False, "do not validate the weights it starts from")
    early_stop: int = _validation(0, "stop after so many validations without a better one; 0 = off", ge=0)

    online_learning: bool = _online(False, "fetch fresh pictures during validation and learn from them")
    online_cache: bool = _online(
        False, "with --online-learning: only pictures that are in the cache; no browser, no login"
    )
    online_budget: float = _online(600.0, "seconds a round may wait for pictures", gt=0, le=86400)
    online_pictures: int = _online(1, "pictures per query and round", ge=1, le=50)
    online_lr: float = _online(3e-4, "learning rate of a step, at most", gt=0)
    online_scope: Literal["all", "text", "projection"] = _online(
        "text", "what learns; all: whatever the run trains"
    )
    online_replay: int = _online(64, "training pairs mixed into each step", ge=0)
    online_pull: float = _online(0.0, "pull towards the starting weights; 0 = none", ge=0)
    online_keep: float = _online(20.0, "how strongly known texts are kept where they are; 0 = not", ge=0)
    online_min_pairs: int = _online(4, "fewer pairs than this make no step", ge=2)
    online_tolerance: float = _online(
        0.01, "mAP that other queries, or the canary, may lose by all kept rounds together", ge=0, le=1
    )
    online_canary: int = _online(512, "training pictures that are never replayed, to measure on", ge=8)
    online_gate: bool = _online(True, "refuse pictures that look wrong")

    source: Literal["taobao", "tbk", "folder", "practice-shop"] = _source(
        "taobao", "where fresh pictures come from (docs/crawler.md)"
    )
    folder: Path | None = _source(None, "with --source folder: pictures, or a manifest of them")
    shop_url: str | None = _source(
        None, "with --source practice-shop: one that runs (default: one is started)"
    )
    shop_catalogue: Path | None = _source(
        None, "with --source practice-shop: QUERY/*.jpg, pictures the shop that is started sells"
    )
    accept_site_rules: bool = _source(False, "you know the site's rules (docs/crawler.md), and decided")
    min_gap: float | None = _source(None, "seconds between searches; never below the site's", gt=0, le=3600)
    headless: bool | None = _source(None, "no browser window (default: where there is no display)")
    state_dir: Path | None = _source(None, "where the account's session and pace are kept")
    keep_login: bool = _source(False, 'answer yes if the site asks "stay logged in?"')
    max_queries: int | None = _source(None, "searches in one run (default: the site's, 200)", ge=1)
    online_dir: Path | None = _source(None, "cache of fresh pictures (default: valid, beside --logs)")

    logs: Path = _records(Path("./logs/"), "folder of all runs")
    name: str = _records("train_clip", "folder of this run below --logs", pattern=r"^[^/\x00]+$")
    log_interval: int = _records(10, "steps between log lines", ge=1)
    report_training_batch_acc: bool = _records(False, "log the accuracy within training batches")
    save_epoch_frequency: int = _records(1, "epochs between kept checkpoints", ge=-1)
    save_step_frequency: int = _records(-1, "steps between kept checkpoints", ge=-1)
    debug: bool = _records(False, "log what libraries say, too")
    no_tensorboard: bool = _records(False, "write no TensorBoard events")
    wandb: str | None = _records(None, "Weights & Biases project to report to (default: none)")

    precision: Literal["amp", "bf16", "fp16", "fp32"] = _machine(
        "amp", "amp takes the fastest of the others that is safe here"
    )
    device: str | None = _machine(None, "cpu, cuda, … (default: the accelerator if there is one)")
    fsdp: bool = _machine(False, "share weights and optimizer state among the devices")
    seed: int = _machine(123, "of everything random", ge=0, lt=2**63)

    @model_validator(mode="before")
    @classmethod
    def _none_as_a_word(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        for key, value in values.items():
            if isinstance(value, str) and "\0" in value:
                raise ValueError(f"{key} holds a NUL character")
        return {key: None if value == "None" and _optional(key) else value for key, value in values.items()}

    @field_validator("train_data", mode="before")
    @classmethod
    def _several_folders(cls, value: Any) -> Any:
        folders = (
            value.split(",") if isinstance(value, str) else [value] if isinstance(value, Path) else value
        )
        if not isinstance(folders, list | tuple):
            return folders
        folders = [part.strip() if isinstance(part, str) else part for part in folders]
        if "" in folders:
            raise ValueError("an empty name among the folders")
        if len({Path(str(folder)).resolve() for folder in folders}) < len(folders):
            raise ValueError("a folder is named twice")
        return folders

    @field_validator("name")
    @classmethod
    def _inside_logs(cls, name: str) -> str:
        if name in (".", ".."):
            raise ValueError("must name a folder of its own below --logs")
        return name

    @field_validator("vision_model", "text_model")
    @classmethod
    def _known_tower(cls, name: str, info: Any) -> str:
        known = tower_names(info.field_name.removesuffix("_model"))
        if name in known or (name.startswith(ZOO_PREFIX) and len(name) > len(ZOO_PREFIX)):
            return name
        raise ValueError(f"no such tower{did_you_mean(name, known)}; known: {', '.join(known)}, hf:FOLDER")

    @model_validator(mode="after")
    def _fits_together(self) -> TrainConfig:
        problems = {
            "--early-stop needs --val-data": self.early_stop and self.val_data is None,
            "--online-cache needs --online-learning": self.online_cache and not self.online_learning,
            "--online-learning needs --val-data": self.online_learning and self.val_data is None,
            "--distillation needs --teacher-model-name": self.distillation and not self.teacher_model_name,
            "--freeze-vision and --freeze-text together leave nothing to train": self.freeze_vision
            and self.freeze_text,
            "--model brings its own towers: leave out --vision-model and --text-model": self.model is not None
            and self.model_fields_set & {"vision_model", "text_model"},
        }
        for problem, found in problems.items():
            if found:
                raise ValueError(problem)
        return self

    def resolved(self, vision_model: str | None = None) -> TrainConfig:
        """With lr, beta1, beta2 and eps filled in where they are None, by the image tower.

        Args:
            vision_model: the tower in use, where `model` brings it; by default `self.vision_model`.
        """
        from cnclip.training.schedule import default_hyperparameters

        defaults = default_hyperparameters(vision_model or self.vision_model)._asdict()
        return self.model_copy(
            update={name: value for name, value in defaults.items() if getattr(self, name) is None}
        )

    @classmethod
    def sections(cls) -> dict[str, list[str]]:
        """Names of the fields by section, in the order of the class."""
        grouped: dict[str, list[str]] = {}
        for name, field in cls.model_fields.items():
            extra = field.json_schema_extra
            section = str(extra["section"]) if isinstance(extra, dict) else ""
            grouped.setdefault(section, []).append(name)
        return grouped


def _optional(name: str) -> bool:
    field = TrainConfig.model_fields.get(name)
    return field is not None and NoneType in get_args(field.annotation)
