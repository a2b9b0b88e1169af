"""kill -9 of the online worker at random moments: every praise teaches once, and every version is whole.

$CNCLIP_WORKER_KILLS sets how often.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import cnclip
from cache.blob_store import BlobStore
from cnclip.data.dataset import PairDataset
from cnclip.model.save import save_safetensors
from cnclip.online.versions import ModelVersions
from service.gallery import Gallery
from service.journal import Journal
from tests.cnclip.online.world import COLOURS, build_world, square, taught_model

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
KILLS = int(os.environ.get("CNCLIP_WORKER_KILLS", "4"))
EACH = 2  # praised items of a colour
LIMIT_S = 300.0


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    """A worker that takes three rounds: two colours at a time, each of which counts as one that helped."""
    lmdb = build_world(tmp_path)
    save_safetensors(taught_model(PairDataset(lmdb / "train"))[0], tmp_path / "tiny.safetensors")
    gallery = tmp_path / "gallery"
    Gallery.create(gallery, model_name="tiny", fingerprint="f", dim=32).close()
    images, journal = BlobStore(gallery / "images"), Journal(gallery / "journal.sqlite").open()
    for number, name in enumerate(COLOURS):
        rng = np.random.default_rng(number + 30)
        for nth in range(EACH):
            digest = images.put(square(COLOURS[name], rng))
            journal.add_feedback(float(number), name, f"{name}{nth}", True, digest, "f")
    journal.close()
    words = (
        f"--gallery={gallery} --train-data={lmdb}/train --model={tmp_path}/tiny.safetensors --feedback-only"
    )
    words += " --max-queries=2 --online-min-pairs=2 --online-tolerance=1 --no-online-gate --online-canary=8"
    words += " --online-replay=16 --precision=fp32 --device=cpu --interval=0"
    return [sys.executable, "-m", "run_scripts.cli", "online", *words.split()]


def test_killed_again_and_again(command: list[str], tmp_path: Path) -> None:
    chance = random.Random(int(os.environ.get("CNCLIP_KILL_SEED", "5")))
    versions = ModelVersions(tmp_path / "gallery" / "models")
    for _ in range(KILLS):
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            process.wait(chance.uniform(1.0, 9.0))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for version in versions.list():
            assert cnclip.load(version.weights).fingerprint == version.fingerprint
    for _ in COLOURS:
        answer = subprocess.run(
            [*command, "--once"], cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S, check=False
        )
        assert answer.returncode == 0, answer.stderr
        if not answer.stdout:
            break
    assert answer.stdout == ""
    taught: Counter[str] = Counter()
    for version in versions.list():
        record = json.loads((version.folder / "round.json").read_text(encoding="utf-8"))
        taught.update(row["origin"]["item"] for row in record["pictures"] if row["outcome"] == "used")
    assert taught == {f"{name}{nth}": 1 for name in COLOURS for nth in range(EACH)}
    assert [version.version for version in versions.list()] == ["0001", "0002", "0003"]
    assert [version.parent and version.parent.version for version in versions.list()] == [
        None,
        "0001",
        "0002",
    ]
