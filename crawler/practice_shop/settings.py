"""How the practice shop behaves: one frozen record, changed while it runs by a new one."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from pydantic.fields import FieldInfo

from crawler.errors import SettingsError

LayoutName = Literal["2022", "2023", "2025", "2026", "redesign", "redesign-mixed", "none", "stale"]
UrlForm = Literal[
    "suffix", "plain", "absolute", "relative", "webp", "png", "quality", "srcset", "placeholder", "icon_first"
]
LoginNeed = Literal["none", "required"]
QrNode = Literal["canvas", "img"]
RiskKind = Literal["captcha_overlay", "captcha_page", "throttle_json", "throttle_page", "deny"]
Decoy = Literal["solved_widget", "blocked_iframe", "login_link", "login_xhr", "titles"]
Fault = Literal["hang_html", "hang_css", "hang_image", "bad_gateway_once", "reset_once"]
BadPicture = Literal[
    "404",
    "410",
    "no_referer_403",
    "500",
    "429",
    "truncated",
    "cut_off",
    "html",
    "tiny_body",
    "small_2kb",
    "one_pixel",
    "flat",
    "bomb",
    "endless",
    "drip",
    "hang",
    "foreign_redirect",
    "duplicate_bytes",
    "duplicate_item",
    "placeholder",
    "gif",
    "png",
    "webp",
]


def _listed(choices: Any) -> BeforeValidator:
    """Reads "a,b", ["a,b", "c"] and "all" as tuples of `choices`."""

    def read(value: object) -> object:
        if isinstance(value, str):
            value = [value]
        if not isinstance(value, (list, tuple)) or not all(isinstance(part, str) for part in value):
            return value
        names = [name.strip() for part in value for name in part.split(",") if name.strip()]
        return get_args(choices) if names == ["all"] else tuple(names)

    return BeforeValidator(read)


def _read_faults(value: object) -> object:
    """["连衣裙=hang_html"] as {"连衣裙": "hang_html"}; mappings as they are."""
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, (list, tuple)):
        return value
    pairs = [str(part).rpartition("=") for part in value]
    if not all(query and equals for query, equals, _ in pairs):
        raise ValueError("must be QUERY=FAULT")
    return {query: fault for query, _, fault in pairs}


def _no_folder(value: object) -> object:
    return None if value == "" else value


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class ShopSettings:
    """What the shop does. Times are seconds; None means never. Descriptions are the flags' help."""

    seed: Annotated[int, Field(description="changes class names, titles and prices")] = 1
    layout: Annotated[
        LayoutName,
        Field(
            description="shape of the result page; redesign: no known class; redesign-mixed: with a "
            "recommendation list of the same shape; none: no products; stale: results of the query before"
        ),
    ] = "2025"
    card_delay_s: Annotated[
        float, Field(ge=0, le=60, allow_inf_nan=False, description="seconds from the empty page to the cards")
    ] = 0.2
    redraw: Annotated[bool, Field(description="draw the cards anew all the time: old elements go stale")] = (
        False
    )
    lazy: Annotated[bool, Field(description="pictures get their address when scrolled into view")] = False
    ads: Annotated[bool, Field(description="the first card is an advertisement with a wrong picture")] = False
    url_forms: Annotated[
        tuple[UrlForm, ...],
        _listed(UrlForm),
        Field(min_length=1, description="how picture addresses are written, cards take turns"),
    ] = ("suffix",)
    items_per_page: Annotated[int, Field(ge=1, le=100, description="cards on a page (48 on real ones)")] = 24
    catalogue: Annotated[
        Path | None,
        BeforeValidator(_no_folder),
        Field(
            description='real pictures: a folder QUERY/*.jpg, or a JSONL file of {"query", "image"}; '
            "without it they are drawn"
        ),
    ] = None
    empty_queries: Annotated[
        tuple[str, ...], Field(description="a query the shop has nothing for (may be repeated)")
    ] = ()
    empty_recommendations: Annotated[
        bool, Field(description="an empty page shows recommendations below its text")
    ] = False
    faults: Annotated[
        Mapping[str, Fault],
        BeforeValidator(_read_faults),
        Field(default_factory=dict, description="QUERY=FAULT: what goes wrong for a query (may be repeated)"),
    ] = dataclasses.field(default_factory=dict)
    bad_pictures: Annotated[
        tuple[BadPicture, ...],
        _listed(BadPicture),
        Field(description="what is wrong with the first pictures of every query, in order"),
    ] = ()
    decoys: Annotated[
        tuple[Decoy, ...], _listed(Decoy), Field(description="harmless things that look like a block")
    ] = ()
    login: Annotated[
        LoginNeed, Field(description="whether searching needs a login (a crawl logs in anyway)")
    ] = "none"
    session_searches: Annotated[
        int | None, Field(ge=0, description="searches after which a login expires")
    ] = None
    reject_cookie: Annotated[
        bool, Field(description="the shop accepts no login, whatever the cookies say")
    ] = False
    qr_ttl_s: Annotated[float, Field(gt=0, allow_inf_nan=False, description="how long a QR code is good")] = (
        120.0
    )
    qr_silent: Annotated[bool, Field(description="the page does not say that a code expired")] = False
    qr_node: Annotated[QrNode, Field(description="what the code is drawn on")] = "canvas"
    qr_frame: Annotated[bool, Field(description="the login form is inside an iframe")] = False
    keep_dialog: Annotated[bool, Field(description="asks whether to stay logged in")] = False
    identity_check: Annotated[bool, Field(description="asks for a second proof after the scan")] = False
    risk_after: Annotated[int | None, Field(ge=0, description="searches after which the shop blocks")] = None
    risk_gap_s: Annotated[
        float,
        Field(
            ge=0, allow_inf_nan=False, description="searches closer than this make the shop block (0: never)"
        ),
    ] = 0.0
    risk_kind: Annotated[RiskKind, Field(description="how the shop blocks")] = "captcha_page"

    def to_json(self) -> dict[str, Any]:
        """All settings as JSON values."""
        values: dict[str, Any] = _ADAPTER.dump_python(self, mode="json")
        return values


_ADAPTER = TypeAdapter(ShopSettings)
FIELDS: Mapping[str, FieldInfo] = vars(ShopSettings)["__pydantic_fields__"]
NAMES = tuple(FIELDS)


def changed(settings: ShopSettings, changes: Mapping[str, Any]) -> ShopSettings:
    """`settings` with `changes`: Python values, parsed JSON, or the text of flags.

    Raises:
        SettingsError: naming the setting that is unknown or bad.
    """
    unknown = sorted(set(changes) - set(NAMES))
    if unknown:
        raise SettingsError(f"practice shop: no setting {unknown[0]!r} (there are: {', '.join(NAMES)})")
    try:
        return dataclasses.replace(settings, **changes)
    except ValidationError as error:
        first = error.errors()[0]
        name, *inside = (str(part) for part in first["loc"])
        where = f" ({' '.join(inside)})" if inside else ""
        problem = first["msg"].removeprefix("Value error, ")
        raise SettingsError(
            f"practice shop: {name}{where}: {problem[:1].lower()}{problem[1:]}, not {first['input']!r}"
        ) from None
