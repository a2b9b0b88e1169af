"""Around every request: its id, the host asked for, the API key, the size limit of its body, headers,
metrics, and a last resort for exceptions nobody expected. Plain ASGI, because it runs on the hot path."""

from __future__ import annotations

import asyncio
import hmac
import logging
import re
import time
import uuid
from collections.abc import Iterable
from urllib.parse import quote

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import ApiError, to_response
from service.metrics import Metrics
from service.settings import ServiceSettings, names_loopback

logger = logging.getLogger(__name__)

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
# Everything comes from this origin; blob: is the preview of a picture the user dropped.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# Anything else would let clients make as many series as they like.
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})
CLIENT_CLOSED = 499  # what is counted when the client left before the answer
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
}


class RequestContext:
    """ASGI middleware; see the module's docstring. Sets `request.state.request_id` and `.started`."""

    def __init__(self, app: ASGIApp, *, settings: ServiceSettings, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics
        self._max_body_bytes = settings.max_body_bytes
        self._body_timeout_s = settings.body_timeout_ms / 1000
        self._access_log = settings.access_log
        self._local_only = settings.local_only
        self._api_key = settings.api_key.get_secret_value().encode() if settings.api_key else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        started = time.perf_counter()
        scope.setdefault("state", {}).update(request_id=request_id, started=started)
        if scope["path"].startswith("/v1/items/"):
            # Routing sees the path as it was sent, so that an id may hold an encoded slash (see deps.ItemId).
            raw_path = scope.get("raw_path")  # optional in ASGI, though every common server sends it
            scope["path"] = raw_path.decode("latin-1") if raw_path else quote(scope["path"])
        status = 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                out = MutableHeaders(scope=message)
                out["X-Request-ID"] = request_id
                for name, value in _HEADERS.items():
                    out.setdefault(name, value)
            await send(message)

        try:
            self._check_host(scope["path"], headers)
            self._check_key(scope["path"], headers)
            self._check_length(headers)
            await self._app(scope, self._limited(receive), send_with_headers)
        except asyncio.CancelledError:
            # Only a server that stops, and has waited long enough, cancels a request.
            if not status:
                stopping = ApiError(503, "not_ready", "the service is stopping", {"Connection": "close"})
                await to_response(stopping, request_id)(scope, receive, send_with_headers)
        except Exception as error:
            if status:  # the response is half sent: nothing can be told any more
                raise
            response = to_response(error, request_id)
            await response(scope, receive, send_with_headers)
        finally:
            self._record(scope, status, time.perf_counter() - started, request_id)

    def _check_host(self, path: str, headers: Headers) -> None:
        """Stops web pages that point a name of theirs at 127.0.0.1 (DNS rebinding): what they ask for bears
        that name, and browsers always send one."""
        hosts = headers.getlist("host")
        if self._local_only and path.startswith("/v1/") and not all(map(names_loopback, hosts)):
            raise ApiError(
                403,
                "forbidden_host",
                "without an API key (CNCLIP_API_KEY) this server answers only as localhost or 127.0.0.1",
            )

    def _check_key(self, path: str, headers: Headers) -> None:
        if self._api_key is None or not path.startswith("/v1/"):
            return
        bearer = headers.get("authorization", "")
        candidates: Iterable[str] = (
            headers.get("x-api-key", ""),
            bearer[7:] if bearer[:7].lower() == "bearer " else "",
        )
        # Both are compared, in constant time.
        if sum(hmac.compare_digest(given.encode("latin-1"), self._api_key) for given in candidates) == 0:
            challenge = {"WWW-Authenticate": "Bearer"}
            raise ApiError(
                401, "unauthorized", "send the API key as Authorization: Bearer or X-API-Key", challenge
            )

    def _check_length(self, headers: Headers) -> None:
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > self._max_body_bytes:
            raise self._too_large()

    def _too_large(self) -> ApiError:
        return ApiError(
            413, "payload_too_large", f"a request may have at most {self._max_body_bytes:,} bytes"
        )

    def _limited(self, receive: Receive) -> Receive:
        """`receive` that counts, for bodies that come in chunks without a length, and does not wait for ever
        for the next piece. After the body it waits as long as it takes: for the client to leave."""
        received = 0
        complete = False

        async def limited() -> Message:
            nonlocal received, complete
            if complete:
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), self._body_timeout_s)
            except asyncio.TimeoutError:
                raise ApiError(
                    408,
                    "request_timeout",
                    f"nothing of the body came for {self._body_timeout_s:g} s",
                    {"Connection": "close"},
                ) from None
            complete = not message.get("more_body", False)
            received += len(message.get("body", b""))
            if received > self._max_body_bytes:
                raise self._too_large()
            return message

        return limited

    def _record(self, scope: Scope, status: int, seconds: float, request_id: str) -> None:
        static = "/static" if scope["path"].startswith("/static/") else "unmatched"
        route = getattr(scope.get("route"), "path", static)
        method = scope["method"] if scope["method"] in _METHODS else "OTHER"
        status = status or CLIENT_CLOSED
        self._metrics.requests.labels(method, route, str(status)).inc()
        self._metrics.request_seconds.labels(route).observe(seconds)
        if self._access_log:
            logger.info("%s %s %d %.1f ms %s", scope["method"], route, status, seconds * 1000, request_id)
