"""Answers that go wrong on purpose, below the level of HTTP libraries: hang, cut off, reset, never end.

An ASGI application cannot reach its connection, so `Wire` hands it over in the request's state.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator

from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

_PAUSE_S, _DRIP_S = 0.02, 0.2
_CHUNK = 65536  # bytes; with _PAUSE_S some 3 MB/s: endless, but no strain on this machine


class Wire(H11Protocol):
    """HTTP/1.1 whose requests know their connection as `scope["state"]["transport"]`."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.app_state = {**self.app_state, "transport": transport}


class Closing:
    """The shop's closing time; whatever hangs or streams ends with it. Used in the server's loop only."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def announce(self) -> None:
        """It is time."""
        self._event.set()

    async def wait(self) -> None:
        """Until it is."""
        await self._event.wait()


class Broken(Response):
    """Base of the answers below: each ends with the connection gone."""

    def __init__(self, closing: Closing) -> None:
        super().__init__()
        self.closing = closing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Go wrong, then drop the connection."""
        transport: asyncio.Transport = scope["state"]["transport"]
        gone = asyncio.ensure_future(_disconnected(receive))
        others = (
            asyncio.ensure_future(self.go_wrong(transport, send)),
            asyncio.ensure_future(self.closing.wait()),
        )
        try:
            await asyncio.wait({gone, *others}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
        if not gone.done():
            transport.abort()
        await gone  # else the server would complain about an answer without an end

    async def go_wrong(self, transport: asyncio.Transport, send: Send) -> None:
        """What is special about this answer; by default nothing ever comes."""
        del transport, send
        await asyncio.Event().wait()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class Hang(Broken):
    """Sends the beginning, if there is one, and then nothing."""

    def __init__(self, closing: Closing, beginning: bytes = b"", mime: str = "text/html") -> None:
        super().__init__(closing)
        self._beginning, self._mime = beginning, mime

    async def go_wrong(self, transport: asyncio.Transport, send: Send) -> None:
        if self._beginning:
            await send(_start(self._mime))
            await send({"type": "http.response.body", "body": self._beginning, "more_body": True})
        await super().go_wrong(transport, send)


class Reset(Broken):
    """Resets the connection without a word."""

    async def go_wrong(self, transport: asyncio.Transport, send: Send) -> None:
        del send
        connection = transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
        await asyncio.Event().wait()


class CutOff(Broken):
    """Promises all of `body`, sends half of it and hangs up."""

    def __init__(self, closing: Closing, body: bytes, mime: str) -> None:
        super().__init__(closing)
        self._body, self._mime = body, mime

    async def go_wrong(self, transport: asyncio.Transport, send: Send) -> None:
        await send(_start(self._mime, len(self._body)))
        half = self._body[: len(self._body) // 2]
        await send({"type": "http.response.body", "body": half, "more_body": True})
        transport.close()
        await asyncio.Event().wait()


class Stream(Broken):
    """Never ends: fast, or (`drip`) a byte at a time."""

    def __init__(self, closing: Closing, body: bytes, mime: str, *, drip: bool = False) -> None:
        super().__init__(closing)
        self._body, self._mime, self._drip = body, mime, drip

    async def go_wrong(self, transport: asyncio.Transport, send: Send) -> None:
        del transport
        await send(_start(self._mime))
        async for chunk in self._chunks():
            await send({"type": "http.response.body", "body": chunk, "more_body": True})

    async def _chunks(self) -> AsyncIterator[bytes]:
        if self._drip:
            position = 0
            while True:
                yield self._body[position : position + 1] or b"\0"
                position += 1
                await asyncio.sleep(_DRIP_S)
        yield self._body
        while True:
            yield b"\0" * _CHUNK
            await asyncio.sleep(_PAUSE_S)


def _start(mime: str, length: int | None = None) -> dict[str, object]:
    headers = [(b"content-type", mime.encode())]
    if length is not None:
        headers.append((b"content-length", str(length).encode()))
    return {"type": "http.response.start", "status": 200, "headers": headers}
