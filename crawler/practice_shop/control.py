"""The controls of the shop and the phone's page; requests to them are no visits."""

from __future__ import annotations

import asyncio
import io
import json
from typing import Any

from PIL import Image, UnidentifiedImageError
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from crawler.errors import SettingsError
from crawler.practice_shop.login_pages import payload_of
from crawler.practice_shop.qr_reader import read_code
from crawler.practice_shop.world import World, template

_MAX_PICTURE = 20_000_000  # bytes of a picture for the phone's page
_NO_STORE = {"cache-control": "no-store"}


async def addresses(world: World, request: Request) -> Response:
    """host:port of the three sites: the variables of the profile."""
    del request
    origins = world.origins
    content = {"search": origins.search, "login": origins.login, "images": origins.images}
    return JSONResponse(content, headers=_NO_STORE)


async def settings(world: World, request: Request) -> Response:
    """GET: the settings and whether the shop blocks; POST of a JSON object: change some."""
    if request.method == "POST":
        # Only JSON by name: a page of some other site cannot send that without being asked first.
        if request.headers.get("content-type", "").partition(";")[0] != "application/json":
            return _error("send the changes as application/json", 415)
        try:
            changes: Any = json.loads(await request.body())
        except (ValueError, RecursionError):
            return _error("not JSON", 400)
        if not isinstance(changes, dict):
            return _error("not a JSON object", 400)
        try:
            world.change(changes)
        except SettingsError as error:
            return _error(str(error), 400)
    content = {"settings": world.settings.to_json(), "blocked": world.risk.blocked}
    return JSONResponse(content, headers=_NO_STORE)


def _error(message: str, status: int) -> Response:
    return JSONResponse({"error": message}, status)


async def log(world: World, request: Request) -> Response:
    """The visits so far, of one kind with ?kind=."""
    visits = world.visits.visits(request.query_params.get("kind"))
    return JSONResponse([visit.to_json() for visit in visits], headers=_NO_STORE)


async def reset(world: World, request: Request) -> Response:
    """POST: forget sessions, codes, log, risk."""
    if request.method != "POST":
        return _error("POST only", 405)
    world.forget()
    return JSONResponse({"reset": True})


async def solve(world: World, request: Request) -> Response:
    """What a human does about a block or an identity check."""
    del request
    world.solve()
    return JSONResponse({"solved": True}, headers=_NO_STORE)


async def phone_page(world: World, request: Request) -> Response:
    """A phone for humans who practise with no phone."""
    del world, request
    return HTMLResponse(template("phone.html").substitute())


async def shown_code(world: World, request: Request) -> Response:
    """The code that is shown now, by its payload; null if there is none."""
    del request
    code = world.codes.shown()
    content = None if code is None else payload_of(world, code.token)
    return JSONResponse({"payload": content}, headers=_NO_STORE)


async def read_picture(world: World, request: Request) -> Response:
    """POST of a picture: the payload of the code on it; null if there is none, or not one of this shop."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MAX_PICTURE:
            return _error("too large", 413)
    payload = await asyncio.to_thread(_read_picture, bytes(body))
    mine = payload is not None and payload.startswith(f"http://{world.origins.login}/")
    return JSONResponse({"payload": payload if mine else None}, headers=_NO_STORE)


def _read_picture(data: bytes) -> str | None:
    try:
        with Image.open(io.BytesIO(data)) as image:
            return read_code(image)
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, ValueError):
        return None
