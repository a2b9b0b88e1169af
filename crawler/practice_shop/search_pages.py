"""The search site: result pages that fill themselves by a request for data, product pages, the account."""

from __future__ import annotations

import json
import time
from html import escape
from typing import Any
from urllib.parse import urlencode, urlsplit

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from crawler.practice_shop.addresses import picture_path
from crawler.practice_shop.block_pages import decoys
from crawler.practice_shop.items import item_id_of, page_of_items, recommended_items
from crawler.practice_shop.layouts import Painter
from crawler.practice_shop.wires import Hang, Reset
from crawler.practice_shop.world import NICK, World, greet, log_in, template

DATA_PATH = "/h5/mtop.relationrecommend.practice.search/2.0/"
_PAGES = 100
_REDRAW_MS = 400
_RESET_S = 0.15  # browsers try a reset connection once more by themselves, at once
_HANG_BYTES = 700  # of a page that stops coming


async def home(world: World, request: Request) -> Response:
    """The front page; its search opens a new tab."""
    return _page(world, request, "home.html", phone=f"http://{world.origins.search}/_phone")


async def result_page(world: World, request: Request) -> Response:
    """The shell of a result page, without products, once login and faults let it pass."""
    query = request.query_params.get("q", "")
    settings = world.settings
    world.sessions.count_search(request.cookies)
    if settings.login == "required" and world.session(request) is None:
        return _to_login(world, request)
    fault = settings.faults.get(query, "")
    broken = _broken_once(world, query, fault)
    if broken is not None:
        return broken
    if query != world.last_query:
        world.former_query, world.last_query = world.last_query, query
    response = _shell(world, request, (world.former_query or query) if settings.layout == "stale" else query)
    return Hang(world.closing, bytes(response.body)[:_HANG_BYTES]) if fault == "hang_html" else response


def _broken_once(world: World, query: str, fault: str) -> Response | None:
    now = time.monotonic()
    first = world.faulted.setdefault((query, fault), now)
    if fault == "bad_gateway_once" and first == now:
        return HTMLResponse("<title>502</title><h1>502 Bad Gateway</h1><hr>Tengine", 502)
    if fault == "reset_once" and now - first < _RESET_S:
        return Reset(world.closing)
    return None


def _shell(world: World, request: Request, shown: str) -> Response:
    """`shown`: the query that the page seems to be about."""
    settings = world.settings
    fault = settings.faults.get(request.query_params.get("q", ""))
    page = _page_number(request)
    quiet = "login_xhr" not in settings.decoys
    config = {
        "data": f"{DATA_PATH}?{urlencode({'q': shown, 'page': page}, errors='surrogatepass')}",
        "delay_ms": round(settings.card_delay_s * 1000),
        "redraw_ms": _REDRAW_MS if settings.redraw else 0,
        "check": "" if quiet else f"http://{world.origins.login}/newlogin/silentHasLogin.do",
    }
    return _page(
        world,
        request,
        "search.html",
        query=escape(shown),
        page=str(page),
        skeleton=Painter(settings, world.origins).skeleton(),
        config=json.dumps(config).replace("<", "\\u003c"),
        decoys=decoys(settings),
        late='<link rel="stylesheet" href="/static/hang.css">' if fault == "hang_css" else "",
    )


def _page_number(request: Request) -> int:
    """1 to 100; anything else shows page 1, as on real sites."""
    text = request.query_params.get("page", "1")
    return int(text) if text.isascii() and text.isdigit() and 1 <= int(text[:6]) <= _PAGES else 1


def _page(world: World, request: Request, name: str, **values: str) -> HTMLResponse:
    """A page of static/ with the visitor's name or the link to log in."""
    link = f'<a class="h" href="{escape(world.login_url(str(request.url)))}">亲，请登录</a>'
    account = f'<a class="site-nav-login-info-nick" href="/my_taobao.htm">{NICK}</a>'
    if world.session(request) is None:
        account = link
    elif "login_link" in world.settings.decoys:
        account += link
    response = HTMLResponse(template(name).substitute(account=account, **values))
    greet(request, response)
    return response


def _to_login(world: World, request: Request, *, old: bool = False) -> Response:
    response = RedirectResponse(world.login_url(str(request.url), old=old), 302)
    greet(request, response)
    return response


async def data(world: World, request: Request) -> Response:
    """What the shell asks for: the cards as one piece of HTML."""
    settings, query = world.settings, request.query_params.get("q", "")
    if settings.login == "required" and world.session(request) is None:
        target = request.headers.get("referer", f"http://{world.origins.search}/")
        return _answer("FAIL_SYS_SESSION_EXPIRED::Session过期", url=world.login_url(target))
    painter = Painter(settings, world.origins)
    recommended = recommended_items(settings)
    items = page_of_items(settings, world.catalogue, query, _page_number(request))
    if query in settings.empty_queries or not items:
        return _answer("SUCCESS::调用成功", html=painter.nothing_found(query, recommended))
    world.items.update({item.item_id: (item.query, item.number) for item in (*items, *recommended)})
    return _answer("SUCCESS::调用成功", html=painter.results(items, recommended))


def _answer(ret: str, **data: str) -> Response:
    content: dict[str, Any] = {"api": "mtop.relationrecommend.practice.search", "ret": [ret], "data": data}
    return JSONResponse(content)


async def item_page(world: World, request: Request) -> Response:
    """A product; only those that were on a page exist."""
    found = world.items.get(request.query_params.get("id", ""))
    if found is None:
        return HTMLResponse("<title>404</title><h1>宝贝不存在</h1>", 404)
    query, number = found
    kind = "ok" if world.catalogue is None or query not in world.catalogue else "file"
    picture = f"//{world.origins.images}{picture_path(query, number, kind)}"
    return _page(world, request, "item.html", title=escape(f"{query} {number}"), picture=escape(picture))


async def click(world: World, request: Request) -> Response:
    """The counter of clicks on advertisements."""
    target = request.query_params.get("e", "")
    if target not in world.items:
        target = item_id_of("", 0)
    return RedirectResponse(f"http://{world.origins.search}/item.htm?id={target}", 302)


async def account(world: World, request: Request) -> Response:
    """What only a visitor with a login sees."""
    if world.session(request) is None:
        return _to_login(world, request, old=True)
    return _page(world, request, "account.html", nick=NICK)


async def arrive(world: World, request: Request) -> Response:
    """The last step of a login: its cookies for this site, then on to where the visitor wanted to go."""
    cookie = world.sessions.carry(request.query_params.get("pass", ""))
    target = request.query_params.get("redirectURL", "")
    own = f"http://{world.origins.search}/"
    if urlsplit(target).netloc != world.origins.search or not target.startswith("http://"):
        target = own
    response = RedirectResponse(target, 302)
    if cookie is not None:
        log_in(response, world, cookie, keep=request.query_params.get("keep") != "0")
    return response
