"""Latency and throughput of `POST /v1/search` on a real server, under many clients.

    python -m tests.benchmarks.bench_service                      # 20,000 random vectors, the model `lite`
    python -m tests.benchmarks.bench_service --gallery DIR        # your own gallery
    python -m tests.benchmarks.bench_service --dummy              # no model: what the service itself costs

The server is a process of its own, started with `cnclip serve`; the clients are one other process that keeps
`--clients` connections busy. "distinct": no query comes twice, so each goes through the model. "repeated":
100 queries over and over, so nearly all vectors come from the cache. Latency is what a client sees.

2026-11-21, 2 cores (AMD EPYC) shared with a training run, `lite` with random weights, 5,000 items of 512:

    distinct          32 clients   p50 43.9 ms   p90 53.1 ms   p99 63.7 ms    721 requests/s
    repeated          32 clients   p50 24.9 ms   p90 32.5 ms   p99 43.8 ms   1228 requests/s
    distinct, alone    1 client    p50  4.3 ms   p90  5.4 ms   p99  6.3 ms    225 requests/s
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
from rich.console import Console
from rich.table import Table

from service.gallery import Gallery, Item

ROOT = Path(__file__).resolve().parents[2]
WORDS = (
    ["红色", "蓝色", "黑色", "白色", "复古", "简约", "可爱", "大号", "儿童", "新款"],
    ["纯棉", "真皮", "玻璃", "不锈钢", "实木", "羊毛", "有机", "进口", "手工", "防水"],
    ["连衣裙", "运动鞋", "水杯", "苹果", "台灯", "双肩包", "书桌", "围巾", "牛奶", "雨伞"],
)


def distinct_queries() -> Iterator[str]:
    """Product queries of 6 to 9 characters and a number, without end and without repetition."""
    for number in itertools.count():
        yield from ("".join([*words, str(number)]) for words in itertools.product(*WORDS))


def make_gallery(path: Path, n_items: int, model: str, dummy: bool) -> None:
    """A gallery of random unit vectors, as many as asked for."""
    if dummy:
        from tests.service.dummy import DummyEncoder

        name, fingerprint, dim = DummyEncoder.name, DummyEncoder.fingerprint, DummyEncoder.dim
    else:
        import cnclip

        encoder = cnclip.load(model)
        name, fingerprint, dim = model, encoder.fingerprint, encoder.dim
    rng = np.random.default_rng(0)
    with Gallery.create(path, model_name=name, fingerprint=fingerprint, dim=dim) as gallery:
        for start in range(0, n_items, 5000):
            vectors = rng.standard_normal((min(5000, n_items - start), dim), dtype=np.float32)
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            gallery.upsert(
                [Item(f"{start + i}", vector, f"商品{start + i}") for i, vector in enumerate(vectors)]
            )


@contextmanager
def serving(gallery: Path, model: str, dummy: bool, clients: int) -> Iterator[str]:
    """The address of a server on a free port."""
    module = "tests.service.dummy_server" if dummy else "run_scripts.cli"
    flags = ["--port", "0", "--read-only", "--queue-size", str(max(256, 2 * clients)), "--model", model]
    command = [sys.executable, "-m", module, "serve", "--gallery", str(gallery), *flags]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            found = re.search(r"http://\S+", process.stdout.readline() if process.stdout else "")
            if found is None:
                raise SystemExit("the server did not start")
            yield found[0]
        finally:
            process.send_signal(signal.SIGTERM)


class Client:
    """One keep-alive connection; a few lines of HTTP, because a full library would be what is measured."""

    def __init__(self, url: str, top_k: int) -> None:
        parts = urlsplit(url)
        self._host, self._port, self._top_k = parts.hostname or "127.0.0.1", parts.port or 80, top_k

    async def connect(self) -> None:
        self._reader, self._writer = await asyncio.open_connection(self._host, self._port)

    async def search(self, text: str) -> float:
        """Seconds until the whole answer was there. Raises RuntimeError if it is not a 200."""
        body = json.dumps({"text": text, "top_k": self._top_k}).encode()
        head = f"POST /v1/search HTTP/1.1\r\nHost: {self._host}\r\nContent-Type: application/json\r\n"
        started = time.perf_counter()
        self._writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        answer = await self._reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", answer, re.IGNORECASE)
        await self._reader.readexactly(int(length[1]) if length else 0)
        if b" 200 " not in answer.split(b"\r\n", 1)[0]:
            raise RuntimeError(answer.split(b"\r\n", 1)[0].decode())
        return time.perf_counter() - started

    def close(self) -> None:
        self._writer.close()


async def measure(url: str, queries: Sequence[str], clients: int, top_k: int) -> tuple[np.ndarray, float]:
    """(seconds of each request, seconds of them all) with `clients` requests always on their way."""
    waiting = iter(queries)
    seconds: list[float] = []

    async def work(client: Client) -> None:
        for text in waiting:  # shared: whoever is free takes the next
            seconds.append(await client.search(text))

    connections = [Client(url, top_k) for _ in range(clients)]
    await asyncio.gather(*(client.connect() for client in connections))
    started = time.perf_counter()
    await asyncio.gather(*map(work, connections))
    elapsed = time.perf_counter() - started
    for client in connections:
        client.close()
    return np.array(seconds), elapsed


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--gallery", type=Path, help="an existing gallery (default: random vectors)")
    parser.add_argument("--items", type=int, default=20_000, help="size of the random gallery")
    parser.add_argument("--model", default="lite")
    parser.add_argument("--dummy", action="store_true", help="a model that costs nothing")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--top-k", type=int, default=10)
    args = parser.parse_args(argv)
    queries = distinct_queries()
    few = list(itertools.islice(queries, 100))
    distinct = list(itertools.islice(queries, args.requests))
    repeated = list(itertools.islice(itertools.cycle(few), args.requests))
    table = Table("queries", "clients", "requests", "p50 ms", "p90 ms", "p99 ms", "requests/s")
    with ExitStack() as stack:
        gallery = args.gallery
        if gallery is None:
            gallery = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "gallery"
            make_gallery(gallery, args.items, args.model, args.dummy)
        url = stack.enter_context(serving(gallery, args.model, args.dummy, args.clients))
        asyncio.run(
            measure(url, few, args.clients, args.top_k)
        )  # warms up, and fills the cache for "repeated"
        runs = {"distinct": (distinct, args.clients), "repeated": (repeated, args.clients)}
        runs["distinct, alone"] = (list(itertools.islice(queries, args.requests // 10)), 1)
        for name, (texts, clients) in runs.items():
            seconds, elapsed = asyncio.run(measure(url, texts, clients, args.top_k))
            p50, p90, p99 = (f"{value * 1000:.1f}" for value in np.percentile(seconds, [50, 90, 99]))
            table.add_row(name, f"{clients}", f"{len(texts)}", p50, p90, p99, f"{len(texts) / elapsed:.0f}")
    console = Console()
    console.print(f"{os.cpu_count()} cores, model {'none' if args.dummy else args.model}, gallery {gallery}")
    console.print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
