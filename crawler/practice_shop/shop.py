"""The practice shop as one object: start it, change it, read its log, stop it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import uvicorn

from crawler.errors import SettingsError
from crawler.practice_shop.app import ShopApp
from crawler.practice_shop.layouts import Origins
from crawler.practice_shop.settings import ShopSettings
from crawler.practice_shop.visits import Visit, VisitLog
from crawler.practice_shop.wires import Wire
from crawler.practice_shop.world import World
from crawler.profile import Profile, load_profile

_HOSTS = ("127.0.0.1", "127.0.0.2", "127.0.0.3")  # search, login, images: three sites to a browser
_START_S, _STOP_S, _CALL_S = 30, 20, 20
T = TypeVar("T")


class PracticeShop:
    """A shop on three addresses of this machine, served by a thread of its own until closed.

    ports: of the search, login and image site; 0 takes free ones. log: a JSONL file of all visits.

    Raises:
        SettingsError: bad settings, a taken port, a log that cannot be written.
    """

    def __init__(
        self,
        settings: ShopSettings | None = None,
        *,
        ports: tuple[int, int, int] = (0, 0, 0),
        log: Path | None = None,
    ) -> None:
        self._visits = VisitLog(log)
        self._sockets: list[socket.socket] = []
        try:
            for host, port in zip(_HOSTS, ports, strict=True):
                self._sockets.append(_listen(host, port))
            addresses = [":".join(map(str, listener.getsockname())) for listener in self._sockets]
            self._world = World(settings or ShopSettings(), Origins(*addresses), self._visits)
        except BaseException:
            self._release()
            raise
        self.search_origin, self.login_origin, self.image_origin = (f"http://{at}" for at in addresses)
        config = uvicorn.Config(
            ShopApp(self._world),
            http=Wire,
            ws="none",
            loop="asyncio",
            lifespan="off",
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=3,
        )
        self._server = uvicorn.Server(config)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._serve, name="practice-shop", daemon=True)
        self._thread.start()
        self._wait_until_up()

    def __enter__(self) -> PracticeShop:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def settings(self) -> ShopSettings:
        """How the shop behaves now."""
        return self._world.settings

    def profile(self) -> Profile:
        """The profile `practice-shop` with this shop's addresses."""
        at = self._world.origins
        return load_profile("practice-shop", {"search": at.search, "login": at.login, "images": at.images})

    def set(self, **changes: Any) -> None:
        """Change settings while the shop runs. Raises SettingsError, and then nothing has changed."""
        self._call(lambda: self._world.change(changes))

    def log(self, kind: str | None = None) -> list[Visit]:
        """The visits so far in order of arrival, of one kind or all."""
        return self._visits.visits(kind)

    def reset(self) -> None:
        """Forget sessions, codes, log, risk; the settings stay."""
        self._call(self._world.forget)

    def solve(self) -> None:
        """What a human does about a block or an identity check."""
        self._call(self._world.solve)

    @property
    def blocked(self) -> str | None:
        """How the shop blocks now, as in `risk_kind`; None while it does not."""
        return self._world.risk.blocked

    def close(self) -> None:
        """Stop at once, whatever still hangs or streams. Safe to call twice."""
        if self._loop is not None and self._thread.is_alive():
            with contextlib.suppress(RuntimeError):  # the loop ended by itself just now
                self._loop.call_soon_threadsafe(self._world.closing.announce)
            self._server.should_exit = True
            self._thread.join(_STOP_S)
        self._release()

    def _release(self) -> None:
        for listener in self._sockets:
            listener.close()
        self._visits.close()

    def _serve(self) -> None:
        async def serve() -> None:
            self._loop = asyncio.get_running_loop()
            await self._server.serve(self._sockets)

        asyncio.run(serve())

    def _wait_until_up(self) -> None:
        deadline = time.monotonic() + _START_S
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > deadline:
                self.close()
                raise SettingsError("practice shop: its server did not start")
            time.sleep(0.005)

    def _call(self, action: Callable[[], T]) -> T:
        """Run `action` in the server's loop, where nothing else happens meanwhile."""

        async def act() -> T:
            return action()

        if self._loop is None or not self._thread.is_alive():
            raise SettingsError("practice shop: it is closed")
        return asyncio.run_coroutine_threadsafe(act(), self._loop).result(_CALL_S)


def _listen(host: str, port: int) -> socket.socket:
    """A bound socket; where only 127.0.0.1 is to be had (macOS), that."""
    try:
        return _bound(host, port)
    except OverflowError:
        raise SettingsError(f"practice shop: port {port}: there are ports 0 to 65535") from None
    except OSError as error:
        if error.errno == errno.EADDRNOTAVAIL and host != _HOSTS[0]:
            return _listen(_HOSTS[0], port)
        reason = "is in use" if error.errno == errno.EADDRINUSE else error.strerror or str(error)
        raise SettingsError(f"practice shop: port {port} of {host}: {reason}") from None


def _bound(host: str, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(128)
    except (OSError, OverflowError):
        listener.close()
        raise
    return listener
