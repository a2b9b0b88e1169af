"""`cnclip serve`: the REST API and the web page over one gallery. Flags are the fields of ServiceSettings."""

from __future__ import annotations

import argparse
import errno
import gc
import logging
import signal
import socket
import sys
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from cnclip.errors import CnclipError, InputError
from service.settings import ServiceSettings, is_loopback

if TYPE_CHECKING:
    from fastapi import FastAPI

logger = logging.getLogger(__name__)

DRAIN_S = 12  # how long requests in flight may take after SIGTERM


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One flag per setting; unset ones fall back to `CNCLIP_…` environment variables, then to defaults."""
    parser.epilog = "Every flag is also an environment variable: --max-batch is CNCLIP_MAX_BATCH."
    for name, field in ServiceSettings.model_fields.items():
        flag = f"--{name.replace('_', '-')}"
        shown = "" if field.is_required() or field.default in (None, False) else f" (default {field.default})"
        text = f"{field.description}{shown}".replace("%", "%%")
        if field.annotation is bool:
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=None, help=text)
        else:
            parser.add_argument(flag, metavar=name.split("_")[-1].upper(), help=text)


def read_settings(args: argparse.Namespace) -> ServiceSettings:
    """Settings from flags and environment.

    Raises:
        InputError: naming the flag and what is wrong with its value.
    """
    given: dict[str, Any] = {name: getattr(args, name, None) for name in ServiceSettings.model_fields}
    try:
        return ServiceSettings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        if first["loc"] == ("gallery",) and first["type"] == "missing":
            raise InputError(
                "--gallery DIR (or CNCLIP_GALLERY) is needed; "
                "make one with: cnclip index PICTURES --gallery DIR"
            ) from None
        flag = f"--{str(first['loc'][0]).replace('_', '-')}: " if first["loc"] else ""
        raise InputError(f"{flag}{first['msg'].removeprefix('Value error, ')}") from None


def run(args: argparse.Namespace) -> int:
    """Open model and gallery, listen, serve until SIGTERM or Ctrl-C, finish what was begun, return 0.

    Raises:
        InputError: bad settings, no gallery, port in use.
    """
    settings = read_settings(args)
    logging.getLogger().setLevel(settings.log_level.upper())
    with listen(settings) as listener:  # before the model: a taken port should not cost its loading time
        from cnclip.model.device import tune_malloc
        from service.app import create_app
        from service.lifecycle import load_encoder, open_gallery

        tune_malloc()
        encoder = load_encoder(settings)
        with open_gallery(settings, encoder) as gallery:
            _serve(create_app(settings, encoder, gallery), listener, settings)
    return 0


def listen(settings: ServiceSettings) -> socket.socket:
    """A bound socket, not yet accepting.

    Raises:
        InputError: the port is taken, or the address is not one of this machine.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # asyncio turns Nagle's delay (40 ms for each answer) off only for sockets that name their protocol.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host.strip("[]"), settings.port))
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise InputError(
                f"--port: {settings.port} is in use; choose another (0 takes a free one)"
            ) from None
        reason = error.strerror or str(error)
        raise InputError(f"--host: cannot listen on {settings.host}:{settings.port} ({reason})") from None
    return listener


def _serve(app: FastAPI, listener: socket.socket, settings: ServiceSettings) -> None:
    import uvicorn

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                # Model and libraries stay until the end; scanning them in every full collection would
                # hold up requests for a tenth of a second.
                gc.collect()
                gc.freeze()
                _announce(listener, settings)

    config = uvicorn.Config(
        app,
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=DRAIN_S,
    )
    server = Server(config)
    # uvicorn drains on SIGTERM and SIGINT, then raises the signal once more on whoever handled it before.
    # That is us, and a drained stop is a success.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: setattr(server, "should_exit", True))
    server.run(sockets=[listener])
    if not server.started:
        raise CnclipError("the service could not start; the reason is above")


def _announce(listener: socket.socket, settings: ServiceSettings) -> None:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    url = f"http://{host}:{listener.getsockname()[1]}"
    sys.stdout.write(f"serving {settings.gallery} on {url} (API: {url}/docs, stop: Ctrl-C)\n")
    sys.stdout.flush()
    if settings.api_key is None and not is_loopback(settings.host):
        logger.warning("no API key: whoever reaches %s may search; writing is off", url)
