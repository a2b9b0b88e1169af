"""Downloading one large file: resumed, verified, and whole or absent."""

from __future__ import annotations

import hashlib
import re
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import httpx
from filelock import FileLock, Timeout

from cnclip.errors import InputError

Progress = Callable[[int, int | None], None]
"""Called with (bytes so far, total bytes or None)."""

_STALLS = 3  # attempts in a row that bring nothing, per source
_CHUNK_BYTES = 1 << 20
_TIMEOUT = httpx.Timeout(30.0, connect=10.0)


class _SourceError(Exception):
    """This source does not deliver; the next one may."""


def fetch(
    urls: Sequence[str],
    target: Path,
    *,
    size_bytes: int | None = None,
    sha256: str | None = None,
    progress: Progress | None = None,
    pause: Callable[[float], object] = time.sleep,
) -> None:
    """Download one file from the first of `urls` that delivers it, into `target`.

    Bytes collect in `target`.part, which a later call continues (HTTP Range). It is renamed when size and
    SHA-256 are right, and thrown away when they are not.

    Raises: InputError, one line that says for each source why it failed.
    """
    part = target.with_name(target.name + ".part")
    failures: list[str] = []
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _check_space(part, size_bytes)
        with (
            FileLock(target.with_name(target.name + ".lock"), timeout=0),
            httpx.Client(follow_redirects=True, timeout=_TIMEOUT) as client,
        ):
            for url in urls:
                try:
                    _collect(client, url, part, size_bytes, progress, pause)
                    _verify(part, size_bytes, sha256)
                except (_SourceError, httpx.HTTPError, httpx.InvalidURL) as error:
                    failures.append(f"{_host(url)}: {_reason(error)}")
                else:
                    part.replace(target)
                    return
    except Timeout as error:
        raise InputError(f"{target.name}: another process is downloading it into {target.parent}") from error
    except OSError as error:
        raise InputError(f"{part}: cannot be written ({error.strerror or error})") from error
    raise InputError(
        f"{target.name}: not downloaded ({'; '.join(failures)}); check the network or name a mirror, "
        "and run it again to go on where it stopped"
    )


def _check_space(part: Path, size_bytes: int | None) -> None:
    if size_bytes is None:
        return
    missing = size_bytes - (part.stat().st_size if part.exists() else 0)
    free = shutil.disk_usage(part.parent).free
    if missing > free:
        raise InputError(f"{part.parent}: {missing / 1e6:,.0f} MB needed, {free / 1e6:,.0f} MB free")


def _collect(
    client: httpx.Client,
    url: str,
    part: Path,
    size_bytes: int | None,
    progress: Progress | None,
    pause: Callable[[float], object],
) -> None:
    """Bring `part` to its full size; a connection that breaks is taken up again."""
    stalls = 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        if before == size_bytes:
            return
        try:
            if _stream(client, url, part, size_bytes, progress):
                return
            reason = "refuses to continue the file"
        except (httpx.ReadError, httpx.ReadTimeout, httpx.RemoteProtocolError) as error:
            reason = _reason(error)  # broke on the way; other errors say that trying again is no use
        stalls = 0 if part.exists() and part.stat().st_size > before else stalls + 1
        if stalls == _STALLS:
            raise _SourceError(reason)
        pause(2.0**stalls)


def _stream(
    client: httpx.Client, url: str, part: Path, size_bytes: int | None, progress: Progress | None
) -> bool:
    """One request that appends to `part`. Returns False if it has to start anew."""
    start = part.stat().st_size if part.exists() else 0
    if size_bytes is not None and start > size_bytes:
        part.unlink()
        start = 0
    headers = {"Accept-Encoding": "identity"}  # sizes and ranges count bytes of the file itself
    if start:
        headers["Range"] = f"bytes={start}-"
    with client.stream("GET", url, headers=headers) as response:
        if response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE and start:
            part.unlink()
            return False
        if response.status_code not in (httpx.codes.OK, httpx.codes.PARTIAL_CONTENT):
            raise _SourceError(f"HTTP {response.status_code}")
        total = _total(response)
        if size_bytes is not None and total is not None and total != size_bytes:
            raise _SourceError(f"file of {total:,} bytes instead of {size_bytes:,}")
        resumed = _resumes_at(response, start)
        done = start if resumed else 0
        with part.open("ab" if resumed else "wb") as file:
            for chunk in response.iter_raw():  # as it comes, so that a broken connection loses nothing
                file.write(chunk)
                done += len(chunk)
                if size_bytes is not None and done > size_bytes:
                    raise _SourceError(f"more than the expected {size_bytes:,} bytes")
                if progress is not None:
                    progress(done, size_bytes or total)
    if size_bytes is not None and done != size_bytes:
        # The body ended as the server meant it to, so this is something else: an error or login page.
        part.unlink()
        raise _SourceError(f"{done:,} bytes instead of {size_bytes:,}")
    return True


def _resumes_at(response: httpx.Response, start: int) -> bool:
    """Whether the body continues at `start`; False when the server sends the whole file again."""
    if response.status_code == httpx.codes.OK:
        return False
    found = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    if found is None or int(found[1]) != start:
        raise _SourceError("answers with another part of the file than asked for")
    return start > 0


def _total(response: httpx.Response) -> int | None:
    """Size of the whole file in bytes, if the server tells."""
    if response.status_code == httpx.codes.PARTIAL_CONTENT:
        found = re.search(r"/(\d+)$", response.headers.get("Content-Range", ""))
        return int(found[1]) if found else None
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isdigit() else None


def _verify(part: Path, size_bytes: int | None, sha256: str | None) -> None:
    size = part.stat().st_size if part.exists() else 0
    if size == 0 or (size_bytes is not None and size != size_bytes):
        part.unlink(missing_ok=True)
        raise _SourceError(f"{size:,} bytes" + (f" instead of {size_bytes:,}" if size_bytes else ""))
    if sha256 is not None and _sha256(part) != sha256:
        part.unlink()
        raise _SourceError("wrong SHA-256, thrown away")


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_CHUNK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _host(url: str) -> str:
    try:
        return httpx.URL(url).host or url
    except httpx.InvalidURL:
        return url


def _reason(error: Exception) -> str:
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        return "no connection"
    if isinstance(error, httpx.TimeoutException):
        return "no answer in time"
    return (str(error).splitlines() or [type(error).__name__])[0][:120] or type(error).__name__
