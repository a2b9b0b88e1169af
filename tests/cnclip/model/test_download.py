"""Downloads against a local server that misbehaves in every known way."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from filelock import FileLock

from cnclip.errors import InputError
from cnclip.model import download as download_module
from cnclip.model import fetch as fetch_module
from cnclip.model.download import PublicModel, download, local_path, public_models
from cnclip.model.fetch import fetch

CONTENT = bytes(range(256)) * 4000  # 1,024,000 bytes
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Site:
    """What the server does, and the Range headers it saw."""

    base: str = ""
    body: bytes = CONTENT
    status: int = 200
    ranges: bool = True
    cut_after: list[int] = field(default_factory=list)  # bytes to send before hanging up, per request
    send_length: bool = True
    missing: set[str] = field(default_factory=set)
    shift: int = 0  # answers ranges this many bytes further on than asked for
    seen: list[tuple[str, str | None]] = field(default_factory=list)


@pytest.fixture
def site() -> Iterator[Site]:
    state = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers.get("Range")
            state.seen.append((self.path, asked))
            if self.path.rsplit("/", 1)[-1] in state.missing or state.status >= 400:
                self.send_error(404 if state.status < 400 else state.status)
                return
            start = int(re.findall(r"\d+", asked)[0]) if asked and state.ranges else 0
            if start >= len(state.body) and start:
                self.send_error(416)
                return
            start += state.shift if start else 0
            body = state.body[start:]
            self.send_response(206 if start else 200)
            if start:
                last, total = len(state.body) - 1, len(state.body)
                self.send_header("Content-Range", f"bytes {start}-{last}/{total}")
            if state.send_length:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            cut = state.cut_after.pop(0) if state.cut_after else len(body)
            self.wfile.write(body[:cut])
            self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    state.base = f"http://127.0.0.1:{server.server_port}"
    yield state
    server.shutdown()
    thread.join()
    server.server_close()


def get(site: Site, target: Path, urls: list[str] | None = None, **options: object) -> list[float]:
    """Fetch with known size and hash; returns the pauses it would have made."""
    pauses: list[float] = []
    settings = {"size_bytes": len(CONTENT), "sha256": SHA256, **options}
    fetch(urls or [f"{site.base}/a.pt"], target, pause=pauses.append, **settings)  # type: ignore[arg-type]
    return pauses


def refusal(site: Site, target: Path, urls: list[str] | None = None, **options: object) -> str:
    with pytest.raises(InputError) as caught:
        get(site, target, urls, **options)
    text = str(caught.value)
    assert target.name in text or str(target.parent) in text
    assert "\n" not in text
    assert not target.exists()
    return text


def test_whole_file_with_progress(site: Site, tmp_path: Path) -> None:
    steps: list[tuple[int, int | None]] = []
    get(site, tmp_path / "new" / "a.pt", progress=lambda done, total: steps.append((done, total)))
    assert (tmp_path / "new" / "a.pt").read_bytes() == CONTENT
    assert steps[-1] == (len(CONTENT), len(CONTENT))
    assert steps == sorted(steps)
    assert not (tmp_path / "new" / "a.pt.part").exists()


def test_resumes_what_an_earlier_run_left(site: Site, tmp_path: Path) -> None:
    (tmp_path / "a.pt.part").write_bytes(CONTENT[:300_000])
    get(site, tmp_path / "a.pt")
    assert site.seen == [("/a.pt", "bytes=300000-")]
    assert (tmp_path / "a.pt").read_bytes() == CONTENT


def test_takes_up_a_broken_connection(site: Site, tmp_path: Path) -> None:
    site.cut_after = [100_000, 200_000, 0, 300_000]
    pauses = get(site, tmp_path / "a.pt")
    assert (tmp_path / "a.pt").read_bytes() == CONTENT
    assert [asked for _, asked in site.seen[:3]] == [None, "bytes=100000-", "bytes=300000-"]
    assert pauses == [1.0, 1.0, 2.0, 1.0]  # longer only when nothing came


def test_gives_up_when_nothing_comes(site: Site, tmp_path: Path) -> None:
    site.cut_after = [100_000, 0, 0, 0]
    assert "127.0.0.1: " in refusal(site, tmp_path / "a.pt")
    assert (tmp_path / "a.pt.part").read_bytes() == CONTENT[:100_000]  # kept for the next run
    get(site, tmp_path / "a.pt")
    assert site.seen[-1] == ("/a.pt", "bytes=100000-")


def test_server_that_ignores_range(site: Site, tmp_path: Path) -> None:
    site.ranges = False
    (tmp_path / "a.pt.part").write_bytes(b"x" * 300_000)
    get(site, tmp_path / "a.pt")
    assert (tmp_path / "a.pt").read_bytes() == CONTENT


def test_server_that_answers_another_range(site: Site, tmp_path: Path) -> None:
    site.shift = 5
    (tmp_path / "a.pt.part").write_bytes(CONTENT[:300_000])
    assert "another part of the file" in refusal(site, tmp_path / "a.pt")


@pytest.mark.parametrize("left", [CONTENT + b"more", CONTENT[:-1] + b"?"])
def test_wrong_leftovers_are_thrown_away(site: Site, tmp_path: Path, left: bytes) -> None:
    (tmp_path / "a.pt.part").write_bytes(left)
    get(site, tmp_path / "a.pt", [f"{site.base}/a.pt", f"{site.base}/b.pt"])
    assert (tmp_path / "a.pt").read_bytes() == CONTENT


def test_complete_leftovers_need_no_request(site: Site, tmp_path: Path) -> None:
    (tmp_path / "a.pt.part").write_bytes(CONTENT)
    get(site, tmp_path / "a.pt")
    assert site.seen == []


def test_wrong_hash(site: Site, tmp_path: Path) -> None:
    site.body = CONTENT[:-1] + b"?"
    assert "wrong SHA-256, thrown away" in refusal(site, tmp_path / "a.pt")
    assert not (tmp_path / "a.pt.part").exists()


@pytest.mark.parametrize("send_length", [True, False])
@pytest.mark.parametrize("body", [b"<html>please log in</html>", CONTENT + b"more", b""])
def test_wrong_size(site: Site, tmp_path: Path, body: bytes, send_length: bool) -> None:
    site.body, site.send_length = body, send_length
    text = refusal(site, tmp_path / "a.pt")
    assert re.search(r"1,024,000", text)


@pytest.mark.parametrize("status", [401, 404, 429, 500, 503])
def test_error_answers(site: Site, tmp_path: Path, status: int) -> None:
    site.status = status
    assert f"127.0.0.1: HTTP {status}" in refusal(site, tmp_path / "a.pt")
    assert len(site.seen) == 1


def test_the_next_source_takes_over(site: Site, tmp_path: Path) -> None:
    site.missing = {"a.pt"}
    get(site, tmp_path / "a.pt", ["http://127.0.0.1:1/a.pt", f"{site.base}/a.pt", f"{site.base}/b.pt"])
    assert [path for path, _ in site.seen] == ["/a.pt", "/b.pt"]


def test_no_network_is_one_line_at_once(site: Site, tmp_path: Path) -> None:
    urls = ["http://127.0.0.1:1/a.pt", "http://no-such-host.invalid/a.pt"]
    text = refusal(site, tmp_path / "a.pt", urls)
    assert "127.0.0.1: no connection; no-such-host.invalid: no connection" in text
    assert "mirror" in text


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://x/a.pt", "nonsense", "http://[bad"])
def test_addresses_that_are_none(site: Site, tmp_path: Path, url: str) -> None:
    assert "not downloaded" in refusal(site, tmp_path / "a.pt", [url])


def test_without_size_and_hash(site: Site, tmp_path: Path) -> None:
    site.cut_after = [1000]
    get(site, tmp_path / "a.pt", size_bytes=None, sha256=None)
    assert (tmp_path / "a.pt").read_bytes() == CONTENT


def test_a_second_process_is_told(site: Site, tmp_path: Path) -> None:
    with FileLock(tmp_path / "a.pt.lock"):
        assert "another process is downloading it" in refusal(site, tmp_path / "a.pt")


def test_too_little_space(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage:
        free = 1000

    monkeypatch.setattr(fetch_module.shutil, "disk_usage", lambda _: Usage)
    assert "1 MB needed, 0 MB free" in refusal(site, tmp_path / "a.pt")


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> PublicModel:
    """A small public model, and a home of its own."""
    small = PublicModel("ViT-B-16", "RBT3-chinese", "chinese-clip-x", len(CONTENT), SHA256, 1)
    monkeypatch.setattr(download_module, "_PUBLIC", (small,))
    monkeypatch.setenv("CNCLIP_MODELS_DIR", str(tmp_path / "models"))
    monkeypatch.setenv("HOME", str(tmp_path))
    return small


@pytest.mark.parametrize("how", ["argument", "environment", "pattern", "flat"])
def test_mirrors(site: Site, model: PublicModel, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    hub_path = "/OFA-Sys/chinese-clip-x/resolve/main/clip_cn_vit-b-16.pt"
    if how == "environment":
        monkeypatch.setenv("CNCLIP_MIRROR", f"{site.base}/")
        path, expected = download(model.name), hub_path
    elif how == "pattern":
        path = download(model.name, mirror=f"{site.base}/x/{{repository}}-{{file}}?a=1")
        expected = "/x/chinese-clip-x-clip_cn_vit-b-16.pt?a=1"
    else:
        path, expected = download(model.name, mirror=site.base), hub_path
    assert site.seen == [(expected, None)]
    assert path.read_bytes() == CONTENT
    assert local_path(model.name) == path
    assert download(model.name, mirror="http://127.0.0.1:1") == path  # already here: no request


def test_a_download_from_chinese_clip_itself_is_found(model: PublicModel, tmp_path: Path) -> None:
    theirs = tmp_path / ".cache" / "clip" / model.file
    theirs.parent.mkdir(parents=True)
    theirs.write_bytes(CONTENT[:-1])
    assert local_path(model.name) is None  # incomplete
    theirs.write_bytes(CONTENT)
    assert download(model.name) == theirs


def test_unknown_name() -> None:
    with pytest.raises(InputError, match="unknown model 'ViT-B-9'; known: ViT-B-16, ViT-L-14"):
        download("ViT-B-9")


def test_public_models_are_the_released_five() -> None:
    models = public_models()
    assert list(models) == ["ViT-B-16", "ViT-L-14", "ViT-L-14-336", "ViT-H-14", "RN50"]
    for model in models.values():
        assert re.fullmatch("[0-9a-f]{64}", model.sha256)
        assert 4 * model.parameters < model.size_bytes * 2.1  # float16 or float32 on disk
        assert all(url.endswith(model.file) and url.startswith("https://") for url in model.urls())
    assert models["ViT-B-16"].file == "clip_cn_vit-b-16.pt"
