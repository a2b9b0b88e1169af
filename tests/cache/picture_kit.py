"""What the tests of the picture cache share: pictures one can tell apart, and naive twins of Online-CNCLIP's
reader and writer, written from the description of its cache (with its bugs), not from our code."""

from __future__ import annotations

import hashlib
import io
import os
import random
from pathlib import Path

from PIL import Image

from cache.picture_cache import PictureCache
from cache.picture_meta import Provenance

# Every character of zhon.hanzi.punctuation 1.1.5, as glyphs.
PUNCTUATION = (
    "＂＃＄％＆＇（）＊＋，－／：；＜＝＞＠［＼］＾＿｀｛｜｝～｟｠｢｣､"
    "　、〃〈〉《》「」『』【】〔〕〖〗〘〙〚〛〜〝〞〟〰〾〿"
    "–—‘’‛“”„‟…‧﹏﹑﹔·！？｡。"
)
NOW = 1_800_000_000.0  # January 2027


def jpeg(label: str, size: tuple[int, int] = (224, 224), quality: int = 90) -> bytes:
    """A coloured pattern that belongs to `label` alone."""
    colours = random.Random(label.encode("utf-8", "surrogatepass")).randbytes(8 * 8 * 3)
    image = Image.frombytes("RGB", (8, 8), colours).resize(size, Image.Resampling.NEAREST)
    return encoded(image, quality)


def encoded(image: Image.Image, quality: int = 90) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def card(text_box: tuple[int, int, int, int] = (60, 90, 160, 130)) -> Image.Image:
    """A placeholder that is not quite flat: a grey bar on white."""
    image = Image.new("RGB", (300, 300), (250, 250, 250))
    image.paste((120, 120, 120), text_box)
    return image


def origin(label: str = "x", fetched_at: str = "2026-12-01T10:00:00+00:00") -> Provenance:
    digest = hashlib.sha256(label.encode("utf-8", "surrogatepass")).hexdigest()
    return Provenance(
        source="shop",
        item_id="42",
        image_url="https://img.example/1.jpg",
        page_url="https://s.example/?q=1",
        title=f"标题 {label}",
        layout="2025",
        fetched_at=fetched_at,
        original_sha256=digest,
        width=800,
        height=600,
        dhash="0123456789abcdef",
    )


def put(cache: PictureCache, query: str, number: int = 1, label: str | None = None) -> bytes:
    """Store the picture of `label` (default: of query and number); its bytes."""
    data = jpeg(label if label is not None else f"{query} {number}")
    cache.put(query, number, data, origin())
    return data


def content(cache: PictureCache, query: str, number: int = 1) -> bytes | None:
    path = cache.get(query, number)
    return path.read_bytes() if path else None


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every file below `folder`, except locks."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.parent.name != ".locks")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def age(path: Path, seconds: float, now: float | None = None) -> None:
    """Make `path` look as if it was last written `seconds` before now."""
    when = (path.stat().st_mtime if now is None else now) - seconds
    os.utime(path, (when, when))


def reference_directory(query: str) -> str:
    name = query.strip().replace(" ", "")
    return "".join(character for character in name if character not in PUNCTUATION)


def reference_read(root: Path, query: str, number: int) -> bytes | None:
    """As Online-CNCLIP's trainer looks for a picture: the decoded pixels."""
    path = root / reference_directory(query) / f"{number}.jpg"
    if not (path.exists() and path.stat().st_size >= 500):
        return None
    with Image.open(path) as image:
        pixels = image.convert("RGB")
        assert pixels.size == (224, 224)
        return pixels.tobytes()


def reference_write(root: Path, query: str, downloads: list[bytes | None], fail: Image.Image) -> None:
    """As Online-CNCLIP's crawler stores what it downloaded as pictures 1, 2, …; None: the download failed."""
    folder = root / reference_directory(query)
    folder.mkdir(parents=True, exist_ok=True)
    fail.save(folder / "0_1.jpg")
    for number, body in enumerate(downloads, 1):
        path = folder / f"{number}.jpg"
        if body is None:
            fail.save(path)  # and counts as a good picture from now on
            continue
        path.write_bytes(body)
        with Image.open(path) as image:
            try:
                small = image.resize((224, 224)).convert("RGB")
            except OSError:
                return  # the crawler ends here: the file stays as it came, and the mark for ever
        small.save(path)
        (folder / f"0_{number}.jpg").unlink(missing_ok=True)
