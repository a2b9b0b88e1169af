"""What a page shows at one moment, read by one script call, so that nothing of it can go stale."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from crawler.errors import BrowserError, SettingsError
from crawler.profile import Profile

if TYPE_CHECKING:
    from crawler.browser import Browser

MAX_ROWS = 100  # cards read of each layout; a result page has up to 48, with recommendations more
MAX_TEXT = 200  # characters
MAX_ADDRESS = 4000  # characters; longer ones are no pictures


@dataclass(frozen=True)
class Rect:
    """CSS pixels, from the top left corner of the viewport."""

    x: float
    y: float
    width: float
    height: float

    @property
    def bottom(self) -> float:
        return self.y + self.height

    @property
    def area(self) -> float:
        return self.width * self.height

    def beside(self, other: Rect) -> bool:
        """Whether no vertical line crosses both."""
        return self.x + self.width <= other.x or other.x + other.width <= self.x


@dataclass(frozen=True)
class Said:
    """A text of the profile that a comment of the page holds. kind: empty, deny, throttle, recommendation."""

    kind: str
    wanted: str


@dataclass(frozen=True)
class Node:
    """A visible element that matches a selector, or the smallest one that says a text.

    kind: empty, captcha, deny, throttle, identity, login, recommendation. wanted: that selector or text.
    path: see Row. overlay: it lies outside the flow of the page. link: inside a link or button.
    """

    kind: str
    wanted: str
    text: str
    rect: Rect
    path: tuple[int, ...] = ()
    overlay: bool = False
    link: bool = False


@dataclass(frozen=True)
class Frame:
    """A visible iframe."""

    url: str
    rect: Rect
    overlay: bool = False


@dataclass(frozen=True)
class Image:
    """An img element: its raw attributes (currentSrc too) and the size of what it loaded, 0 before. rect: as
    drawn; without size if loading failed."""

    attributes: dict[str, str]
    natural_width: int
    natural_height: int
    rect: Rect


@dataclass(frozen=True)
class Row:
    """A product card. path: places among siblings, from the root down; paths sort in document order, and the
    path of a container begins those of what it holds. links: absolute. ads: ad selectors that match."""

    path: tuple[int, ...]
    rect: Rect
    title: str
    links: tuple[str, ...]
    images: tuple[Image, ...]
    ads: tuple[str, ...] = ()


@dataclass(frozen=True)
class Snapshot:
    """A page at one moment.

    status: of the HTTP response, 0 if unknown. error: name of a network error. base_url: what relative
    addresses refer to. width, height: of the viewport. busy: number of visible skeletons and spinners.
    layouts: visible cards by layout name. rows: visible cards by their product links alone, with more_rows
    left out.
    """

    url: str
    ready_state: str
    base_url: str = ""
    status: int = 0
    error: str = ""
    title: str = ""
    width: float = 0
    height: float = 0
    scroll_y: float = 0
    scroll_height: float = 0
    query_box: str = ""
    busy: int = 0
    probes: tuple[Node, ...] = ()
    texts: tuple[Node, ...] = ()
    comments: tuple[Said, ...] = ()
    frames: tuple[Frame, ...] = ()
    layouts: dict[str, tuple[Row, ...]] = field(default_factory=dict)
    rows: tuple[Row, ...] = ()
    more_rows: int = 0
    bad: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        return self.ready_state == "complete"

    @property
    def at_bottom(self) -> bool:
        return self.scroll_y + self.height >= self.scroll_height - 2


_ADAPTER = TypeAdapter(Snapshot)


def take_snapshot(browser: Browser, profile: Profile) -> Snapshot:
    """Read the page that the browser shows.

    Raises:
        BrowserError: the browser died, or gave no answer that makes sense.
        SettingsError: the browser cannot read a selector or pattern of the profile.
    """
    snapshot = parse_snapshot(browser.script(_code(), _wanted(profile)))
    if snapshot.bad:
        raise SettingsError(f"profile {profile.name}: {snapshot.bad[0]}")
    return snapshot


def parse_snapshot(content: Any) -> Snapshot:
    """A Snapshot from the plain data the script returns (or that was recorded). Raises BrowserError."""
    try:
        return _ADAPTER.validate_python(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise BrowserError(f"the page could not be read: {place}: {first['msg']}") from None


@lru_cache(maxsize=1)
def _code() -> str:
    return (Path(__file__).parent / "snapshot.js").read_text(encoding="utf-8")


def _wanted(profile: Profile) -> dict[str, Any]:
    """What the script looks for; regular expressions in JavaScript's spelling."""
    challenge, empty, login = profile.challenge, profile.empty, profile.login
    return {
        "probes": {
            "empty": empty.selectors,
            "captcha": challenge.captcha_selectors,
            "deny": challenge.deny_selectors,
            "throttle": challenge.throttle_selectors,
            "identity": challenge.identity_selectors,
            "login": login.code if login else (),
        },
        "texts": {
            "empty": empty.texts,
            "deny": challenge.deny_texts,
            "throttle": challenge.throttle_texts,
            "recommendation": profile.products.recommendations,
        },
        "layouts": [layout.model_dump() for layout in profile.layout],
        "product_links": [pattern.replace("(?P<", "(?<") for pattern in profile.products.link],
        "ad_links": [pattern.replace("(?P<", "(?<") for pattern in profile.products.ad_link],
        "attributes": profile.pictures.attributes,
        "query_box": profile.search.query_box,
        "max_rows": MAX_ROWS,
        "max_text": MAX_TEXT,
        "max_address": MAX_ADDRESS,
    }
