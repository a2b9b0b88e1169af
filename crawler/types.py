"""The nouns of crawling: what a page is, what a search found, how a query ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum


class PageState(str, Enum):
    """What a page of the site is, as `crawler.classify` reads it."""

    RESULTS = "results"
    EMPTY = "empty"  # the site says it has nothing for the query
    LOADING = "loading"
    LOGIN_WALL = "login_wall"
    IDENTITY_CHECK = "identity_check"  # SMS or face: only a human can go on
    CAPTCHA = "captcha"
    THROTTLED = "throttled"  # "too many visitors", without a puzzle
    DENIED = "denied"  # this network is refused
    SERVER_ERROR = "server_error"  # 5xx, reset, load timeout
    UNKNOWN = "unknown"  # none of the above: the layout changed

    @property
    def blocked(self) -> bool:
        """Whether all requests must stop and a human decides."""
        return self in (PageState.CAPTCHA, PageState.THROTTLED, PageState.DENIED, PageState.IDENTITY_CHECK)


class Outcome(str, Enum):
    """How a query ended. All but OK and CACHED are misses; the value is the reason shown and logged."""

    OK = "ok"
    CACHED = "cached"
    EMPTY = "empty"
    NO_GOOD_PICTURE = "no_good_picture"  # candidates there were, each was refused
    LOAD_FAILED = "load_failed"  # page or pictures did not come: the next run asks again
    UNKNOWN_LAYOUT = "unknown_layout"
    UNUSABLE_QUERY = "unusable_query"  # nothing to search for
    KNOWN_MISS = "known_miss"  # missed lately; asked again once the entry expires

    @property
    def done(self) -> bool:
        """Whether a rerun has nothing left to do for the query."""
        return self in (Outcome.OK, Outcome.CACHED, Outcome.EMPTY, Outcome.UNUSABLE_QUERY)

    @property
    def remembered(self) -> bool:
        """Whether it is a miss that the cache keeps until it expires."""
        return self in (Outcome.EMPTY, Outcome.NO_GOOD_PICTURE)


@dataclass(frozen=True)
class Candidate:
    """One product on a result page.

    image_urls: absolute, best first (the picture in a useful size, then the original). page_url: the result
    page, sent as Referer. rank: position on the page from 0, advertisements not counted.
    """

    item_id: str
    image_urls: tuple[str, ...]
    page_url: str = ""
    title: str = ""
    rank: int = 0


@dataclass(frozen=True)
class SearchResult:
    """What one search showed. `layout` names the profile's layout that matched; `detail` is for the log."""

    state: PageState
    candidates: tuple[Candidate, ...] = ()
    layout: str = ""
    url: str = ""
    detail: str = ""


class Refusal(str, Enum):
    """Why a picture was not taken."""

    HOST = "host_not_allowed"
    STATUS = "http_status"
    GONE = "gone"  # 404, 410
    THROTTLED = "throttled"  # 429, 503
    NOT_IMAGE = "not_an_image"
    TOO_MANY_BYTES = "too_many_bytes"
    TOO_FEW_BYTES = "too_few_bytes"
    TOO_SLOW = "too_slow"
    NETWORK = "network"
    TRUNCATED = "truncated"
    TOO_MANY_PIXELS = "too_many_pixels"
    TOO_SMALL = "too_small"  # in pixels
    FLAT = "near_constant"
    PLACEHOLDER = "placeholder"
    DUPLICATE = "duplicate"

    @property
    def of_transport(self) -> bool:
        """Whether it says something about network and site, and nothing about the picture."""
        return self in (Refusal.NETWORK, Refusal.TOO_SLOW, Refusal.THROTTLED, Refusal.STATUS)


@dataclass(frozen=True)
class Picture:
    """A good picture: `jpeg` is what the cache stores (224 x 224 RGB JPEG), the rest is its provenance.

    sha256: of the bytes that were fetched. dhash: 64-bit difference hash of the picture. width, height: of
    the original in pixels.
    """

    jpeg: bytes
    sha256: str
    dhash: int
    url: str
    mime: str
    width: int
    height: int


@dataclass(frozen=True)
class Refused:
    """A picture that was not taken, and why. `retry_after` in seconds, where the server said it."""

    reason: Refusal
    url: str
    detail: str = ""
    retry_after: float | None = None


@dataclass(frozen=True)
class QueryReport:
    """How one query ended: `pictures` good ones stored by now; `refused` counts by Refusal value."""

    query: str
    outcome: Outcome
    pictures: int = 0
    state: PageState | None = None
    layout: str = ""
    detail: str = ""
    refused: Mapping[str, int] = field(default_factory=dict)
