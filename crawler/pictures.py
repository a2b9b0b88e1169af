"""Fetching pictures over HTTP: from listed hosts only, within limits of time and size, without cookies.

Built on httpcore, the layer below httpx: it has no cookie jar, follows no redirects, decompresses nothing and
takes no proxy from the environment, and its sockets can be given a deadline.
"""

from __future__ import annotations

import re
import socket
import ssl
import string
from collections.abc import Collection, Iterable, Mapping
from email.utils import parsedate_to_datetime
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

import httpcore
import httpx

from crawler.clock import Clock, SystemClock
from crawler.picture_checks import check_picture
from crawler.profile import host_allowed
from crawler.types import Picture, Refusal, Refused

CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 15.0
MAX_REDIRECTS = 5
_REDIRECTS = {301, 302, 303, 307, 308}
_STATUS = {
    404: Refusal.GONE,
    410: Refusal.GONE,
    429: Refusal.THROTTLED,
    503: Refusal.THROTTLED,
}
# 198.18.0.0/15 and 100.64.0.0/10 are left out on purpose: VPN clients answer with them for any public name.
_INTERNAL = [
    ip_network(network)
    for network in (
        *("0.0.0.0/8", "10.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16"),
        *("::/127", "fc00::/7", "fe80::/10"),
    )
]


class _Stop(Exception):
    """Why the fetch ends here."""

    def __init__(self, reason: Refusal, detail: str, retry_after: float | None = None) -> None:
        super().__init__(detail)
        self.refusal = (reason, detail, retry_after)


class PictureFetcher:
    """Fetches one picture at a time, each over its own connection.

    A host name that resolves to an address of this machine or its private network is refused; `localhost`
    and addresses written as numbers are as good as the list that names them.
    """

    def __init__(
        self,
        hosts: tuple[str, ...],
        *,
        user_agent: str,
        placeholder_sha256: Collection[str] = (),
        timeout_s: float = 30,
        max_bytes: int = 10_000_000,
        clock: Clock | None = None,
    ) -> None:
        """hosts: as in a profile, also for redirects. timeout_s: of a whole fetch, redirects included."""
        self._hosts, self._user_agent, self._placeholders = hosts, user_agent, placeholder_sha256
        self._timeout_s, self._max_bytes, self._clock = timeout_s, max_bytes, clock or SystemClock()
        self._network = _Network(self._clock)
        self._pool = httpcore.ConnectionPool(
            ssl_context=httpx.create_ssl_context(),
            max_keepalive_connections=0,
            network_backend=self._network,
        )

    def fetch(self, url: str, referer: str = "") -> Picture | Refused:
        """Get one picture and check it. Sends no cookies and raises nothing.

        Refused.retry_after is in seconds from now, where a 429 or 503 said it.
        """
        self._network.deadline = self._clock.monotonic() + self._timeout_s
        try:
            data, mime = self._get(url, referer)
        except _Stop as stop:
            reason, detail, retry_after = stop.refusal
            return Refused(reason, url, detail, retry_after)
        except httpcore.TimeoutException as error:
            return Refused(Refusal.TOO_SLOW, url, type(error).__name__)
        except (httpcore.NetworkError, httpcore.ProtocolError, OSError, ValueError) as error:
            # ValueError: addresses and host names that cannot be encoded
            return Refused(Refusal.NETWORK, url, f"{type(error).__name__}: {error}"[:200])
        return check_picture(data, url, mime, self._placeholders)

    def close(self) -> None:
        self._pool.close()

    def _get(self, url: str, referer: str) -> tuple[bytes, str]:
        """Body and declared type of the picture at the end of the redirects."""
        headers = [("User-Agent", self._user_agent), ("Accept", "image/*"), ("Accept-Encoding", "identity")]
        if referer:
            headers.append(("Referer", _ascii(referer)))
        timeouts = {"connect": CONNECT_TIMEOUT_S, "read": READ_TIMEOUT_S, "write": READ_TIMEOUT_S}
        address = _ascii(url)
        for _ in range(1 + MAX_REDIRECTS):
            if not host_allowed(address, self._hosts):
                raise _Stop(Refusal.HOST, address[:200])
            target = _target(address)
            with self._pool.stream(
                "GET", target, headers=headers, extensions={"timeout": timeouts}
            ) as response:
                fields = {
                    n.decode("latin-1").lower(): v.decode("utf-8", "replace") for n, v in response.headers
                }
                if response.status not in _REDIRECTS or "location" not in fields:
                    self._check_head(response.status, fields)
                    return self._body(response), fields["content-type"]
            address = urljoin(address, _ascii(fields["location"]))
        raise _Stop(Refusal.STATUS, f"more than {MAX_REDIRECTS} redirects")

    def _check_head(self, status: int, fields: Mapping[str, str]) -> None:
        """Refuse what need not be read to know that it is nothing for us."""
        if status != 200:
            reason = _STATUS.get(status, Refusal.STATUS)
            wait = self._retry_after(fields.get("retry-after", "")) if reason is Refusal.THROTTLED else None
            raise _Stop(reason, f"HTTP {status}", wait)
        content_type = fields.get("content-type", "")
        if not content_type.strip().lower().startswith("image/"):
            raise _Stop(Refusal.NOT_IMAGE, f"declared as {content_type[:100] or 'nothing'}")
        encoding = fields.get("content-encoding", "identity").strip().lower()
        if encoding != "identity":  # nobody compresses pictures twice, but for a bomb
            raise _Stop(Refusal.NOT_IMAGE, f"content-encoding {encoding[:100]}")
        length = fields.get("content-length", "0")
        if length.isdecimal() and int(length) > self._max_bytes:
            raise _Stop(Refusal.TOO_MANY_BYTES, f"{length} bytes announced")

    def _body(self, response: httpcore.Response) -> bytes:
        body = bytearray()
        try:
            for chunk in response.iter_stream():
                body += chunk
                if len(body) > self._max_bytes:
                    raise _Stop(Refusal.TOO_MANY_BYTES, f"more than {self._max_bytes} bytes")
        except httpcore.RemoteProtocolError as error:
            raise _Stop(Refusal.TRUNCATED, str(error)[:200]) from None
        return bytes(body)

    def _retry_after(self, value: str) -> float | None:
        """Seconds from "120" or an HTTP date (RFC 9110, 10.2.3); None if it is neither."""
        if re.fullmatch(r"[0-9]{1,9}", value.strip()):
            return float(value)
        try:
            return max(0.0, parsedate_to_datetime(value).timestamp() - self._clock.now())
        except (ValueError, OverflowError):
            return None


def _ascii(address: str) -> str:
    """With everything but printable ASCII percent-encoded; what is encoded already stays."""
    return quote(address.strip(), safe=string.punctuation)


def _target(address: str) -> httpcore.URL:
    """Cut up by the same function that `host_allowed` uses, so that the host asked is the host checked."""
    parts = urlsplit(address)
    query = f"?{parts.query}" if parts.query else ""
    return httpcore.URL(
        scheme=parts.scheme, host=parts.hostname or "", port=parts.port, target=(parts.path or "/") + query
    )


class _Network(httpcore.NetworkBackend):
    """Sockets that do nothing after the deadline, however lively the server drips, and that do not connect
    a public name to an internal address."""

    def __init__(self, clock: Clock) -> None:
        self.deadline = 0.0
        self._clock = clock
        self._backend = httpcore.SyncBackend()

    def within(self, timeout: float | None) -> float:
        """`timeout`, or what is left until the deadline. Raises httpcore.TimeoutException if nothing is."""
        left = self.deadline - self._clock.monotonic()
        if left <= 0:
            raise httpcore.ReadTimeout("the fetch took too long")
        return left if timeout is None else min(timeout, left)

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        addresses = dict.fromkeys(
            str(found[4][0]) for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        )
        if not _means_itself(host) and any(map(_is_internal, addresses)):
            raise _Stop(Refusal.HOST, f"{host} is an internal address")
        error: httpcore.NetworkError | httpcore.TimeoutException = httpcore.ConnectError("no address")
        for address in addresses:
            limit = self.within(timeout)
            try:
                stream = self._backend.connect_tcp(address, port, limit, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as failure:
                error = failure
            else:
                return _Stream(stream, self)
        raise error


class _Stream(httpcore.NetworkStream):
    def __init__(self, stream: httpcore.NetworkStream, network: _Network) -> None:
        self._stream, self._network = stream, network

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._network.within(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._network.within(timeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        limit = self._network.within(timeout)
        return _Stream(self._stream.start_tls(ssl_context, server_hostname, limit), self._network)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _means_itself(host: str) -> bool:
    """Whether a host is an address in numbers or localhost."""
    try:
        ip_address(host)
    except ValueError:
        return host == "localhost"
    return True


def _is_internal(address: str) -> bool:
    found = ip_address(address.partition("%")[0])
    if isinstance(found, IPv6Address):
        found = found.ipv4_mapped or found
    return any(found in network for network in _INTERNAL)
