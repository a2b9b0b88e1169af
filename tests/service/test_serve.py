"""`cnclip serve`: settings, and a real server in a process of its own."""

from __future__ import annotations

import argparse
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from cnclip.errors import InputError
from run_scripts import cli
from run_scripts.commands import serve
from service.settings import ServiceSettings, is_loopback
from tests.service.dummy_server import dummy_server


def settings_of(*flags: str) -> ServiceSettings:
    parser = argparse.ArgumentParser()
    serve.add_arguments(parser)
    return serve.read_settings(parser.parse_args(flags))


def test_flags_beat_the_environment_and_it_beats_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CNCLIP_PORT", "1234")
    monkeypatch.setenv("CNCLIP_MAX_BATCH", "5")
    monkeypatch.setenv("CNCLIP_HOST", "")
    settings = settings_of("--gallery", "g", "--port", "99", "--read-only", "--api-key", "12345678")
    assert (settings.port, settings.max_batch, settings.host) == (99, 5, "127.0.0.1")
    assert settings.read_only is True
    assert settings.api_key is not None
    assert "12345678" not in repr(settings)
    monkeypatch.setenv("CNCLIP_READ_ONLY", "true")
    assert settings_of("--gallery", "g").read_only is True
    assert settings_of("--gallery", "g", "--no-read-only").read_only is False


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--gallery DIR .* cnclip index"),
        (["--gallery", "g", "--port", "70000"], "--port: "),
        (["--gallery", "g", "--port", "x"], "--port: "),
        (["--gallery", "g", "--max-batch", "0"], "--max-batch: "),
        (["--gallery", "g", "--log-level", "loud"], "--log-level: "),
        (["--gallery", "g", "--api-key", "short"], "--api-key: "),
        (["--gallery", "g", "--queue-size", "3"], "max_inputs"),
    ],
)
def test_bad_settings_are_one_line(flags: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        settings_of(*flags)
    assert "\n" not in str(caught.value)


def test_unknown_flags_and_settings_are_errors(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["serve", "--gallery", "g", "--colour", "red"])
    assert caught.value.code == 2
    assert "--colour" in capsys.readouterr().err
    with pytest.raises(ValueError, match="colour"):
        ServiceSettings(gallery=Path("g"), colour="red")  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("localhost", True),
        ("::1", True),
        ("[::1]", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("127.0.0.1.evil.example", False),
        ("", False),
    ],
)
def test_is_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


def test_no_gallery_says_how_to_make_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["serve", "--port", "0", "--gallery", str(tmp_path / "none")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"cnclip index PICTURES --gallery {tmp_path / 'none'}" in error


def test_a_port_in_use_is_one_line(gallery_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert cli.main(["serve", "--gallery", str(gallery_path), "--port", str(port)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"{port} is in use" in error


def test_an_address_of_another_machine_is_one_line(
    gallery_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["serve", "--gallery", str(gallery_path), "--host", "192.0.2.1", "--port", "0"]) == 2
    assert "--host: cannot listen on 192.0.2.1" in capsys.readouterr().err


def test_answers_do_not_wait_for_acknowledgements() -> None:
    with serve.listen(settings_of("--gallery", "g", "--port", "0")) as listener:
        assert listener.proto == socket.IPPROTO_TCP, "asyncio sets TCP_NODELAY only then"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_under_load_drains_and_exits_0(gallery_path: Path, number: int) -> None:
    with (
        dummy_server(gallery_path, delay_s=0.3) as server,
        httpx.Client(base_url=server.url, timeout=30) as http,
        ThreadPoolExecutor(8) as pool,
    ):
        assert http.get("/readyz").json()["items"] == 32

        def ask(i: int) -> httpx.Response:
            return httpx.post(f"{server.url}/v1/search", json={"text": f"红{i}", "top_k": 1}, timeout=30)

        answers = [pool.submit(ask, i) for i in range(8)]
        metrics = ""
        while 'cnclip_batch_size_count{kind="text"} 2' not in metrics:  # the warm-up, and then ours
            metrics = http.get("/metrics").text
        http.close()
        code, errors = server.stop(number)
        assert code == 0, errors
        assert "Traceback" not in errors
        for answer in answers:
            response = answer.result()
            assert response.status_code == 200
            assert response.json()["results"][0]["id"].startswith("红")
        with pytest.raises(httpx.TransportError):
            httpx.get(f"{server.url}/healthz")


def test_a_real_server_answers_and_says_where(gallery_path: Path) -> None:
    with dummy_server(gallery_path, "--api-key", "a long key", "--max-upload-bytes", "2000") as server:
        key = {"X-API-Key": "a long key"}
        with httpx.Client(base_url=server.url, timeout=30, headers=key) as http:
            assert http.get("/v1/items/%E7%BA%A2%2Fcircle").json()["id"] == "红/circle"
            assert http.get("/v1/search", params={"q": "红"}).status_code == 200
            too_large = http.post("/v1/search/image", files={"file": b"x" * 3000})
            assert too_large.json()["error"]["code"] == "payload_too_large"
            assert "server" not in too_large.headers
        assert httpx.get(f"{server.url}/v1/search?q=x").status_code == 401
        assert server.stop()[0] == 0


HALF = b"POST /v1/search HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\n{"


def half_sent(url: str) -> socket.socket:
    """A connection with a request whose body stops after one byte."""
    host, _, port = url.removeprefix("http://").partition(":")
    connection = socket.create_connection((host, int(port)), timeout=30)
    connection.sendall(HALF)
    return connection


def read_all(connection: socket.socket) -> bytes:
    return b"".join(iter(lambda: connection.recv(65536), b""))


def test_a_half_sent_request_is_given_up(gallery_path: Path) -> None:
    with dummy_server(gallery_path, "--body-timeout-ms", "50") as server:
        with half_sent(server.url) as connection:
            answer = read_all(connection)
        assert answer.startswith(b"HTTP/1.1 408 ") and b'"code":"request_timeout"' in answer
        assert httpx.get(f"{server.url}/healthz").status_code == 200
        assert server.stop()[0] == 0


def test_a_half_sent_request_does_not_hold_up_the_stop(
    gallery_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DUMMY_DRAIN_S", "0")
    with dummy_server(gallery_path, "--body-timeout-ms", "3600000") as server:
        with half_sent(server.url) as connection:
            httpx.get(f"{server.url}/healthz")  # whatever came before has been seen then
            code, errors = server.stop()
            answer = read_all(connection)
        assert code == 0 and "Traceback" not in errors and "CancelledError" not in errors
        assert b'"code":"not_ready"' in answer
