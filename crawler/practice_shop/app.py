"""The one web application behind the three sites: which site by its address, then the log, the block, the
page."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import Message, Receive, Scope, Send

from crawler.practice_shop import block_pages, control, login_pages, pictures, search_pages
from crawler.practice_shop.layouts import STATIC
from crawler.practice_shop.visits import Kind, Origin, Visit
from crawler.practice_shop.wires import Hang
from crawler.practice_shop.world import World

Handler = Callable[[World, Request], Awaitable[Response]]
_ASSETS = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8"}


@dataclass(frozen=True)
class Page:
    """kind: of the visit; None: no visit. blockable: whether a block answers in its place."""

    handler: Handler
    kind: Kind | None = "other"
    blockable: bool = True


async def _asset(world: World, request: Request) -> Response:
    """A style sheet or script of static/."""
    name = request.scope["path"].rpartition("/")[2]
    if name == "hang.css":
        return Hang(world.closing)
    path = STATIC / name
    if path.suffix not in _ASSETS or not path.is_file():
        return PlainTextResponse("not found", 404)
    return Response(path.read_bytes(), headers={"content-type": _ASSETS[path.suffix]})


async def _missing(world: World, request: Request) -> Response:
    del world, request
    return PlainTextResponse("not found", 404)


_MISSING, _ASSET = Page(_missing), Page(_asset, blockable=False)
_PICTURE = Page(pictures.picture, "image")
_PAGES: dict[tuple[Origin, str], Page] = {
    ("search", "/"): Page(search_pages.home),
    ("search", "/search"): Page(search_pages.result_page, "search"),
    ("search", search_pages.DATA_PATH): Page(search_pages.data, "xhr"),
    ("search", "/item.htm"): Page(search_pages.item_page, "item"),
    ("search", "/tmall/item.htm"): Page(search_pages.item_page, "item"),
    ("search", "/click.simba"): Page(search_pages.click),
    ("search", "/my_taobao.htm"): Page(search_pages.account),
    ("search", "/sso/arrive.htm"): Page(search_pages.arrive),
    ("search", block_pages.PUNISH_PATH): Page(block_pages.punish, blockable=False),
    ("search", block_pages.DENY_PATH): Page(block_pages.deny, blockable=False),
    ("search", "/_control"): Page(control.settings, None),
    ("search", "/_control/profile.json"): Page(control.addresses, None),
    ("search", "/_control/log"): Page(control.log, None),
    ("search", "/_control/reset"): Page(control.reset, None),
    ("search", "/_control/solve"): Page(control.solve, None),
    ("search", "/_phone"): Page(control.phone_page, None),
    ("search", "/_phone/shown"): Page(control.shown_code, None),
    ("search", "/_phone/read"): Page(control.read_picture, None),
    ("login", "/member/login.jhtml"): Page(login_pages.login_page, "login"),
    ("login", "/havanaone/login/login.htm"): Page(login_pages.login_page, "login"),
    ("login", login_pages.FRAME_PATH): Page(login_pages.login_frame, "login"),
    ("login", "/newlogin/qrcode/generate.do"): Page(login_pages.new_code, "login"),
    ("login", "/newlogin/qrcode/image.do"): Page(login_pages.code_image, "login"),
    ("login", "/newlogin/qrcode/query.do"): Page(login_pages.poll, "poll"),
    ("login", "/newlogin/silentHasLogin.do"): Page(login_pages.silent_check, "xhr"),
    ("login", "/qrcodeCheck.htm"): Page(login_pages.scan, "scan"),
    ("login", "/qrcodeConfirm.htm"): Page(login_pages.confirm, "confirm"),
    ("login", "/qrcodeCancel.htm"): Page(login_pages.cancel, "cancel"),
    ("login", "/iv/identity_verify.htm"): Page(login_pages.identity, "login"),
    ("login", "/havanaone/login/finish.htm"): Page(login_pages.finish, "login"),
}


class ShopApp:
    """The ASGI application of one shop."""

    def __init__(self, world: World) -> None:
        self._world = world
        origins = world.origins
        self._origins: dict[str, Origin] = {
            origins.search: "search",
            origins.login: "login",
            origins.images: "images",
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, and note it unless it is to the controls."""
        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        host, port = scope["server"]
        origin = self._origins[f"{host}:{port}"]
        page = self._find(origin, scope["path"])
        if page.kind is None:
            await (await page.handler(self._world, request))(scope, receive, send)
            return
        if page.kind == "search":
            self._world.risk.note_search(self._world.settings, time.monotonic())
        blocked = self._blocked(origin, page)
        visit = self._visit(request, origin, page.kind, blocked)
        place = self._world.visits.begin(visit)
        answered = False

        async def noting(message: Message) -> None:
            nonlocal answered
            if (
                message["type"] == "http.response.start"
            ):  # noted first: who has the answer may ask for the log
                answered = True
                self._world.visits.answered(place, dataclasses.replace(visit, status=message["status"]))
            await send(message)

        try:
            if blocked:
                response = block_pages.block(self._world, request, page.kind)
            else:
                response = await page.handler(self._world, request)
            await response(scope, receive, noting)
        finally:
            if not answered:
                self._world.visits.answered(place, visit)

    def _find(self, origin: Origin, path: str) -> Page:
        page = _PAGES.get((origin, path))
        if page is not None:
            return page
        if path.startswith("/static/") and origin != "images":
            return _ASSET
        return _PICTURE if pictures.is_picture(path) else _MISSING

    def _blocked(self, origin: Origin, page: Page) -> bool:
        """Whether a block answers. Under an overlay the result page comes, and the overlay with its data."""
        risk = self._world.risk.blocked
        shows_overlay = risk == "captcha_overlay" and page.kind == "search"
        return origin == "search" and risk is not None and page.blockable and not shows_overlay

    def _visit(self, request: Request, origin: Origin, kind: Kind, blocked: bool) -> Visit:
        cookies = request.cookies
        client: Any = request.client
        return Visit(
            t=time.time(),
            origin=origin,
            kind=kind,
            method=request.method,
            path=request.scope["path"],
            query=self._query(request, kind),
            cookie_names=tuple(sorted(cookies)),
            cookies_login="unb" in cookies,
            referer=request.headers.get("referer", ""),
            user_agent=request.headers.get("user-agent", ""),
            status=0,
            port=0 if client is None else client.port,
            blocked=blocked,
        )

    def _query(self, request: Request, kind: Kind) -> str:
        if kind == "image":
            return pictures.query_of(request.scope["path"])
        if kind == "item":
            return self._world.items.get(request.query_params.get("id", ""), ("", 0))[0]
        return request.query_params.get("q", "") if kind in ("search", "xhr") else ""
