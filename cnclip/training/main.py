"""Fine-tune a model: configuration in, checkpoints, logs, metrics and a report out."""

from __future__ import annotations

import contextlib
import logging
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cnclip.data.dataset import PairDataset
from cnclip.errors import InputError
from cnclip.model.device import tune_malloc
from cnclip.model.dual_encoder import DualEncoder
from cnclip.model.pixels import Normalizer
from cnclip.model.tokens import tokenizer_of
from cnclip.training.config import TrainConfig
from cnclip.training.contrastive import Contrastive
from cnclip.training.data import PairBatches
from cnclip.training.distributed import World, join_world
from cnclip.training.loop import Events, FitConfig, fit, optimizer_of
from cnclip.training.parallel import Parallel
from cnclip.training.records import Records, log_file, write_params
from cnclip.training.report import write_report
from cnclip.training.run_folder import BEST, LATEST, open_run, said_once
from cnclip.training.run_state import RunState
from cnclip.training.schedule import scaled_lr
from cnclip.training.start import pick_precision, starting_model, starting_teacher
from cnclip.training.step import Precision
from cnclip.training.validation import Learner
from cnclip.training.watch import Watch

logger = logging.getLogger(__name__)

MakeLearner = Callable[[TrainConfig, World], Learner]

# Sections of settings that the weights depend on; these may not change when a run is resumed, except for:
_DECISIVE = ("data", "model", "loss", "optimizer", "schedule")
_FREE = {
    *("num_workers", "restart", "use_flash_attention", "grad_checkpointing", "gather_with_grad"),
    *("reset_optimizer", "reset_data_offset"),
    *("online_cache", "online_budget"),  # where pictures come from, not what is learnt from them
    *("max_epochs", "max_steps", "accum_freq"),  # the batch counts over all processes, see _settings
}


def train(
    config: TrainConfig,
    on_progress: Callable[[int, int], None] | None = None,
    make_learner: MakeLearner | None = None,
) -> Path:
    """Run (or resume) a fine-tune, with the other processes that torchrun started. Returns the run's folder.

    Writes {logs}/{name}/: out_*.log, params_*.txt, checkpoints/ (epoch_latest.pt, epoch{N}.pt,
    epoch_{e}_{step}.pt), best.safetensors (by mean recall of the full gallery, never worse than the start),
    metrics.jsonl, tensorboard/, curves.png and report.html.

    Args:
        on_progress: called on rank 0 with (steps done, steps in all).
        make_learner: makes what learns after each validation (see `Learner`), once there is a run.

    Raises InputError, WeightsError for unusable data, settings or files, NonFiniteError when training
    diverges.
    """
    tune_malloc()
    run = config.logs / config.name
    quiet = said_once("cnclip.text", "cnclip.model.tokens")
    with join_world(config.device) as world, open_run(run, world), quiet:
        _train(config, run, world, on_progress, make_learner)
    return run


def _train(
    config: TrainConfig,
    run: Path,
    world: World,
    on_progress: Callable[[int, int], None] | None,
    make_learner: MakeLearner | None,
) -> None:
    # Rank 0 writes it, all need to see it.
    resuming = world.share((run / LATEST).exists() and not config.restart)
    model = starting_model(config, world, going_on=run / LATEST if resuming else None)
    config = config.resolved(model.config.vision_name)
    if resuming or config.model is not None:  # what the model brings, where the user did not say it
        towers = {"vision_model": model.config.vision_name, "text_model": model.config.text_name}
        unsaid = towers.keys() - config.model_fields_set
        config = config.model_copy(update={name: towers[name] for name in unsaid})
    precision = pick_precision(config, world.device, model.config.vision.tower)
    batches = _batches(config, model, world)
    fit_config = _fit_config(config, batches)
    parallel = Parallel(model, world, sharded=config.fsdp)
    objective = _objective(config, parallel, precision)
    settings = _settings(config, batches, precision)
    state = RunState(parallel, optimizer_of(model, fit_config), precision, settings, name=config.name)
    valid = _validation_split(config)
    done = _steps_before(config, state, run if resuming else None)
    if done >= fit_config.total_steps or 0 < config.early_stop <= state.notes.get("since_best", 0):
        logger.info("this run is at its end already, after %d steps", done)
        if world.is_main and not (run / "report.html").exists():
            write_report(run)
        return
    with contextlib.ExitStack() as stack:
        records = _records(config, run, world, done, stack)
        watch = Watch(
            run,
            config,
            state,
            batches.steps_per_epoch,
            batches.global_batch_size,
            fit_config.total_steps,
            records,
            valid=valid,
            learner=make_learner(config, world) if make_learner is not None else None,
            on_progress=on_progress,
        )
        _introduce(config, model, batches, fit_config, precision, watch, done)
        if not resuming:
            if world.is_main:
                for old in (BEST, LATEST, "report.html"):  # of a run that is started over
                    (run / old).unlink(missing_ok=True)
            if not config.skip_initial_validation:
                watch.validate(0)
        events = Events(watch.log, watch.validate, watch.saved)
        taken = fit(
            model,
            batches,
            objective,
            fit_config,
            precision,
            checkpoint=run / LATEST,
            events=events,
            state=state,
            first_step=done,
        )
        watch.verdict(done + taken)
        if world.is_main and watch.learner is not None:
            watch.learner.finish()
    if world.is_main:
        write_report(run)


def _steps_before(config: TrainConfig, state: RunState, run: Path | None) -> int:
    """Take up the run in `run`, or what --resume names beside its weights. Returns the steps taken."""
    if run is not None:
        return state.resume(run / LATEST)
    if config.resume is None or (config.reset_optimizer and config.reset_data_offset):
        return 0
    steps = state.take_over(config.resume, optimizer=not config.reset_optimizer)
    return 0 if config.reset_data_offset else steps


def _records(
    config: TrainConfig, run: Path, world: World, done: int, stack: contextlib.ExitStack
) -> Records | None:
    """The log file, the parameters and the records of rank 0; all processes end if they cannot be opened."""
    settings = config.model_dump(mode="json")
    records = None
    with world.main_first():
        if world.is_main:
            stack.enter_context(log_file(run, logging.DEBUG if config.debug else logging.INFO))
            write_params(run, settings)
            records = Records(
                run,
                settings=settings,
                tensorboard=not config.no_tensorboard,
                wandb_project=config.wandb,
                resume_step=done,
            )
            stack.enter_context(records)
    return records


def _validation_split(config: TrainConfig) -> PairDataset | None:
    """The validation split, if there is one. Raises InputError if nothing in it could be scored: better now
    than after an epoch."""
    if config.val_data is None:
        return None
    split = PairDataset(config.val_data)
    if not len(split):
        raise InputError(f"--val-data {config.val_data}: no text of it is labelled with a picture of it")
    return split


def _batches(config: TrainConfig, model: DualEncoder, world: World) -> PairBatches:
    return PairBatches(
        [PairDataset(folder) for folder in config.train_data],
        model.config.preprocess,
        config.batch_size,
        accum=config.accum_freq,
        rank=world.rank,
        world=world.size,
        context_length=model.config.context_length,
        augmentation=config.augment if config.use_augment else None,
        random_erasing=config.random_erasing,
        sampler=config.sampler,
        seed=config.seed,
        workers=min(config.num_workers, os.cpu_count() or 1),
        tokenize=tokenizer_of(model.config),
        pin_memory=world.device.type != "cpu",
    )


def _fit_config(config: TrainConfig, batches: PairBatches) -> FitConfig:
    total = config.max_steps or config.max_epochs * batches.steps_per_epoch
    warmup = config.warmup
    if config.warmup_proportion is not None:
        warmup = math.ceil(config.warmup_proportion * total)
    if config.lr is None or config.beta1 is None or config.beta2 is None or config.eps is None:
        raise ValueError("settings are not resolved")
    constant = config.skip_scheduler
    return FitConfig(
        total_steps=total,
        lr=scaled_lr(config.lr, batches.global_batch_size) if config.scale_lr else config.lr,
        warmup=0 if constant else warmup,
        schedule="constant" if constant else config.schedule,
        lr_floor=config.lr_floor,
        lr_decay_steps=config.lr_decay_steps,
        lr_decay_factor=config.lr_decay_factor,
        optimizer=config.optimizer,
        weight_decay=config.wd,
        betas=(config.beta1, config.beta2),
        eps=config.eps,
        layer_decay=config.layer_decay,
        max_grad_norm=config.max_grad_norm,
        seed=config.seed,
        log_every=config.log_interval,
        checkpoint_every=max(0, config.save_step_frequency),
        validate_every=max(0, config.valid_step_interval or 0),
        validate_every_epochs=max(0, config.valid_epoch_interval or 0),
    )


def _settings(config: TrainConfig, batches: PairBatches, precision: Precision) -> dict[str, Any]:
    parts = (*_DECISIVE, "online") if config.online_learning else _DECISIVE
    names = {name for part in parts for name in TrainConfig.sections()[part]} - _FREE
    plain = config.model_dump(mode="json", include={*names, "fsdp", "seed"})
    plain["train_data"] = batches.describe()  # what is there, wherever it is
    return {**plain, "global_batch_size": batches.global_batch_size, "precision": precision.name}


def _objective(config: TrainConfig, parallel: Parallel, precision: Precision) -> Contrastive:
    pixels = Normalizer(parallel.model.config.preprocess, parallel.world.device)
    return Contrastive(
        parallel,
        pixels,
        loss=config.loss,
        sub_batches=config.accum_freq,
        aggregate=not config.skip_aggregate,
        mask_ratio=config.mask_ratio,
        mixup_beta=config.mixup_beta,
        teacher=starting_teacher(config, pixels, precision),
        kd_weight=config.kd_loss_weight,
    )


def _introduce(
    config: TrainConfig,
    model: DualEncoder,
    batches: PairBatches,
    fit_config: FitConfig,
    precision: Precision,
    watch: Watch,
    done: int,
) -> None:
    """What a person should know before the first step."""
    if watch.records is None:
        return
    if done:
        logger.info("resuming %s at step %d", watch.run, done)
    if watch.valid is None:
        logger.info("no validation (--val-data): recall is not measured, and there will be no %s", BEST)
    logger.info("Params: %s", config.model_dump(mode="json", exclude_defaults=True))
    world = watch.state.parallel.world
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    logger.info(
        "%s on %d x %s, %s; %.1f M weights, %.1f M of them trained; %d pairs, %d per step, %d steps",
        model.config.name, world.size, world.device.type, precision.name,
        sum(p.numel() for p in model.parameters()) / 1e6, trained / 1e6,
        batches.n_pairs, batches.global_batch_size, fit_config.total_steps,
    )  # fmt: skip
    rate = batches.duplicate_rate()
    if rate > 0.01:
        logger.info(
            "%.0f %% of the pairs share their picture or text with another pair of their batch%s",
            100 * rate, "" if config.loss == "multi-positive" else "; --loss multi-positive allows for that",
        )  # fmt: skip
    schedule = fit_config.schedule_of()
    if schedule.warmup_steps < fit_config.warmup:
        watch.note(0, f"the warm-up of {fit_config.warmup} steps is cut to the run's {schedule.warmup_steps}")
