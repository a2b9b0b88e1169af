"""Ways to show a login: on a terminal, as a picture file, several at once; `login_page` has the page."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TextIO

from cache.files import TEMPORARY_PREFIX
from crawler.login_events import SEPARATOR, LoginEvent, LoginStep, LoginUI, to_stderr
from crawler.login_page import PageUI
from crawler.qr import draw_terminal, terminal_width, to_jpeg

__all__ = ["FileUI", "LoginEvent", "LoginStep", "LoginUI", "PageUI", "Several", "TerminalUI"]

logger = logging.getLogger(__name__)

_NOT_DRAWN = f"the code cannot be drawn here: scan the picture{SEPARATOR}此处无法显示二维码，请扫描图片"
_TOO_NARROW = (
    "make the terminal {columns} columns wide, or scan the picture · 请将终端加宽到 {columns} 列，或扫描图片"
)


class TerminalUI:
    """One line per step, and the code if `stream` is a terminal that can show it.

    Args:
        stream: default stderr.
        force: draw the code even into a file or pipe.
    """

    def __init__(self, stream: TextIO | None = None, *, force: bool = False) -> None:
        self._stream, self._force = stream or sys.stderr, force

    def show(self, event: LoginEvent) -> None:
        """Print it."""
        if event.png is not None and (self._force or self._stream.isatty()):
            self._draw(event.payload)
        self.say(event.message)

    def say(self, line: str) -> None:
        """Print one line."""
        self._stream.write(f"{line}\n")
        self._stream.flush()

    def close(self) -> None:
        """Nothing to do: what was printed is of no use any more."""

    def _draw(self, payload: str | None) -> None:
        try:
            code = draw_terminal(payload) if payload else ""
            code.encode(self._stream.encoding or "utf-8")
        except ValueError:  # too long for a code, or a terminal without block characters
            code = ""
        if not code or payload is None:
            self.say(_NOT_DRAWN)
        elif self._columns() < terminal_width(payload):
            self.say(_TOO_NARROW.format(columns=terminal_width(payload)))
        else:
            self._stream.write(f"\n{code}\n")

    def _columns(self) -> int:
        try:
            return os.get_terminal_size(self._stream.fileno()).columns or 80
        except (OSError, ValueError):  # not a terminal: nothing wraps
            return 1000


class FileUI:
    """The code as `barcode_<rank>.jpg`, which is there exactly while there is something to scan.

    The file is readable by its owner only: whoever scans the code logs in to this browser.

    Args:
        folder: made if missing.
        rank: number in the name.
        say: told once where the picture is.
    """

    def __init__(self, folder: Path, rank: int = 0, say: Callable[[str], None] = to_stderr) -> None:
        self.path = folder / f"barcode_{rank}.jpg"
        self._say, self._said = say, False

    def show(self, event: LoginEvent) -> None:
        """Write the new code, or remove the old one. Raises OSError."""
        jpeg = to_jpeg(event.png) if event.png is not None else None
        if jpeg is None:
            self.close()
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        _write_private(self.path, jpeg)
        if not self._said:
            self._said = True
            self._say(f"the code as a picture: {self.path}{SEPARATOR}二维码图片：{self.path}")

    def close(self) -> None:
        """Remove the picture."""
        self.path.unlink(missing_ok=True)


def _write_private(path: Path, data: bytes) -> None:
    """Complete or absent, mode 0600 from its first byte on. Not synced: it is worthless after a crash."""
    descriptor, name = tempfile.mkstemp(prefix=TEMPORARY_PREFIX, dir=path.parent)  # made with 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        os.replace(name, path)  # noqa: PTH105  # the name is a string here
    except BaseException:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        raise


class Several:
    """Shows each event everywhere. What fails at one place is logged once and does not stop the others."""

    def __init__(self, uis: Sequence[LoginUI]) -> None:
        self._uis = tuple(uis)
        self._failed: set[LoginUI] = set()

    def show(self, event: LoginEvent) -> None:
        """Tell all."""
        for ui in self._uis:
            try:
                ui.show(event)
            except OSError as error:
                if ui not in self._failed:
                    logger.warning("%s cannot show the login: %s", type(ui).__name__, error.strerror or error)
                self._failed.add(ui)

    def close(self) -> None:
        """Close all."""
        for ui in self._uis:
            try:
                ui.close()
            except OSError as error:
                logger.warning("%s cannot be cleaned up: %s", type(ui).__name__, error.strerror or error)
