"""Building shards: everything arrives, broken rows are counted, and a kill at any moment loses nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
from filelock import FileLock

from cnclip.data.lmdb_build import build_lmdb
from cnclip.data.lmdb_env import EnvHandle, GrowingEnv
from cnclip.data.lmdb_report import BuildOptions, SplitReport
from cnclip.data.lmdb_store import META_DB, META_KEY, ImageStore, read_meta, read_texts
from cnclip.errors import InputError
from tests.cnclip.data.muge_files import image_line, picture, text_line, write_lines, write_split


def build(data: Path, split: str = "train", **options: object) -> SplitReport:
    return build_lmdb(data, [split], data / "lmdb", options=BuildOptions(**options))[0]  # type: ignore[arg-type]


def content(split_dir: Path) -> tuple[list[tuple[str, bytes]], list[tuple[int | str, str, list[str]]]]:
    return list(ImageStore(split_dir)), [row[:3] for row in read_texts(split_dir)]


def test_everything_arrives_in_source_order(tmp_path: Path) -> None:
    images = write_split(tmp_path, "train", 6)
    report = build(tmp_path)
    stored, texts = content(tmp_path / "lmdb" / "train")
    assert stored == list(images.items())
    assert texts[:2] == [(1, "所有", list(images)), (2, "一半", list(images)[::2])] and len(texts) == 8
    assert (report.images.read, report.images.kept, report.texts.kept, report.pairs) == (6, 6, 8, 6 + 3 + 6)
    assert report.problems == [] and report.shards == 1 and report.resumed_at == 0
    assert not list((tmp_path / "lmdb").glob(".*.building"))


def test_large_splits_get_several_shards_and_a_growing_map(tmp_path: Path) -> None:
    lines = [image_line(i, picture(i) + os.urandom(200_000)) for i in range(60)]
    write_lines(tmp_path / "train_imgs.tsv", lines)
    write_lines(tmp_path / "train_texts.jsonl", [text_line(1, "全部", range(60))])
    with mock.patch("cnclip.data.lmdb_env.FIRST_MAP_SIZE", 2**17):
        report = build(tmp_path, shard_bytes=5_000_000, batch_bytes=1_000_000)
    names = sorted(path.name for path in (tmp_path / "lmdb" / "train").iterdir())
    assert names == ["imgs", "imgs-00001", "imgs-00002", "pairs"] and report.shards == 3
    store = ImageStore(tmp_path / "lmdb" / "train")
    assert store.ids == [str(i) for i in range(60)]
    assert all(store[str(i)].startswith(picture(i)) for i in range(60))
    assert ImageStore(tmp_path / "lmdb" / "train" / "imgs").ids == store.ids


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    write_split(tmp_path, "train", 8)
    build(tmp_path, shard_bytes=1, batch_bytes=1)
    (tmp_path / "lmdb" / "train" / "imgs-00003").rename(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=r"imgs-00003: no such folder"):
        ImageStore(tmp_path / "lmdb" / "train")


def test_broken_rows_are_dropped_by_reason_and_line(tmp_path: Path) -> None:
    write_lines(
        tmp_path / "train_imgs.tsv",
        [
            image_line(1, picture(1)),
            "rubbish",
            image_line(2, b"this is text, not a picture"),
            image_line(1, picture(1)),
            image_line(1, picture(2)),
            image_line("x" * 600, picture(3)),
            image_line(3, picture(3)),
            "4\tA!AA",
        ],
    )
    write_lines(
        tmp_path / "train_texts.jsonl",
        [
            text_line(1, "一", [1]),
            text_line(2, "二", [1, 2, 99]),
            text_line(3, "没有", [2, 98]),
            "{",
            text_line(1, "另一个", [3]),
            text_line(1, "一", [3]),
            text_line(4, "未标注"),
            text_line(5, "长", ["x" * 600, 1]),
        ],
    )
    report = build(tmp_path)
    assert (report.images.read, report.images.kept) == (8, 2)
    assert report.images.dropped == {
        "field image: expected image_id<TAB>base64, found 1 column(s)": 1,
        "field image: not a picture": 1,
        "field image_id: used by an earlier row for the same picture": 1,
        "field image_id: used by an earlier row for another picture": 1,
        "field image_id: longer than 512 characters": 1,
        "field image: not base64": 1,
    }
    assert (report.texts.read, report.texts.kept, report.pairs) == (8, 4, 4)
    assert report.texts.dropped == {
        "field image_ids: none of its pictures is there": 1,
        "field (all): not a JSON object on one line": 1,
        "field text_id: used by an earlier row for another text": 1,
    }
    assert report.texts.noted == {
        "ids without a picture taken out": 5,
        "rows merged into an earlier one with the same id and text": 1,
        "kept without labels": 1,
    }
    _, texts = content(tmp_path / "lmdb" / "train")
    assert texts == [(1, "一", ["1", "3"]), (2, "二", ["1"]), (4, "未标注", []), (5, "长", ["1"])]
    tsv, jsonl = tmp_path / "train_imgs.tsv", tmp_path / "train_texts.jsonl"
    assert f"{tsv}:3: field image: not a picture (image_id 2)" in report.problems
    assert f"{jsonl}:2: field image_ids: no such picture: 2, 99" in report.problems
    assert all(line.startswith((f"{tsv}:", f"{jsonl}:")) for line in report.problems)


def test_strict_stops_at_the_first_broken_row(tmp_path: Path) -> None:
    write_split(tmp_path, "train")
    with (tmp_path / "train_imgs.tsv").open("a") as file:
        file.write("rubbish\n")
    with pytest.raises(InputError, match=r"train_imgs\.tsv:7: field image"):
        build(tmp_path, strict=True)
    assert not (tmp_path / "lmdb" / "train").exists()
    write_split(tmp_path, "valid")
    with (tmp_path / "valid_texts.jsonl").open("a") as file:
        file.write(text_line(77, "丢了", [5]) + "\n")
    with pytest.raises(InputError, match=r"valid_texts\.jsonl:9: field image_ids: no such picture: 5"):
        build(tmp_path, "valid", strict=True)


@pytest.mark.parametrize(("how", "kept"), [("off", 4), ("header", 2), ("decode", 1)])
def test_check_images(tmp_path: Path, how: str, kept: int) -> None:
    bomb = picture(1, 8, "PNG")
    bomb = bomb[:16] + (60_000).to_bytes(4, "big") * 2 + bomb[24:]  # a header that promises 3.6 gigapixels
    rows = [picture(0, 400), picture(0, 400)[:-300], b"text", bomb]
    write_lines(tmp_path / "train_imgs.tsv", [image_line(i, data) for i, data in enumerate(rows)])
    write_lines(tmp_path / "train_texts.jsonl", [text_line(1, "一", [0])])
    report = build(tmp_path, check_images=how)
    assert report.images.kept == kept
    assert sum(report.images.dropped.values()) == 4 - kept


def test_a_file_without_a_usable_picture_is_refused(tmp_path: Path) -> None:
    write_lines(tmp_path / "train_imgs.tsv", ["rubbish", "more"])
    write_lines(tmp_path / "train_texts.jsonl", [])
    with pytest.raises(InputError, match=r"no usable picture in 2 rows; first: .*train_imgs\.tsv:1: field"):
        build(tmp_path)


def test_existing_splits_are_kept_unless_forced(tmp_path: Path) -> None:
    write_split(tmp_path, "train", 3)
    build(tmp_path)
    images = write_split(tmp_path, "train", 5, first=50)
    with pytest.raises(InputError, match=r"lmdb/train: already there \(--force replaces it\)"):
        build(tmp_path)
    before = ImageStore(tmp_path / "lmdb" / "train")
    build(tmp_path, force=True)
    assert content(tmp_path / "lmdb" / "train")[0] == list(images.items())
    assert len(before) == 3 and before["100"] == picture(0)  # an open reader keeps the build it opened
    assert not list((tmp_path / "lmdb").glob(".*.old"))


def test_unlabelled_test_split_with_and_without_texts(tmp_path: Path) -> None:
    write_split(tmp_path, "test", 2)
    write_lines(tmp_path / "test_texts.jsonl", [text_line(1, "查询"), text_line(2, "再查")])
    report = build(tmp_path, "test")
    assert (report.texts.kept, report.pairs) == (2, 0)
    assert [row[0] for row in content(tmp_path / "lmdb" / "test")[1]] == [1, 2]
    (tmp_path / "test_texts.jsonl").unlink()
    assert build(tmp_path, "test", force=True).texts.kept == 0


def test_wrong_arguments_are_one_line_each(tmp_path: Path) -> None:
    write_split(tmp_path, "train")
    for splits, why in (
        ([], "none given"),
        (["../train"], "is not a name"),
        (["dev"], r"dev_imgs\.tsv: no such file"),
    ):
        with pytest.raises(InputError, match=why):
            build_lmdb(tmp_path, splits)
    with pytest.raises(InputError, match="no such directory"):
        build_lmdb(tmp_path / "nowhere", ["train"])
    with pytest.raises(InputError, match="check_images"):
        BuildOptions(check_images="maybe")  # type: ignore[arg-type]
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file"):
        build_lmdb(tmp_path, ["train"], tmp_path / "file")


def test_two_builds_of_one_split_do_not_meet(tmp_path: Path) -> None:
    write_split(tmp_path, "train")
    (tmp_path / "lmdb").mkdir()
    with FileLock(tmp_path / "lmdb" / ".train.lock"), pytest.raises(InputError, match="another build"):
        build(tmp_path)


class _Killed(BaseException):
    """Stands for a kill: nothing in the code under test catches it."""


def _kill_at_row(n: int) -> Iterator[None]:
    for _ in range(n):
        yield None
    raise _Killed


@pytest.mark.parametrize("rows", range(1, 12))
def test_a_killed_build_goes_on_where_it_was(tmp_path: Path, rows: int) -> None:
    images = write_split(tmp_path, "train", 12)
    with (tmp_path / "train_imgs.tsv").open("a") as file:
        file.write("rubbish\n" + image_line(100, picture(0)) + "\n")
    options = BuildOptions(shard_bytes=2_000, batch_bytes=1_500)
    whole = build_lmdb(tmp_path, ["train"], tmp_path / "whole", options=options)[0]
    steps = _kill_at_row(rows)
    with pytest.raises(_Killed):
        build_lmdb(
            tmp_path, ["train"], tmp_path / "lmdb", options=options, on_progress=lambda *_: next(steps)
        )
    report = build_lmdb(tmp_path, ["train"], tmp_path / "lmdb", options=options)[0]
    assert content(tmp_path / "lmdb" / "train") == content(tmp_path / "whole" / "train")
    assert content(tmp_path / "lmdb" / "train")[0] == list(images.items())
    assert report.images == whole.images and report.problems == whole.problems
    assert (report.resumed_at > 0) == (rows > 1)


def test_a_build_whose_source_has_changed_starts_afresh(tmp_path: Path) -> None:
    write_split(tmp_path, "train", 6)
    options = BuildOptions(batch_bytes=1)
    steps = _kill_at_row(4)
    with pytest.raises(_Killed):
        build_lmdb(tmp_path, ["train"], options=options, on_progress=lambda *_: next(steps))
    images = write_split(tmp_path, "train", 6, first=20)
    report = build_lmdb(tmp_path, ["train"], options=options)[0]
    assert report.resumed_at == 0 and content(tmp_path / "lmdb" / "train")[0] == list(images.items())


def test_a_real_kill_between_batches(tmp_path: Path) -> None:
    images = write_split(tmp_path, "train", 40)
    code = (
        "import os, signal, sys\n"
        "from cnclip.data.lmdb_build import build_lmdb\n"
        "from cnclip.data.lmdb_report import BuildOptions\n"
        "seen = []\n"
        "def die(*_):\n"
        "    seen.append(0)\n"
        "    if len(seen) == 25: os.kill(os.getpid(), signal.SIGKILL)\n"
        "build_lmdb(sys.argv[1], ['train'], options=BuildOptions(batch_bytes=2000), on_progress=die)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False, cwd=Path.cwd())
    assert done.returncode == -signal.SIGKILL
    report = build(tmp_path, batch_bytes=2000)
    assert report.resumed_at > 10
    assert content(tmp_path / "lmdb" / "train")[0] == list(images.items())


def test_a_full_disk_is_one_line_and_can_be_taken_up(tmp_path: Path) -> None:
    images = write_split(tmp_path, "train", 200)
    code = (
        "import resource, sys\n"
        "from preprocess.build_lmdb_dataset import main\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000))\n"  # stands for a full disk
        "sys.exit(main(['--data_dir', sys.argv[1], '--splits', 'train']))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 2 and "cannot be written" in done.stderr and "Traceback" not in done.stderr
    build(tmp_path)
    assert content(tmp_path / "lmdb" / "train")[0] == list(images.items())


def test_a_kill_between_the_two_renames_is_mended(tmp_path: Path) -> None:
    write_split(tmp_path, "train", 3)
    build(tmp_path)
    lmdb_dir = tmp_path / "lmdb"
    (lmdb_dir / "train").rename(lmdb_dir / ".train.old")
    with pytest.raises(InputError, match="already there"):
        build(tmp_path)
    assert len(ImageStore(lmdb_dir / "train")) == 3


def test_meta_names_schema_source_and_shards(tmp_path: Path) -> None:
    write_split(tmp_path, "train", 3)
    build(tmp_path)
    meta = read_meta(EnvHandle(tmp_path / "lmdb" / "train" / "imgs")())
    assert meta is not None and meta["schema"] == 1 and meta["shards"] == ["imgs"] and meta["count"] == 3
    assert meta["source"]["bytes"] == (tmp_path / "train_imgs.tsv").stat().st_size
    pairs = tmp_path / "lmdb" / "train" / "pairs"
    with GrowingEnv(pairs) as env:
        env.put_json(META_KEY, {"schema": 2}, META_DB)
    with pytest.raises(InputError, match="schema 2 is newer than this program reads"):
        read_texts(tmp_path / "lmdb" / "train")
