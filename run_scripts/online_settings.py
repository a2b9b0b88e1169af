"""Where a learner's fresh pictures come from, and what can be wrong with that."""

from __future__ import annotations

import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from cnclip.errors import InputError

if TYPE_CHECKING:
    from cnclip.training.config import TrainConfig
    from crawler.profile import Pace

PICTURES = 5  # of a query in one search: learners ask for number 1 to 5 in turn
LOCAL_MAX_QUERIES = 1_000_000  # a shop on this machine may be asked for all there is
PRACTICE_SHOP = "practice-shop"
_ANY_SHOP = dict.fromkeys(("search", "login", "images"), "127.0.0.1:1")  # its pace does not depend on where
WITH_BROWSER = ("taobao", PRACTICE_SHOP)


@dataclass(frozen=True)
class SourceSettings:
    """The flags of `cnclip crawl` that matter to a learner.

    data_path: the folder whose `valid` and `test` are caches. online_dir: a cache elsewhere. cache_only: read
    the cache, start nothing. pictures: the largest number that will be asked for.
    """

    data_path: Path = Path()
    cache_only: bool = False
    pictures: int = PICTURES
    source: str = "taobao"
    folder: Path | None = None
    shop_url: str | None = None
    shop_catalogue: Path | None = None
    accept_site_rules: bool = False
    min_gap: float | None = None
    headless: bool | None = None
    state_dir: Path | None = None
    keep_login: bool = False
    max_queries: int | None = None
    online_dir: Path | None = None

    @classmethod
    def of_training(cls, config: TrainConfig) -> SourceSettings:
        """Those of a training run: pictures are in `valid` beside the folder of all runs."""
        return cls(
            data_path=config.logs.parent,
            cache_only=config.online_cache,
            pictures=max(PICTURES, config.online_pictures),
            **{name: getattr(config, name) for name in _FLAGS},
        )

    def cache_folder(self, split: str) -> Path:
        """The cache of a split, absolute."""
        return (self.online_dir or self.data_path / split).absolute()

    def crawl_command(self, cache: Path, max_queries: int) -> list[str]:
        """`cnclip crawl` in this Python, for queries from standard input."""
        command = [sys.executable, "-m", "run_scripts.cli", "crawl", "--queries", "-", "--out", str(cache)]
        command += ["-n", str(self.pictures), "--max-queries", str(max_queries), "--source", self.source]
        paths = {"folder": self.folder, "shop-catalogue": self.shop_catalogue, "state-dir": self.state_dir}
        command += [f"--{name}={path.absolute()}" for name, path in paths.items() if path is not None]
        if self.shop_url is not None:
            command.append(f"--shop-url={self.shop_url}")
        if self.min_gap is not None:
            command.append(f"--min-gap={self.min_gap:g}")
        if self.headless is not None:
            command.append("--headless" if self.headless else "--no-headless")
        switches = {"--accept-site-rules": self.accept_site_rules, "--keep-login": self.keep_login}
        return command + [flag for flag, given in switches.items() if given]


_FLAGS = [field.name for field in fields(SourceSettings)][3:]


def check_source(settings: SourceSettings, split: str = "valid") -> int:
    """See to it that the source can be used, as far as that can be known before anything is asked of it.

    Asks the user once for a decision about a real site's rules, if they can answer.

    Returns: how many searches a run may make.

    Raises: InputError saying what is wrong and which flag would mend it.
    """
    cache = settings.cache_folder(split)
    if settings.cache_only:
        if not cache.is_dir():
            raise InputError(f"--online-cache: {cache}: no such folder (cnclip crawl --out {cache} fills it)")
        return 0
    _check_flags(settings)
    if settings.source in WITH_BROWSER:
        _check_browser(settings.source)
    pace = _allowed_pace(settings)
    default = LOCAL_MAX_QUERIES if pace is None else pace.max_queries
    return settings.max_queries or default


def _check_flags(settings: SourceSettings) -> None:
    source, shop = settings.source, (settings.shop_url, settings.shop_catalogue)
    problems = {
        "--source folder needs --folder PATH": source == "folder" and settings.folder is None,
        f"--folder is for --source folder, not {source}": source != "folder" and settings.folder is not None,
        f"--shop-url and --shop-catalogue are for --source {PRACTICE_SHOP}, not {source}": shop
        != (None, None)
        and source != PRACTICE_SHOP,
        "--shop-catalogue is for a shop that is started: leave out --shop-url": None not in shop,
        "--max-queries must be at least 1": settings.max_queries is not None and settings.max_queries < 1,
    }
    for problem, found in problems.items():
        if found:
            raise InputError(problem)


def _check_browser(source: str) -> None:
    from preprocess.chrome import INSTALL_HINT, find_chromedriver, find_chromium

    missing = [
        name
        for name, path in (("Chromium", find_chromium()), ("chromedriver", find_chromedriver()))
        if not path
    ]
    if missing:
        raise InputError(
            f"--source {source} needs a browser, and {' and '.join(missing)} is not found: {INSTALL_HINT}; "
            "--online-cache, --source folder and --source tbk do without"
        )


def _allowed_pace(settings: SourceSettings) -> Pace | None:
    """The pace of the site, None for what is on this machine. Raises InputError."""
    from crawler.errors import CrawlError
    from crawler.sources.folder import FolderSource

    try:
        if settings.source == "folder":
            FolderSource(settings.folder or Path()).open()
            return None
        if settings.source == "tbk":
            return _open_tbk(settings)
        return _open_site(settings)
    except CrawlError as error:
        raise InputError(str(error)) from error


def _open_tbk(settings: SourceSettings) -> Pace:
    from crawler.sources.tbk import tbk_from_environment
    from run_scripts.crawl_source import slowed, tbk_pace

    tbk_from_environment().close()
    return slowed(tbk_pace(), settings.min_gap)


def _open_site(settings: SourceSettings) -> Pace | None:
    from crawler.practice_shop.catalogue import load_catalogue
    from crawler.profile import load_profile
    from crawler.state import default_state_dir
    from run_scripts.crawl_profile import resolve_profile
    from run_scripts.crawl_source import ask_consent, slowed

    if settings.source == PRACTICE_SHOP:
        if settings.shop_url is not None:
            resolve_profile(PRACTICE_SHOP, None, settings.shop_url)
        slowed(load_profile(PRACTICE_SHOP, _ANY_SHOP).pace, settings.min_gap)
        if settings.shop_catalogue is not None:
            load_catalogue(settings.shop_catalogue)
        return None
    profile = load_profile(settings.source)
    pace = slowed(profile.pace, settings.min_gap)
    state_dir = settings.state_dir or default_state_dir(profile.name)
    ask_consent(profile, state_dir, accepted=settings.accept_site_rules)
    return pace
