"""The shop as a whole: starting, stopping with things hanging, two at once, controls, the log."""

from __future__ import annotations

import itertools
import json
import logging
import socket
import threading
import time
from pathlib import Path

import httpx
import pytest

from crawler.errors import SettingsError
from crawler.practice_shop import PracticeShop, ShopSettings
from crawler.practice_shop.addresses import picture_path
from crawler.practice_shop.visits import Kind
from crawler.profile import host_allowed
from tests.crawler.practice_shop.visitor import LOGIN_PAGE, SOON, Visitor, eventually


def test_three_addresses_that_are_three_sites_to_a_browser(shop: PracticeShop) -> None:
    origins = (shop.search_origin, shop.login_origin, shop.image_origin)
    assert [origin.rpartition(":")[0] for origin in origins] == [
        "http://127.0.0.1",
        "http://127.0.0.2",
        "http://127.0.0.3",
    ]
    shown = httpx.get(f"{shop.search_origin}/_control/profile.json", trust_env=False).json()
    assert [f"http://{shown[name]}" for name in ("search", "login", "images")] == list(origins)


def test_where_there_is_one_address_the_ports_tell_the_sites_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    bind = socket.socket.bind

    class OneAddress(socket.socket):
        def bind(self, address: tuple[str, int]) -> None:  # type: ignore[override]
            if address[0] != "127.0.0.1":
                raise OSError(99, "Cannot assign requested address")
            bind(self, address)

    monkeypatch.setattr("crawler.practice_shop.shop.socket.socket", OneAddress)
    with PracticeShop(ShopSettings(card_delay_s=0)) as shop:
        monkeypatch.undo()
        visitor = Visitor(shop)
        visitor.log_in()
        assert visitor.cards("连衣裙").all("img")
        assert visitor.client.get(shop.image_origin + picture_path("连衣裙", 1)).status_code == 200
        assert visitor.client.get(shop.image_origin + "/search").status_code == 404
        visitor.client.close()
        assert {visit.origin for visit in shop.log()} == {"search", "login", "images"}


def test_the_profile_names_the_shops_own_addresses(shop: PracticeShop) -> None:
    profile = shop.profile()
    assert profile.search_url("a b") == f"{shop.search_origin}/search?q=a%20b"
    assert host_allowed(shop.image_origin + "/x.jpg", profile.hosts.image)
    assert not host_allowed(shop.login_origin + "/x.jpg", profile.hosts.image)
    assert profile.login is not None and host_allowed(profile.login.url, profile.hosts.page)
    assert profile.layout and profile.empty.texts, "the rest comes from the profile that is rehearsed"


def test_two_shops_at_once_know_nothing_of_each_other() -> None:
    with PracticeShop(ShopSettings(seed=1)) as one, PracticeShop(ShopSettings(seed=2)) as two:
        one.set(risk_after=0)
        visitors = [Visitor(one), Visitor(two)]
        for visitor in visitors:
            visitor.open("连衣裙")
        assert one.blocked and not two.blocked
        two.set(login="required")
        visitors[1].log_in()
        jar = visitors[1].client.cookies
        stolen = {name: str(jar.get(name, domain="127.0.0.1")) for name in ("cookie2", "unb")}
        one.reset()
        one.set(login="required", risk_after=None)
        with httpx.Client(trust_env=False, cookies=stolen) as thief:
            assert thief.get(f"{one.search_origin}/search?q=x").status_code == 302
            assert thief.get(f"{two.search_origin}/search?q=x").status_code == 200
        for visitor in visitors:
            visitor.client.close()
        assert [visit.query for visit in one.log("search")] == ["x"]


@pytest.mark.parametrize("kind", ["endless", "drip", "hang"])
def test_it_closes_at_once_whatever_hangs(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    shop = PracticeShop(ShopSettings(faults={"卡": "hang_html"}))
    ended: list[str] = []

    def wait(url: str) -> None:
        try:
            with httpx.stream("GET", url, timeout=30, trust_env=False) as answer:
                for _ in answer.iter_raw():
                    pass
        except httpx.HTTPError as error:
            ended.append(type(error).__name__)

    urls = (shop.image_origin + picture_path("连衣裙", 1, kind), f"{shop.search_origin}/search?q=卡")
    waiting = [threading.Thread(target=wait, args=(url,)) for url in urls]
    for thread in waiting:
        thread.start()
    eventually(lambda: len(shop.log()) == 2)
    started = time.monotonic()
    shop.close()
    for thread in waiting:
        thread.join(10)
    assert time.monotonic() - started < 5 and len(ended) == 2
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    shop.close()
    with pytest.raises(SettingsError, match="closed"):
        shop.set(seed=2)
    with pytest.raises(httpx.ConnectError):
        httpx.get(shop.search_origin, trust_env=False)


def test_a_taken_port_is_said_in_one_line() -> None:
    with socket.create_server(("127.0.0.2", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SettingsError, match=rf"port {port} of 127.0.0.2: is in use"):
            PracticeShop(ports=(0, port, 0))
    with pytest.raises(SettingsError, match="0 to 65535"):
        PracticeShop(ports=(70000, 0, 0))


def test_settings_change_while_it_runs(shop: PracticeShop) -> None:
    url = f"{shop.search_origin}/_control"
    with httpx.Client(trust_env=False) as client:
        answer = client.post(url, json={"layout": "2022", "faults": {"x": "hang_css"}})
        assert answer.status_code == 200 and answer.json()["settings"]["layout"] == "2022"
        assert shop.settings.layout == "2022" and shop.settings.faults == {"x": "hang_css"}
        for body, said in (({"layout": "x"}, "layout"), ({"nope": 1}, "no setting"), ([], "object")):
            answer = client.post(url, json=body)
            assert answer.status_code == 400 and said in answer.json()["error"]
        assert client.post(url, content=b"{", headers={"content-type": "application/json"}).status_code == 400
        # what a page of another site could send without being asked
        assert client.post(url, content=b'{"seed": 5}').status_code == 415
        assert client.get(f"{shop.search_origin}/_control/reset").status_code == 405
        assert client.get(url).json() == {"settings": shop.settings.to_json(), "blocked": None}
    with pytest.raises(SettingsError, match="layout"):
        shop.set(layout="x", seed=9)
    assert shop.settings.layout == "2022" and shop.settings.seed == 1
    assert not shop.log(), "controls are no visits"


def test_the_log_tells_the_truth(shop: PracticeShop, visitor: Visitor) -> None:
    before = time.time()
    visitor.client.headers["user-agent"] = "test/1"
    page = visitor.cards("连衣裙")
    picture = page.all("img")[0]["src"]
    visitor.get(f"http:{picture}", headers={"referer": "http://here/"})
    visitor.get(page.all("a")[0]["href"])
    visitor.log_in()
    visitor.client.get(shop.login_origin + LOGIN_PAGE)
    visitor.get("/nothing")
    log = shop.log()
    kinds: list[Kind] = [
        *("search", "xhr", "image", "item"),
        *("login", "login", "scan", "confirm", "poll", "login", "other", "other", "login", "other"),
    ]
    assert [visit.kind for visit in log] == kinds
    assert [visit.query for visit in log[:5]] == ["连衣裙"] * 4 + [""]
    assert [visit.origin for visit in log[:5]] == ["search", "search", "images", "search", "login"]
    assert log[-1].path == "/nothing" and log[-1].status == 404
    assert log[2].referer == "http://here/" and not log[2].cookie_names
    assert set(log[1].cookie_names) == {"cookie2", "t", "_m_h5_tk"}
    assert [visit.cookies_login for visit in log] == [False] * 10 + [False, True, True, True]
    assert {visit.user_agent for visit in log if visit.kind not in ("scan", "confirm")} == {"test/1"}
    assert all(before <= a.t <= b.t <= time.time() for a, b in itertools.pairwise(log))
    assert all(visit.port > 0 and visit.status and not visit.blocked for visit in log)
    assert "?" not in "".join(visit.path for visit in log)
    served = httpx.get(f"{shop.search_origin}/_control/log?kind=image", trust_env=False).json()
    assert [visit["path"] for visit in served] == [log[2].path]
    shop.reset()
    assert shop.log() == []


def test_the_log_as_a_file(tmp_path: Path) -> None:
    path = tmp_path / "visits.jsonl"
    path.write_text('{"from": "before"}\n', encoding="utf-8")
    with PracticeShop(log=path) as shop:
        for query in ("一", "二"):
            httpx.get(f"{shop.search_origin}/search", params={"q": query}, trust_env=False)
        shop.reset()
        httpx.get(shop.search_origin + "/_control/log", trust_env=False)
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [line.get("query") for line in lines] == [None, "一", "二"]
    with pytest.raises(SettingsError, match=r"log .*: Is a directory"):
        PracticeShop(log=tmp_path)


def test_a_request_that_never_got_an_answer_is_in_the_log(shop: PracticeShop) -> None:
    with pytest.raises(httpx.ReadTimeout):
        httpx.get(shop.image_origin + picture_path("连衣裙", 1, "hang"), timeout=SOON, trust_env=False)
    [visit] = shop.log()
    assert visit.status == 0 and visit.kind == "image" and visit.query == "连衣裙"


def test_what_hung_before_a_reset_does_not_come_back(tmp_path: Path) -> None:
    def wait(client: httpx.Client, origin: str) -> None:
        with pytest.raises(httpx.ReadTimeout):
            client.get(origin + picture_path("连衣裙", 1, "hang"))

    path = tmp_path / "visits.jsonl"
    with PracticeShop(log=path) as shop, httpx.Client(trust_env=False, timeout=SOON) as client:
        hanging = threading.Thread(target=wait, args=(client, shop.image_origin))
        hanging.start()
        eventually(shop.log)
        shop.reset()
        httpx.get(f"{shop.search_origin}/later", trust_env=False)
        hanging.join()
        eventually(lambda: len(path.read_text(encoding="utf-8").splitlines()) == 2)
        assert [visit.path for visit in shop.log()] == ["/later"]
