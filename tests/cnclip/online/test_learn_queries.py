"""Prediction-time learning: epochs over the queries of a test split, kept or taken back, and gone on with."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import cnclip
from cnclip.data.dataset import PairDataset
from cnclip.model.fingerprint import fingerprint
from cnclip.model.save import save_pt
from cnclip.model.weights import load_checkpoint
from cnclip.online.replay import Memory
from cnclip.online.settings import OnlineSettings
from cnclip.online.source import Answer, FreshPicture
from cnclip.online.verdict import Balance
from cnclip.prediction.online import Lesson, QueryPupil, learn_queries
from cnclip.prediction.split import PredictionSplit, open_prediction_split
from cnclip.training.config import TrainConfig
from cnclip.training.distributed import ALONE
from tests.cnclip.online.conftest import Taught
from tests.cnclip.online.world import COLOURS, NEW, SETTINGS, Shop, write_split


@pytest.fixture(scope="module")
def test_split(tmp_path_factory: pytest.TempPathFactory) -> PredictionSplit:
    """Pictures of all colours, six each, in this order, and their names without labels."""
    folder = tmp_path_factory.mktemp("test")
    write_split(folder, "test", COLOURS, 6)
    texts = folder / "test_texts.jsonl"
    rows = [{**json.loads(line), "image_ids": []} for line in texts.read_text(encoding="utf-8").splitlines()]
    texts.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return open_prediction_split(folder, "test")


class School:
    """Makes lessons about `split` in `folder`, each with a pupil that begins with the taught model."""

    def __init__(
        self, folder: Path, lmdb: Path, split: PredictionSplit, taught: Callable[[], Taught]
    ) -> None:
        self.folder, self._lmdb, self.split = folder, lmdb, split
        self.model = folder / "model-1.pt"
        save_pt(taught()[0], self.model, epoch=3, step=60, name="muge")

    def lesson(self, epochs: int, name: str = "run") -> Lesson:
        loaded = load_checkpoint(self.model)
        return Lesson(
            split=self.split,
            loaded=loaded,
            fingerprint=fingerprint(loaded.state_dict, loaded.config),
            run=self.folder / name,
            checkpoint=self.folder / f"{name}-epoch3_online_{epochs}.pt",
            epochs=epochs,
        )

    def pupil(self, **changes: Any) -> QueryPupil:
        settings: OnlineSettings = replace(SETTINGS, **{"scope": "text", **changes})
        config = TrainConfig(
            model=str(self.model), train_data=(self._lmdb / "train",), val_data=self._lmdb / "valid",
            batch_size=64, context_length=16, precision="fp32", device="cpu",
        )  # fmt: skip
        memory = Memory([PairDataset(self._lmdb / "train")], settings.canary, settings.seed)
        return QueryPupil(config, settings, memory, ALONE, Balance(), gallery=self.split)

    def learn(self, epochs: int, source: Any = None, name: str = "run", **options: Any) -> Path:
        progress = options.pop("progress", None)
        source = Shop() if source is None else source
        return learn_queries(
            self.lesson(epochs, name), self.pupil(**options), lambda: opened(source), progress
        )

    def records(self, name: str = "run") -> list[dict[str, Any]]:
        lines = (self.folder / name / "online" / "rounds.jsonl").read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]

    def precision(self, model: Path) -> float:
        """P@6 of the new colours in the test gallery."""
        encoder = cnclip.load(model, device="cpu", dtype="float32")
        pictures = encoder.encode_images([self.split.image_bytes(i) for i in self.split.image_ids])
        order = np.argsort(-encoder.encode_texts(list(NEW)) @ pictures.T, axis=1)[:, :6]
        wanted = [list(COLOURS).index(name) for name in NEW]
        return float(
            np.mean([(row // 6 == colour).mean() for row, colour in zip(order, wanted, strict=True)])
        )


@contextlib.contextmanager
def opened(source: Any) -> Iterator[Any]:
    yield source


@pytest.fixture
def school(tmp_path: Path, lmdb: Path, test_split: PredictionSplit, taught: Callable[[], Taught]) -> School:
    return School(tmp_path, lmdb, test_split, taught)


def test_what_is_learnt_helps_and_the_checkpoint_is_that_of_online_cnclip(school: School) -> None:
    path = school.learn(3)
    assert school.precision(path) > school.precision(school.model) + 0.2
    content = torch.load(path, weights_only=True)
    assert set(content) >= {"epoch", "step", "name", "state_dict", "optimizer"}
    taken = sum(len(row["steps"]) for row in school.records() if row["decision"] == "kept")
    assert (content["epoch"], content["step"], content["name"]) == (3, 60 + taken, "muge") and taken > 0
    assert {name.partition(".")[0] for name in content["state_dict"]} == {
        *("visual", "bert", "text_projection", "logit_scale")
    }
    assert [row["round"] for row in school.records()] == [0, 1, 2]
    assert (school.folder / "run" / "online_report.html").is_file()


def test_each_epoch_asks_for_the_next_picture_of_each_query(school: School) -> None:
    shop = Shop()
    school.learn(7, shop, pictures=1, min_pairs=2)
    assert [numbers for _, numbers in shop.asked] == [[1], [2], [3], [4], [5], [1], [2]]
    assert all(queries == list(COLOURS) for queries, _ in shop.asked)


class Stopped(Exception):
    """A kill, as far as the next process can tell."""


def stop_after(epochs: int) -> Callable[[str, int, int], None]:
    def progress(_what: str, done: int, _total: int) -> None:
        if done == epochs:
            raise Stopped

    return progress


def test_a_killed_lesson_goes_on_as_if_nothing_had_been(school: School) -> None:
    whole = torch.load(school.learn(3, name="whole"), weights_only=True)["state_dict"]
    for epochs in (1, 2):
        with pytest.raises(Stopped):
            school.learn(3, progress=stop_after(epochs))
    shop = Shop()
    again = torch.load(school.learn(3, shop), weights_only=True)["state_dict"]
    assert len(shop.asked) == 1, "two epochs were done"
    assert whole.keys() == again.keys()
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    assert [row["decision"] for row in school.records()] == [
        row["decision"] for row in school.records("whole")
    ]


def test_more_epochs_go_on_from_fewer(school: School) -> None:
    whole = torch.load(school.learn(2, name="whole"), weights_only=True)["state_dict"]
    school.learn(1)
    first = Shop()
    more = torch.load(school.learn(2, first), weights_only=True)["state_dict"]
    assert len(first.asked) == 1 and all(torch.equal(whole[name], more[name]) for name in whole)
    finished = Shop()
    school.learn(2, finished)
    assert not finished.asked, "what is finished asks for nothing"


def test_other_settings_begin_anew(school: School) -> None:
    school.learn(1)
    shop = Shop()
    school.learn(1, shop, lr=1e-3)
    assert len(shop.asked) == 1


class Thief(Shop):
    """Offers pictures of the test gallery itself."""

    def __init__(self, split: PredictionSplit) -> None:
        super().__init__()
        self._split = split

    def fetch(self, queries: Sequence[str], numbers: Sequence[int], deadline: float) -> dict[str, Answer]:
        super().fetch(queries, numbers, deadline)
        first = {name: 6 * number for number, name in enumerate(COLOURS)}
        return {
            query: [
                FreshPicture(query, n, self._split.image_bytes(self._split.image_ids[first[query] + n - 1]))
                for n in numbers
            ]
            for query in queries
        }


def test_pictures_of_the_test_gallery_do_not_teach(school: School) -> None:
    path = school.learn(1, Thief(school.split))
    (record,) = school.records()
    assert {picture["outcome"] for picture in record["pictures"]} == {"in the gallery"}
    assert record["decision"] == "skipped"
    before, after = load_checkpoint(school.model).state_dict, load_checkpoint(path).state_dict
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_what_would_harm_is_taken_back(school: School) -> None:
    wrong = Shop(wrong=tuple(NEW))
    path = school.learn(2, wrong, gate=False, tolerance=0.0)
    assert [row["decision"] for row in school.records()] == ["rolled back", "rolled back"]
    before, after = load_checkpoint(school.model).state_dict, load_checkpoint(path).state_dict
    assert all(torch.equal(before[name], after[name]) for name in before)
    shop = Shop()
    with pytest.raises(Stopped):
        school.learn(4, shop, gate=False, tolerance=0.0, progress=stop_after(3))
    assert shop.asked[0][1] == [3, 4, 5, 1, 2], "rounds without kept weights are remembered, too"
