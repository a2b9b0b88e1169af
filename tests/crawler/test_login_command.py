"""`cnclip login`: flags, exit codes, the state directory; and one whole login in a browser."""

from __future__ import annotations

import argparse
import http.server
import json
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cnclip.flags import FlagParser
from crawler.errors import BrowserError, CrawlError, LoginError, SettingsError
from crawler.qr import decode_qr
from crawler.state import default_state_dir, private_folder
from run_scripts.commands import login
from run_scripts.crawl_profile import resolve_profile
from tests.crawler.login_site import LoginSite


def arguments(*words: str) -> argparse.Namespace:
    parser = FlagParser(prog="cnclip login")
    login.add_arguments(parser)
    parsed: argparse.Namespace = parser.parse_args(list(words))
    return parsed


@pytest.fixture(autouse=True)
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("CNCLIP_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("HOME", str(tmp_path))
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    handlers = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


def write_profile(path: Path, content: dict[str, Any]) -> Path:
    """As TOML, whose strings, numbers and lists of strings are those of JSON."""
    plain = [
        f"{name} = {json.dumps(value)}" for name, value in content.items() if not isinstance(value, dict)
    ]
    tables = [
        "\n".join([f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in table.items())])
        for name, table in content.items()
        if isinstance(table, dict)
    ]
    path.write_text("\n".join([*plain, *tables]), encoding="utf-8")
    return path


def test_the_state_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert default_state_dir("taobao") == tmp_path / "state" / "taobao"
    monkeypatch.delenv("CNCLIP_STATE_DIR")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg"))
    assert default_state_dir("taobao") == tmp_path / "xdg" / "cnclip" / "taobao"
    monkeypatch.setenv("XDG_STATE_HOME", "relative/path")
    assert default_state_dir("taobao") == tmp_path / ".local" / "state" / "cnclip" / "taobao"
    monkeypatch.delenv("XDG_STATE_HOME")
    assert default_state_dir("taobao") == tmp_path / ".local" / "state" / "cnclip" / "taobao"
    assert not (tmp_path / ".local").exists(), "asking makes nothing"
    folder = private_folder(default_state_dir("taobao"))
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(SettingsError, match="state directory"):
        private_folder(tmp_path / "file" / "x")


@pytest.fixture
def shop() -> Iterator[tuple[str, dict[str, bytes]]]:
    """A server that answers paths with what a test puts there."""
    answers: dict[str, bytes] = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = answers.get(self.path)
            self.send_response(200 if body is not None else 404)
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", answers
        server.shutdown()
        thread.join()


def test_a_practice_shop_says_its_addresses(
    shop: tuple[str, dict[str, bytes]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, answers = shop
    text = 'name = "practice-shop"\n[search]\nurl = "${search}/search?q={query}"\n[hosts]\n'
    text += 'page = ["shop.example"]\nimage = []\n[products]\nlink = ["item"]\n'
    (tmp_path / "practice-shop.toml").write_text(text, encoding="utf-8")
    monkeypatch.setattr("crawler.profile.PROFILES", tmp_path)
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    answers["/_control/profile.json"] = json.dumps({"search": "http://127.0.0.1:40123"}).encode()
    profile = resolve_profile("practice-shop", None, url + "/")
    assert profile.search_url("红") == "http://127.0.0.1:40123/search?q=%E7%BA%A2"
    own = resolve_profile("taobao", tmp_path / "practice-shop.toml", url)
    assert own == profile, "a file wins over the source, and may use the shop's addresses"
    for bad in ({"search": 'x"\nname = "y'}, {"search": 3}, {"Se arch": "x"}, ["search"], "x" * 200_000):
        answers["/_control/profile.json"] = json.dumps(bad).encode()
        with pytest.raises(SettingsError, match="not the addresses of a practice shop"):
            resolve_profile("practice-shop", None, url)


def test_profiles_that_do_not_come_about(shop: tuple[str, dict[str, bytes]], tmp_path: Path) -> None:
    url, answers = shop
    assert resolve_profile("taobao", None, None).name == "taobao"
    with pytest.raises(SettingsError, match="no practice shop there"):
        resolve_profile("practice-shop", None, url)
    answers["/_control/profile.json"] = b"<html>"
    with pytest.raises(SettingsError, match="no practice shop there"):
        resolve_profile("practice-shop", None, url)
    for address in ("http://127.0.0.1:1", "nonsense", "http://[", "ftp://x"):
        with pytest.raises(SettingsError, match="no practice shop there"):
            resolve_profile("practice-shop", None, address)
    with pytest.raises(SettingsError, match="needs --shop-url URL"):
        resolve_profile("practice-shop", None, None)
    with pytest.raises(SettingsError, match="--shop-url is for --source practice-shop, not taobao"):
        resolve_profile("taobao", None, url)
    with pytest.raises(SettingsError, match=r"built in: .*taobao"):
        resolve_profile("nosuch", None, None)
    with pytest.raises(SettingsError, match=r"not a \.toml file"):
        resolve_profile("taobao", tmp_path / "taobao", None)


def test_check_and_forget_without_anything_kept(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert login.run(arguments("--check")) == 4
    assert login.run(arguments("--forget")) == 0
    out = capsys.readouterr().out
    assert "not logged in to taobao; the same command without --check logs in" in out
    assert "nothing is kept for taobao" in out
    assert list(tmp_path.iterdir()) == [], "no browser, no folder"


def test_forget_removes_no_other_folder(tmp_path: Path) -> None:
    keep = tmp_path / "state" / "taobao" / "browser" / "holiday.jpg"
    keep.parent.mkdir(parents=True)
    keep.write_bytes(b"x")
    with pytest.raises(SettingsError, match="no browser profile of ours: not removed"):
        login.run(arguments("--forget"))
    assert keep.exists()


def test_forget_waits_for_nobody(tmp_path: Path) -> None:
    from crawler.browser_profile import BrowserProfile

    folder = tmp_path / "state" / "taobao" / "browser"
    used = BrowserProfile(folder)
    used.open()
    try:
        with pytest.raises(BrowserError, match="in use"):
            login.run(arguments("--forget"))
        assert folder.is_dir()
    finally:
        used.close()
    assert login.run(arguments("--forget")) == 0
    assert not folder.exists() and folder.parent.is_dir(), "the pace is kept"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--remote-url", "http://127.0.0.1:1", "--check"], "--remote-url"),
        (["--profile", "nosuch.toml"], "nosuch.toml"),
        (["--source", "nosuch"], "nosuch"),
        (["--page-port", "70000", "--headless"], "must be 0 to 65535, not 70000"),
    ],
)
def test_flags_that_cannot_be_used(words: list[str], said: str) -> None:
    with pytest.raises(CrawlError) as error:
        login.run(arguments(*words))
    assert said in str(error.value) and error.value.exit_code == 2 and "\n" not in str(error.value)


def test_check_and_forget_exclude_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        arguments("--check", "--forget")
    assert exit_.value.code == 2 and "not allowed with" in capsys.readouterr().err


def test_help_needs_no_heavy_library() -> None:
    heavy = ("torch", "numpy", "selenium", "PIL", "httpx", "pydantic")
    code = (
        "import argparse, sys\nfrom run_scripts.commands import login\n"
        "parser = argparse.ArgumentParser()\nlogin.add_arguments(parser)\nparser.format_help()\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (answer.stdout.strip(), answer.returncode) == ("[]", 0), answer.stderr


def use_phone(site: LoginSite, barcode: Path, done: threading.Event) -> None:
    """A person who looks at the picture file until there is one."""
    while not done.wait(0.1):
        try:
            payload = decode_qr(barcode.read_bytes())
        except OSError:
            continue
        if payload is not None and site.phone(payload, "SCANNED") == "SCANNED":
            done.wait(0.5)
            site.phone(payload, "CONFIRMED")


@pytest.mark.browser
@pytest.mark.slow
def test_log_in_check_and_forget(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with LoginSite() as site:
        profile = write_profile(tmp_path / "site.toml", site.profile())
        base = ("--profile", str(profile), "--state-dir", str(tmp_path / "account"))
        codes, done = tmp_path / "codes", threading.Event()
        phone = threading.Thread(target=use_phone, args=(site, codes / "barcode_2.jpg", done))
        phone.start()
        try:
            words = ("--headless", "--rank", "2", "--barcode-dir", str(codes))
            assert login.run(arguments(*base, *words)) == 0
        finally:
            done.set()
            phone.join()
        out, err = capsys.readouterr()
        assert out == f"logged in to site as 小***3, kept in {tmp_path / 'account'}\n"
        assert "scan the code with the site app (code 1 of 6)" in err and "lgToken" not in out + err
        assert list(codes.iterdir()) == []
        for folder in (tmp_path / "account", tmp_path / "account" / "browser"):
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert login.run(arguments(*base, "--check")) == 0
        site.sessions.clear()
        assert login.run(arguments(*base, "--check")) == 4
        assert login.run(arguments(*base, "--forget")) == 0
        assert {path.name for path in (tmp_path / "account").iterdir()} == {"site.lock"}
        quick = write_profile(tmp_path / "quick.toml", site.profile(timeout_s=3))
        with pytest.raises(LoginError, match="timed out after 3 s") as error:
            login.run(arguments("--profile", str(quick), "--headless", "--barcode-dir", str(codes)))
        assert error.value.exit_code == 4 and list(codes.iterdir()) == []


@pytest.mark.browser
@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no SIGTERM to handle")
def test_a_login_that_is_killed_leaves_nothing(tmp_path: Path) -> None:
    with LoginSite() as site:
        profile = write_profile(tmp_path / "site.toml", site.profile())
        barcode = tmp_path / "barcode_0.jpg"
        code = (
            "import sys\nfrom cnclip.flags import FlagParser\nfrom run_scripts.commands import login\n"
            "parser = FlagParser()\nlogin.add_arguments(parser)\nsys.exit(login.run(parser.parse_args()))"
        )
        words = ["--profile", str(profile), "--headless", "--no-page", "--barcode-dir", str(tmp_path)]
        process = subprocess.Popen(
            [sys.executable, "-c", code, *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        deadline = time.monotonic() + 60
        while not barcode.exists():
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.05)
        assert stat.S_IMODE(barcode.stat().st_mode) == 0o600
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
        assert process.returncode != 0 and b"KeyboardInterrupt" in err and not barcode.exists()
        assert login.run(arguments("--profile", str(profile), "--forget")) == 0, "nobody holds the profile"
