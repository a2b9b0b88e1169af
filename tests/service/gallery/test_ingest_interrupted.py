"""Ingestion that is killed, interrupted, or runs out of disk."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cache.blob_store import BlobStore
from cache.errors import CacheError
from service.gallery import Gallery
from service.gallery.ingest import IngestReport, ingest
from service.gallery.sources import open_source
from tests.service.gallery.helpers import (
    ROOT,
    DummyEncoder,
    add_source,
    blobs,
    counts,
    make_gallery,
    picture,
)


def test_disk_errors_stop_it_and_batches_stay(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with make_gallery(tmp_path / "g") as gallery:
        real, calls = BlobStore.put, []

        def put(store: BlobStore, data: bytes) -> str:
            calls.append(data)
            if len(calls) > 7:
                raise CacheError("disk full")
            return real(store, data)

        monkeypatch.setattr(BlobStore, "put", put)
        report = IngestReport()
        with pytest.raises(CacheError, match="disk full"):
            ingest(gallery, DummyEncoder(), open_source(photos), batch_size=2, workers=1, report=report)
        assert len(gallery) == report.added == 6
        monkeypatch.undo()
        assert counts(add_source(gallery, photos)) == (4, 0, 6, 0)


KILLED_SCRIPT = """
import sys
from pathlib import Path
from service.gallery import Gallery
from service.gallery.ingest import ingest
from service.gallery.sources import open_source
from tests.service.gallery.helpers import DummyEncoder
with Gallery.open(sys.argv[1]) as gallery:
    ingest(gallery, DummyEncoder(), open_source(sys.argv[2]), batch_size=4,
           progress=lambda report: print(report.added + report.unchanged, flush=True))
"""


def test_killed_and_resumed_loses_nothing(tmp_path: Path) -> None:
    folder, path = tmp_path / "p", tmp_path / "g"
    folder.mkdir()
    for n in range(120):
        (folder / f"{n:03}.png").write_bytes(picture(n))
    make_gallery(path).close()
    acknowledged = 0
    for goal in (5, 30, 70):
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED_SCRIPT, str(path), str(folder)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        assert process.stdout is not None
        for line in process.stdout:
            acknowledged = int(line)
            if acknowledged >= goal:
                break
        process.send_signal(signal.SIGKILL)
        rest, _ = process.communicate()
        acknowledged = max([acknowledged, *(int(line) for line in rest.split() if line)])
        with Gallery.open(path, read_only=True) as gallery:
            assert acknowledged <= len(gallery) == len(gallery.ids())
    encoder = DummyEncoder()
    with Gallery.open(path) as gallery:
        before = len(gallery)
        report = add_source(gallery, folder, encoder)
        assert (report.added, report.unchanged, encoder.encoded) == (120 - before, before, 120 - before)
        assert len(gallery) == 120 == len(blobs(path))
        for item_id in gallery.ids():
            row = gallery.get(item_id)
            assert row is not None and BlobStore.digest(gallery.read_image(row) or b"")[:16] == item_id


def test_interrupt_keeps_finished_batches(tmp_path: Path, photos: Path) -> None:
    def progress(report: IngestReport) -> None:
        if report.added == 4:
            raise KeyboardInterrupt

    report = IngestReport()
    with make_gallery(tmp_path / "g") as gallery:
        with pytest.raises(KeyboardInterrupt):
            ingest(
                gallery, DummyEncoder(), open_source(photos), batch_size=4, progress=progress, report=report
            )
        assert len(gallery) == 4 == report.added
    assert len(blobs(tmp_path / "g")) == 4, "pictures that were read ahead are gone"
    with Gallery.open(tmp_path / "g") as gallery:
        assert counts(add_source(gallery, photos)) == (6, 0, 4, 0)
