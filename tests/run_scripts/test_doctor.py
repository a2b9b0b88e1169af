"""`cnclip doctor`: one finding per check, a broken check hides nothing, essential ones decide."""

from __future__ import annotations

import json

import pytest

from preprocess import chrome
from run_scripts import cli, doctor_checks
from run_scripts.doctor_checks import BROWSER, CHECKS, Finding, run_checks


def works() -> Finding:
    return Finding("ok", "fine [v1]")


def fails() -> Finding:
    return Finding("fail", "broken", "repair it")


def raises() -> Finding:
    raise RuntimeError("boom\nsecond line")


def cannot_import() -> Finding:
    raise ImportError("No module named 'faiss'")


def use(monkeypatch: pytest.MonkeyPatch, **checks: tuple[bool, object]) -> None:
    table = tuple((name, essential, check) for name, (essential, check) in checks.items())
    monkeypatch.setattr(doctor_checks.run_checks, "__defaults__", (table,))


def test_a_check_that_raises_is_a_failed_check() -> None:
    lines = list(run_checks([("a", True, raises), ("b", True, cannot_import), ("c", False, works)]))
    assert [line.status for line in lines] == ["fail", "fail", "ok"]
    assert lines[0].detail == "RuntimeError: boom second line"
    assert lines[1].hint == doctor_checks.REINSTALL


def test_table_hint_and_exit_codes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use(monkeypatch, torch=(True, works), **{BROWSER: (False, fails)})
    assert cli.main(["doctor"]) == 0
    printed = capsys.readouterr().out
    assert "✓" in printed and "fine [v1]" in printed
    assert "✗" in printed and "repair it" in printed
    assert "安装成功" not in printed

    use(monkeypatch, torch=(True, fails), **{BROWSER: (False, works)})
    assert cli.main(["doctor"]) == 1
    printed = capsys.readouterr().out
    assert "安装成功!" in printed
    assert "not ready: torch" in printed


def test_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    use(monkeypatch, torch=(True, works), disk=(False, fails))
    assert cli.main(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is True and report["browser"] is False
    assert [check["name"] for check in report["checks"]] == ["torch", "disk"]
    assert set(report["checks"][0]) == {"name", "essential", "status", "detail", "hint", "seconds"}


def test_this_machine_has_the_essentials() -> None:
    cheap = [check for check in CHECKS if check[0] not in (BROWSER, "model lite")]
    failed = {
        line.name: line.detail for line in run_checks(cheap) if line.essential and line.status == "fail"
    }
    assert not failed


def test_missing_browser_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SE_CHROMEDRIVER", "/nonexistent/chromedriver")
    assert chrome.main() == 1
    printed = capsys.readouterr().out
    assert "chromedriver" in printed and "apt-get install" in printed
    assert "安装成功" not in printed


def test_versions_that_differ_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chrome, "find_chromium", lambda: "/a/chromium")
    monkeypatch.setattr(chrome, "find_chromedriver", lambda: "/a/chromedriver")
    versions = {"/a/chromium": "156.0.1", "/a/chromedriver": "155.0.9"}
    monkeypatch.setattr(chrome, "_version", versions.get)
    found = chrome.check_browser()
    assert not found.ok
    assert "156.0.1" in found.problem and "155.0.9" in found.problem


def test_a_browser_that_dies_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chrome, "find_chromium", lambda: "/bin/false")
    monkeypatch.setattr(chrome, "find_chromedriver", lambda: "/bin/false")
    monkeypatch.setattr(chrome, "_version", lambda _: "1.0")
    found = chrome.check_browser()
    assert found.problem.startswith("Chromium does not start: ")
    assert "\n" not in found.problem


@pytest.mark.browser
def test_the_browser_really_opens_a_page(capsys: pytest.CaptureFixture[str]) -> None:
    assert chrome.main() == 0
    assert capsys.readouterr().out.endswith("安装成功!\n")
