"""A 13-dimensional stand-in for the model, pictures to go with it, and a client that runs an app."""

from __future__ import annotations

import asyncio
import hashlib
import io
import threading
from collections.abc import Awaitable, Coroutine, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Any, TypeVar

import httpx
import numpy as np
import numpy.typing as npt
from fastapi import FastAPI
from PIL import Image, ImageDraw

from cnclip.errors import ImageError
from cnclip.image import ImageInput, PreprocessConfig, decode_image, resize_pixels
from service.gallery import Gallery, Item

T = TypeVar("T")
Vectors = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]

DIM = 13
PALETTE: dict[str, tuple[int, int, int]] = {
    "红": (214, 62, 52),
    "橙": (240, 150, 50),
    "黄": (245, 215, 80),
    "绿": (84, 168, 92),
    "蓝": (66, 118, 200),
    "紫": (140, 92, 180),
    "白": (250, 250, 250),
    "黑": (40, 40, 44),
}


def _noise(data: bytes, dim: int) -> Vectors:
    seed = int.from_bytes(hashlib.sha256(data).digest()[:8], "little")
    return np.random.default_rng(seed).standard_normal(dim).astype(np.float32)


def _unit(vector: Vectors) -> Vectors:
    return np.asarray(vector / np.linalg.norm(vector), dtype=np.float32)


def vector_of_text(text: str) -> Vectors:
    """A colour word points to its colour; everything else is a direction of its own."""
    colors = [index for index, word in enumerate(PALETTE) if word in text]
    if not colors:
        return _unit(_noise(text.encode(), DIM))
    vector = np.zeros(DIM, np.float32)
    vector[colors] = 1.0
    vector[8:] = 0.1 * _noise(text.encode(), 5)
    return _unit(vector)


def vector_of_pixels(pixels: Pixels) -> Vectors:
    """The palette's colour that is nearest to the middle of the picture, and a little of its own."""
    middle = pixels[12:20, 12:20].reshape(-1, 3).astype(np.float32).mean(axis=0)
    nearest = int(np.argmin([np.square(middle - color).sum() for color in PALETTE.values()]))
    vector = np.zeros(DIM, np.float32)
    vector[nearest] = 1.0
    vector[8:] = 0.1 * _noise(pixels.tobytes(), 5)
    return _unit(vector)


class DummyEncoder:
    """Satisfies EncoderProtocol. `gate` holds every batch while it is cleared; texts with "poison" raise
    ValueError, with "kill" SystemExit, with "nan" give a vector that is none."""

    name = "dummy"
    fingerprint = "d0" * 32
    image_fingerprint = "d1" * 32
    dim = DIM
    logit_scale = 100.0
    context_length = 52
    preprocess = PreprocessConfig(size=32)

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.batches: list[list[str]] = []
        self.image_batches: list[int] = []
        self.threads: set[str] = set()

    def _enter(self) -> None:
        self.threads.add(threading.current_thread().name)
        self.entered.set()
        assert self.gate.wait(30)

    def encode_texts(self, texts: Sequence[str], *, batch_size: int = 256) -> Vectors:
        assert batch_size >= len(texts)
        self.batches.append(list(texts))
        self._enter()
        if any("kill" in text for text in texts):
            raise SystemExit("the worker is gone")
        if any("poison" in text for text in texts):
            raise ValueError("secret detail of a poisoned text")
        vectors = np.stack([vector_of_text(text) for text in texts])
        vectors[["nan" in text for text in texts]] = np.nan
        return vectors

    def encode_images(
        self,
        images: Sequence[ImageInput],
        *,
        batch_size: int = 32,
        on_error: Any = "raise",
        skipped: list[tuple[int, ImageError]] | None = None,
    ) -> Vectors:
        assert batch_size and on_error == "raise" and skipped is None
        return self.encode_pixels(np.stack([self.prepare_image(image) for image in images]))

    def prepare_image(self, image: ImageInput, *, name: str | None = None) -> Pixels:
        return resize_pixels(decode_image(image, name=name, min_side=32), self.preprocess)

    def encode_pixels(self, pixels: Pixels) -> Vectors:
        self.image_batches.append(len(pixels))
        self._enter()
        return np.stack([vector_of_pixels(one) for one in pixels])


def picture(word: str = "红", shape: str = "circle", size: int = 240, format: str = "PNG") -> bytes:
    """A coloured shape on a pale ground, encoded."""
    image = Image.new("RGB", (size, size), (238, 234, 226))
    draw, edge = ImageDraw.Draw(image), size // 6
    box, color = (edge, edge, size - edge, size - edge), PALETTE[word]
    if shape == "circle":
        draw.ellipse(box, fill=color)
    elif shape == "square":
        draw.rounded_rectangle(box, size // 12, fill=color)
    else:
        draw.regular_polygon(
            (size // 2, size // 2, size // 2 - edge), {"triangle": 3, "hexagon": 6}[shape], fill=color
        )
    out = io.BytesIO()
    image.save(out, format)
    return out.getvalue()


def fill(gallery: Gallery, encoder: DummyEncoder) -> None:
    """Every colour in four shapes: 32 items with Chinese titles, ids `颜色/shape`."""
    shapes = {"circle": "圆", "square": "方块", "triangle": "三角", "hexagon": "六边形"}
    items: list[Item] = []
    for word in PALETTE:
        for shape, name in shapes.items():
            data = picture(word, shape)
            vector = vector_of_pixels(encoder.prepare_image(data))
            attributes: dict[str, str | int | float | bool | list[Any]] = {
                "shape": shape,
                "price": 10 * len(items),
            }
            items.append(Item(f"{word}/{shape}", vector, f"{word}色{name}", attributes, data))
    gallery.upsert(items)


class AppClient:
    """Runs an app with its lifespan in a thread of its own; calls are synchronous, `together` is not.

    (Starlette's TestClient wants another HTTP library with each release.)
    """

    def __init__(self, app: FastAPI, base_url: str = "http://127.0.0.1:8000") -> None:
        self.app = app
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._http = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=base_url, timeout=60)
        self._lifespan = app.router.lifespan_context(app)

    def __enter__(self) -> AppClient:
        self._thread.start()
        self.run(self._lifespan.__aenter__())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.run(self._http.aclose())
        self.run(self._lifespan.__aexit__(None, None, None))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    def request(self, method: str, path: str, **kwargs: Any) -> httpx.Response:
        return self.run(self._http.request(method, path, **kwargs))

    def begin(self, method: str, path: str, **kwargs: Any) -> Future[httpx.Response]:
        """A request that goes on in the background."""
        return asyncio.run_coroutine_threadsafe(self._http.request(method, path, **kwargs), self._loop)

    def get(self, path: str, **kwargs: Any) -> httpx.Response:
        return self.request("GET", path, **kwargs)

    def post(self, path: str, json: Any = None, **kwargs: Any) -> httpx.Response:
        return self.request("POST", path, json=json, **kwargs)

    def search(self, text: str, **options: Any) -> httpx.Response:
        return self.post("/v1/search", {"text": text, **options})

    def together(self, requests: Sequence[tuple[str, str, dict[str, Any]]]) -> list[httpx.Response]:
        """All at once; the answers in the order of `requests`."""

        async def gather() -> list[httpx.Response]:
            calls: list[Awaitable[httpx.Response]] = [
                self._http.request(method, path, **kwargs) for method, path, kwargs in requests
            ]
            return list(await asyncio.gather(*calls))

        return self.run(gather())


def error_of(response: httpx.Response) -> tuple[int, str]:
    """(status, code) of an error, after checking its shape."""
    body = response.json()
    assert set(body) == {"error"} and set(body["error"]) == {"code", "message", "request_id"}
    assert body["error"]["request_id"] == response.headers["x-request-id"]
    assert body["error"]["message"]
    return response.status_code, body["error"]["code"]
