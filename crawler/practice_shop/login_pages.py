"""The login site: the form with its QR code, what the page asks, what the phone says, the way back."""

from __future__ import annotations

import io
from collections.abc import Callable
from html import escape
from urllib.parse import parse_qs, urlencode

import segno
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response

from crawler.practice_shop.codes import Code, CodeState
from crawler.practice_shop.world import World, greet, log_in, template

FRAME_PATH = "/newlogin/mini_login.htm"
_PHONE_HEADERS = {"access-control-allow-origin": "*"}  # the phone's page lives on another site
_SCALE, _QUIET = 5, 4  # pixels per module and modules around it, of a code that is an img


def payload_of(world: World, token: str) -> str:
    """What a QR code says."""
    words = urlencode({"lgToken": token, "tbScanOpenType": "Notification"})
    return f"http://{world.origins.login}/qrcodeCheck.htm?{words}"


async def login_page(world: World, request: Request) -> Response:
    """The page that a visitor is sent to."""
    if world.settings.qr_frame:
        source = escape(f"{FRAME_PATH}?{request.url.query}")
        frame = f'<iframe id="alibaba-login-box" src="{source}" width="400" height="460"></iframe>'
        return _greeted(request, template("login.html").substitute(box=frame, script=""))
    script = '<script type="module" src="/static/login.js"></script>'
    return _greeted(request, template("login.html").substitute(box=_box(world), script=script))


async def login_frame(world: World, request: Request) -> Response:
    """The form alone, for an iframe."""
    return _greeted(request, template("mini_login.html").substitute(box=_box(world)))


def _box(world: World) -> str:
    return template("login_box.html").substitute(phone=f"http://{world.origins.search}/_phone")


def _greeted(request: Request, page: str) -> Response:
    response = HTMLResponse(page)
    greet(request, response)
    return response


async def new_code(world: World, request: Request) -> Response:
    """A new QR code for the visitor; the one before is worth nothing from now on."""
    settings = world.settings
    code = world.codes.issue(request.cookies.get("cookie2", ""), settings.qr_ttl_s)
    payload = payload_of(world, code.token)
    content = {"t": code.token, "codeContent": payload, "node": settings.qr_node}
    if settings.qr_node == "canvas":
        content["modules"] = "\n".join(
            "".join("1" if dark else "0" for dark in row) for row in segno.make(payload, error="m").matrix
        )
    return JSONResponse({"content": {"data": content, "success": True}})


async def code_image(world: World, request: Request) -> Response:
    """The code as a PNG, for pages that show an img."""
    code = world.codes.find(request.query_params.get("t", ""))
    if code is None:
        return PlainTextResponse("no such code", 404)
    file = io.BytesIO()
    segno.make(payload_of(world, code.token), error="m").save(file, "png", scale=_SCALE, border=_QUIET)
    return Response(file.getvalue(), media_type="image/png", headers={"cache-control": "no-store"})


async def poll(world: World, request: Request) -> Response:
    """The page asks how its code is."""
    settings = world.settings
    code = world.codes.find(request.query_params.get("t", ""))
    mine = code is not None and code.visitor == request.cookies.get("cookie2", "")
    state = code.state if code is not None and mine else CodeState.EXPIRED
    if state is CodeState.EXPIRED and settings.qr_silent:
        state = CodeState.NEW  # the page is never told
    content: dict[str, object] = {"qrCodeStatus": state.value, "resultCode": 100}
    if code is not None and state is CodeState.CONFIRMED and code.ticket:
        step = "/iv/identity_verify.htm" if settings.identity_check else "/havanaone/login/finish.htm"
        target = request.query_params.get("redirectURL", "")
        content["redirect"] = f"{step}?{urlencode({'st': code.ticket, 'redirectURL': target})}"
        content["askToKeep"] = settings.keep_dialog
    return JSONResponse({"content": {"data": content, "success": True}})


async def scan(world: World, request: Request) -> Response:
    """The phone read the code: its payload is this page's address."""
    return _to_phone(world.codes.scan(request.query_params.get("lgToken", "")))


async def confirm(world: World, request: Request) -> Response:
    """The phone agrees."""
    return await _phone_says(world.codes.confirm, request)


async def cancel(world: World, request: Request) -> Response:
    """The phone refuses."""
    return await _phone_says(world.codes.cancel, request)


async def _phone_says(act: Callable[[str], Code | None], request: Request) -> Response:
    if request.method != "POST":
        return PlainTextResponse("POST only", 405, headers=_PHONE_HEADERS)
    form = parse_qs((await request.body()).decode("utf-8", "replace"))
    return _to_phone(act(form.get("lgToken", [""])[0]))


def _to_phone(code: Code | None) -> Response:
    state = "UNKNOWN" if code is None else code.state.value
    status = 404 if code is None else 410 if code.state is CodeState.EXPIRED else 200
    return JSONResponse({"state": state}, status, headers=_PHONE_HEADERS)


async def identity(world: World, request: Request) -> Response:
    """The second proof that some logins need; its page asks until a human gave it."""
    code = world.codes.holder(request.query_params.get("st", ""))
    if request.method == "POST" and code is not None:
        code.proven = True
    if "check" in request.query_params or request.method == "POST":
        return JSONResponse({"proven": code is not None and code.proven})
    return HTMLResponse(template("identity.html").substitute())


async def finish(world: World, request: Request) -> Response:
    """The way back after a confirmed code: cookies for this site, then on to the search site for its own."""
    words = request.query_params
    code = world.codes.holder(words.get("st", ""))
    if code is None or (world.settings.identity_check and not code.proven):
        return RedirectResponse(world.login_url(words.get("redirectURL", "")), 302)
    code.ticket = ""
    cookie, transfer = world.sessions.begin()
    keep = words.get("keep", "1")
    onward = urlencode({"pass": transfer, "keep": keep, "redirectURL": words.get("redirectURL", "")})
    response = RedirectResponse(f"http://{world.origins.search}/sso/arrive.htm?{onward}", 302)
    log_in(response, world, cookie, keep=keep != "0")
    return response


async def silent_check(world: World, request: Request) -> Response:
    """Result pages of logged-in visitors call this; it is no login wall."""
    content = {"content": {"data": {"hasLogin": world.session(request) is not None}}, "hasError": False}
    headers = {
        "access-control-allow-origin": f"http://{world.origins.search}",
        "access-control-allow-credentials": "true",
    }
    return JSONResponse(content, headers=headers)
