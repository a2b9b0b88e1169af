"""What clients see of a change of the model: latency before, during and after, errors, and who answered.

    python -m tests.benchmarks.bench_swap --gallery DIR           # of a gallery with pictures; it is copied
    python -m tests.benchmarks.bench_swap --gallery DIR --text    # only the text tower is another one

`--clients` connections ask all the time, each the next query as soon as it has the last answer, and no query
comes twice. Meanwhile a new version of the gallery's model is published and activated, and then rolled back.
The version is the same model with small noise in its weights and another basis of its space: alone it finds
what the model finds, but a query of one with the vectors of the other finds anything. Afterwards a sample of
the answers, with all of the second around the first answer of the new model ("swap") and around its last
("way back"), is compared with an exact search by the model that each names (swap_judge.py); how many of them
would have been told from it, had they been mixed, is counted too.
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
from tests.benchmarks.swap_judge import Judge

NOISE = 0.002  # relative to the standard deviation of each weight
TOP_K = 10
SAMPLE = 2000  # answers of each model that are checked, besides those of the swap
TURNS = ("swap", "way back")


@dataclass(frozen=True)
class Answer:
    """One request. ended: seconds since the start; took: seconds; model: what the answer says, or ""."""

    text: str
    ended: float
    took: float
    status: int
    model: str
    ids: tuple[str, ...]


class SwapClient(Client):
    """Keeps what was answered."""

    reconnected = 0  # a server closes connections on which nothing came for five seconds

    async def ask(self, text: str, start: float) -> Answer:
        """Raises IncompleteReadError if the connection ends within an answer."""
        try:
            return await self._ask(text, start)
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            if isinstance(error, asyncio.IncompleteReadError) and error.partial:
                raise
            self.reconnected += 1
            await self.connect()
            return await self._ask(text, start)

    async def _ask(self, text: str, start: float) -> Answer:
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
        ids = tuple(result["id"] for result in found.get("results", ()))
        model = found.get("model", {}).get("name", "")
        return Answer(text, ended - start, ended - began, status, model, ids)


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
        self.clients = [SwapClient(url, TOP_K) for _ in range(clients)]
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
        await asyncio.gather(*(client.connect() for client in self.clients))
        await asyncio.gather(*map(self._work, self.clients), self._operate(quiet_s))

    def between(self, begin: float, end: float) -> list[Answer]:
        return [answer for answer in self.answers if begin <= answer.ended < end]

    def phases(self) -> dict[str, list[Answer]]:
        marks = self.marks
        named = {
            name: self.between(marks[f"{name} begins"], marks[f"{name} ends"])
            for name in ("before", "activation", "after", "rollback")
        }
        ended = [answer.ended for answer in self.answers if answer.model.startswith("bench/")]
        turns = zip(TURNS, (min(ended), max(ended)), strict=True)
        return {**named, **{name: self.between(turn - 0.5, turn + 0.5) for name, turn in turns}}


def print_run(console: Console, run: Run) -> float:
    """The table. Returns p99 during the activation over p99 before."""
    table = Table("phase", "seconds", "answers", "requests/s", "p50 ms", "p99 ms", "max ms", "p99 / before")
    phases = run.phases()
    p99_before = float(np.percentile([answer.took for answer in phases["before"]], 99))
    ratios = {}
    for name, answers in phases.items():
        took = np.array([answer.took for answer in answers]) * 1000
        seconds = 1.0 if name in TURNS else run.marks[f"{name} ends"] - run.marks[f"{name} begins"]
        p50, p99 = np.percentile(took, [50, 99])
        ratios[name] = p99 / 1000 / p99_before
        cells = (f"{seconds:.1f}", f"{len(took)}", f"{len(took) / seconds:.0f}", f"{p50:.1f}", f"{p99:.1f}")
        table.add_row(name, *cells, f"{took.max():.1f}", f"{ratios[name]:.2f}")
    console.print(table)
    errors = Counter(answer.status for answer in run.answers if answer.status != 200)
    by_model = Counter(answer.model for answer in run.answers if answer.status == 200)
    answered = ", ".join(f"{n} of {name}" for name, n in by_model.items())
    reconnected = sum(client.reconnected for client in run.clients)
    console.print(f"answers: {answered}; errors: {dict(errors) or 'none'}; idle closed: {reconnected}")
    for activation in run.activations:
        console.print("{kind} of {model}: {seconds:.1f} s, {total} items; {canary}".format(**activation))
    return max(ratios[name] for name in ("activation", "rollback", *TURNS))


def print_check(console: Console, run: Run, judge: Judge, text_only: bool) -> None:
    """Whether answers are of the model that they name."""
    phases = run.phases()
    at_turns = {id(answer) for name in TURNS for answer in phases[name]}
    table = Table("answers of", "checked", "not of it", "a mixture would have shown in")
    for name, other in (("base", "bench"), ("bench", "base")):
        own = [
            a for a in run.answers if a.status == 200 and a.model.startswith("bench/") is (name == "bench")
        ]
        step = max(1, len(own) // SAMPLE)
        checked = [(a.text, a.ids) for i, a in enumerate(own) if i % step == 0 or id(a) in at_turns]
        foreign = judge.foreign(checked, name, name)
        shown = "–" if text_only else f"{judge.foreign(checked, name, other) / len(checked):.1%}"
        table.add_row(own[0].model, f"{len(checked)}", f"{foreign}", shown)
    console.print(table)


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
        judge = Judge(gallery, models, args.text)
    console.print(f"{os.cpu_count()} cores, load average {load}, {args.clients} clients, {args.gallery}")
    ratio = print_run(console, run)
    print_check(console, run, judge, args.text)
    console.print(f"p99 while the model is changed is at most {ratio:.2f} times that before")
    return 0


if __name__ == "__main__":
    sys.exit(main())
