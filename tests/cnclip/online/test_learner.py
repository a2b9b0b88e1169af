"""Training runs that learn online, from the settings to the files they leave."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from cnclip.model.save import save_safetensors
from cnclip.online.learner import make_online_learner
from cnclip.online.source import ImageSource
from cnclip.training import cli
from cnclip.training.config import TrainConfig
from cnclip.training.main import train
from tests.cnclip.online.world import Shop, taught_model

STEPS = 6


@pytest.fixture(scope="session")
def start(lmdb: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from cnclip.data.dataset import PairDataset

    path = tmp_path_factory.mktemp("start") / "start.safetensors"
    save_safetensors(taught_model(PairDataset(lmdb / "train"))[0], path)
    return path


@pytest.fixture
def config(lmdb: Path, start: Path, tmp_path: Path) -> TrainConfig:
    return TrainConfig(
        train_data=lmdb / "train", val_data=lmdb / "valid", model=str(start), logs=tmp_path / "logs",
        name="run", batch_size=16, lr=1e-4, warmup=1, max_steps=STEPS, valid_step_interval=1, num_workers=0,
        device="cpu", precision="fp32", no_tensorboard=True, log_interval=1, save_step_frequency=2,
        online_learning=True, online_pictures=5, online_lr=2e-3, online_replay=16, online_canary=8,
        online_tolerance=0.1, online_scope="all",
    )  # fmt: skip


def run(config: TrainConfig, shop: Shop | None = None, **changes: Any) -> Path:
    changed = config.model_copy(update=changes)
    return train(changed, None, partial(make_online_learner, shop or Shop()))


def weights(run: Path) -> dict[str, torch.Tensor]:
    saved = torch.load(run / "checkpoints" / "epoch_latest.pt", weights_only=True)
    found: dict[str, torch.Tensor] = saved["state_dict"]
    return found


def rounds(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "online" / "rounds.jsonl").read_text().splitlines()]


def test_a_run_learns_online_and_says_so(config: TrainConfig) -> None:
    shop = Shop()
    folder = run(config, shop)
    records = rounds(folder)
    assert [(r["round"], r["step"]) for r in records] == [(n, n + 1) for n in range(STEPS)]
    assert [numbers for _, numbers in shop.asked] == [
        sorted([1, 2, 3, 4, 5], key=lambda n: (n - 1 - i) % 5) for i in range(STEPS)
    ]
    kept = [r for r in records if r["decision"] == "kept"]
    assert kept and kept[0]["labelled"]["after"]["n_gallery"] == 48
    first, last = records[0]["labelled"]["before"], kept[-1]["labelled"]["after"]
    assert last["text_to_image"]["mAP"] > first["text_to_image"]["mAP"]
    log = "".join(path.read_text(encoding="utf-8") for path in folder.glob("out_*.log"))
    number = r"\d+\.\d+"
    assert re.search(
        rf"Online Learning \(epoch 1 @ 1 steps\) \| Decision: \w+ ?\w* \| Steps: 1 \| Pairs: \d+ \| "
        rf"Taught mAP: {number} -> {number} \| Others mAP: {number} -> {number} \| Canary mAP: {number} -> ",
        log,
    )
    assert log.count("Validation Result") == STEPS + 1  # the accuracies users know, under their own name
    report = json.loads((folder / "online_report.json").read_text(encoding="utf-8"))
    assert len(report["rounds"]) == STEPS and (folder / "online_report.html").stat().st_size > 10_000
    shown = {picture["sha256"] for record in records for picture in record["pictures"]}
    thumbs = {path.stem for path in (folder / "online" / "thumbs").iterdir()}
    assert shown <= thumbs and any(name.startswith("gallery-") for name in thumbs)
    events = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [e["decision"] for e in events if e["kind"] == "online"] == [r["decision"] for r in records]


def test_an_interrupted_run_learns_what_an_uninterrupted_one_does(config: TrainConfig) -> None:
    """Stopped with a checkpoint at step 2 and a record of step 3 that the checkpoint knows nothing of."""
    whole = run(config, name="whole")

    class Stopping(Shop):
        def fetch(self, queries: Any, numbers: Any, deadline: float) -> Any:
            if len(self.asked) == 3:
                raise_later.append(True)
            return super().fetch(queries, numbers, deadline)

    raise_later: list[bool] = []
    seen: list[int] = []

    def stop(step: int, _total: int) -> None:
        seen.append(step)
        if raise_later:
            raise KeyboardInterrupt  # in the middle of step 5, unsaved

    with pytest.raises(KeyboardInterrupt):
        train(config, stop, partial(make_online_learner, Stopping()))
    run_folder = config.logs / config.name
    assert len(rounds(run_folder)) == 4 and seen[-1] == 5
    assert torch.load(run_folder / "checkpoints" / "epoch_latest.pt", weights_only=True)["step"] == 4
    shutil.copy(run_folder / "online" / "rounds.jsonl", run_folder / "before.jsonl")
    shop = Shop()
    resumed = run(config, shop)
    assert len(shop.asked) == 2
    assert [r["round"] for r in rounds(resumed)] == list(range(STEPS))
    ours, theirs = weights(resumed), weights(whole)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    for a, b in zip(rounds(resumed), rounds(whole), strict=True):
        for name in ("decision", "why", "steps", "labelled", "canary", "pictures"):
            assert a[name] == b[name], name


def test_the_pull_needs_the_weights_the_run_began_with(config: TrainConfig) -> None:
    folder = run(config, online_pull=0.1, max_steps=2, online_tolerance=1.0)
    assert len(rounds(folder)) == 2
    free = run(config, name="free", max_steps=2, online_tolerance=1.0)
    assert any(
        not torch.equal(a, b) for a, b in zip(weights(folder).values(), weights(free).values(), strict=True)
    )


def test_online_settings_are_checked_when_a_run_goes_on(config: TrainConfig) -> None:
    from cnclip.errors import InputError

    run(config, max_steps=2)
    with pytest.raises(InputError, match="online_lr"):
        run(config, max_steps=4, online_lr=1e-3)
    run(config, max_steps=3, online_cache=True)  # where pictures come from may change


@pytest.mark.parametrize("cache", [True, False])
def test_the_command_line_needs_somebody_who_has_pictures(
    lmdb: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], cache: bool
) -> None:
    flags = f"--train-data {lmdb}/train --val-data {lmdb}/valid --logs {tmp_path} --online-learning"
    assert cli.main([*flags.split(), *(["--online-cache"] if cache else [])]) == 2
    assert "--online-learning: use `cnclip train`" in capsys.readouterr().err


def test_the_command_line_opens_the_source_and_closes_it(config: TrainConfig, tmp_path: Path) -> None:
    import argparse

    events: list[str] = []

    @contextlib.contextmanager
    def open_source(given: TrainConfig) -> Iterator[ImageSource]:
        assert given.online_pictures == 5
        events.append("open")
        yield Shop()
        events.append("closed")

    parser = argparse.ArgumentParser()
    cli.add_arguments(parser)
    values = config.model_dump(mode="json", exclude_defaults=True) | {"max_steps": 2}
    flags = [
        f"--{name.replace('_', '-')}={','.join(v) if isinstance(v, list) else v}"
        for name, v in values.items()
    ]
    assert cli.run(parser.parse_args(flags), open_source) == 0
    assert events == ["open", "closed"] and len(rounds(tmp_path / "logs" / "run")) == 2
