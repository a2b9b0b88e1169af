"""Many readers, one writer, in threads and in processes; and processes that are killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from service.gallery import Gallery, Item
from tests.service.gallery.helpers import DIM, FINGERPRINT, ROOT, blobs, make_gallery, make_items, picture

VERSIONS, ITEMS = 25, 70


def versioned(version: int) -> list[Item]:
    """Items whose vector, title and attribute all say the version; `cosine` reads it off the vector."""
    angles = [version / 30 + n / 10_000 for n in range(ITEMS)]
    vectors = np.zeros((ITEMS, DIM), np.float32)
    vectors[:, 0], vectors[:, 1] = np.cos(angles), np.sin(angles)
    return [Item(f"i{n}", vectors[n], f"v{version}", {"version": version}) for n in range(ITEMS)]


def check_one_revision(gallery: Gallery, wrong: list[str]) -> int:
    """The version that a search saw; complains in `wrong` if it saw more than one."""
    query = np.zeros(DIM, np.float32)
    query[0] = 1
    hits = gallery.search(query, ITEMS)
    versions = {hit.row.attributes["version"] for hit in hits}
    titles = {hit.row.title for hit in hits}
    if len(hits) != ITEMS or len(versions) != 1 or titles != {f"v{version}" for version in versions}:
        wrong.append(f"{len(hits)} hits of {versions} {titles}")
        return -1
    (version,) = versions
    for hit in hits:
        n = int(hit.row.id[1:])
        if abs(hit.score - np.cos(version / 30 + n / 10_000)) > 1e-4:
            wrong.append(f"{hit.row.id} of version {version} has the cosine {hit.score}")
    found = gallery.search(query, ITEMS, filter={"version": version})
    if len(found) not in (0, ITEMS):
        wrong.append(f"the filter found {len(found)}")
    words = gallery.search(None, ITEMS, text=f"v{version}", mode="keyword")
    if len(words) not in (0, ITEMS):
        wrong.append(f"the words found {len(words)}")
    return int(version)


def test_readers_see_whole_revisions_only(tmp_path: Path) -> None:
    wrong: list[str] = []
    seen: list[set[int]] = [set() for _ in range(6)]
    done = threading.Event()
    with make_gallery(tmp_path / "g") as gallery, Gallery.open(tmp_path / "g", read_only=True) as other:
        gallery.upsert(versioned(0))

        def read(which: int) -> None:
            try:
                while not done.is_set():
                    seen[which].add(check_one_revision((gallery, other)[which % 2], wrong))
            except BaseException as error:  # a thread's error must fail the test
                wrong.append(repr(error))
                raise

        threads = [threading.Thread(target=read, args=(which,)) for which in range(len(seen))]
        for thread in threads:
            thread.start()
        for version in range(1, VERSIONS):
            gallery.upsert(versioned(version))
            assert check_one_revision(gallery, wrong) == version, "a writer reads what it wrote"
        done.set()
        for thread in threads:
            thread.join()
        assert check_one_revision(other, wrong) == VERSIONS - 1
        gallery.delete([f"i{n}" for n in range(ITEMS)])
        assert len(gallery) == len(other) == 0
    assert not wrong, wrong[:5]


def test_an_index_is_never_used_with_an_older_catalogue(tmp_path: Path) -> None:
    with make_gallery(tmp_path / "g") as gallery:
        gallery.upsert(versioned(0))
        with gallery._catalog.read() as old:
            assert gallery._index.at(old) is not None
            gallery.upsert(versioned(1))
            assert gallery._index.at(old) is None
            row = old.row("i0")
            assert row is not None and row.title == "v0"


def test_writers_in_threads_take_turns(tmp_path: Path) -> None:
    items = make_items(120, images=True)
    with make_gallery(tmp_path / "g") as gallery:

        def write(which: int) -> None:
            for n in range(which, 120, 4):
                gallery.upsert([items[n]])
                if n % 3 == 0:
                    gallery.delete([f"i{n}"])

        threads = [threading.Thread(target=write, args=(which,)) for which in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert set(gallery.ids()) == {f"i{n}" for n in range(120) if n % 3}
        assert len(blobs(tmp_path / "g")) == 80 == len(gallery)
        assert gallery.search(items[4].vector, 1)[0].row.id == "i4"


def test_picture_survives_a_deletion_that_races_with_its_upsert(tmp_path: Path) -> None:
    (old, new) = make_items(2)
    with make_gallery(tmp_path / "g") as gallery:
        gallery.upsert([Item("old", old.vector, image=picture(0))])
        image = gallery.put_image(picture(0))  # the new item's, not yet referred to
        gallery.delete(["old"])
        gallery.upsert([Item("new", new.vector, image=image)])
        row = gallery.get("new")
        assert row is not None and gallery.read_image(row) == picture(0)


WRITER = """
import sys
from service.gallery import Gallery, GalleryLocked
try:
    with Gallery.open(sys.argv[1]) as gallery:
        print("open", flush=True)
        sys.stdin.readline()
except GalleryLocked as error:
    print(error)
    sys.exit(2)
"""


def run(script: str, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", script, *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, cwd=ROOT)


def test_second_process_gets_one_clear_line(tmp_path: Path) -> None:
    make_gallery(tmp_path / "g").close()
    first = run(WRITER, str(tmp_path / "g"))
    assert first.stdout is not None and first.stdout.readline() == "open\n"
    second = run(WRITER, str(tmp_path / "g"))
    output, errors = second.communicate()
    assert (second.returncode, errors, output.count("\n")) == (2, "", 1)
    assert "another process is writing" in output and str(tmp_path / "g") in output
    first.send_signal(signal.SIGKILL)
    first.communicate()
    Gallery.open(tmp_path / "g").close()  # a killed writer's lock is gone with it


# Each script does one thing to a gallery of i0 … i9 with pictures, and is killed inside it.
KILLED = """
import os, signal, sys
from pathlib import Path
import service.gallery.gallery, service.gallery.live_index, service.gallery.index_store
from service.gallery import Gallery
from service.gallery.pictures import Pictures
from tests.service.gallery.helpers import make_items

def die(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)

where, path = sys.argv[1:]
gallery = Gallery.open(path)
target, name = {
    "pictures written": (service.gallery.gallery, "write_items"),
    "committed": (Pictures, "unpin"),
    "before unlinking": (Pictures, "drop"),
    "saving the index": (service.gallery.index_store, "write_atomically"),
    "index saved": (service.gallery.live_index, "set_index_stamp"),
    "closing": (service.gallery.gallery, "write_manifest"),
}[where]
setattr(target, name, die)
gallery.upsert(make_items(5, first=8, images=True), delete=["i0", "i1"])
gallery.close()
"""


@pytest.mark.parametrize(
    "where",
    ["pictures written", "committed", "before unlinking", "saving the index", "index saved", "closing"],
)
def test_killed_anywhere_it_is_whole(tmp_path: Path, where: str) -> None:
    path = tmp_path / "g"
    with make_gallery(path) as gallery:
        gallery.upsert(make_items(10, images=True))
    process = run(KILLED, where, str(path))
    _, errors = process.communicate()
    assert process.returncode == -signal.SIGKILL, errors
    expected = set(range(10)) if where == "pictures written" else set(range(2, 13))
    for read_only in (True, False, False):
        with Gallery.open(path, fingerprint=FINGERPRINT, read_only=read_only) as gallery:
            assert gallery.ids() == [f"i{n}" for n in sorted(expected)] and len(gallery) == len(expected)
            for n in expected:
                row = gallery.get(f"i{n}")
                assert row is not None and gallery.read_image(row) == picture(n)
            for item in make_items(13):
                hits = gallery.search(item.vector, 1)
                assert (hits[0].row.id == item.id) is (int(item.id[1:]) in expected)
    assert len(blobs(path)) == len(expected), "nothing is left of what was not committed, or was deleted"
    if os.name == "posix":
        assert not (path / "catalog.sqlite-wal").exists()
