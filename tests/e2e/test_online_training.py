"""`train.sh DATAPATH --online-learning [--online-cache]` with a real browser: the practice shop is
crawled while the model trains, then the same run again from the cache alone."""

from __future__ import annotations

import hashlib
import io
import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from preprocess.shapes import COLOURS, SHAPES, write
from tests.e2e.test_crawl_kill import wait_until_gone
from tests.run_scripts.clone import Clone, make_clone

pytestmark = [pytest.mark.browser, pytest.mark.slow]
QUERIES = [colour + shape for colour in list(COLOURS)[:4] for shape in list(SHAPES)[:3]]
LIMIT_S = 900.0
NO_BROWSER = {"CNCLIP_CHROMIUM": "/nonexistent", "SE_CHROMEDRIVER": "/nonexistent"}


def write_data(folder: Path) -> None:
    """The shapes of a few names only."""
    write(folder)
    for split in ("train", "valid"):
        texts = (folder / f"{split}_texts.jsonl").read_text(encoding="utf-8").splitlines()
        rows = [row for row in map(json.loads, texts) if row["text"] in QUERIES]
        kept = {image_id for row in rows for image_id in row["image_ids"]}
        lines = (folder / f"{split}_imgs.tsv").read_text().splitlines()
        images = [line for line in lines if line.split("\t")[0] in kept]
        lines = [json.dumps(row, ensure_ascii=False) for row in rows]
        (folder / f"{split}_texts.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        (folder / f"{split}_imgs.tsv").write_text("\n".join(images) + "\n")


def write_catalogue(folder: Path) -> None:
    """Pictures that are nothing like the gallery's: tiles in the query's colour."""
    chance = random.Random(1)
    for query in QUERIES:
        colour = COLOURS[query[:2]]
        (folder / query).mkdir(parents=True)
        for number in range(6):
            pixels = bytes(
                max(0, min(255, value + chance.randint(-40, 40))) for _ in range(64) for value in colour
            )
            stream = io.BytesIO()
            image = Image.frombytes("RGB", (8, 8), pixels).resize((256, 256), Image.Resampling.NEAREST)
            image.save(stream, "JPEG", quality=95)
            (folder / query / f"{number}.jpg").write_bytes(stream.getvalue())


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    made = make_clone(tmp_path)
    write_data(made.data / "datasets" / "shapes")
    write_catalogue(tmp_path / "catalogue")
    return made


def train(clone: Clone, name: str, *flags: str, **settings: str) -> tuple[list[dict[str, Any]], str]:
    """The rounds of a run, and what it said."""
    recipe = clone.folder / "run_scripts" / "recipes" / "tiny_train_vit.yaml"
    shape = {"NAME": name, "DATASET": "shapes", "CONFIG": str(recipe), "GPUS_PER_NODE": "0", "REALLY": "1"}
    length = {"MAX_EPOCHS": "2", "VALID_EPOCH_INTERVAL": "1", "BATCH_SIZE": "24", "OMP_NUM_THREADS": "1"}
    answer = clone.run(
        "train.sh", clone.data, "--online-learning", *flags, "--online-replay", "8", "--online-canary", "24",
        cwd=clone.folder.parent, timeout_s=LIMIT_S, **shape, **length, **settings,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    records = clone.data / "experiments" / name / "online" / "rounds.jsonl"
    return [json.loads(line) for line in records.read_text(encoding="utf-8").splitlines()], answer.stderr


def weights(clone: Clone, name: str) -> dict[str, torch.Tensor]:
    path = clone.data / "experiments" / name / "checkpoints" / "epoch_latest.pt"
    state: dict[str, torch.Tensor] = torch.load(path, weights_only=True)["state_dict"]
    return state


def test_crawled_while_training_and_again_from_the_cache_alone(clone: Clone, tmp_path: Path) -> None:
    shop = {"SOURCE": "practice-shop", "SHOP_CATALOGUE": "catalogue", "STATE_DIR": str(tmp_path / "state")}
    crawled, said = train(clone, "crawled", ONLINE_BUDGET="400", HEADLESS="true", **shop)
    assert "logged in as" in said
    wait_until_gone(tmp_path)
    assert [record["source"] for record in crawled] == ["practice-shop"] * 2
    for number, record in enumerate(crawled, 1):
        assert record["queries"] == {"asked": 12, "with pictures": 12, "missed": {}}
        assert record["decision"] in ("kept", "rolled back") and record["steps"]
        for row in record["pictures"]:
            path = clone.data / "valid" / row["query"] / f"{number}.jpg"
            assert (row["number"], row["origin"]["file"]) == (number, str(path.resolve()))
            assert row["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
            assert row["origin"]["source"] == "practice-shop" and row["query"] in row["origin"]["title"]
    assert len(list((clone.data / "valid").glob("*/5.jpg"))) == 12

    cached, said = train(clone, "cached", "--online-cache", **NO_BROWSER)
    assert "logged in" not in said and "a crawl fetches" not in said
    assert [record["source"] for record in cached] == ["cache"] * 2
    for one, other in zip(crawled, cached, strict=True):
        assert [row["sha256"] for row in one["pictures"]] == [row["sha256"] for row in other["pictures"]]
        assert one["decision"] == other["decision"] and one["steps"] == other["steps"]
    left, right = weights(clone, "crawled"), weights(clone, "cached")
    assert left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)
