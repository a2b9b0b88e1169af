"""Where the crawler keeps what outlives a run: the browser profile with the login, and the site's state."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from crawler.errors import CrawlError, SettingsError


def default_state_dir(profile_name: str) -> Path:
    """`$CNCLIP_STATE_DIR/<profile>`, else `$XDG_STATE_HOME/cnclip/<profile>`, else `~/.local/state/cnclip/…`.

    The browser profile is in its `browser/` subfolder. Nothing is created here.
    """
    if own := os.environ.get("CNCLIP_STATE_DIR"):
        return Path(own).expanduser().absolute() / profile_name
    base = Path(os.environ.get("XDG_STATE_HOME", ""))
    if not base.is_absolute():  # the XDG base directory specification: a relative path counts as unset
        base = Path.home() / ".local" / "state"
    return base / "cnclip" / profile_name


class StateDir:
    """What is kept of one account at one site: its browser profile and what the site said."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.browser = path / "browser"
        self.site = path / "state.json"

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """One account, one crawl or login at a time. Raises CrawlError while another one uses it."""
        lock = FileLock(private_folder(self.path) / "site.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise CrawlError(
                f"{self.path}: another crawl or login uses this account; wait for its end"
            ) from None
        try:
            yield
        finally:
            lock.release()


def private_folder(path: Path) -> Path:
    """Make `path` if it is missing, readable by its owner only (0700). Raises SettingsError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise SettingsError(f"state directory {path}: {error.strerror or error}") from None
    return path
