"""PairDataset: the same split from LMDB and from MUGE files; many threads, forks and pickles."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from cnclip.data.dataset import PairDataset, open_split
from cnclip.data.lmdb_build import build_lmdb
from cnclip.data.lmdb_env import EnvHandle
from cnclip.errors import InputError
from tests.cnclip.data.muge_files import (
    image_line,
    picture,
    text_line,
    write_lines,
    write_split,
)


def test_lmdb_and_muge_files_give_the_same_dataset(split: tuple[Path, dict[str, bytes]]) -> None:
    path, images = split
    from_lmdb, from_files = PairDataset(path), PairDataset.from_muge(path.parent.parent, "train")
    for dataset in (from_lmdb, from_files):
        assert dataset.image_ids == list(images)
        assert {i: dataset.image_bytes(i) for i in reversed(images)} == images
        assert len(dataset) == 8 + 4 + 8
        with pytest.raises(KeyError):
            dataset.image_bytes("nobody")
    assert [row[:3] for row in from_lmdb.texts] == [row[:3] for row in from_files.texts]
    assert all(np.array_equal(a, b) for a, b in zip(from_lmdb.pairs, from_files.pairs, strict=True))


def test_pairs_and_relevance_count_in_the_same_positions(split: tuple[Path, dict[str, bytes]]) -> None:
    dataset = PairDataset(split[0])
    naive = [sorted(dataset.image_ids.index(image_id) for image_id in row.image_ids) for row in dataset.texts]
    assert [row.tolist() for row in dataset.relevance()] == naive
    image, text = dataset.pairs
    assert image.dtype == text.dtype == np.int64
    assert sorted(zip(text, image, strict=True)) == [(t, i) for t, row in enumerate(naive) for i in row]
    row = dataset[9]
    assert row["image_id"] in dataset.texts[text[9]].image_ids and row["text"] == dataset.texts[text[9]].text


def test_texts_without_labels_have_empty_relevance(tmp_path: Path) -> None:
    write_lines(tmp_path / "x_imgs.tsv", [image_line(i, picture(i)) for i in range(3)])
    lines = [text_line(1, "无"), text_line(2, "有", [2, 0, 77]), text_line(3, "无")]
    write_lines(tmp_path / "x_texts.jsonl", lines)
    dataset = PairDataset.from_muge(tmp_path, "x")
    assert [row.tolist() for row in dataset.relevance()] == [[], [0, 2], []]
    assert len(dataset) == 2


def test_transform_is_applied_to_the_encoded_bytes(split: tuple[Path, dict[str, bytes]]) -> None:
    dataset = PairDataset(split[0], transform=len)
    plain = PairDataset(split[0])
    assert [dataset[i]["image"] for i in range(5)] == [len(plain[i]["image"]) for i in range(5)]
    assert [dataset[i]["text"] for i in range(5)] == [plain[i]["text"] for i in range(5)]


def test_a_pickled_copy_reads_in_another_process(split: tuple[Path, dict[str, bytes]]) -> None:
    dataset = PairDataset(split[0])
    assert dataset[3] == pickle.loads(pickle.dumps(dataset))[3]
    code = (
        "import pickle, sys; d = pickle.load(sys.stdin.buffer); "
        "sys.stdout.buffer.write(d.image_bytes(d.image_ids[2])); assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], input=pickle.dumps(dataset), capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout == split[1]["102"]


def _read_all(dataset: PairDataset) -> list[bytes]:
    return [dataset.image_bytes(image_id) for image_id in dataset.image_ids]


def test_forked_workers_open_their_own_environment(split: tuple[Path, dict[str, bytes]]) -> None:
    dataset = PairDataset(split[0])
    wanted = _read_all(dataset)  # the parent's environment is open when the children start
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12+ warns about threads and fork
        with multiprocessing.get_context("fork").Pool(3) as pool:
            assert pool.map(_read_all, [dataset] * 6) == [wanted] * 6
            results = [pool.apply_async(_same_after_fork) for _ in range(3)]
            assert all(result.get() for result in results)
    assert _read_all(dataset) == wanted


def _same_after_fork() -> bool:
    return _inherited is None or _inherited().pid == os.getpid()


_inherited: EnvHandle | None = None


def test_an_inherited_handle_reopens_after_fork(split: tuple[Path, dict[str, bytes]]) -> None:
    global _inherited
    _inherited = EnvHandle(split[0] / "imgs")
    assert _inherited().pid == os.getpid()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            with multiprocessing.get_context("fork").Pool(1) as pool:
                assert pool.apply(_same_after_fork)
    finally:
        _inherited = None


def test_threads_share_one_environment(split: tuple[Path, dict[str, bytes]]) -> None:
    dataset, again = PairDataset(split[0]), PairDataset(split[0])  # LMDB itself forbids a second open
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda i: (dataset if i % 2 else again)[i % 20]["image"], range(400)))
    assert results == [dataset[i % 20]["image"] for i in range(400)]


def test_a_truncated_file_is_refused_instead_of_crashing(split: tuple[Path, dict[str, bytes]]) -> None:
    file = split[0] / "imgs" / "data.mdb"
    os.truncate(file, file.stat().st_size - 8192)
    with pytest.raises(InputError, match=r"data\.mdb: truncated: \d+ bytes of \d+"):
        PairDataset(split[0])
    file.write_bytes(b"not an lmdb file" * 1000)
    with pytest.raises(InputError, match="not a readable LMDB"):
        PairDataset(split[0])


def test_open_split_finds_every_layout(split: tuple[Path, dict[str, bytes]], tmp_path: Path) -> None:
    for place in (split[0], split[0].parent, tmp_path):
        assert len(open_split(place, "train")) == 20
    write_split(tmp_path / "files", "valid", 3)
    assert len(open_split(tmp_path / "files", "valid").image_ids) == 3
    with pytest.raises(InputError, match=r"dev_imgs\.tsv is there"):
        open_split(tmp_path, "dev")


def test_open_split_takes_a_split_directory_for_no_other_split(
    split: tuple[Path, dict[str, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match=r"train: is split 'train', not 'valid'; ask for 'train'"):
        open_split(split[0], "valid")
    monkeypatch.chdir(split[0])
    assert len(open_split(".", "train")) == 20
    with pytest.raises(InputError, match="is split 'train', not 'valid'"):
        open_split(".", "valid")


def test_texts_are_the_same_read_in_place_and_built(tmp_path: Path) -> None:
    write_lines(tmp_path / "x_imgs.tsv", [image_line(i, picture(i)) for i in range(6)])
    texts = [
        text_line(1, "红", [0, 1]),
        text_line(2, "绿", [2, 77]),  # loses one
        text_line("1", "红", [1, 3]),  # merged: ids are compared as text
        text_line(3, "蓝", [88, 99]),  # loses all
        text_line(4, "无"),
        text_line(2, "黄", [5]),  # another text under an id in use
        "rubbish",
        text_line(4, "无", [4]),
    ]
    write_lines(tmp_path / "x_texts.jsonl", texts)
    build_lmdb(tmp_path, ["x"])
    problems: list[str] = []
    built, in_place = (
        PairDataset(tmp_path / "lmdb" / "x"),
        PairDataset.from_muge(tmp_path, "x", on_error=problems.append),
    )
    expected = [(1, "红", ["0", "1", "3"]), (2, "绿", ["2"]), (4, "无", ["4"])]
    assert [tuple(row[:3]) for row in built.texts] == [tuple(row[:3]) for row in in_place.texts] == expected
    assert all(np.array_equal(a, b) for a, b in zip(built.pairs, in_place.pairs, strict=True))
    assert [problem.split(":")[1] for problem in problems] == ["4", "6", "7"]
    write_lines(tmp_path / "x_texts.jsonl", texts[:6])
    with pytest.raises(InputError, match=r"x_texts\.jsonl:6: field text_id: used by an earlier row"):
        PairDataset.from_muge(tmp_path, "x")
    write_lines(tmp_path / "x_texts.jsonl", texts[:5])
    assert len(PairDataset.from_muge(tmp_path, "x").texts) == 3


def test_muge_files_with_broken_rows(tmp_path: Path) -> None:
    write_split(tmp_path, "train", 3)
    with (tmp_path / "train_imgs.tsv").open("a") as file:
        file.write("rubbish\n" + image_line(100, picture(0)) + "\n" + image_line(200, picture(9)) + "\n")
    with pytest.raises(InputError, match=r"train_imgs\.tsv:4: field image"):
        PairDataset.from_muge(tmp_path, "train")
    problems: list[str] = []
    dataset = PairDataset.from_muge(tmp_path, "train", on_error=problems.append)
    assert dataset.image_ids == ["100", "101", "102", "200"] and dataset.image_bytes("200") == picture(9)
    assert [problem.split(":")[1] for problem in problems] == ["4", "5"]
    write_split(tmp_path, "train", 2, first=5)
    with pytest.raises(InputError, match="changed since it was opened"):
        dataset.image_bytes("200")


def test_the_real_split(shop_data: Path, tmp_path: Path) -> None:
    report = build_lmdb(shop_data, ["valid"], tmp_path)[0]
    assert report.images.dropped == {} and report.texts.dropped == {} and report.pairs == 1472
    dataset, files = PairDataset(tmp_path / "valid"), PairDataset.from_muge(shop_data, "valid")
    assert dataset.image_ids == files.image_ids and len(dataset.texts) == 141
    assert all(dataset.image_bytes(i) == files.image_bytes(i) for i in dataset.image_ids[::50])
    assert [r.tolist() for r in dataset.relevance()] == [r.tolist() for r in files.relevance()]
