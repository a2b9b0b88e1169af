"""Site profiles: all that is known about a shop's pages, as data.

A profile is a TOML file; `profiles/` has those that come with the project, `--profile FILE` names another.
docs/crawler.md describes every field. Nothing else in the crawler knows a site, the practice shop included.
"""

from __future__ import annotations

import codecs
import re
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from crawler.errors import SettingsError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PROFILES = Path(__file__).parent / "profiles"
_HOST = re.compile(r"(\*\.)?[\w.-]+(:\d{1,5})?")
_DEFAULT_PORTS = {"http": 80, "https": 443}


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Search(_Section):
    """url: with `{query}`. query_parameter: where the page's own address repeats the query; empty if nowhere.
    query_box: selector of a field that repeats it. wait_s: how long a page may take to show its results."""

    url: str
    encoding: str = "utf-8"
    query_parameter: str = ""
    query_box: str = ""
    wait_s: float = Field(default=20, gt=0)

    @field_validator("url")
    @classmethod
    def _has_query(cls, url: str) -> str:
        if "{query}" not in url:
            raise ValueError("must contain {query}")
        return url

    @field_validator("encoding")
    @classmethod
    def _is_known(cls, encoding: str) -> str:
        try:
            return codecs.lookup(encoding).name
        except LookupError:
            raise ValueError(f"unknown encoding {encoding!r}") from None


class Hosts(_Section):
    """Who may be talked to: `host`, `*.host` (below it) or `host:port`; without a port only 80 and 443."""

    page: tuple[str, ...] = Field(min_length=1)
    image: tuple[str, ...]
    qr: tuple[str, ...] = ()

    @field_validator("page", "image", "qr")
    @classmethod
    def _are_hosts(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        for host in hosts:
            if not _HOST.fullmatch(host):
                raise ValueError(f"{host!r} is not host, *.host or host:port")
        return hosts


class Pace(_Section):
    """The site's least pace; flags can only slow it down. Seconds, except max_queries (per run) and breaker
    (failures in a row that stop the run)."""

    gap_s: float = Field(default=6.0, ge=0, le=86400, allow_inf_nan=False)
    jitter_s: float = Field(default=6.0, ge=0, le=86400, allow_inf_nan=False)
    picture_gap_s: float = Field(default=1.0, ge=0, le=86400, allow_inf_nan=False)
    retry_s: float = Field(default=5.0, ge=0, le=86400, allow_inf_nan=False)
    cooldown_s: float = Field(default=1800.0, ge=0, le=86400, allow_inf_nan=False)
    max_cooldown_s: float = Field(default=86400.0, ge=0, le=86400, allow_inf_nan=False)
    max_queries: int = Field(default=200, ge=1)
    breaker: int = Field(default=5, ge=1)


class Layout(_Section):
    """One known shape of the result page. `card` finds the product cards of the main grid; `link`, `image`
    and `ad` are looked for inside a card (or match the card itself)."""

    name: str
    card: str
    image: str = "img"
    link: str = "a[href]"
    ad: tuple[str, ...] = ()


class Products(_Section):
    """link: regular expressions of product addresses, group `id` is the item. ad_link: of advertisements.
    recommendations: texts that head a list which does not belong to the query."""

    link: tuple[str, ...]
    ad_link: tuple[str, ...] = ()
    recommendations: tuple[str, ...] = ()


class Pictures(_Section):
    """attributes: of the img element, best first (`src`, `currentSrc` and `srcset` too). size_suffix: regular
    expressions of what to cut off an address to get the original picture; group `size` (pixels) is its size,
    where it has one. not_products: of addresses that are icons or blanks. placeholder_sha256: of files that
    stand for a missing picture. referer: what to send; empty: the result page."""

    attributes: tuple[str, ...] = (
        "data-src",
        "data-ks-lazyload",
        "data-lazy-src",
        "currentSrc",
        "src",
        "srcset",
    )
    size_suffix: tuple[str, ...] = ()
    not_products: tuple[str, ...] = ()
    placeholder_sha256: tuple[str, ...] = ()
    referer: str = ""


class Empty(_Section):
    """selectors: of nodes shown when nothing was found; texts: what such a node says."""

    selectors: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()


class Challenge(_Section):
    """How the site says no. *_url: regular expressions on the address of the page or of a frame that covers
    it. *_selectors: nodes that count only while visible. *_texts: what a visible node outside product cards,
    or a page without any, says."""

    captcha_url: tuple[str, ...] = ()
    captcha_selectors: tuple[str, ...] = ()
    deny_url: tuple[str, ...] = ()
    deny_selectors: tuple[str, ...] = ()
    deny_texts: tuple[str, ...] = ()
    throttle_url: tuple[str, ...] = ()
    throttle_selectors: tuple[str, ...] = ()
    throttle_texts: tuple[str, ...] = ()
    identity_url: tuple[str, ...] = ()
    identity_selectors: tuple[str, ...] = ()


class Login(_Section):
    """The QR login. Selectors are tried in order, in the page and in `frame`.

    url: the login page. wall_url: regular expressions of addresses that mean "log in first". probe_url: a
    page only logged-in visitors see; logged in means: not on a wall, `cookies` all set, and the probe stays
    on a `page` host that is no wall. switch: shows the QR code. code: the canvas or img. refresh: asks for a
    new code. *_texts, *_selectors: what is visible in a state. keep_yes, keep_no: answer the dialog "stay
    logged in?".
    """

    url: str
    wall_url: tuple[str, ...]
    probe_url: str
    cookies: tuple[str, ...]
    nick_cookies: tuple[str, ...] = ()
    frame: tuple[str, ...] = ()
    switch: tuple[str, ...] = ()
    code: tuple[str, ...] = ()
    refresh: tuple[str, ...] = ()
    expired_selectors: tuple[str, ...] = ()
    expired_texts: tuple[str, ...] = ()
    scanned_selectors: tuple[str, ...] = ()
    scanned_texts: tuple[str, ...] = ()
    cancelled_selectors: tuple[str, ...] = ()
    cancelled_texts: tuple[str, ...] = ()
    keep_dialog: tuple[str, ...] = ()
    keep_yes: tuple[str, ...] = ()
    keep_no: tuple[str, ...] = ()
    max_code_age_s: float = Field(default=180, gt=0)
    max_codes: int = Field(default=6, ge=1)
    timeout_s: float = Field(default=300, gt=0)
    poll_s: float = Field(default=1.0, gt=0)


class Profile(_Section):
    """One site."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    title: str = ""
    search: Search
    hosts: Hosts
    pace: Pace = Pace()
    layout: tuple[Layout, ...] = ()
    products: Products
    pictures: Pictures = Pictures()
    empty: Empty = Empty()
    challenge: Challenge = Challenge()
    login: Login | None = None

    def search_url(self, query: str) -> str:
        """Address of the result page. Raises UnicodeEncodeError if the site's encoding lacks a character."""
        return self.search.url.replace("{query}", quote(query, safe="", encoding=self.search.encoding))


def host_allowed(url: str, allowed: tuple[str, ...]) -> bool:
    """Whether an http(s) address is on one of the `allowed` hosts (see Hosts); no user info, no odd ports."""
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").rstrip("."), parts.port
    except ValueError:
        return False
    if parts.scheme not in _DEFAULT_PORTS or parts.username is not None or not host:
        return False
    for pattern in allowed:
        name, _, wanted = pattern.partition(":")
        same = host.endswith(name[1:]) if name.startswith("*.") else host == name
        ports = (int(wanted),) if wanted else (None, *_DEFAULT_PORTS.values())
        if same and (port in ports or (port is None and _DEFAULT_PORTS[parts.scheme] in ports)):
            return True
    return False


def load_profile(name_or_path: str | Path, variables: dict[str, str] | None = None) -> Profile:
    """Read a profile that comes with the project, by name, or a file.

    `variables` replace `${NAME}` in the text (the practice shop's addresses differ from run to run). With
    `extends = "taobao"` a file says only what is different: its fields replace those of the same section.

    Raises:
        SettingsError: no such profile, broken TOML, or a field that is missing, unknown or bad.
    """
    path = _path(name_or_path)
    return check_profile(_read(path, variables or {}), str(path))


def _path(name_or_path: str | Path) -> Path:
    path = Path(name_or_path)
    return path if path.suffix == ".toml" else PROFILES / f"{name_or_path}.toml"


def _read(path: Path, variables: dict[str, str]) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        known = ", ".join(sorted(file.stem for file in PROFILES.glob("*.toml")))
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise SettingsError(f"profile {path}: {reason} (built in: {known}; or a .toml file)") from None
    for name, value in variables.items():
        text = text.replace(f"${{{name}}}", value)
    try:
        content: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{path}: {error}") from None
    base_name = content.pop("extends", None)
    if base_name is None:
        return content
    if base_name == path.stem or not (PROFILES / f"{base_name}.toml").is_file():
        raise SettingsError(f"{path}: extends: no built-in profile {base_name!r}")
    base = _read(PROFILES / f"{base_name}.toml", {})
    for name, value in content.items():
        base[name] = {**base[name], **value} if isinstance(base.get(name), dict) else value
    return base


def check_profile(content: dict[str, Any], path: str) -> Profile:
    """A Profile from parsed TOML. Raises SettingsError naming `path` and the field."""
    try:
        profile = Profile.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise SettingsError(f"{path}: {field}: {first['msg'].removeprefix('Value error, ')}") from None
    for field, patterns in _patterns(profile):
        for pattern in patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                raise SettingsError(f"{path}: {field}: bad regular expression {pattern!r}: {error}") from None
    return profile


def _patterns(profile: Profile) -> list[tuple[str, tuple[str, ...]]]:
    """(field, regular expressions) of a profile."""
    challenge = [
        (f"challenge.{name}", getattr(profile.challenge, name))
        for name in Challenge.model_fields
        if name.endswith("_url")
    ]
    login = [("login.wall_url", profile.login.wall_url)] if profile.login else []
    return [
        ("products.link", profile.products.link),
        ("products.ad_link", profile.products.ad_link),
        ("pictures.size_suffix", profile.pictures.size_suffix),
        ("pictures.not_products", profile.pictures.not_products),
        *challenge,
        *login,
    ]
