"""The image site: pictures in any size, and the many ways in which a picture can be bad."""

from __future__ import annotations

import asyncio
import functools
import io
from pathlib import Path

from PIL import Image, UnidentifiedImageError
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response

from crawler.practice_shop.addresses import BLANK, BLANK_GIF, ICON, PictureAddress, read_picture_path
from crawler.practice_shop.art import SMALL_SIZE, draw
from crawler.practice_shop.wires import CutOff, Hang, Stream
from crawler.practice_shop.world import World

QUALITY = 85
_SMALL_QUALITY = 30  # of a 120-pixel picture: about 2 KB
_BOMB = (10000, 5000)  # 50 million pixels, a few KB as a bilevel PNG
_STATUS = {"404": 404, "410": 410, "500": 500, "429": 429}
_CACHED = {"cache-control": "max-age=600"}  # so that a page drawn anew asks for nothing again
_FORMATS = {"jpg": ("JPEG", "image/jpeg"), "png": ("PNG", "image/png"), "gif": ("GIF", "image/gif")}
_WEBP = ("WEBP", "image/webp")
_STAND_INS = {
    BLANK: (2, 2, "PNG", "image/png"),
    BLANK_GIF: (1, 1, "GIF", "image/gif"),
    ICON: (42, 27, "PNG", "image/png"),
}


def is_picture(path: str) -> bool:
    """Whether a path of any of the sites is a picture's."""
    return path in _STAND_INS or read_picture_path(path) is not None


def query_of(path: str) -> str:
    """The query a picture belongs to; empty for icons and blanks."""
    address = None if path in _STAND_INS else read_picture_path(path)
    return "" if address is None else address.query


async def picture(world: World, request: Request) -> Response:
    """Answer a request for a picture as its kind demands."""
    path: str = request.scope["path"]
    if path in _STAND_INS:
        return Response(_stand_in(path), media_type=_STAND_INS[path][3], headers=_CACHED)
    address = read_picture_path(path)
    if address is None:
        return PlainTextResponse("no such picture", 404)
    kind = address.kind
    if kind in _STATUS:
        headers = {"retry-after": "1"} if kind == "429" else {}
        return PlainTextResponse(f"picture: {kind}", _STATUS[kind], headers=headers)
    if kind == "no_referer_403" and "referer" not in request.headers:
        return PlainTextResponse("from outside the shop", 403)
    if kind == "foreign_redirect":
        elsewhere = path.replace("-foreign_redirect.", "-ok.")
        return RedirectResponse(f"http://{world.origins.login}{elsewhere}", 302)
    if kind == "placeholder":
        return Response(_stand_in(BLANK), media_type="image/png", headers=_CACHED)
    if kind == "hang":
        return Hang(world.closing)
    return await _bytes_of(world, address)


async def _bytes_of(world: World, address: PictureAddress) -> Response:
    kind = address.kind
    if kind == "file":
        body, mime = await asyncio.to_thread(_from_catalogue, world, address)
    elif kind == "duplicate_bytes":
        first_good = len(world.settings.bad_pictures)
        body, mime = await asyncio.to_thread(_drawn, address.query, first_good, "ok", address)
    else:
        body, mime = await asyncio.to_thread(_drawn, address.query, address.number, kind, address)
    if not body:
        return PlainTextResponse("no such picture", 404)
    if kind == "cut_off":
        return CutOff(world.closing, body, mime)
    if kind in ("endless", "drip"):
        return Stream(world.closing, body, mime, drip=kind == "drip")
    return Response(body, media_type=mime, headers=_CACHED)


def _drawn(query: str, number: int, kind: str, address: PictureAddress) -> tuple[bytes, str]:
    return _encoded(query, number, kind, address.extension, address.box, address.webp)


@functools.lru_cache(maxsize=512)
def _encoded(
    query: str, number: int, kind: str, extension: str, box: tuple[int, int] | None, webp: bool
) -> tuple[bytes, str]:
    """(bytes, content type) of a drawn picture."""
    if kind == "html":
        page = "<!doctype html><title>404</title><p>图片走丢了，去别处看看吧 the picture is gone</p>" * 8
        return page.encode(), "image/jpeg"
    if kind == "tiny_body":  # a picture of good size in very few bytes
        tile = Image.new("1", (60, 60), 1)
        image = Image.new("1", (SMALL_SIZE, SMALL_SIZE))
        image.paste(tile, (30, 30))
        return _save(image, "PNG"), "image/png"
    if kind == "bomb":
        return _bomb(), "image/png"
    image = draw(query, number, kind)
    form, mime = _WEBP if webp or kind == "webp" else _FORMATS[extension]
    if kind == "small_2kb":
        return _save(image, "JPEG", quality=_SMALL_QUALITY), "image/jpeg"
    body = _save(_fitted(image, box), form)
    return (body[: len(body) // 2] if kind == "truncated" else body), mime


def _bomb() -> bytes:
    tile = draw("bomb", 0).convert("1").resize((200, 100))
    image = Image.new("1", _BOMB)
    for left in range(0, _BOMB[0], tile.width * 10):
        image.paste(tile, (left, 0))
    return _save(image, "PNG")


def _from_catalogue(world: World, address: PictureAddress) -> tuple[bytes, str]:
    """A real picture: the file as it is, or made smaller. No bytes if there is none."""
    files = (world.catalogue or {}).get(address.query, ())
    if address.number >= len(files):
        return b"", ""
    return _file(files[address.number], address.box, address.extension, address.webp)


@functools.lru_cache(maxsize=256)
def _file(path: Path, box: tuple[int, int] | None, extension: str, webp: bool) -> tuple[bytes, str]:
    try:
        data = path.read_bytes()
        with Image.open(io.BytesIO(data)) as image:
            if box is None and extension == "jpg" and not webp:
                return data, Image.MIME.get(image.format or "", "image/jpeg")
            form, mime = _WEBP if webp else _FORMATS[extension]
            return _save(_fitted(image.convert("RGB"), box), form), mime
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, ValueError):
        return b"", ""


def _fitted(image: Image.Image, box: tuple[int, int] | None) -> Image.Image:
    if box is not None:
        image.thumbnail(box)
    return image


def _save(image: Image.Image, form: str, quality: int = QUALITY) -> bytes:
    file = io.BytesIO()
    image.save(file, form, quality=quality)
    return file.getvalue()


@functools.cache
def _stand_in(path: str) -> bytes:
    width, height, form, _ = _STAND_INS[path]
    return _save(Image.new("RGB", (width, height), (255, 196, 160)), form)
