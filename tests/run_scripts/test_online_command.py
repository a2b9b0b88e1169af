"""`cnclip online`: from queries and feedback to versions of the model, and how it begins and ends."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cache.blob_store import BlobStore
from cache.picture_cache import PictureCache
from cnclip.data.dataset import PairDataset
from cnclip.model.save import save_safetensors
from cnclip.online.verdict import Decision
from cnclip.online.versions import ModelVersions
from run_scripts.cli import main
from run_scripts.online_start import _line_of
from service.gallery import Gallery
from service.journal import Journal
from tests.cache.picture_kit import origin
from tests.cnclip.online.world import COLOURS, NEW, build_world, square, taught_model

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LMDB splits, a model that knows four colours, and a cache with five pictures of two more."""
    folder = tmp_path_factory.mktemp("world")
    lmdb = build_world(folder)
    save_safetensors(taught_model(PairDataset(lmdb / "train"))[0], folder / "tiny.safetensors")
    cache = PictureCache(folder / "pictures")
    for number, name in enumerate(NEW):
        rng = np.random.default_rng(number)
        for nth in range(1, 6):
            cache.put(name, nth, picture(name, rng), origin(f"{name} {nth}"))
    return folder


@pytest.fixture(autouse=True)
def leave_signals_alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("CNCLIP_API_KEY", raising=False)
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def helpful(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cnclip.online.round.decide", lambda *_: Decision(True, "it helped"))


def picture(name: str, rng: np.random.Generator) -> bytes:
    """As the cache has them."""
    with Image.open(io.BytesIO(square(COLOURS[name], rng))) as image:
        stream = io.BytesIO()
        image.resize((224, 224)).save(stream, "JPEG", quality=95)
    return stream.getvalue()


def flags(world: Path, folder: Path, *more: str) -> list[str]:
    queries = folder / "queries.txt"
    queries.write_text("\n".join(NEW) + "\n", encoding="utf-8")
    return [
        "online", f"--train-data={world}/lmdb/train", f"--model={world}/tiny.safetensors",
        f"--models={folder}/models", "--online-cache", f"--online-dir={world}/pictures", "--device=cpu",
        "--precision=fp32", "--online-min-pairs=2", "--online-canary=8", "--online-replay=16", "--seed=3",
        *(more or ("--once", f"--queries={queries}")),
    ]  # fmt: skip


@pytest.mark.usefixtures("helpful")
def test_queries_become_versions_one_picture_after_the_other(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in (1, 2):
        assert main(flags(world, tmp_path)) == 0
        assert capsys.readouterr().out == f"kept tiny/000{number}: it helped\n"
    versions = ModelVersions(tmp_path / "models").list()
    assert [version.label for version in versions] == ["tiny/0001", "tiny/0002"]
    assert versions[1].parent is not None and versions[1].parent.version == "0001"
    assert {version.summary["pairs"] for version in versions} == {2.0}
    assert sorted(path.name for path in (tmp_path / "models/tiny/worker").iterdir()) == [
        *(".lock", "online", "online_curves.png", "online_report.html", "online_report.json", "state.sqlite")
    ]


@pytest.mark.usefixtures("helpful")
def test_standard_input_that_ends_is_the_end(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, once in (("a", []), ("b", ["--once"])):
        monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(NEW)))
        more = ["--queries=-", "--interval=0", f"--name={name}", *once]
        assert main(flags(world, tmp_path, *more)) == 0
    labels = [line.split(":")[0] for line in capsys.readouterr().out.splitlines()]
    assert labels == [*(f"kept a/{n:04d}" for n in range(1, 6)), "kept b/0001"]  # all pictures, one round


@pytest.mark.usefixtures("helpful")
def test_feedback_alone(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gallery = tmp_path / "gallery"
    Gallery.create(gallery, model_name="tiny", fingerprint="f", dim=32).close()
    images, rng = BlobStore(gallery / "images"), np.random.default_rng(9)
    journal = Journal(gallery / "journal.sqlite").open()
    for number, name in enumerate(NEW):
        digest = images.put(square(COLOURS[name], rng))
        journal.add_feedback(float(number), name, f"sku-{number}", True, digest, "f")
    journal.add_queries([(1.0, "红色", 1, "f")], 10)
    journal.close()
    base = flags(world, tmp_path, "--once", f"--gallery={gallery}", "--feedback-only")
    base = [word for word in base if word != "--online-cache" and not word.startswith("--models=")]
    assert main(base) == 0
    assert capsys.readouterr().out == "kept tiny/0001: it helped\n"
    version = ModelVersions(gallery / "models").get("tiny", "0001")
    assert version.summary["pairs"] == 2.0
    assert main(base) == 0 and capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--once"], "one of --gallery, --journal and --queries is needed"),
        (["--queries={tmp}/none"], "none: cannot be read: No such file"),
        (["--gallery={tmp}"], "there is no gallery"),
        (["--journal={tmp}/none"], "none: no such file (the service makes it)"),
        (["--queries=-", "--max-queries=1"], "--max-queries must be at least 2, not 1"),
        (["--queries=-", "--interval=-1"], "--interval must not be negative, not -1"),
        (["--queries=-", "--keep=3"], "--keep needs --service"),
        (["--queries=-", "--api-key-file=k"], "--api-key-file goes with --service"),
        (["--queries=-", "--feedback-only"], "--feedback-only needs --gallery"),
        (["--queries=-", "--online-dir={tmp}/none"], "--online-cache: {tmp}/none: no such folder"),
        (["--queries=-", "--service=http://127.0.0.1:1"], "http://127.0.0.1:1: cannot be asked"),
        (["--queries=-", "--online-lr=fast"], "--online-lr: Input should be a valid number"),
        (["--queries=-", "--train-data={tmp}/none"], "none"),
        (["--queries=-", "--online-learning"], "no such flag: --online-learning"),
    ],
)
def test_a_mistake_is_one_line(
    world: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    more: list[str],
    words: str,
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("红色\n"))
    given = flags(world, tmp_path, *(word.format(tmp=tmp_path) for word in more))
    try:
        code = main(given)
    except SystemExit as stop:
        code = stop.code  # type: ignore[assignment]
    error = capsys.readouterr().err
    assert code == 2 and words.format(tmp=tmp_path) in error and error.count("\n") == 1, error


def test_versions_need_a_place(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [word for word in flags(world, tmp_path) if not word.startswith("--models=")]
    assert main(words) == 2
    assert "--models DIR is needed (or --gallery)" in capsys.readouterr().err


def test_one_worker_at_a_time(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from filelock import FileLock

    home = tmp_path / "models" / "tiny" / "worker"
    home.mkdir(parents=True)
    with FileLock(home / ".lock"):
        assert main(flags(world, tmp_path)) == 2
    assert f"{home}: another worker is at work here" in capsys.readouterr().err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_it_ends_when_it_is_told_to(world: Path, tmp_path: Path, number: int, code: int) -> None:
    command = [sys.executable, "-m", "run_scripts.cli"]
    more = [f"--queries={tmp_path}/queries.txt", "--interval=3600"]
    with subprocess.Popen(
        [*command, *flags(world, tmp_path, *more)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as worker:
        assert worker.stdout is not None
        line = worker.stdout.readline()
        assert line.startswith(("kept", "rolled back")), line
        started = time.monotonic()
        worker.send_signal(number)
        _, errors = worker.communicate(timeout=60)
    assert worker.returncode == code and "Traceback" not in errors
    assert time.monotonic() - started < 30


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("lite", "lite"),
        ("ViT-B-16", "ViT-B-16"),
        ("a/b/my model.pt", "my-model"),
        ("/x/.hidden.pt", "hidden"),
        ("/x/红.safetensors", "红"),
    ],
)
def test_versions_are_called_after_the_model(model: str, name: str) -> None:
    assert _line_of(model) == name
