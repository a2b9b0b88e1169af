"""How the shop says no, and what only looks like it."""

from __future__ import annotations

import secrets
from html import escape
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from crawler.practice_shop.settings import ShopSettings
from crawler.practice_shop.visits import Kind
from crawler.practice_shop.world import World, template

PUNISH_PATH, DENY_PATH = "/search/_____tmd_____/punish", "/bixi/punish/deny.htm"
_CROWDED = "RGV587_ERROR::SM::哎哟喂,被挤爆啦,请稍后重试"
_JSON = "application/json;charset=UTF-8"


def block(world: World, request: Request, kind: Kind) -> Response:
    """What anything on the search site is answered with while the shop blocks."""
    risk = world.risk.blocked
    if risk == "throttle_json" or (risk == "throttle_page" and kind == "xhr"):
        return _refusal("FAIL_SYS_TRAFFIC_LIMIT::哎哟喂,被挤爆啦,请稍后重试!")
    if risk == "throttle_page":
        return HTMLResponse(template("throttle.html").substitute())
    back = request.headers.get("referer", "") if kind == "xhr" else str(request.url)
    url = _deny_url() if risk == "deny" else _punish_url(back)
    return _refusal(_CROWDED, url=url) if kind == "xhr" else RedirectResponse(url, 302)


def _refusal(reason: str, **data: str) -> Response:
    content = {"api": "mtop.relationrecommend.practice.search", "ret": ["FAIL_SYS_USER_VALIDATE", reason]}
    return JSONResponse(content | {"data": data}, media_type=_JSON)


def _punish_url(back: str) -> str:
    words = {"x5secdata": secrets.token_hex(16), "x5step": "2", "action": "captcha", "back": back}
    return f"{PUNISH_PATH}?{urlencode(words)}"


def _deny_url() -> str:
    return f"{DENY_PATH}?{urlencode({'action': 'deny', 'x5secdata': secrets.token_hex(8)})}"


async def punish(world: World, request: Request) -> Response:
    """The page with the slider. A human who drags it is let in again (in this shop, so is a machine)."""
    if request.query_params.get("action") == "deny":
        return await deny(world, request)
    back = request.query_params.get("back", "")
    own = f"http://{world.origins.search}/"
    page = template("punish.html").substitute(back=escape(back if back.startswith(own) else own))
    return HTMLResponse(page)


async def deny(world: World, request: Request) -> Response:
    """The page that has nothing to solve."""
    del world, request
    return HTMLResponse(template("deny.html").substitute(), 403)


def decoys(settings: ShopSettings) -> str:
    """Harmless leftovers of blocks on a good page."""
    found = ""
    if "solved_widget" in settings.decoys:
        found += template("solved_widget.html").substitute()
    if "blocked_iframe" in settings.decoys:
        query = urlencode({"action": "deny", "x5step": "1"})
        found += f'<iframe class="side" src="{PUNISH_PATH}?{query}" width="240" height="170"></iframe>'
    return found
