"""Settings of a learner's source: the crawl they start, and what is said before anything is started."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cnclip.errors import InputError
from cnclip.training.config import TrainConfig
from crawler.practice_shop import PracticeShop
from run_scripts.cli import _build_parser
from run_scripts.online_settings import LOCAL_MAX_QUERIES, SourceSettings, check_source
from run_scripts.online_source import open_image_source
from tests.cache.picture_kit import jpeg

KEYS = ("CNCLIP_TBK_APP_KEY", "CNCLIP_TBK_SECRET", "CNCLIP_TBK_ADZONE_ID")


@pytest.fixture(autouse=True)
def nobody_answers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No keys, no terminal, no state of this machine's user; a browser that looks installed."""
    for name in KEYS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("sys.stdin", None)
    monkeypatch.setenv("CNCLIP_STATE_DIR", str(tmp_path / "state"))
    for name in ("chromium", "chromedriver"):
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin" / name).write_text("#!/bin/sh\nexit 1\n")
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("CNCLIP_CHROMIUM", str(tmp_path / "bin" / "chromium"))
    monkeypatch.setenv("SE_CHROMEDRIVER", str(tmp_path / "bin" / "chromedriver"))


@pytest.fixture
def catalogue(tmp_path: Path) -> Path:
    path = tmp_path / "catalogue" / "红裙" / "1.jpg"
    path.parent.mkdir(parents=True)
    path.write_bytes(jpeg("红裙"))
    return tmp_path / "catalogue"


def problem(settings: SourceSettings) -> str:
    with pytest.raises(InputError) as caught:
        check_source(settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def crawl_flags(settings: SourceSettings, **changes: Any) -> dict[str, Any]:
    """What `cnclip crawl` understands of the command."""
    command = settings.crawl_command(Path("/d/valid"), 7)
    assert command[1:4] == ["-m", "run_scripts.cli", "crawl"]
    args = vars(_build_parser(command[3:]).parse_args(command[3:]))
    expected = vars(_build_parser(["crawl"]).parse_args(["crawl"]))
    expected |= {"queries": "-", "out": Path("/d/valid"), "pictures": 5, "max_queries": 7, **changes}
    assert args == expected
    return args


def test_the_crawl_gets_every_setting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    crawl_flags(SourceSettings())
    monkeypatch.chdir(tmp_path)
    given: dict[str, Any] = {
        "source": "practice-shop", "folder": Path("-f"), "shop_url": "http://127.0.0.1:1",
        "shop_catalogue": Path("c"), "accept_site_rules": True, "min_gap": 12.5, "headless": True,
        "state_dir": Path("/s"), "keep_login": True,
    }  # fmt: skip
    absolute = {"folder": tmp_path / "-f", "shop_catalogue": tmp_path / "c"}
    crawl_flags(SourceSettings(**given), **{**given, **absolute})
    crawl_flags(SourceSettings(headless=False, pictures=9), headless=False, pictures=9)


def test_settings_of_a_training_run(tmp_path: Path) -> None:
    base: dict[str, Any] = {"train_data": "t", "val_data": "v", "online_learning": True}
    plain = SourceSettings.of_training(TrainConfig(**base, logs=tmp_path / "experiments"))
    assert plain == SourceSettings(tmp_path)
    assert plain.cache_folder("valid") == tmp_path / "valid"
    given: dict[str, Any] = {
        "source": "folder", "folder": Path("f"), "shop_url": "u", "shop_catalogue": Path("c"), "min_gap": 9.0,
        "accept_site_rules": True, "headless": False, "state_dir": Path("s"), "keep_login": True,
        "max_queries": 3, "online_dir": Path("/o"),
    }  # fmt: skip
    config = TrainConfig(**base, **given, online_cache=True, online_pictures=8)
    full = SourceSettings.of_training(config)
    assert full == SourceSettings(Path(), True, 8, **given)
    assert full.cache_folder("valid") == Path("/o")
    assert set(TrainConfig.sections()["source"]) == set(given)


def test_a_folder_of_pictures(tmp_path: Path, catalogue: Path) -> None:
    assert check_source(SourceSettings(source="folder", folder=catalogue)) == LOCAL_MAX_QUERIES
    assert check_source(SourceSettings(source="folder", folder=catalogue, max_queries=3)) == 3
    assert problem(SourceSettings(source="folder")) == "--source folder needs --folder PATH"
    assert "no such" in problem(SourceSettings(source="folder", folder=tmp_path / "none")).lower()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"source": "taobao", "folder": Path("f")}, "--folder is for --source folder, not taobao"),
        ({"source": "tbk", "shop_url": "u"}, "are for --source practice-shop, not tbk"),
        ({"source": "taobao", "shop_catalogue": Path("c")}, "are for --source practice-shop, not taobao"),
        (
            {"source": "practice-shop", "shop_url": "u", "shop_catalogue": Path("c")},
            "--shop-catalogue is for a shop that is started: leave out --shop-url",
        ),
        ({"source": "practice-shop", "max_queries": 0}, "--max-queries must be at least 1"),
        ({"source": "practice-shop", "min_gap": 0.1}, "--min-gap: must be 0.5"),
        ({"source": "practice-shop", "shop_url": "http://127.0.0.1:1"}, "no practice shop there"),
        ({"source": "practice-shop", "shop_catalogue": Path("/none")}, "catalogue: /none: No such file"),
        ({"source": "taobao", "min_gap": 1.0}, "--min-gap: must be 6"),
        ({"source": "taobao"}, "--accept-site-rules is needed"),
        ({"source": "tbk"}, "CNCLIP_TBK_APP_KEY is not set"),
    ],
)
def test_a_mistake_is_said_before_anything_starts(given: dict[str, Any], words: str) -> None:
    assert words in problem(SourceSettings(**given))


def test_the_decision_about_a_real_site_is_asked_for_once(tmp_path: Path) -> None:
    settings = SourceSettings(source="taobao", state_dir=tmp_path / "account")
    assert "--accept-site-rules is needed" in problem(settings)
    accepted = SourceSettings(source="taobao", state_dir=tmp_path / "account", accept_site_rules=True)
    assert check_source(accepted) == check_source(settings) == 200


def test_the_open_platform_needs_keys_only(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in KEYS:
        monkeypatch.setenv(name, "12")
    monkeypatch.delenv("CNCLIP_CHROMIUM")
    monkeypatch.setenv("PATH", "/nonexistent")
    assert check_source(SourceSettings(source="tbk")) == 200


def test_a_practice_shop(catalogue: Path) -> None:
    assert check_source(SourceSettings(source="practice-shop")) == LOCAL_MAX_QUERIES
    assert check_source(SourceSettings(source="practice-shop", shop_catalogue=catalogue, max_queries=4)) == 4
    with PracticeShop() as shop:
        assert check_source(SourceSettings(source="practice-shop", shop_url=shop.search_origin)) > 200
        assert shop.log("search") == []


@pytest.mark.parametrize("source", ["taobao", "practice-shop"])
def test_without_a_browser_it_says_what_to_do(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SE_CHROMEDRIVER", "/nonexistent")
    said = problem(SourceSettings(tmp_path, source=source, accept_site_rules=True))
    assert said.startswith(f"--source {source} needs a browser, and chromedriver is not found: apt-get")
    monkeypatch.delenv("CNCLIP_CHROMIUM")
    monkeypatch.setenv("PATH", "/nonexistent")
    assert "Chromium and chromedriver is not found" in problem(SourceSettings(tmp_path, source=source))
    (tmp_path / "valid").mkdir()
    assert check_source(SourceSettings(tmp_path, source=source, cache_only=True)) == 0


def test_the_cache_alone_needs_the_cache_alone(tmp_path: Path) -> None:
    settings = SourceSettings(tmp_path, cache_only=True, source="folder")
    assert f"--online-cache: {tmp_path}/valid: no such folder" in problem(settings)
    with pytest.raises(InputError, match="no such folder"), open_image_source(settings, "test"):
        pass
    (tmp_path / "test").mkdir()
    with open_image_source(settings, "test") as source:
        assert source.name == "cache"
