"""Where the crawler keeps what outlives a run: the browser profile with the login, and the site's state."""

from __future__ import annotations

import os
from pathlib import Path

from crawler.errors import SettingsError


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


def private_folder(path: Path) -> Path:
    """Make `path` if it is missing, readable by its owner only (0700). Raises SettingsError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise SettingsError(f"state directory {path}: {error.strerror or error}") from None
    return path
