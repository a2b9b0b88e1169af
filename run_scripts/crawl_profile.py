"""Which site a command is about: `--source`, `--profile` and `--shop-url` make a Profile."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crawler.errors import SettingsError

if TYPE_CHECKING:
    from crawler.profile import Profile

PRACTICE_SHOP = "practice-shop"
_TIMEOUT_S = 10.0
_MAX_BYTES = 100_000
# They are put into a TOML text, so nothing that could end a string there.
_NAME, _VALUE = re.compile(r"[a-z][a-z0-9_]{0,40}"), re.compile(r"[A-Za-z0-9.:/\[\]_-]{1,200}")


def resolve_profile(source: str, profile_file: Path | None, shop_url: str | None) -> Profile:
    """The profile in `profile_file` if that is given, else the built-in one of `source`.

    Args:
        shop_url: search origin of a running practice shop, whose addresses differ from run to run.

    Raises:
        SettingsError: there is no such profile, or the shop does not answer.
    """
    from crawler.profile import load_profile

    if profile_file is not None:
        if profile_file.suffix != ".toml":
            raise SettingsError(f"--profile: {profile_file}: not a .toml file (built-in ones: --source)")
        return load_profile(profile_file, _shop_variables(shop_url) if shop_url else None)
    if source != PRACTICE_SHOP:
        if shop_url is not None:
            raise SettingsError(f"--shop-url is for --source {PRACTICE_SHOP}, not {source}")
        return load_profile(source)
    if shop_url is None:
        raise SettingsError(f"--source {source} needs --shop-url URL; start a shop with: cnclip {source}")
    return load_profile(source, _shop_variables(shop_url))


def _shop_variables(shop_url: str) -> dict[str, str]:
    """What a running shop says about its addresses. Raises SettingsError."""
    import httpx

    address = f"{shop_url.rstrip('/')}/_control/profile.json"
    try:
        answer = httpx.get(address, timeout=_TIMEOUT_S, trust_env=False)  # never by way of a proxy
        answer.raise_for_status()
        content: Any = answer.json() if len(answer.content) <= _MAX_BYTES else None
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SettingsError(f"--shop-url: {address}: no practice shop there ({reason})") from None
    good = isinstance(content, dict) and all(
        isinstance(value, str) and _NAME.fullmatch(name) and _VALUE.fullmatch(value)
        for name, value in content.items()
    )
    if not good:
        raise SettingsError(f"--shop-url: {address}: not the addresses of a practice shop")
    return dict(content)
