"""`cnclip crawl` from the command line: queries, consent, exit codes, and a learner's provider on top."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from PIL import Image

from cache.picture_cache import PictureCache
from cnclip.errors import InputError
from crawler.errors import SettingsError
from crawler.profile import Pace, load_profile
from crawler.provider import CrawlerProcess, Miss, PictureProvider
from run_scripts.cli import main
from run_scripts.crawl_queries import read_queries
from run_scripts.crawl_source import check_polite, is_local, slowed
from tests.crawler.fakes import jpeg


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder with pictures of 红裙 (two) and 番茄."""
    folder = tmp_path / "pictures"
    for number, name in enumerate(("红裙/a.jpg", "红裙/b.jpg", "番茄/c.jpg")):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(number * 90))
    return folder


def crawl(tmp_path: Path, *more: str) -> int:
    common = [
        "--source",
        "folder",
        "--folder",
        str(tmp_path / "pictures"),
        "--state-dir",
        str(tmp_path / "state"),
    ]
    return main(["crawl", *common, "--out", str(tmp_path / "valid"), *more])


def write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.mark.usefixtures("pictures")
def test_from_a_folder_into_the_cache(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = write(tmp_path / "q.txt", "红裙\n\n番茄\n红裙\n")
    assert crawl(tmp_path, "--queries", asked, "--json") == 0
    assert json.loads(capsys.readouterr().out) == {
        "queries": {"ok": 2}, "new_pictures": 2, "refused": {}, "searches": 2, "stopped": None,
    }  # fmt: skip
    with Image.open(tmp_path / "valid/红裙/1.jpg") as image:
        assert image.size == (224, 224)
    assert (tmp_path / "mark_log/mark.txt").read_text(encoding="utf-8") == "红裙: 1\n番茄: 1\n"
    assert crawl(tmp_path, "--queries", asked, "-n", "2") == 2  # 番茄 has one picture only
    out = capsys.readouterr().out
    assert "no_good_picture" in out and "1 new pictures" in out
    assert PictureCache(tmp_path / "valid").pictures("红裙").keys() == {1, 2}


@pytest.mark.usefixtures("pictures")
def test_a_query_without_pictures_is_answered_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert crawl(tmp_path, "--queries", write(tmp_path / "q.txt", "没有的"), "--json") == 0
    assert json.loads(capsys.readouterr().out)["queries"] == {"empty": 1}


@pytest.mark.usefixtures("pictures")
@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "--queries FILE and --out DIR are needed"),
        (["--queries", "nowhere.txt"], "nowhere.txt: cannot be read: No such file"),
        (["--queries", "q.txt", "-n", "0"], "-n: must be 1 to 50, not 0"),
        (["--queries", "q.txt", "--max-queries", "0"], "--max-queries: must be at least 1"),
        (["--queries", "q.txt", "--source", "tbk"], "--folder is for --source folder, not tbk"),
        (["--queries", "q.txt", "--querys", "x"], "no such flag: --querys (did you mean --queries?)"),
        (["--queries", "q.txt", "-n", "51"], "-n: must be 1 to 50, not 51"),
        (["--queries", "q.txt", "--profile", "x.toml"], "--source folder takes no --profile"),
        (["--queries", "q.txt", "--doctor", "x"], "--doctor and --queries"),
        (["--doctor", "！！"], "--doctor: nothing to search for"),
        (["--queries", "q.txt", "--out", ""], "--out DIR"),
        (["--queries", "q.txt", "--out", "q.txt"], "q.txt: cannot be written"),
        (["--queries", "q.txt", "--mark-log", "q.txt"], "q.txt: cannot be written"),
        (["--queries", "q.txt", "--source", "ebay"], "invalid choice: 'ebay'"),
    ],
)
def test_bad_usage_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "q.txt", "红裙")
    try:
        code = crawl(tmp_path, *flags)
    except SystemExit as stop:
        code = int(stop.code or 0)
    error = capsys.readouterr().err
    assert code == 2 and words in error and error.strip().count("\n") == 0


def test_a_real_site_needs_a_decision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))  # not a terminal: nobody is asked
    asked = write(tmp_path / "q.txt", "红裙")
    state = tmp_path / "state"
    assert main(["crawl", "--queries", asked, "--out", str(tmp_path / "v"), "--state-dir", str(state)]) == 2
    error = capsys.readouterr().err
    assert "your own decision" in error and "--accept-site-rules is needed" in error
    assert not state.exists() and not (tmp_path / "v").exists()


def test_what_is_local(tmp_path: Path) -> None:
    shop = {"search": "127.0.0.1:1", "login": "127.0.0.2:2", "images": "127.0.0.3:3"}
    local, taobao = load_profile("practice-shop", shop), load_profile("taobao")
    assert is_local(local) and not is_local(taobao)
    elsewhere = local.hosts.model_copy(update={"page": ("127.evil.com",)})
    for change in ({"hosts": elsewhere}, {"search": taobao.search}, {"login": taobao.login}):
        assert not is_local(local.model_copy(update=change))
    check_polite(taobao)
    path = tmp_path / "fast.toml"
    path.write_text('name = "fast"\nextends = "taobao"\n[pace]\ngap_s = 0\n', encoding="utf-8")
    with pytest.raises(SettingsError, match=r"pace\.gap_s: 0 s is below 6 s"):
        check_polite(load_profile(path))


def test_the_pace_can_only_be_slowed_down() -> None:
    pace = Pace(gap_s=6)
    assert slowed(pace, None) == pace and slowed(pace, 20).gap_s == 20
    for gap in (5.9, 0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match="--min-gap"):
            slowed(pace, gap)


def test_queries_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = '{"text_id": 1, "text": "红裙", "image_ids": []}\n{"query": "番茄"}\n\n{"query_text": "a/b"}\n'
    assert read_queries(write(tmp_path / "q.jsonl", rows)) == ["红裙", "番茄", "a/b"]
    assert read_queries(write(tmp_path / "q.txt", "\ufeff红裙\r\n 番茄 \r\n")) == ["红裙", "番茄"]
    monkeypatch.setattr(sys, "stdin", io.StringIO('红裙\n{"query": "a  b"}\n\n'))
    assert list(read_queries("-")) == ["红裙", "a  b"]


def test_urgent_queries_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"query": "一"}, {"query": "二"}, {"query": "急", "urgent": True}]
    stream = io.StringIO("".join(f"{json.dumps(row)}\n" for row in rows))
    monkeypatch.setattr(sys, "stdin", stream)
    given = iter(read_queries("-"))
    first = next(given)  # whatever came first
    deadline = time.monotonic() + 30
    while stream.tell() < len(stream.getvalue()) and time.monotonic() < deadline:
        time.sleep(0.001)
    rest = list(given)
    assert sorted([first, *rest]) == sorted(["一", "二", "急"]) and rest[-1] == "二"


def test_a_crawl_ends_with_whom_it_works_for(tmp_path: Path, pictures: Path) -> None:
    """A learner that is killed leaves no crawler behind, however much it had ordered."""
    code = (
        "import os, signal, sys\n"
        "from crawler.provider import CrawlerProcess\n"
        "order = CrawlerProcess(sys.argv[1:])\n"
        "order.request(f'查询{n}' for n in range(100_000))\n"
        "print(order._process.pid, flush=True)\n"
        "import time; time.sleep(1)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    command = [sys.executable, "-m", "run_scripts.cli", "crawl", "--queries", "-", "--source", "folder"]
    command += ["--folder", str(pictures), "--out", str(tmp_path / "valid")]
    with subprocess.Popen([sys.executable, "-c", code, *command], stdout=subprocess.PIPE) as learner:
        assert learner.stdout is not None
        crawler = psutil.Process(int(learner.stdout.readline()))
        learner.wait(60)
    psutil.wait_procs([crawler], timeout=30)
    assert not crawler.is_running()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("q.jsonl", b'{"query": "a"}\n{"query": 1}\n', r"q\.jsonl:2: field query"),
        ("q.jsonl", b'{"query": "a"}\n\n{oops\n', r"q\.jsonl:3: not JSON"),
        ("q.jsonl", b'["a"]\n', r"q\.jsonl:1: field query"),
        ("q.jsonl", b"[" * 100_000, r"q\.jsonl:1: not JSON"),
        ("q.txt", b"\xff\xfe", r"q\.txt: not UTF-8"),
        ("q.txt", b"\n \n", r"q\.txt: no queries in it"),
    ],
)
def test_broken_queries_name_their_line(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=words):
        read_queries(str(tmp_path / name))


@pytest.mark.usefixtures("pictures")
def test_broken_characters_are_no_query_and_stop_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = b"\xef\xbb\xbf" + "红裙\n".encode() + b'a\xff\n{"query": "a\\ud800b"}\n' + "番茄\n".encode()
    stream = io.TextIOWrapper(io.BytesIO(lines))
    monkeypatch.setattr(sys, "stdin", stream)
    assert crawl(tmp_path, "--queries", "-", "--json") == 0
    assert json.loads(capsys.readouterr().out)["queries"] == {"ok": 2, "unusable_query": 2}


def test_a_learner_gets_pictures_as_they_come(tmp_path: Path, pictures: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "run_scripts.cli",
        "crawl",
        "--queries",
        "-",
        "-n",
        "2",
        "--source",
        "folder",
    ]
    command += [
        "--folder",
        str(pictures),
        "--out",
        str(tmp_path / "valid"),
        "--state-dir",
        str(tmp_path / "state"),
    ]
    order = CrawlerProcess(command)
    try:
        provider = PictureProvider(PictureCache(tmp_path / "valid"), order)
        found = provider.ensure(["番茄", "没有的", " 红裙 ", "a\ud800", "！！"], 2, time.monotonic() + 60)
        others = PictureProvider(PictureCache(tmp_path / "valid"))  # another rank
        assert others.ensure(["红裙"], 2, time.monotonic() + 60)["红裙"] == found[" 红裙 "]
    finally:
        order.close()
    assert found["没有的"] == Miss("empty") and found["！！"] == Miss("unusable_query")
    assert not isinstance(found[" 红裙 "], Miss) and list(found[" 红裙 "]) == [1, 2]
    assert not isinstance(found["番茄"], Miss) and list(found["番茄"]) == [1]
    assert not order.alive
