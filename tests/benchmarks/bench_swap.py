"""What clients see of a change of the model: latency before, during and after, errors, and who answered.

    python -m tests.benchmarks.bench_swap --gallery DIR           # of a gallery with pictures; it is copied
    python -m tests.benchmarks.bench_swap --gallery DIR --text    # only the text tower is another one

`--clients` connections ask all the time, each the next query as soon as it has the last answer, and no query
comes twice. Meanwhile a new version of the gallery's model is published and activated, and then rolled back.
The version is the same model with small noise in its weights and another basis of its space: alone it finds
what the model finds, but a query of one with the vectors of the other finds nothing (cosines near 0), so that
every answer shows whether it is of one model. "swap" is the second around the first answer of the new model.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from rich.console import Console
from rich.table import Table

from service.gallery import find_model, read_models
from tests.benchmarks.bench_service import ROOT, Client, distinct_queries

NOISE = 0.002  # relative to the standard deviation of each weight
MIXED = 0.2  # no best hit of a mixture comes near; of one model, each is above


@dataclass(frozen=True)
class Answer:
    """One request. ended: seconds since the start; took: seconds; model: what the answer says, or ""."""

    ended: float
    took: float
    status: int
    model: str
    best: float


class SwapClient(Client):
    """Keeps what was answered."""

    async def ask(self, text: str, start: float) -> Answer:
        body = json.dumps({"text": text, "top_k": self._top_k}).encode()
        head = f"POST /v1/search HTTP/1.1\r\nHost: {self._host}\r\nContent-Type: application/json\r\n"
        began = time.perf_counter()
        self._writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        answer = await self._reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", answer, re.IGNORECASE)
        content = await self._reader.readexactly(int(length[1]) if length else 0)
        ended = time.perf_counter()
        status = int(answer.split(b" ", 2)[1])
        found = json.loads(content) if status == 200 else {}
        best = found["results"][0]["score"] if found.get("results") else 0.0
        return Answer(ended - start, ended - began, status, found.get("model", {}).get("name", ""), best)


def publish_changed(gallery: Path, models: Path, text_only: bool) -> None:
    """A version of the gallery's model in another basis, with noise; only of the text tower if asked for."""
    import torch

    from cnclip.model.encoder import find_weights
    from cnclip.model.weights import load_model
    from cnclip.online.versions import ModelVersions

    weights = find_weights(find_model(gallery, read_models(gallery).active))
    model = load_model(weights)
    torch.manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.startswith("visual.") and text_only:
                continue
            if weight.ndim > 1:
                weight.add_(torch.randn_like(weight) * weight.std() * NOISE)
        if not text_only:
            basis, _ = torch.linalg.qr(
                torch.randn(model.config.vision.embed_dim, model.config.vision.embed_dim)
            )
            projection: Any = model.visual.proj
            projection.weight.copy_(basis @ projection.weight)
            projection.bias.copy_(basis @ projection.bias)
            model.text_projection.copy_(model.text_projection @ basis.T)
    ModelVersions(models).publish("bench", model, parent_weights=weights, summary={"noise": NOISE})


@contextmanager
def serving(gallery: Path, models: Path, clients: int) -> Iterator[str]:
    """The address of a server that may be written to."""
    flags = ["--port", "0", "--queue-size", str(max(256, 2 * clients)), "--models", str(models)]
    command = [sys.executable, "-m", "run_scripts.cli", "serve", "--gallery", str(gallery), *flags]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            found = re.search(r"http://\S+", process.stdout.readline() if process.stdout else "")
            if found is None:
                raise SystemExit("the server did not start")
            yield found[0]
        finally:
            process.send_signal(signal.SIGTERM)


class Run:
    """Clients that ask until they are told to stop, and an operator who changes the model meanwhile."""

    def __init__(self, url: str, clients: int, pause_s: float) -> None:
        self.url = url
        self.answers: list[Answer] = []
        self.marks: dict[str, float] = {}
        self.activations: list[dict[str, Any]] = []
        self._clients = [SwapClient(url, 10) for _ in range(clients)]
        self._queries = distinct_queries()
        self._start = time.perf_counter()
        self._pause_s = pause_s
        self._stop = False

    def mark(self, name: str) -> None:
        self.marks[name] = time.perf_counter() - self._start

    async def _work(self, client: SwapClient) -> None:
        for text in self._queries:  # shared: whoever is free takes the next
            self.answers.append(await client.ask(text, self._start))
            if self._stop:
                return
            await asyncio.sleep(self._pause_s)

    async def _change(self, http: httpx.AsyncClient, path: str, body: Any, name: str) -> None:
        self.mark(f"{name} begins")
        response = await http.post(path, json=body)
        if response.status_code != 202:
            raise SystemExit(f"{path}: {response.text}")
        while True:
            await asyncio.sleep(0.2)
            activation = (await http.get("/v1/models")).json()["activation"]
            if activation["outcome"] != "running":
                break
        self.mark(f"{name} ends")
        self.activations.append(activation)
        if activation["outcome"] != "done":
            raise SystemExit(f"{path}: {activation}")

    async def _operate(self, quiet_s: float) -> None:
        await asyncio.sleep(2)  # warms up
        async with httpx.AsyncClient(base_url=self.url, timeout=60) as http:
            self.mark("before begins")
            await asyncio.sleep(quiet_s)
            self.mark("before ends")
            await self._change(http, "/v1/models:activate", {"version": "0001"}, "activation")
            self.mark("after begins")
            await asyncio.sleep(quiet_s)
            self.mark("after ends")
            await self._change(http, "/v1/models:rollback", None, "rollback")
            await asyncio.sleep(2)
        self._stop = True

    async def all(self, quiet_s: float) -> None:
        await asyncio.gather(*(client.connect() for client in self._clients))
        await asyncio.gather(*map(self._work, self._clients), self._operate(quiet_s))

    def between(self, begin: float, end: float) -> list[Answer]:
        return [answer for answer in self.answers if begin <= answer.ended < end]

    def phases(self) -> dict[str, list[Answer]]:
        marks = self.marks
        named = {
            name: self.between(marks[f"{name} begins"], marks[f"{name} ends"])
            for name in ("before", "activation", "after", "rollback")
        }
        first = min(answer.ended for answer in self.answers if answer.model.startswith("bench/"))
        return {**named, "swap": self.between(first - 0.5, first + 0.5)}


def print_run(console: Console, run: Run) -> float:
    """The table. Returns p99 during the activation over p99 before."""
    table = Table("phase", "seconds", "answers", "requests/s", "p50 ms", "p99 ms", "max ms", "p99 / before")
    phases = run.phases()
    p99_before = float(np.percentile([answer.took for answer in phases["before"]], 99))
    ratios = {}
    for name in ("before", "activation", "swap", "after", "rollback"):
        took = np.array([answer.took for answer in phases[name]]) * 1000
        seconds = 1.0 if name == "swap" else run.marks[f"{name} ends"] - run.marks[f"{name} begins"]
        p50, p99 = np.percentile(took, [50, 99])
        ratios[name] = p99 / 1000 / p99_before
        cells = (f"{seconds:.1f}", f"{len(took)}", f"{len(took) / seconds:.0f}", f"{p50:.1f}", f"{p99:.1f}")
        table.add_row(name, *cells, f"{took.max():.1f}", f"{ratios[name]:.2f}")
    console.print(table)
    errors = Counter(answer.status for answer in run.answers if answer.status != 200)
    good = [answer for answer in run.answers if answer.status == 200]
    mixed = [answer for answer in good if answer.best < MIXED]
    by_model = Counter(answer.model for answer in good)
    console.print(f"answers: {len(good)}, of " + ", ".join(f"{name}: {n}" for name, n in by_model.items()))
    console.print(f"errors: {dict(errors) or 'none'}; answers that mix two models: {len(mixed)}")
    console.print(f"lowest best cosine: {min(answer.best for answer in good):.3f} (a mixture: below {MIXED})")
    for activation in run.activations:
        console.print(
            {key: activation[key] for key in ("model", "kind", "seconds", "done", "total", "canary")}
        )
    return max(ratios["activation"], ratios["swap"])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--gallery", type=Path, required=True, help="a gallery with pictures (it is copied)")
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--quiet", type=float, default=15, help="seconds before and after the activation")
    parser.add_argument("--pause", type=float, default=0, help="seconds between an answer and the next query")
    parser.add_argument("--text", action="store_true", help="only the text tower changes")
    args = parser.parse_args(argv)
    console = Console()
    with tempfile.TemporaryDirectory() as folder:
        gallery, models = Path(folder) / "gallery", Path(folder) / "models"
        shutil.copytree(args.gallery, gallery)
        publish_changed(gallery, models, args.text)
        with serving(gallery, models, args.clients) as url:
            run = Run(url, args.clients, args.pause)
            asyncio.run(run.all(args.quiet))
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    console.print(
        f"{os.cpu_count()} cores (load average at the end {load}), {args.clients} clients, {args.gallery}"
    )
    ratio = print_run(console, run)
    console.print(f"p99 during the activation and the swap is at most {ratio:.2f} times that before")
    return 0


if __name__ == "__main__":
    sys.exit(main())
