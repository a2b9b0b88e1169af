from __future__ import annotations

import json
from pathlib import Path

import pytest

from crawler.dump import redact, redact_html, write_dump
from tests.crawler.pages_driver import PagesBrowser, pages  # noqa: F401 - a fixture
from tests.crawler.snapshot_builders import TAOBAO


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/x?x5secdata=abc&q=1", "/x?x5secdata=[redacted]&q=1"),
        ("/x?lgToken=abc", "/x?lgToken=[redacted]"),
        ("?a=1&sid=Z9;token=b c", "?a=1&sid=[redacted];token=[redacted] c"),
        (
            "/x?to=http%3A%2F%2Fy%3Ftoken%3Dabc%26page%3D2",
            "/x?to=http%3A%2F%2Fy%3Ftoken%3D[redacted]%26page%3D2",
        ),
        ("to=%253Ftoken%253Dabc%2526p%253D2", "to=%253Ftoken%253D[redacted]%2526p%253D2"),
        ('{"token": "abc", "page": 1}', '{"token": "[redacted]", "page": 1}'),
        (r"{\"accessToken\":\"abc\"}", r"{\"accessToken\":\"[redacted]\"}"),
        ("_tb_token_=e5b7; unb=22; cookie2=16", "_tb_token_=[redacted]; unb=[redacted]; cookie2=[redacted]"),
        ("_m_h5_tk=0a_17; sessionId=x", "_m_h5_tk=[redacted]; sessionId=[redacted]"),
        ("a" * 20 + "1" * 20, "[redacted]"),
        # and what is none
        ("/search?q=token&page=1", "/search?q=token&page=1"),
        ("side=1 inside: 2 design=3", "side=1 inside: 2 design=3"),
        ("https://img.alicdn.com/imgextra/i1/2206686532409/O1CN01a_!!2206686532409.jpg_360x360q90.jpg",) * 2,
        ("q=%E8%BF%9E%E8%A1%A3%E8%A3%99%E8%BF%9E%E8%A1%A3%E8%A3%99",) * 2,
        ("token", "token"),
    ],
)
def test_what_is_secret_in_a_text(text: str, expected: str) -> None:
    assert redact(text) == expected


def test_given_secrets_are_left_out_everywhere() -> None:
    assert redact("hello 小淘, x小淘y", ["小淘"]) == "hello [redacted], x[redacted]y"


def test_html_keeps_its_structure() -> None:
    source = (
        '<!DOCTYPE html><html><head><style>a > b { color: red }</style></head><body class="x y">'
        '<div id="a&quot;b">1 &lt; 2 &amp; 3</div><img src="a.jpg"><br><p hidden>x</p></body></html>'
    )
    assert redact_html(source) == source


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("<script>var a = '<b>secret</b>'</script>x", "<script></script>x"),
        ('<script src="a.js" nonce="s"></script>', '<script src="a.js" nonce="[redacted]"></script>'),
        ("<textarea>secret</textarea>", "<textarea></textarea>"),
        ('<input value="secret"><input value="">', '<input value="[redacted]"><input value="">'),
        ('<iframe srcdoc="secret"></iframe>', '<iframe srcdoc="[redacted]"></iframe>'),
        ('<a onclick="go(1)">x</a>', '<a onclick="[redacted]">x</a>'),
        ('<p data-token="secret" data-page="1">', '<p data-token="[redacted]" data-page="1">'),
        ("<!-- token=secret -->", "<!-- token=[redacted] -->"),
        ("<p>to&#107;en=secret</p>", "<p>token=[redacted]</p>"),
        ('<a href="?a=1&amp;token=secret&amp;b=2">', '<a href="?a=1&amp;token=[redacted]&amp;b=2">'),
        ("<script>unfinished secret", "<script>"),
        ("<p>text <b>never closed", "<p>text <b>never closed"),
    ],
)
def test_what_is_left_out_of_html(source: str, expected: str) -> None:
    assert redact_html(source) == expected


def test_class_names_may_be_long() -> None:
    name = "veryLongClassName--withAHash9a8b7c6d5e4f3a2b1c0d9e8f7a6b5c4d"
    assert (
        redact_html(f'<p class="{name}" id="{name}">{name}</p>')
        == f'<p class="{name}" id="{name}">[redacted]</p>'
    )


class _Died(PagesBrowser):
    def __init__(self, alive: PagesBrowser) -> None:
        super().__init__(alive._driver, alive.origin)

    def screenshot(self) -> bytes:
        raise OSError("gone")


@pytest.mark.browser
def test_a_dump_of_a_page_with_secrets(pages: PagesBrowser, tmp_path: Path) -> None:  # noqa: F811
    pages.open("secrets", path="search", token="IN-THE-ADDRESS")
    pages.script(
        "document.cookie = '_nk_=' + encodeURIComponent('小淘'); document.cookie = 'cna=COOKIE-VALUE-1'"
    )
    pages.script("document.querySelector('p').append(' COOKIE-VALUE-1 2206686532409')")
    folder = tmp_path / "mark_log" / "dumps"
    write_dump(pages, pages.profile, folder, "20260101-unknown")  # type: ignore[arg-type]
    assert sorted(path.name for path in folder.iterdir()) == [
        f"20260101-unknown.{kind}" for kind in ("html", "json", "png")
    ]
    html = (folder / "20260101-unknown.html").read_text(encoding="utf-8")
    text = (folder / "20260101-unknown.json").read_text(encoding="utf-8")
    for secret in ("SECRET", "IN-THE-ADDRESS", "COOKIE-VALUE-1", "小淘", "2206686532409"):
        assert secret not in html and secret not in text, secret
    assert "doubleCardWrapperAdapt--mEcC7olq" in html and "q=%E8%A3%99" in html
    assert (folder / "20260101-unknown.png").read_bytes().startswith(b"\x89PNG\r\n")
    found = json.loads(text)
    assert found["state"] == "results" and found["url"].endswith("token=[redacted]")
    assert found["layouts"]["2025"] == {"cards": 2, "advertisements": 0} and found["product_links"] == 2


@pytest.mark.browser
def test_a_dump_counts_what_is_in_the_way(pages: PagesBrowser, tmp_path: Path) -> None:  # noqa: F811
    pages.open("captcha_overlay")
    write_dump(pages, pages.profile, tmp_path, "x")  # type: ignore[arg-type]
    found = json.loads((tmp_path / "x.json").read_text(encoding="utf-8"))
    assert found["state"] == "captcha"
    assert found["probes"] == {"captcha div.J_MIDDLEWARE_FRAME_WIDGET": 1}
    assert found["frames"][0]["size"] == [424, 324]  # with its border
    assert "SECRET" not in json.dumps(found) and "x5secdata=[redacted]" in found["frames"][0]["url"]


@pytest.mark.browser
def test_no_half_files(pages: PagesBrowser, tmp_path: Path) -> None:  # noqa: F811
    pages.open("layout_2025")
    with pytest.raises(OSError, match="gone"):
        write_dump(_Died(pages), TAOBAO, tmp_path, "x")  # type: ignore[arg-type]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.html", "x.json"]
