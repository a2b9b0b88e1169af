"""Time, size and address limits of PictureFetcher."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

import crawler.pictures
from crawler.pictures import PictureFetcher, _is_internal
from crawler.types import Picture, Refusal, Refused
from tests.crawler.picture_zoo import RawServer, Reply, Zoo, encoded, product

JPEG = encoded(product(), "JPEG")
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(JPEG)
LIMIT_S = 0.4
MANY = 10**9


def fetched(url: str, *hosts: str, timeout_s: float = 20, max_bytes: int = 10_000_000) -> Picture | Refused:
    fetcher = PictureFetcher(hosts, user_agent="test/1", timeout_s=timeout_s, max_bytes=max_bytes)
    try:
        return fetcher.fetch(url)
    finally:
        fetcher.close()


def reason(result: Picture | Refused) -> Refusal:
    assert isinstance(result, Refused), result
    return result.reason


@pytest.mark.parametrize(
    "reply",
    [
        Reply(ending="drip", length=MANY),
        Reply(ending="drip", length=None),
        Reply(body=JPEG, ending="silence", length=MANY),
        Reply(ending="stream", length=None),
    ],
    ids=["drip", "drip without end", "silence", "stream"],
)
def test_the_whole_fetch_has_a_deadline(reply: Reply) -> None:
    with Zoo() as zoo:
        start = time.monotonic()
        result = fetched(zoo.add("/slow", reply), zoo.host, timeout_s=LIMIT_S, max_bytes=MANY)
        assert reason(result) is Refusal.TOO_SLOW
        assert LIMIT_S <= time.monotonic() - start < LIMIT_S + 1


def drip_headers(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nX: ")
    while True:
        connection.sendall(b"x")
        time.sleep(0.02)


def never_answer(connection: socket.socket) -> None:
    while connection.recv(65536):
        pass


def flood_of_hints(connection: socket.socket) -> None:
    while True:
        connection.sendall(b"HTTP/1.1 103 Early Hints\r\n\r\n")
        time.sleep(0.005)


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("serve", [drip_headers, never_answer, flood_of_hints])
def test_the_deadline_holds_before_the_body(serve: Callable[[socket.socket], None], scheme: str) -> None:
    with RawServer(serve) as server:
        start = time.monotonic()
        result = fetched(f"{scheme}://{server.host}/x.jpg", server.host, timeout_s=LIMIT_S)
        silent = scheme == "http" or serve is never_answer
        assert reason(result) is (Refusal.TOO_SLOW if silent else Refusal.NETWORK)  # no TLS was spoken
        assert time.monotonic() - start < LIMIT_S + 1


def test_redirects_share_the_deadline() -> None:
    with Zoo() as zoo:
        zoo.add("/a", Reply(302, headers={"Location": "/b"}))
        zoo.add("/b", Reply(ending="drip", length=None))
        start = time.monotonic()
        assert reason(fetched(zoo.url("/a"), zoo.host, timeout_s=LIMIT_S)) is Refusal.TOO_SLOW
        assert time.monotonic() - start < LIMIT_S + 1


def test_a_pause_has_its_own_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crawler.pictures, "READ_TIMEOUT_S", 0.2)
    with Zoo() as zoo:
        start = time.monotonic()
        url = zoo.add("/slow", Reply(body=JPEG, ending="silence", length=MANY // 1000))
        assert reason(fetched(url, zoo.host)) is Refusal.TOO_SLOW
        assert time.monotonic() - start < 2


def test_an_endless_stream_is_cut_off_by_size() -> None:
    with Zoo() as zoo:
        url = zoo.add("/stream", Reply(ending="stream", length=None))
        assert reason(fetched(url, zoo.host, max_bytes=1_000_000)) is Refusal.TOO_MANY_BYTES
        assert zoo.sent < 20_000_000  # what fits into socket buffers, not ten seconds' worth


def test_the_limit_itself_is_allowed() -> None:
    with Zoo() as zoo:
        url = zoo.add("/a", Reply(body=JPEG, length=None))
        assert isinstance(fetched(url, zoo.host, max_bytes=len(JPEG)), Picture)
        assert reason(fetched(url, zoo.host, max_bytes=len(JPEG) - 1)) is Refusal.TOO_MANY_BYTES
        url = zoo.add("/b", Reply(body=JPEG))
        assert reason(fetched(url, zoo.host, max_bytes=len(JPEG) - 1)) is Refusal.TOO_MANY_BYTES


def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        host = f"127.0.0.1:{server.getsockname()[1]}"
    assert reason(fetched(f"http://{host}/x.jpg", host)) is Refusal.NETWORK


@pytest.mark.parametrize("name", ["a..b", "x" * 70, "-"])
def test_names_that_are_none(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def lookup(host: str, *_: Any, **__: Any) -> Any:
        host.encode("idna")  # as the real one, which then asks the network
        raise socket.gaierror(socket.EAI_NONAME, "no such name")

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    assert reason(fetched(f"http://{name}.example/x.jpg", "*.example")) is Refusal.NETWORK


def resolve_to(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    def lookup(host: str, port: int, *_: Any, **__: Any) -> list[Any]:
        return [
            (
                socket.AF_INET6 if ":" in address else socket.AF_INET,
                socket.SOCK_STREAM,
                6,
                "",
                (address, port),
            )
            for address in ([host] if host[0].isdigit() else addresses)
        ]

    monkeypatch.setattr(socket, "getaddrinfo", lookup)


def test_a_name_must_not_lead_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    with Zoo() as zoo:
        url = zoo.add("/x.jpg", Reply(body=JPEG))
        port = zoo.host.partition(":")[2]
        resolve_to(monkeypatch, "127.0.0.1")
        allowed = (zoo.host, f"localhost:{port}", f"img.shop.example:{port}")
        result = fetched(f"http://img.shop.example:{port}/x.jpg", *allowed)
        assert reason(result) is Refusal.HOST
        assert zoo.seen == []
        # what the list names as such is another matter
        assert isinstance(fetched(url, *allowed), Picture)
        assert isinstance(fetched(f"http://localhost:{port}/x.jpg", *allowed), Picture)


def test_the_next_address_of_a_name_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    with Zoo() as zoo:
        zoo.add("/x.jpg", Reply(body=JPEG))
        port = zoo.host.partition(":")[2]
        resolve_to(monkeypatch, "127.0.0.9", "127.0.0.1")  # nobody listens on the first
        assert isinstance(fetched(f"http://localhost:{port}/x.jpg", f"localhost:{port}"), Picture)


@pytest.mark.parametrize(
    "address",
    [
        *("0.0.0.0", "10.1.2.3", "127.8.9.1", "169.254.169.254", "172.31.0.1", "192.168.1.1"),
        *("::", "::1", "fd00::1", "fe80::1", "fe80::1%eth0", "::ffff:10.0.0.1"),
    ],
)
def test_internal_addresses(address: str) -> None:
    assert _is_internal(address)
    assert ip_address(address.partition("%")[0]).is_private or "ffff" in address


@pytest.mark.parametrize("address", ["47.246.1.1", "2400:3200::1", "198.18.0.5", "100.64.0.1", "172.32.0.1"])
def test_public_addresses_and_those_of_vpn_clients(address: str) -> None:
    assert not _is_internal(address)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl to make a certificate with")
def test_https(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ssl

    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    made += ["-keyout", str(key), "-out", str(certificate), "-days", "2", "-subj", "/CN=localhost"]
    made += ["-addext", "subjectAltName=DNS:localhost"]
    subprocess.run(made, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    def serve(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as secure:
            secure.recv(65536)
            secure.sendall(HEAD + JPEG)

    with RawServer(serve) as server:
        port = server.host.partition(":")[2]
        hosts = (f"localhost:{port}", server.host)
        assert reason(fetched(f"https://localhost:{port}/x.jpg", *hosts)) is Refusal.NETWORK  # self-signed
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert isinstance(fetched(f"https://localhost:{port}/x.jpg", *hosts), Picture)
        assert reason(fetched(f"https://{server.host}/x.jpg", *hosts)) is Refusal.NETWORK  # another name


def test_an_idle_fetcher_holds_no_connection() -> None:
    after: list[bytes] = []

    def serve(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(HEAD + JPEG)
        after.append(connection.recv(1))

    with RawServer(serve) as server:
        fetcher = PictureFetcher((server.host,), user_agent="test/1")
        assert isinstance(fetcher.fetch(f"http://{server.host}/x.jpg"), Picture)
        deadline = time.monotonic() + 3
        while not after and time.monotonic() < deadline:
            time.sleep(0.01)
        assert after == [b""]  # the client hung up, the server had not
        fetcher.close()
