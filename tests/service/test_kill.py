"""A server killed while it takes in pictures: what it acknowledged is there when it comes back."""

from __future__ import annotations

import io
import random
import signal
import threading
from pathlib import Path

import httpx
import pytest
from PIL import Image

from service.gallery import Gallery
from tests.service.dummy import DummyEncoder
from tests.service.dummy_server import dummy_server


def png(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), (number % 256, number // 256, 77)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.slow
def test_nothing_acknowledged_is_lost_when_the_server_is_killed(tmp_path: Path) -> None:
    encoder = DummyEncoder()
    folder = tmp_path / "gallery"
    Gallery.create(folder, model_name=encoder.name, fingerprint=encoder.fingerprint, dim=encoder.dim).close()
    acknowledged: dict[str, bytes] = {}
    counter = iter(range(10_000))
    rng = random.Random(0)

    def put(base: str, enough: threading.Event, goal: int) -> None:
        with httpx.Client(base_url=base, timeout=30) as client:
            while True:
                number = next(counter)
                picture = png(number)
                try:
                    answer = client.put(
                        f"/v1/items/sku-{number}", files={"file": picture}, data={"title": f"第{number}件"}
                    )
                except httpx.TransportError:
                    return  # killed: this one was never acknowledged
                assert answer.status_code in (200, 201), answer.text
                acknowledged[f"sku-{number}"] = picture
                if len(acknowledged) >= goal:
                    enough.set()

    for _ in range(3):
        with dummy_server(folder) as server:
            enough = threading.Event()
            goal = len(acknowledged) + rng.randint(5, 25)
            threads = [threading.Thread(target=put, args=(server.url, enough, goal)) for _ in range(3)]
            for thread in threads:
                thread.start()
            assert enough.wait(60)
            server.stop(signal.SIGKILL)
            for thread in threads:
                thread.join()
    with (
        dummy_server(folder, "--read-only") as server,
        httpx.Client(base_url=server.url, timeout=30) as client,
    ):
        for item_id, picture in acknowledged.items():
            assert client.get(f"/v1/items/{item_id}/image").content == picture, item_id
        found = client.post("/v1/search", json={"text": "任何", "top_k": 100}).json()["results"]
        assert len(found) >= min(100, len(acknowledged))
