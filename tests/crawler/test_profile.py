"""Site profiles: what is read, what is refused, and who may be talked to."""

from __future__ import annotations

from pathlib import Path

import pytest

from crawler.errors import SettingsError
from crawler.profile import PROFILES, host_allowed, load_profile

SMALL = """
name = "small"
[search]
url = "https://shop.example/s?q={query}"
[hosts]
page = ["shop.example"]
image = ["*.shop.example"]
[products]
link = ['/item/(?P<id>\\d+)']
"""


def load(folder: Path, text: str, **variables: str) -> object:
    path = folder / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return load_profile(path, variables)


def test_a_small_profile_is_enough(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(SMALL, encoding="utf-8")
    profile = load_profile(path)
    assert profile.search_url("红 a/b&c") == "https://shop.example/s?q=%E7%BA%A2%20a%2Fb%26c"
    assert profile.login is None and profile.pace.gap_s == 6.0


def test_a_query_is_written_as_the_site_wants_it(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(SMALL.replace("[hosts]", 'encoding = "gbk"\n[hosts]'), encoding="utf-8")
    profile = load_profile(path)
    assert profile.search_url("红").endswith("q=%BA%EC")
    with pytest.raises(UnicodeEncodeError):
        profile.search_url("😀")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("[hosts]", "wait = 3\n[hosts]", "search.wait: Extra inputs"),
        ("{query}", "query", r"search.url: must contain \{query\}"),
        ('"shop.example"', '"127.0.0.1:abc"', "hosts.page: '127.0.0.1:abc' is not host"),
        ('["shop.example"]', "[]", "hosts.page: "),
        ('"shop.example"', '"https://shop.example/"', "hosts.page"),
        ("[hosts]", 'encoding = "nope"\n[hosts]', "search.encoding: unknown encoding 'nope'"),
        (r"(?P<id>\d+)", "(", r"products.link: bad regular expression '/item/\('"),
        ("[search]", "[search", "mine.toml: "),
        ('name = "small"', 'name = "../x"', "name: "),
        ('name = "small"', 'name = "small"\nextends = "nobody"', "no built-in profile 'nobody'"),
        ("[hosts]", "[pace]\ngap_s = -1\n[hosts]", "pace.gap_s"),
        ("[hosts]", "[pace]\ngap_s = inf\n[hosts]", "pace.gap_s"),
        ("[hosts]", "[pace]\ngap_s = nan\n[hosts]", "pace.gap_s"),
    ],
)
def test_mistakes_name_file_and_field(tmp_path: Path, old: str, new: str, words: str) -> None:
    assert old in SMALL
    with pytest.raises(SettingsError, match=words) as caught:
        load(tmp_path, SMALL.replace(old, new, 1))
    assert "mine.toml" in str(caught.value) and "\n" not in str(caught.value)


def test_a_profile_that_extends_another_says_only_what_is_different(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('name = "mine"\nextends = "taobao"\n[pace]\ngap_s = 30\n', encoding="utf-8")
    mine, taobao = load_profile(path), load_profile("taobao")
    assert mine.pace.gap_s == 30 and mine.pace.picture_gap_s == taobao.pace.picture_gap_s
    assert mine.layout == taobao.layout and mine.login == taobao.login


def test_there_is_no_such_profile() -> None:
    with pytest.raises(SettingsError, match=r"built in: practice-shop, taobao"):
        load_profile("ebay")


def test_the_practice_shop_is_read_by_the_real_sites_layouts() -> None:
    addresses = {"search": "127.0.0.1:1", "login": "127.0.0.2:2", "images": "127.0.0.3:3"}
    practice, taobao = load_profile("practice-shop", addresses), load_profile("taobao")
    assert practice.layout == taobao.layout and practice.empty == taobao.empty
    assert practice.challenge.captcha_selectors == taobao.challenge.captcha_selectors
    assert {path.stem for path in PROFILES.glob("*.toml")} == {"taobao", "practice-shop"}


@pytest.mark.parametrize(
    ("url", "allowed", "expected"),
    [
        ("https://img.alicdn.com/a.jpg", "*.alicdn.com", True),
        ("http://img.alicdn.com:80/a.jpg", "*.alicdn.com", True),
        ("https://alicdn.com/a.jpg", "*.alicdn.com", False),
        ("https://img.alicdn.com.evil.com/", "*.alicdn.com", False),
        ("https://evilalicdn.com/", "*.alicdn.com", False),
        ("https://img.alicdn.com:8443/", "*.alicdn.com", False),
        ("https://user@img.alicdn.com/", "*.alicdn.com", False),
        ("https://img.alicdn.com@evil.com/", "*.alicdn.com", False),
        ("file:///etc/passwd", "*.alicdn.com", False),
        ("ftp://img.alicdn.com/", "*.alicdn.com", False),
        ("https:///a.jpg", "*.alicdn.com", False),
        ("http://127.0.0.3:8303/a", "127.0.0.3:8303", True),
        ("http://127.0.0.3:8304/a", "127.0.0.3:8303", False),
        ("http://127.0.0.3/a", "127.0.0.3:8303", False),
        ("http://[::1/a", "*.alicdn.com", False),
        ("https://img.alicdn.com./a", "*.alicdn.com", True),
    ],
)
def test_who_may_be_talked_to(url: str, allowed: str, expected: bool) -> None:
    assert host_allowed(url, (allowed,)) is expected
