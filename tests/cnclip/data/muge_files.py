"""Small MUGE splits and legacy LMDB directories, as Chinese-CLIP writes them."""

from __future__ import annotations

import base64
import io
import json
import pickle
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import lmdb
from PIL import Image


def picture(seed: int, side: int = 24, kind: str = "JPEG") -> bytes:
    """A small encoded picture, different for each seed."""
    buffer = io.BytesIO()
    colour = (seed * 37 % 256, seed * 91 % 256, seed * 151 % 256)
    Image.new("RGB", (side, side + seed % 5), colour).save(buffer, kind)
    return buffer.getvalue()


def image_line(image_id: object, data: bytes, *, url_safe: bool = True, padded: bool = True) -> str:
    encoded = (base64.urlsafe_b64encode if url_safe else base64.b64encode)(data).decode()
    return f"{image_id}\t{encoded if padded else encoded.rstrip('=')}"


def text_line(text_id: object, text: str, image_ids: Sequence[object] = ()) -> str:
    return json.dumps({"text_id": text_id, "text": text, "image_ids": list(image_ids)}, ensure_ascii=False)


def write_lines(path: Path, lines: Iterable[str]) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def write_split(folder: Path, split: str, n_images: int = 6, *, first: int = 0) -> dict[str, bytes]:
    """`n_images` pictures with ids 100.., two texts sharing all of them and one for each picture."""
    folder.mkdir(parents=True, exist_ok=True)
    images = {str(100 + i): picture(first + i) for i in range(n_images)}
    ids = [int(image_id) for image_id in images]
    write_lines(folder / f"{split}_imgs.tsv", (image_line(*item) for item in images.items()))
    texts = [text_line(1, "所有", ids), text_line(2, "一半", ids[::2])]
    texts += [text_line(10 + i, f"第{i}张", [image_id]) for i, image_id in enumerate(ids)]
    write_lines(folder / f"{split}_texts.jsonl", texts)
    return images


def write_legacy(
    split_dir: Path, images: dict[str, bytes], pairs: Sequence[Any] | None, *, url_safe: bool = True
) -> None:
    """The layout of Chinese-CLIP's build script; a `bytes` pair is stored as it is, others are pickled."""
    encode = base64.urlsafe_b64encode if url_safe else base64.b64encode
    values = {image_id.encode(): encode(data) for image_id, data in images.items()}
    _write_env(split_dir / "imgs", {**values, b"num_images": str(len(images)).encode()})
    if pairs is not None:
        rows = {
            str(i).encode(): pair if isinstance(pair, bytes) else pickle.dumps(pair)
            for i, pair in enumerate(pairs)
        }
        _write_env(split_dir / "pairs", {**rows, b"num_samples": str(len(pairs)).encode()})


def _write_env(path: Path, values: dict[bytes, bytes]) -> None:
    path.mkdir(parents=True)
    with lmdb.open(str(path), map_size=2**24) as env, env.begin(write=True) as transaction:
        for key, value in values.items():
            transaction.put(key, value)
