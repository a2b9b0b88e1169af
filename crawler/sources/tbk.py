"""Taobao's Open Platform: the way to search that Taobao offers to programs.

It needs an app key, its secret and an advertising zone (adzone), all of which one gets at alimama.com. Method
taobao.tbk.dg.material.optional.upgrade, https://open.taobao.com/api.htm?docId=64759&docType=2; how requests
are signed: https://open.taobao.com/doc.htm?docId=101617&docType=1.
"""

from __future__ import annotations

import hashlib
import hmac
import html
import json
import logging
import os
import re
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta, timezone
from http.cookiejar import CookieJar, DefaultCookiePolicy
from pathlib import Path
from typing import Any, Literal

import httpx
from pydantic import SecretStr

from crawler.clock import Clock, SystemClock
from crawler.errors import SettingsError
from crawler.pictures import PictureFetcher
from crawler.profile import load_profile
from crawler.types import Candidate, PageState, Picture, Refused, SearchResult

logger = logging.getLogger(__name__)

ENDPOINT = "https://eco.taobao.com/router/rest"
METHOD = "taobao.tbk.dg.material.optional.upgrade"
_RESPONSES = ("tbk_dg_material_optional_upgrade_response", "tbk_dg_material_optional_response")
USER_AGENT = "cnclip-crawler"
MAX_PAGE = 100  # items a page may have
MAX_ANSWER_BYTES = 5_000_000
TIMEOUT_S = 30.0  # for a whole answer
_VARIABLES = ("CNCLIP_TBK_APP_KEY", "CNCLIP_TBK_SECRET", "CNCLIP_TBK_ADZONE_ID")
_CHINA = timezone(timedelta(hours=8))

SignMethod = Literal["md5", "hmac-sha256"]

# Codes of the platform, as its documentation lists them.
_LIMITED = {4, 5, 6, 7, 8}  # calls of the user, session, partner or app
_BUSY = {3, 10}
_KEYS = {
    11: "the app has no permission for this method; apply for it at alimama.com",
    12: "the user has no permission for this method",
    13: "the partner has no permission for this method",
    24: "the signature is missing",
    25: "the signature is not valid; is the secret the one of the app key?",
    28: "the app key is missing",
    29: "the app key is not valid",
    31: "the time is not valid; is this machine's clock right?",
}
_LIMITED_SUB_CODE = re.compile(
    r"accesscontrol|call[-_]?limit|flow[-_]?(control|limit)|limited[-_]by", re.IGNORECASE
)


class TbkSource:
    """Searches by the Open Platform, fetches pictures from Taobao's image hosts. No browser, no login."""

    name = "tbk"

    def __init__(
        self,
        app_key: str,
        secret: str,
        adzone_id: str,
        *,
        endpoint: str = ENDPOINT,
        sign_method: SignMethod = "hmac-sha256",
        client: httpx.Client | None = None,
        fetcher: PictureFetcher | None = None,
        clock: Clock | None = None,
    ) -> None:
        """adzone_id: the last number of a PID mm_1_2_3. client, fetcher: closed with the source."""
        self._app_key, self._secret, self._adzone_id = app_key, SecretStr(secret), adzone_id
        self._endpoint, self._sign_method = endpoint, sign_method
        self._clock = clock or SystemClock()
        self._client = client or _plain_client()
        self._fetcher = fetcher or _taobao_fetcher(self._clock)

    def open(self) -> None:
        """There is nothing to start."""

    def ensure_session(self) -> None:
        """The signature of each request is all the platform asks for."""

    def search(self, query: str, limit: int) -> SearchResult:
        """Ask for the first page of up to `limit` items (at most 100).

        Raises:
            SettingsError: the platform does not accept key, secret, adzone or clock.
        """
        parameters = self._signed(
            {"q": query, "page_no": "1", "page_size": str(max(1, min(limit, MAX_PAGE)))}
        )
        try:
            status, body = self._post(parameters)
        except httpx.HTTPError as error:
            return self._failed(PageState.SERVER_ERROR, type(error).__name__)
        if status >= 500:
            return self._failed(PageState.SERVER_ERROR, f"HTTP {status}")
        if status == 429:
            return self._failed(PageState.THROTTLED, "HTTP 429")
        answer = _parse(body)
        if status != 200 or answer is None:
            return self._failed(PageState.UNKNOWN, f"HTTP {status}, {len(body)} bytes that are no answer")
        error_response = answer.get("error_response")
        if isinstance(error_response, Mapping):
            return self._refused(error_response)
        return self._result(answer, limit)

    def wait_for_human(self, query: str, limit: int) -> SearchResult | None:  # noqa: ARG002
        """No human is needed here."""
        return None

    def fetch(self, candidate: Candidate, url: str) -> Picture | Refused:
        """Get one picture from Taobao's image hosts and check it."""
        return self._fetcher.fetch(url, candidate.page_url)

    def dump(self, folder: Path, name: str) -> None:
        """There is no page to keep."""

    def close(self) -> None:
        self._client.close()
        self._fetcher.close()

    def _signed(self, parameters: dict[str, str]) -> dict[str, str]:
        """With what every request needs; the time is China's."""
        china = datetime.fromtimestamp(self._clock.now(), _CHINA)
        complete = {
            "method": METHOD,
            "app_key": self._app_key,
            "adzone_id": self._adzone_id,
            "timestamp": china.strftime("%Y-%m-%d %H:%M:%S"),
            "format": "json",
            "v": "2.0",
            "sign_method": self._sign_method,
            **parameters,
        }
        return {**complete, "sign": sign(complete, self._secret.get_secret_value(), self._sign_method)}

    def _post(self, parameters: dict[str, str]) -> tuple[int, bytes]:
        """Status and body. A POST: addresses get logged, bodies do not. Raises httpx.HTTPError."""
        deadline = self._clock.monotonic() + TIMEOUT_S
        body = bytearray()
        with self._client.stream("POST", self._endpoint, data=parameters) as response:
            for chunk in response.iter_bytes():
                body += chunk
                if len(body) > MAX_ANSWER_BYTES or self._clock.monotonic() > deadline:
                    raise httpx.ReadError("the answer is too long")
            return response.status_code, bytes(body)

    def _result(self, answer: Mapping[str, Any], limit: int) -> SearchResult:
        response = next((_table(answer[name]) for name in _RESPONSES if name in answer), None)
        if response is None:
            return self._failed(PageState.UNKNOWN, "no answer to this method")
        candidates = tuple(_candidates(response))[:limit]
        if candidates:
            return SearchResult(PageState.RESULTS, candidates, layout=self.name, url=self._endpoint)
        if _number(response.get("total_results", 0)) == 0:
            return self._failed(PageState.EMPTY, "no items")
        return self._failed(PageState.UNKNOWN, "items were announced, but none has a picture")

    def _failed(self, state: PageState, detail: str) -> SearchResult:
        logger.info("tbk: %s: %s", state.value, detail)
        return SearchResult(state, layout=self.name, url=self._endpoint, detail=detail)

    def _refused(self, error: Mapping[str, Any]) -> SearchResult:
        """What an error_response means. Raises SettingsError where only the user can help."""
        code = _number(error.get("code"))
        message, sub_code, sub_message = (_text(error.get(name)) for name in ("msg", "sub_code", "sub_msg"))
        detail = self._without_keys(f"{code} {message}: {sub_code} {sub_message}".strip(" :"))
        if code in _LIMITED or _LIMITED_SUB_CODE.search(sub_code):
            return self._failed(PageState.THROTTLED, detail)
        if code in _KEYS or sub_code.startswith("isv.permission"):
            raise SettingsError(f"tbk: {_KEYS.get(code, _KEYS[11])} ({detail})")
        if "adzone" in f"{sub_code} {sub_message}".lower():
            raise SettingsError(f"tbk: the adzone id is not valid ({detail})")
        if "无结果" in sub_message:
            return self._failed(PageState.EMPTY, detail)
        if code in _BUSY or (code == 15 and not sub_code.startswith("isv.")):  # isp.*: the provider's fault
            return self._failed(PageState.SERVER_ERROR, detail)
        return self._failed(PageState.UNKNOWN, detail)

    def _without_keys(self, text: str) -> str:
        for value in (self._secret.get_secret_value(), self._app_key):
            text = text.replace(value, "***")
        return " ".join(text.split())[:200]


def tbk_from_environment() -> TbkSource:
    """A source with the keys in CNCLIP_TBK_APP_KEY, CNCLIP_TBK_SECRET and CNCLIP_TBK_ADZONE_ID.

    Raises:
        SettingsError: one of them is missing, or the adzone is no number.
    """
    values = [os.environ.get(name, "").strip() for name in _VARIABLES]
    for name, value in zip(_VARIABLES, values, strict=True):
        if not value:
            raise SettingsError(
                f"tbk: the environment variable {name} is not set; all of {', '.join(_VARIABLES)} are needed"
            )
    app_key, secret, adzone_id = values
    if not re.fullmatch(r"[0-9]+", adzone_id):
        raise SettingsError(f"tbk: {_VARIABLES[2]}: not a number; it is the last one of a PID like mm_1_2_3")
    return TbkSource(app_key, secret, adzone_id)


def sign(parameters: Mapping[str, str], secret: str, method: SignMethod) -> str:
    """The signature of a request, as upper-case hex: over all names and values, sorted by name."""
    text = "".join(name + parameters[name] for name in sorted(parameters))
    if method == "md5":
        return hashlib.md5(f"{secret}{text}{secret}".encode()).hexdigest().upper()
    return hmac.new(secret.encode(), text.encode(), hashlib.sha256).hexdigest().upper()


def _plain_client() -> httpx.Client:
    return httpx.Client(
        headers={"User-Agent": USER_AGENT},
        timeout=httpx.Timeout(15, connect=5),
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
        trust_env=False,
    )


def _taobao_fetcher(clock: Clock) -> PictureFetcher:
    taobao = load_profile("taobao")
    return PictureFetcher(
        taobao.hosts.image,
        user_agent=USER_AGENT,
        placeholder_sha256=taobao.pictures.placeholder_sha256,
        clock=clock,
    )


def _parse(body: bytes) -> dict[str, Any] | None:
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return answer if isinstance(answer, dict) else None


def _number(value: object) -> int:
    """A count or code, given as a number or a text; -1 if it is neither."""
    text = str(value)
    return int(text) if re.fullmatch(r"[0-9]{1,9}", text) else -1


def _candidates(response: Mapping[str, Any]) -> Iterator[Candidate]:
    """The items of an answer, in the form with item_basic_info and in the flat one before it."""
    items = _table(response.get("result_list")).get("map_data")
    rank = 0
    for item in map(_table, items if isinstance(items, list) else [items]):
        info = _table(item.get("item_basic_info")) or item
        small = _table(info.get("small_images")).get("string")
        urls = [info.get("pict_url"), *(small if isinstance(small, list) else [small])]
        addresses = tuple(dict.fromkeys(_absolute(url) for url in urls if isinstance(url, str) and url))
        if not addresses:
            continue
        title = html.unescape(re.sub(r"<[^<>]*>", "", _text(info.get("title")))).strip()
        yield Candidate(_text(item.get("item_id")), addresses, title=title, rank=rank)
        rank += 1


def _table(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _text(value: object) -> str:
    return "" if value is None else str(value)


def _absolute(url: str) -> str:
    return f"https:{url}" if url.startswith("//") else url
