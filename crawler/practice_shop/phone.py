"""A phone that logs in at the practice shop: a client of its own, it knows only what it sees and fetches."""

from __future__ import annotations

import time
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
from PIL import Image, UnidentifiedImageError

from crawler.errors import CrawlError
from crawler.practice_shop.qr_reader import read_code, read_terminal

_TIMEOUT_S, _LOOK_AGAIN_S = 10.0, 0.2
_MAX_BYTES = 50_000_000


class Phone:
    """Scans the login codes of one shop and answers them.

    shop_url: the shop's search site, such as http://127.0.0.1:8301. Every method raises CrawlError if the
    shop cannot be reached, or if the code is not one of this shop.
    """

    def __init__(self, shop_url: str) -> None:
        self._shop = shop_url.rstrip("/")
        self._client = httpx.Client(
            timeout=_TIMEOUT_S,
            trust_env=False,  # no proxies: the shop is on this machine
            limits=httpx.Limits(max_keepalive_connections=0),  # nothing stays open between two codes
            headers={"user-agent": "practice-phone/1"},
        )

    def __enter__(self) -> Phone:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Hang up. Safe to call twice."""
        self._client.close()

    def scan(self, payload: str) -> str:
        """Read a code: its state afterwards (SCANED, EXPIRED, …; UNKNOWN: there is no such code)."""
        self._token(payload)
        return self._state("GET", payload)

    def confirm(self, payload: str) -> str:
        """Agree to a scanned code: CONFIRMED if all went well."""
        return self._answer("qrcodeConfirm.htm", payload)

    def cancel(self, payload: str) -> str:
        """Refuse a code: CANCELED if all went well."""
        return self._answer("qrcodeCancel.htm", payload)

    def decode_file(self, path: Path | str) -> str | None:
        """What the code on a picture says; None if there is no code, no picture, or no file (yet)."""
        try:
            if Path(path).stat().st_size > _MAX_BYTES:
                return None
            with Image.open(path) as image:
                return read_code(image)
        except (OSError, UnidentifiedImageError, Image.DecompressionBombError, ValueError):
            return None

    def decode_terminal(self, text: str) -> str | None:
        """What a code that a program printed says; None if there is none."""
        return read_terminal(text)

    def answer_file(self, path: Path | str, *, agree: bool = True, timeout_s: float = 60) -> str:
        """Wait for a picture with a code that is still good, scan it, confirm or cancel it.

        Returns:
            The state afterwards.

        Raises:
            CrawlError: no good code within `timeout_s` seconds.
        """
        deadline = time.monotonic() + timeout_s
        tried, found = "", "no QR code"
        while time.monotonic() < deadline:
            payload = self.decode_file(path)
            if payload is not None and payload != tried:
                tried, found = payload, self.scan(payload)
                if found == "SCANED":
                    return self.confirm(payload) if agree else self.cancel(payload)
            time.sleep(_LOOK_AGAIN_S)
        raise CrawlError(f"{path}: nothing to scan within {timeout_s:g} s ({found.lower()})")

    def _answer(self, step: str, payload: str) -> str:
        parts = urlsplit(payload)
        address = f"{parts.scheme}://{parts.netloc}/{step}"
        return self._state("POST", address, {"lgToken": self._token(payload)})

    def _token(self, payload: str) -> str:
        """The token in a payload, which must be one of this shop."""
        host = self._json("GET", f"{self._shop}/_control/profile.json").get("login")
        parts = urlsplit(payload)
        tokens = parse_qs(parts.query).get("lgToken", [])
        if parts.scheme != "http" or parts.netloc != host or parts.path != "/qrcodeCheck.htm" or not tokens:
            raise CrawlError(f"this code is not one of the shop at {self._shop}")
        return tokens[0]

    def _state(self, method: str, url: str, form: dict[str, str] | None = None) -> str:
        return str(self._json(method, url, form).get("state", "UNKNOWN"))

    def _json(self, method: str, url: str, form: dict[str, str] | None = None) -> dict[str, Any]:
        try:
            content: Any = self._client.request(method, url, data=form).json()
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            raise CrawlError(f"no practice shop at {self._shop} ({type(error).__name__})") from None
        return content if isinstance(content, dict) else {}
