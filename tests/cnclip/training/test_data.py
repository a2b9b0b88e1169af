"""Training batches: every process sees its share of one stream, whatever processes, workers and stops."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from cnclip.data.dataset import PairDataset
from cnclip.errors import InputError
from cnclip.image import PreprocessConfig, decode_image, resize_pixels
from cnclip.text import tokenize
from cnclip.training.data import PairBatches
from tests.cnclip.data.muge_files import image_line, picture, text_line, write_lines

Batch = dict[str, Any]
PREPROCESS = PreprocessConfig(size=32)
# Python 3.12 and later warn that a forking process has threads.
forks = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


def make_split(folder: Path, name: str, n: int, *, broken: Sequence[int] = ()) -> PairDataset:
    """n pictures; a text for each, one for all even ones, one for every third. `broken` are half a JPEG."""
    folder.mkdir(exist_ok=True)
    data = [picture(i, side=36) for i in range(n)]
    rows = [image_line(i, d[: len(d) // 2] if i in broken else d) for i, d in enumerate(data)]
    texts = [text_line(i, f"第{i}张{'图' * (i % 7)}", [i]) for i in range(n)]
    texts += [text_line(900, "“偶数”", range(0, n, 2)), text_line(901, "三的倍数", range(0, n, 3))]
    write_lines(folder / f"{name}_imgs.tsv", rows)
    write_lines(folder / f"{name}_texts.jsonl", texts)
    return PairDataset.from_muge(folder, name)


@pytest.fixture
def two(tmp_path: Path) -> list[PairDataset]:
    """36 and 19 pairs; every text of the second is one of the first too."""
    return [make_split(tmp_path, "a", 19), make_split(tmp_path, "b", 10)]


def take(source: PairBatches, n: int, start: int = 0) -> list[Batch]:
    return list(islice(source.iterate(start), n))


def assert_same(first: Batch, second: Batch) -> None:
    for key, value in first.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, second[key]), key
        else:
            assert value == second[key], key


def join(parts: list[Batch]) -> Batch:
    """The batches of several processes as the one they make up."""
    longest = max(part["text"].shape[1] for part in parts)
    texts = [torch.nn.functional.pad(p["text"], (0, longest - p["text"].shape[1])) for p in parts]
    assert all(torch.equal(part["relevance"], parts[0]["relevance"]) for part in parts)
    return {
        "image": torch.cat([part["image"] for part in parts]),
        "text": torch.cat(texts),
        "valid": torch.cat([part["valid"] for part in parts]),
        "relevance": parts[0]["relevance"],
        "image_id": [i for part in parts for i in part["image_id"]],
        "text_id": [i for part in parts for i in part["text_id"]],
    }


def test_a_batch_holds_what_its_pairs_say(two: list[PairDataset]) -> None:
    source = PairBatches(two, PREPROCESS, 12, context_length=9)
    assert (source.n_pairs, source.global_batch_size, source.steps_per_epoch) == (55, 12, 4)
    said = {(n, str(i), row.text) for n, data in enumerate(two) for row in data.texts for i in row.image_ids}
    for batch in take(source, 4):
        assert list(batch) == ["image", "text", "valid", "relevance", "image_id", "text_id"]
        assert batch["image"].shape == (12, 3, 32, 32) and batch["image"].dtype == torch.uint8
        assert batch["valid"].dtype == torch.bool and batch["valid"].all()
        matched = set()
        for row, (image_id, text_id) in enumerate(zip(batch["image_id"], batch["text_id"], strict=True)):
            pixels = batch["image"][row].permute(1, 2, 0).numpy()
            for number, data in enumerate(two):  # ids come in both splits: the pixels tell them apart
                if image_id in data.image_ids:
                    shown = resize_pixels(decode_image(data.image_bytes(image_id), min_side=32), PREPROCESS)
                    text = next((t.text for t in data.texts if t.text_id == text_id), "")
                    if np.array_equal(pixels, shown) and (number, image_id, text) in said:
                        matched.add(row)
                        ids = tokenize(text, 9)[0]
                        assert batch["text"][row].tolist() == [
                            *ids,
                            *[0] * (batch["text"].shape[1] - len(ids)),
                        ]
        assert len(matched) == 12
        assert batch["text"].dtype == torch.int64 and (batch["text"][:, -1] != 0).any()


def test_relevance_is_of_the_whole_global_batch(two: list[PairDataset]) -> None:
    """Against the definition, over the ids that all processes together name."""
    parts = [take(PairBatches(two[:1], PREPROCESS, 4, rank=rank, world=3), 6) for rank in range(3)]
    texts = {row.text_id: row.text for row in two[0].texts}
    labels = {(image, row.text) for row in two[0].texts for image in row.image_ids}
    for step in zip(*parts, strict=True):
        whole = join(list(step))
        expected = [[(i, texts[t]) in labels for t in whole["text_id"]] for i in whole["image_id"]]
        assert whole["relevance"].tolist() == expected and whole["relevance"].dtype == torch.bool
        assert whole["relevance"].sum() > 12


@pytest.mark.parametrize("sampler", ["distinct", "debias", "sequential"])
def test_processes_sub_batches_and_rows_are_one_stream(two: list[PairDataset], sampler: Any) -> None:
    changes: dict[str, Any] = {"augmentation": "auto", "random_erasing": 0.5, "sampler": sampler, "seed": 9}
    whole = take(PairBatches(two, PREPROCESS, 16, **changes), 8)
    parts = [take(PairBatches(two, PREPROCESS, 8, rank=r, world=2, **changes), 8) for r in (0, 1)]
    accumulated = take(PairBatches(two, PREPROCESS, 8, accum=2, **changes), 8)
    for expected, first, second, grown in zip(whole, *parts, accumulated, strict=True):
        assert_same(expected, join([first, second]))
        assert_same(expected, grown)


@forks
@pytest.mark.parametrize("augmentation", ["light", "auto"])
def test_neither_workers_nor_a_restart_change_a_batch(two: list[PairDataset], augmentation: Any) -> None:
    changes: dict[str, Any] = {"augmentation": augmentation, "random_erasing": 0.3, "accum": 2}
    whole = take(PairBatches(two, PREPROCESS, 6, **changes), 9)  # two epochs of four steps and one more
    state = torch.random.get_rng_state()
    several = PairBatches(two, PREPROCESS, 6, workers=2, **changes)
    for start in (0, 3, 4, 6):
        for expected, batch in zip(whole[start:], take(several, 9 - start, start), strict=True):
            assert_same(expected, batch)
    assert torch.equal(torch.random.get_rng_state(), state)
    shown = [sorted(zip(b["image_id"], b["text_id"], strict=True)) for b in whole]
    assert shown[:4] != shown[4:8]
    other = take(PairBatches(two, PREPROCESS, 6, seed=7, **changes), 1)
    assert not torch.equal(other[0]["image"], whole[0]["image"])


def test_a_pair_is_augmented_by_itself_and_anew_in_each_epoch(tmp_path: Path) -> None:
    write_lines(tmp_path / "one_imgs.tsv", [image_line(1, picture(3, side=60))])
    write_lines(tmp_path / "one_texts.jsonl", [text_line(i, f"红{i}", [1]) for i in range(8)])
    data = PairDataset.from_muge(tmp_path, "one")
    rows = take(PairBatches([data], PREPROCESS, 8, random_erasing=1.0), 1)[0]["image"]
    assert len({row.numpy().tobytes() for row in rows}) == 8  # one picture, eight pairs
    write_lines(tmp_path / "one_texts.jsonl", [text_line(1, "红", [1])])
    data = PairDataset.from_muge(tmp_path, "one")
    epochs = take(PairBatches([data], PREPROCESS, 1, augmentation="light"), 3)
    assert len({batch["image"].numpy().tobytes() for batch in epochs}) == 3
    plain = take(PairBatches([data], PREPROCESS, 1), 1)[0]["image"].permute(0, 2, 3, 1).numpy()
    erased = take(PairBatches([data], PREPROCESS, 1, random_erasing=1.0), 1)[0]["image"]
    changed = (erased.permute(0, 2, 3, 1).numpy() != plain).any(-1).mean()
    assert 0.01 < changed < 0.36


def test_an_unreadable_picture_keeps_its_row(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    broken, whole = make_split(tmp_path, "x", 12, broken=[4, 5]), make_split(tmp_path / "w", "x", 12)
    with caplog.at_level("WARNING"):
        batches = take(PairBatches([broken], PREPROCESS, 5, accum=2), 4)
    for batch, expected in zip(batches, take(PairBatches([whole], PREPROCESS, 5, accum=2), 4), strict=True):
        assert batch["valid"].tolist() == [i not in ("4", "5") for i in batch["image_id"]]
        assert not batch["image"][~batch["valid"]].any()
        assert torch.equal(batch["image"][batch["valid"]], expected["image"][batch["valid"]])
        for key in ("text", "relevance", "image_id", "text_id"):
            assert np.array_equal(np.asarray(batch[key]), np.asarray(expected[key]))
    assert len(caplog.messages) == 2
    assert [f"left out of training: {tmp_path}: picture {i}: " in "".join(caplog.messages) for i in (4, 5)]


def test_mostly_unreadable_data_is_refused(tmp_path: Path) -> None:
    """Not at the first unlucky batch, but once enough has been seen."""
    data = make_split(tmp_path, "x", 12, broken=range(9))
    stream = PairBatches([data], PREPROCESS, 12).iterate(0)
    assert [int(next(stream)["valid"].sum()) < 6 for _ in range(5)] == [True] * 5
    with pytest.raises(InputError, match=rf"^{tmp_path}: \d+ of the first 72 pictures cannot be read$"):
        next(stream)
    half = make_split(tmp_path / "half", "x", 12, broken=range(3))
    assert len(take(PairBatches([half], PREPROCESS, 12), 12)) == 12


def test_a_source_that_fails_to_read_counts_as_unreadable(two: list[PairDataset], tmp_path: Path) -> None:
    source = PairBatches(two[:1], PREPROCESS, 8)
    take(source, 1)
    make_split(tmp_path, "a", 3)  # the file changes under a running job
    with pytest.raises(InputError, match="pictures cannot be read"):
        take(source, 12)


def test_texts_go_through_the_given_tokenizer(two: list[PairDataset]) -> None:
    asked: list[int] = []

    def padded(texts: Sequence[str], length: int) -> npt.NDArray[np.int64]:
        asked.append(length)
        ids = np.zeros((len(texts), length), np.int64)
        for row, text in zip(ids, texts, strict=True):
            row[: min(len(text), length)] = 7
        return ids

    for batch in take(PairBatches(two[:1], PREPROCESS, 8, context_length=20, tokenize=padded), 4):
        texts = {row.text_id: row.text for row in two[0].texts}
        lengths = [len(texts[i]) for i in batch["text_id"]]
        assert batch["text"].shape[1] == max(lengths)
        assert (batch["text"] == 7).sum(1).tolist() == lengths
    assert set(asked) == {20}


def test_too_few_pairs_are_said(two: list[PairDataset]) -> None:
    with pytest.raises(InputError, match="55 pairs, fewer than the batch size 64"):
        PairBatches(two, PREPROCESS, 8, accum=2, world=4)
    with pytest.raises(InputError, match=f"{two[1].path}: 19 pairs, fewer than the batch size 20, .*debias"):
        PairBatches(two, PREPROCESS, 20, sampler="debias")


def test_the_duplicate_rate_is_that_of_the_batches_drawn(two: list[PairDataset]) -> None:
    source = PairBatches(two[:1], PREPROCESS, 4, accum=2, sampler="shuffle")
    rates = []
    for batch in take(source, 4):
        images, texts = batch["image_id"], batch["text_id"]
        shared = [images.count(i) > 1 or texts.count(t) > 1 for i, t in zip(images, texts, strict=True)]
        rates.append(sum(shared) / 8)
    assert source.duplicate_rate(0, 4) == pytest.approx(np.mean(rates)) and np.mean(rates) > 0
    assert PairBatches(two[:1], PREPROCESS, 4).duplicate_rate() < source.duplicate_rate()


@pytest.mark.gpu
@forks
@pytest.mark.parametrize("workers", [0, 1])
def test_pictures_come_in_page_locked_memory(two: list[PairDataset], workers: int) -> None:
    plain = take(PairBatches(two, PREPROCESS, 8), 2)
    for expected, batch in zip(
        plain, take(PairBatches(two, PREPROCESS, 8, workers=workers, pin_memory=True), 2), strict=True
    ):
        assert batch["image"].is_pinned() and not expected["image"].is_pinned()
        assert_same(expected, batch)


TRAINER = """
import multiprocessing, sys
from cnclip.data.dataset import PairDataset
from cnclip.image import PreprocessConfig
from cnclip.training.data import PairBatches
data = PairDataset.from_muge(sys.argv[1], "a")
stream = PairBatches([data], PreprocessConfig(size=32), 4, workers=2).iterate(0)
next(stream)
print(*(child.pid for child in multiprocessing.active_children()), flush=True)
for line in sys.stdin:
    for _ in range(20):
        next(stream)
    print("alive", flush=True)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's death signal is Linux's")
def test_workers_survive_ctrl_c_and_die_with_their_trainer(two: list[PairDataset]) -> None:
    trainer = subprocess.Popen(
        [sys.executable, "-c", TRAINER, str(two[0].path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with trainer:
        assert trainer.stdin is not None and trainer.stdout is not None
        workers = [int(pid) for pid in trainer.stdout.readline().split()]
        handles = [os.pidfd_open(pid) for pid in workers]
        assert len(handles) == 2
        for pid in workers:
            os.kill(pid, signal.SIGINT)
        trainer.stdin.write("more\n")
        trainer.stdin.flush()
        assert trainer.stdout.readline() == "alive\n"
        assert not select.select(handles, [], [], 0)[0]
        trainer.kill()
        trainer.wait()
        for handle in handles:  # readable once the process has ended
            assert select.select([handle], [], [], 3)[0], "a worker outlives its trainer"
            os.close(handle)
