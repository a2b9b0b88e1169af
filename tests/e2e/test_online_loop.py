"""The whole loop with real processes: a service is searched and judged, `cnclip online` learns from that and
activates what it learnt, and a rollback is respected."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from cnclip.data.dataset import PairDataset
from cnclip.model.save import save_safetensors
from tests.cnclip.online.world import COLOURS, NEW, build_world, square, taught_model

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 600.0
PURPLE = next(iter(NEW))
KEY = "a key of this test"
CNCLIP = [sys.executable, "-m", "run_scripts.cli"]


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """A model that knows four colours, and a gallery of six."""
    lmdb = build_world(tmp_path)
    save_safetensors(taught_model(PairDataset(lmdb / "train"))[0], tmp_path / "tiny.safetensors")
    (tmp_path / "items").mkdir()
    rows = []
    for number, name in enumerate(COLOURS):
        rng = np.random.default_rng(number + 70)
        for nth in range(6):
            item = f"{name}{nth}"
            (tmp_path / "items" / f"{item}.jpg").write_bytes(square(COLOURS[name], rng))
            rows.append(json.dumps({"id": item, "image": f"{item}.jpg", "title": item}, ensure_ascii=False))
    (tmp_path / "items" / "catalogue.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    model = str(tmp_path / "tiny.safetensors")
    cnclip(
        "index",
        str(tmp_path / "items" / "catalogue.jsonl"),
        f"--gallery={tmp_path}/gallery",
        f"--model={model}",
    )
    return tmp_path


def cnclip(*words: str) -> str:
    answer = subprocess.run(
        [*CNCLIP, *words], cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


@contextmanager
def serving(gallery: Path) -> Iterator[httpx.Client]:
    command = [*CNCLIP, "serve", f"--gallery={gallery}", "--port=0", "--query-log", "--canary-margin=1"]
    environment = {**os.environ, "CNCLIP_API_KEY": KEY, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            found = re.search(r"http://\S+", server.stdout.readline())
            assert found is not None
            headers = {"Authorization": f"Bearer {KEY}"}
            with httpx.Client(base_url=found[0], headers=headers, timeout=60, trust_env=False) as client:
                yield client
        finally:
            server.send_signal(signal.SIGTERM)


def search(client: httpx.Client, text: str) -> dict[str, Any]:
    answer = client.post("/v1/search", json={"text": text, "top_k": 6})
    assert answer.status_code == 200, answer.text
    content: dict[str, Any] = answer.json()
    return content


def learn(world: Path, client: httpx.Client) -> str:
    """One round of the worker."""
    key = world / "key"
    key.write_text(f"{KEY}\n")
    words = ["--once", f"--gallery={world}/gallery", f"--train-data={world}/lmdb/train", "--feedback-only"]
    words += [f"--model={world}/tiny.safetensors", f"--service={client.base_url}", f"--api-key-file={key}"]
    words += ["--online-lr=5e-3", "--online-canary=8", "--online-replay=16", "--online-tolerance=1"]
    return cnclip("online", *words, "--online-min-pairs=2", "--precision=fp32", "--device=cpu", "--seed=3")


def judge(client: httpx.Client, name: str, *items: str, relevant: bool = True) -> None:
    for item in items:
        body = {"query": name, "item_id": item, "relevant": relevant}
        answer = client.post("/v1/feedback", json=body)
        assert answer.status_code == 201, answer.text


def test_searched_judged_learnt_activated_and_taken_back(world: Path) -> None:
    with serving(world / "gallery") as client:
        for name in NEW:
            judge(client, name, *(f"{name}{nth}" for nth in range(4)))
        judge(client, PURPLE, f"{PURPLE}0", relevant=False)
        before = search(client, PURPLE)["model"]

        assert learn(world, client).startswith("kept tiny/0001: ")
        now = search(client, PURPLE)["model"]
        assert now["name"] == "tiny/0001" and now["fingerprint"] != before["fingerprint"]
        models = client.get("/v1/models").json()
        assert models["active"]["name"] == "tiny/0001" and models["activation"]["outcome"] == "done"
        record = json.loads((world / "gallery/models/tiny/0001/round.json").read_text(encoding="utf-8"))
        taught = {row["origin"]["item"] for row in record["pictures"] if row["outcome"] == "used"}
        assert taught == {f"{name}{nth}" for name in NEW for nth in range(4)} - {f"{PURPLE}0"}
        assert learn(world, client) == ""  # once

        assert client.post("/v1/models:rollback").status_code == 202
        wait_for(client, before["fingerprint"])
        for name in NEW:
            judge(client, name, f"{name}4", f"{name}5")
        assert learn(world, client).startswith("kept tiny/0002: ")
        versions = {one["version"]: one for one in client.get("/v1/models").json()["versions"]}
        assert versions["0002"]["active"] and not versions["0001"]["active"]
        assert versions["0002"]["parent"] == {"version": None, "fingerprint": before["fingerprint"]}


def wait_for(client: httpx.Client, fingerprint: str) -> None:
    deadline = time.monotonic() + 120
    while client.get("/v1/models").json()["active"]["fingerprint"] != fingerprint:
        assert time.monotonic() < deadline
        time.sleep(0.1)
