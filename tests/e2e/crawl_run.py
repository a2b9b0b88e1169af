"""A whole crawl of the practice shop with a real browser, and what the shop saw of it."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from cache.picture_cache import PictureCache
from crawler.browser import Browser, BrowserOptions
from crawler.clock import SystemClock
from crawler.crawl import Crawl, CrawlOptions, Summary
from crawler.login import LoginEvent, QrLogin
from crawler.marks import Marks
from crawler.pictures import PictureFetcher
from crawler.policy import Policy
from crawler.practice_shop import PracticeShop, label_of, read_label
from crawler.practice_shop.phone import Phone
from crawler.profile import Pace, Profile
from crawler.qr import decode_qr
from crawler.sources.web import WebSource
from crawler.types import QueryReport

QUICK = Pace(gap_s=0.2, jitter_s=0.1, picture_gap_s=0.05, retry_s=0.05, cooldown_s=60, max_queries=10_000)


@dataclass
class PhoneUI:
    """Scans and confirms every code it is shown, in its own time."""

    phone: Phone
    events: list[LoginEvent] = field(default_factory=list)

    def show(self, event: LoginEvent) -> None:
        self.events.append(event)
        if event.png and (payload := decode_qr(event.png)):
            threading.Thread(target=self._answer, args=(payload,), daemon=True).start()

    def _answer(self, payload: str) -> None:
        self.phone.scan(payload)
        self.phone.confirm(payload)

    def close(self) -> None:
        pass


@dataclass
class Run:
    """The end of a crawl."""

    summary: Summary
    reports: list[QueryReport]
    cache: PictureCache
    stopped: Exception | None
    events: list[LoginEvent]


def crawl(
    shop: PracticeShop,
    folder: Path,
    queries: Sequence[str],
    options: CrawlOptions = CrawlOptions(),  # noqa: B008
    *,
    browser: Browser | None = None,
    pace: Pace = QUICK,
    resume: bool = False,
    wait_s: float = 12.0,
) -> Run:
    """Crawl `queries` from `shop` into `folder`/valid; an error that stopped it is in the answer."""
    clock = SystemClock()
    profile = quick(shop.profile(), wait_s)
    with contextlib.ExitStack() as stack:
        browser = browser or stack.enter_context(_browser(folder / "browser"))
        ui = PhoneUI(Phone(shop.search_origin))
        login = QrLogin(browser, profile, ui)

        def ensure() -> None:
            if shop.settings.login == "required":
                login.ensure()

        fetcher = PictureFetcher(profile.hosts.image, user_agent="cnclip-test", timeout_s=3)
        cache = PictureCache(folder / "valid")
        policy = Policy(folder / "state.json", pace, clock, random.Random(1), resume=resume)
        run = Crawl(
            WebSource(profile, browser, ensure, fetcher), cache, policy,
            Marks(folder / "mark_log", "valid", clock), options,
        )  # fmt: skip
        reports: list[QueryReport] = []
        stopped: Exception | None = None
        try:
            run.run(queries, reports.append)
        except Exception as error:
            stopped = error
        return Run(run.summary, reports, cache, stopped, ui.events)


def quick(profile: Profile, wait_s: float) -> Profile:
    """The same site with less patience."""
    assert profile.login is not None
    search = profile.search.model_copy(update={"wait_s": wait_s})
    return profile.model_copy(
        update={"search": search, "login": profile.login.model_copy(update={"poll_s": 0.2})}
    )


@contextlib.contextmanager
def _browser(profile_dir: Path) -> Iterator[Browser]:
    browser = Browser(BrowserOptions(profile_dir, page_load_timeout_s=5))
    try:
        yield browser
    finally:
        browser.close()


def wrong_pictures(cache: PictureCache, queries: Sequence[str]) -> list[str]:
    """Queries with a stored picture that shows another query, or none."""
    wrong = []
    for query in queries:
        for path in cache.pictures(query).values():
            with Image.open(path) as image:
                label = read_label(image)
            if label is None or label[0] != label_of(query):
                wrong.append(f"{query}: {path.name} shows {label}")
    return wrong


def queries(count: int) -> list[str]:
    """Product searches, all different."""
    things = "连衣裙 牛仔裤 帆布鞋 保温杯 书包 台灯 键盘 苹果 番茄 雨伞".split()
    things += "钱包 耳机 鼠标 花瓶 相框 地毯 窗帘 枕头 被子 拖鞋".split()
    things += "毛巾 手套 围巾 帽子 沙发 茶几 菜刀 炒锅 风扇 水壶".split()
    colours = "红色 蓝色 黑色 白色 绿色 粉色 灰色 黄色 紫色 棕色".split()
    return [f"{colours[n // len(things) % 10]}{things[n % len(things)]}" for n in range(count)]
