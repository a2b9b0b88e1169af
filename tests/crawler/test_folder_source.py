"""FolderSource: queries and their folders, manifests, and what may be read."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from cache.names import directory_name
from crawler.errors import SettingsError
from crawler.source import ImageSource
from crawler.sources.folder import FolderSource
from crawler.types import Candidate, PageState, Picture, Refusal, Refused, SearchResult
from tests.crawler.picture_zoo import encoded, product


def put(path: Path, number: int = 1) -> Path:
    """A product's picture there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(product(number=number), "JPEG"))
    return path


def opened(path: Path) -> FolderSource:
    source = FolderSource(path)
    source.open()
    return source


def names(result: SearchResult) -> list[str]:
    """The file names of a result, after checking its form."""
    assert (result.state is PageState.RESULTS) == bool(result.candidates)
    assert [candidate.rank for candidate in result.candidates] == list(range(len(result.candidates)))
    assert all(url.startswith("file:///") for candidate in result.candidates for url in candidate.image_urls)
    return [candidate.image_urls[0].rpartition("/")[2] for candidate in result.candidates]


def fetched(source: FolderSource, query: str) -> list[Picture | Refused]:
    candidates = source.search(query, 99).candidates
    return [source.fetch(candidate, candidate.image_urls[0]) for candidate in candidates]


def refusal(source: FolderSource, path: Path | str) -> Refusal:
    url = path.as_uri() if isinstance(path, Path) else path
    result = source.fetch(Candidate("", (url,)), url)
    assert isinstance(result, Refused), result
    return result.reason


def test_a_folder_for_each_query(tmp_path: Path) -> None:
    for number in (1, 2, 10):
        put(tmp_path / "红裙" / f"{number}.jpg", number)
    put(tmp_path / "蓝裙" / "照片 #1%.JPEG")
    source: ImageSource = opened(tmp_path)
    source.ensure_session()
    result = source.search(" 红裙 ", 8)
    assert names(result) == ["1.jpg", "2.jpg", "10.jpg"]
    assert [candidate.item_id for candidate in result.candidates] == [
        "红裙/1.jpg",
        "红裙/2.jpg",
        "红裙/10.jpg",
    ]
    assert names(source.search("红裙", 2)) == ["1.jpg", "2.jpg"]
    assert source.search("绿裙", 8).state is PageState.EMPTY
    assert source.search("", 8).state is PageState.EMPTY
    assert all(isinstance(picture, Picture) for picture in fetched(opened(tmp_path), "蓝裙"))
    source.close()
    source.close()


@pytest.mark.parametrize(
    ("query", "folder"),
    [
        ("红裙 夏季", "红裙夏季"),
        ("红裙，夏季！", "红裙夏季"),
        ("红裙 夏季", "红裙 夏季"),
        ("a/b", directory_name("a/b")),
        ("。。。", directory_name("。。。")),
    ],
)
def test_names_as_in_caches(tmp_path: Path, query: str, folder: str) -> None:
    put(tmp_path / folder / "1.jpg")
    assert names(opened(tmp_path).search(query, 8)) == ["1.jpg"]


def test_a_folder_that_names_its_query_is_for_no_other(tmp_path: Path) -> None:
    put(tmp_path / "AB" / "1.jpg")
    (tmp_path / "AB" / "meta.json").write_text('{"query": "A B"}')
    put(tmp_path / "CD" / "1.jpg")
    (tmp_path / "CD" / "meta.json").write_text("{}")
    source = opened(tmp_path)
    assert names(source.search("A B", 8)) == ["1.jpg"]
    assert source.search("AB", 8).state is PageState.EMPTY
    assert names(source.search("C D", 8)) == ["1.jpg"]


def test_only_pictures_are_offered(tmp_path: Path) -> None:
    put(tmp_path / "q" / "1.jpg")
    for name in (".tmp-1.jpg", ".hidden.png", "0_1.jpg", "0.jpg", "meta.txt", "notes"):
        put(tmp_path / "q" / name)
    (tmp_path / ".git").mkdir()
    assert names(opened(tmp_path).search("q", 8)) == ["1.jpg"]


def test_bad_pictures_are_refused(tmp_path: Path) -> None:
    good = put(tmp_path / "q" / "1.jpg")
    (tmp_path / "q" / "2.jpg").write_bytes(good.read_bytes()[:1500])
    (tmp_path / "q" / "3.jpg").write_text("<html>" * 200)
    (tmp_path / "q" / "4.jpg").write_bytes(b"")
    (tmp_path / "q" / "5.jpg").write_bytes(good.read_bytes() + bytes(10_000_000))
    (tmp_path / "q" / "6.jpg").mkdir()
    reasons = [getattr(result, "reason", None) for result in fetched(opened(tmp_path), "q")]
    assert reasons == [
        *(None, Refusal.TRUNCATED, Refusal.NOT_IMAGE),
        *(Refusal.TOO_FEW_BYTES, Refusal.TOO_MANY_BYTES, Refusal.NOT_IMAGE),
    ]


def test_nothing_outside_is_read(tmp_path: Path) -> None:
    secret = put(tmp_path / "secret.jpg")
    root = tmp_path / "pictures"
    put(root / "q" / "1.jpg")
    (root / "q" / "2.jpg").symlink_to(secret)
    (root / "linked").symlink_to(tmp_path)
    (root / "q" / "3.jpg").symlink_to(root / "q" / "3.jpg")
    source = opened(root)
    reasons = [getattr(result, "reason", None) for result in fetched(source, "q")]
    assert reasons == [None, Refusal.HOST, reasons[2]]
    assert reasons[2] in (Refusal.NETWORK, Refusal.GONE, Refusal.HOST)  # a loop
    assert refusal(source, root / "linked" / "secret.jpg") is Refusal.HOST
    assert refusal(source, secret) is Refusal.HOST
    assert refusal(source, f"{(root / 'q').as_uri()}/%2e%2e/%2e%2e/secret.jpg") is Refusal.HOST
    assert refusal(source, "http://127.0.0.1/1.jpg") is Refusal.HOST
    assert refusal(source, f"{(root / 'q').as_uri()}/1.jpg%00") is Refusal.NETWORK
    assert refusal(source, root / "q" / "9.jpg") is Refusal.GONE


def test_a_root_that_is_a_link(tmp_path: Path) -> None:
    put(tmp_path / "real" / "q" / "1.jpg")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert all(isinstance(result, Picture) for result in fetched(opened(tmp_path / "link"), "q"))


@pytest.mark.skipif(sys.platform == "win32", reason="no pipes there")
def test_a_pipe_does_not_block(tmp_path: Path) -> None:
    (tmp_path / "q").mkdir()
    os.mkfifo(tmp_path / "q" / "1.jpg")
    assert [getattr(result, "reason", None) for result in fetched(opened(tmp_path), "q")] == [
        Refusal.NOT_IMAGE
    ]


def test_a_folder_that_goes_away(tmp_path: Path) -> None:
    path = put(tmp_path / "q" / "1.jpg")
    source = opened(tmp_path)
    path.unlink()
    assert source.search("q", 8).state is PageState.EMPTY
    (tmp_path / "q").rmdir()
    assert source.search("q", 8).state is PageState.SERVER_ERROR


def manifest(folder: Path, *rows: object) -> Path:
    path = folder / "manifest.jsonl"
    lines = (row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows)
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_a_manifest(tmp_path: Path) -> None:
    put(tmp_path / "data" / "红 1.jpg", 1)
    put(tmp_path / "data" / "sub" / "2.jpg", 2)
    elsewhere = put(tmp_path / "elsewhere.jpg", 3)
    path = manifest(
        tmp_path / "data",
        "\ufeff" + json.dumps({"query": "红裙", "image": "红 1.jpg", "title": "红色连衣裙", "item_id": "77"}),
        {"query": "蓝裙", "image": str(elsewhere), "price": 3},
        "",
        {"query": " 红裙", "image": "sub/../sub/2.jpg"},
        {"query": "绿裙", "image": "gone.jpg"},
    )
    source = opened(path)
    result = source.search("红裙", 8)
    assert names(result) == ["%E7%BA%A2%201.jpg", "2.jpg"]
    assert [(c.item_id, c.title) for c in result.candidates] == [
        ("77", "红色连衣裙"),
        ("sub/../sub/2.jpg", ""),
    ]
    assert all(isinstance(picture, Picture) for picture in fetched(source, "红裙") + fetched(source, "蓝裙"))
    assert source.search("红", 8).state is PageState.EMPTY
    [gone] = fetched(source, "绿裙")
    assert isinstance(gone, Refused)
    assert gone.reason is Refusal.GONE
    assert refusal(source, put(tmp_path / "other.jpg")) is Refusal.HOST


def test_a_manifest_does_not_lead_out_by_a_link(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.jpg").symlink_to(put(tmp_path / "secret.jpg"))
    [result] = fetched(opened(manifest(tmp_path / "data", {"query": "q", "image": "a.jpg"})), "q")
    assert isinstance(result, Refused)
    assert result.reason is Refusal.HOST


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{", ":2: not JSON"),
        ("[" * 100_000, ":2: not JSON"),
        ("[]", ":2: not a JSON object"),
        ({"image": "a.jpg"}, ":2: field query: missing"),
        ({"query": 3, "image": "a.jpg"}, ":2: field query: not a text"),
        ({"query": " ", "image": "a.jpg"}, ":2: field query: not usable"),
        ({"query": "q"}, ":2: field image: missing"),
        ({"query": "q", "image": ""}, ":2: field image: not usable"),
        ({"query": "q", "image": "a\0b"}, ":2: field image: not usable"),
        ({"query": "q", "image": "../a.jpg"}, ":2: field image: ../a.jpg is not below "),
        ({"query": "q", "image": "x/../../a.jpg"}, ":2: field image: x/../../a.jpg is not below "),
        ({"query": "q", "image": "a.jpg", "title": None}, ":2: field title: not a text"),
        ({"query": "q", "image": "a.jpg", "item_id": 7}, ":2: field item_id: not a text"),
    ],
)
def test_broken_manifests(tmp_path: Path, row: object, message: str) -> None:
    path = manifest(tmp_path, {"query": "q", "image": "a.jpg"}, row)
    with pytest.raises(SettingsError) as caught:
        opened(path)
    assert str(caught.value).startswith(f"{path}{message}")
    assert "\n" not in str(caught.value)


def test_what_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="nowhere: cannot be read: No such file"):
        opened(tmp_path / "nowhere")
    with pytest.raises(SettingsError, match="no folders in it"):
        opened(tmp_path)
    (tmp_path / "empty.jsonl").write_text("\n\n")
    with pytest.raises(SettingsError, match=r"empty\.jsonl: nothing in it"):
        opened(tmp_path / "empty.jsonl")
    (tmp_path / "latin.jsonl").write_bytes(b'{"query": "\xff"}')
    with pytest.raises(SettingsError, match=r"latin\.jsonl:1: not UTF-8"):
        opened(tmp_path / "latin.jsonl")
    put(tmp_path / "q" / "1.jpg")
    (tmp_path / "q" / "meta.json").write_text('{"query": 7}')
    with pytest.raises(SettingsError, match=r"meta\.json: field query: not a text"):
        opened(tmp_path)
