"""What `cnclip doctor` looks at: one function per line of its table, each a `Finding`.

A check that raises is a failed check; the exception becomes its detail. Heavy packages are imported inside
the checks, because a broken one of them is exactly what the doctor is for.
"""

from __future__ import annotations

import logging
import os
import platform
import shutil
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from preprocess.chrome import check_browser, has_chinese_font

Status = Literal["ok", "fail", "absent"]
MIN_PYTHON = (3, 10)
MIN_FREE_BYTES = 2 * 1024**3
REINSTALL = "bash run_scripts/quickstart.sh --no-serve installs it"
QUERY = "红色连衣裙"


@dataclass(frozen=True)
class Finding:
    """Outcome of one check. `absent` is something optional that is not there."""

    status: Status
    detail: str
    hint: str = ""


@dataclass(frozen=True)
class Line:
    """One line of the table; `essential` ones decide the exit code."""

    name: str
    essential: bool
    status: Status
    detail: str
    hint: str
    seconds: float

    def to_dict(self) -> dict[str, object]:
        """As in the `--json` output."""
        return asdict(self)


def check_python() -> Finding:
    """The interpreter: 3.10 or newer."""
    detail = f"{platform.python_version()} ({sys.executable})"
    if sys.version_info[:2] < MIN_PYTHON:
        return Finding("fail", detail, "Python 3.10 or newer is needed")
    return Finding("ok", detail)


def check_torch() -> Finding:
    """torch imports and multiplies."""
    import torch

    product = torch.ones(2, 3) @ torch.ones(3, 2)
    if product.tolist() != [[3.0, 3.0], [3.0, 3.0]]:
        return Finding("fail", f"{torch.__version__}: a 2x3 product came out wrong", REINSTALL)
    return Finding("ok", torch.__version__)


def check_devices() -> Finding:
    """Accelerators that torch can use, whatever their kind."""
    import torch

    if not torch.accelerator.is_available():
        return Finding("absent", "no accelerator, the CPU computes")
    device = torch.accelerator.current_accelerator()
    kind = device.type if device is not None else "accelerator"
    count = torch.accelerator.device_count()
    get_name = getattr(getattr(torch, kind, None), "get_device_name", None)
    return Finding("ok", f"{count} x {kind}" + (f" ({get_name(0)})" if get_name else ""))


def check_cpu() -> Finding:
    """Processor features: bfloat16 in hardware makes the image towers about twice as fast."""
    import torch

    from cnclip.model.device import cpu_has_bfloat16

    capability = torch.backends.cpu.get_cpu_capability()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    detail = f"{capability}, {torch.get_num_threads()} threads on {cores} cores"
    if not cpu_has_bfloat16():
        return Finding("absent", f"{detail}, no bfloat16 in hardware: float32 is used")
    return Finding("ok", f"{detail}, bfloat16 in hardware")


def check_faiss() -> Finding:
    """faiss imports and finds the nearest of three vectors."""
    logging.getLogger("faiss").setLevel(logging.WARNING)  # it reports each build that it tries to load
    import faiss
    import numpy as np

    index = faiss.IndexFlatIP(2)
    index.add(np.asarray([[1, 0], [0, 1], [-1, 0]], dtype=np.float32))
    _, ids = index.search(np.asarray([[0.1, 0.9]], dtype=np.float32), 1)
    if int(ids[0, 0]) != 1:
        return Finding("fail", f"{faiss.__version__}: the wrong neighbour came out", REINSTALL)
    return Finding("ok", str(faiss.__version__))


def check_lmdb() -> Finding:
    """lmdb writes, reopens and reads."""
    import lmdb

    with tempfile.TemporaryDirectory(prefix="cnclip-lmdb-") as folder:
        with lmdb.open(folder, map_size=1 << 20) as env, env.begin(write=True) as transaction:
            transaction.put(b"key", QUERY.encode())
        with lmdb.open(folder, readonly=True) as env, env.begin() as transaction:
            value = transaction.get(b"key")
    if value != QUERY.encode():
        return Finding("fail", "what was written did not come back", REINSTALL)
    return Finding("ok", f"{lmdb.__version__} (LMDB {'.'.join(map(str, lmdb.version()))})")


def check_sqlite() -> Finding:
    """SQLite has FTS5, which keyword search needs."""
    version = sqlite3.sqlite_version
    connection = sqlite3.connect(":memory:")
    try:
        connection.execute("CREATE VIRTUAL TABLE probe USING fts5(words)")
    except sqlite3.OperationalError as error:
        return Finding("fail", f"{version}: {error}", "use a Python whose SQLite was built with FTS5")
    finally:
        connection.close()
    return Finding("ok", f"{version} with FTS5")


def check_jieba() -> Finding:
    """jieba cuts Chinese into words."""
    import jieba

    jieba.setLogLevel("WARNING")
    words = [str(word) for word in jieba.cut(QUERY)]
    if "".join(words) != QUERY or len(words) < 2:
        return Finding("fail", f"{QUERY} was cut into {words}", REINSTALL)
    return Finding("ok", f"{QUERY} → {' / '.join(words)}")


def check_model() -> Finding:
    """The model `lite` that comes with the package loads and embeds one query."""
    import numpy as np

    import cnclip

    encoder = cnclip.load("lite")
    vectors = encoder.encode_texts([QUERY])
    length = float(np.linalg.norm(vectors[0]))
    if vectors.shape != (1, encoder.dim) or abs(length - 1) > 1e-3:
        return Finding(
            "fail", f"embedding of shape {vectors.shape}, length {length:.4f}", "reinstall the package"
        )
    return Finding("ok", f"{encoder.name} {encoder.fingerprint[:12]}, {encoder.dim} dimensions")


def check_disk() -> Finding:
    """Room on the disk of the working directory."""
    free = shutil.disk_usage(Path.cwd()).free
    detail = f"{free / 1024**3:.1f} GiB free in {Path.cwd()}"
    if free < MIN_FREE_BYTES:
        return Finding("fail", detail, "an installation and a small gallery need about 2 GiB")
    return Finding("ok", detail)


def check_font() -> Finding:
    """A font with Chinese characters, for pages and contact sheets."""
    found = has_chinese_font()
    if found is None:
        return Finding("absent", "fontconfig is not installed, cannot tell")
    if not found:
        return Finding("fail", "no font for Chinese", "apt-get install fonts-noto-cjk")
    return Finding("ok", "a font for Chinese is installed")


def check_chromium() -> Finding:
    """Chromium and its driver really open a page (crawler, QR login, browser tests)."""
    found = check_browser()
    return Finding("ok" if found.ok else "fail", found.summary(), found.hint)


BROWSER = "browser"
CHECKS: tuple[tuple[str, bool, Callable[[], Finding]], ...] = (
    ("python", True, check_python),
    ("torch", True, check_torch),
    ("devices", False, check_devices),
    ("processor", False, check_cpu),
    ("faiss", True, check_faiss),
    ("lmdb", True, check_lmdb),
    ("sqlite", True, check_sqlite),
    ("jieba", True, check_jieba),
    ("model lite", True, check_model),
    ("disk", False, check_disk),
    ("chinese font", False, check_font),
    (BROWSER, False, check_chromium),
)


def run_checks(checks: Iterable[tuple[str, bool, Callable[[], Finding]]] = CHECKS) -> Iterator[Line]:
    """Run each check in turn; yields its line as soon as it is known."""
    for name, essential, check in checks:
        started = time.monotonic()
        try:
            finding = check()
        except ImportError as error:
            finding = Finding("fail", f"cannot be imported: {error}", REINSTALL)
        except Exception as error:  # a check must never hide the ones after it
            finding = Finding("fail", f"{type(error).__name__}: {error}", REINSTALL)
        detail = " ".join(finding.detail.split())
        yield Line(name, essential, finding.status, detail, finding.hint, time.monotonic() - started)
