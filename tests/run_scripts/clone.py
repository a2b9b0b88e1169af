"""A clone of the repository's scripts whose Python notes what it is asked to run instead of running it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# Python's version, pip and the settings work; LMDBs and training are noted, or with REALLY made.
_FAKE_PYTHON = """#!/usr/bin/env bash
case "$*" in
  *device_count*) echo "${{FAKE_DEVICES:-0}}"; exit 0 ;;
  *version_info* | *pip* ) exit 0 ;;
  *--version*) echo "Python 3.11.0"; exit 0 ;;
esac
real() {{ PYTHONPATH="{root}" exec "{python}" "$@"; }}
if [ -n "${{REALLY:-}}" ]; then real "$@"; fi
case "$*" in
  *--print-config* | *--check-source*) real "$@" ;;
  "-m run_scripts.cli build-lmdb"*)
    printf '%s\\n' "$*" >>"{clone}/builds"
    [ -z "${{FAKE_BUILD_EXIT:-}}" ] || exit "$FAKE_BUILD_EXIT"
    mkdir -p "$5/lmdb/$7"; exit 0 ;;
esac
{{ pwd; env; }} >"{clone}/surroundings"
printf '%s\\n' "$@" >"{clone}/command"
exit "${{FAKE_EXIT:-0}}"
"""


@dataclass(frozen=True)
class Clone:
    """`folder` looks like a clone, with a space in its name; `data` is a DATAPATH."""

    folder: Path
    data: Path

    def run(
        self,
        script: str,
        *arguments: str | Path,
        cwd: Path | None = None,
        timeout_s: float = 300.0,
        **settings: str,
    ) -> subprocess.CompletedProcess[str]:
        """Run a script with nothing in the environment but `settings`."""
        return subprocess.run(
            ["bash", str(self.folder / "run_scripts" / script), *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=timeout_s,
            cwd=cwd,
            env={"PATH": os.environ["PATH"], "HOME": str(self.folder), "LANG": "C.UTF-8", **settings},
            stdin=subprocess.DEVNULL,
            check=False,
        )

    def command(self, script: str = "train.sh", *flags: str, **settings: str) -> list[str]:
        """What Python would be started with. Without a word on devices, on one."""
        answer = self.run(script, self.data, *flags, **{"GPUS_PER_NODE": "1", **settings})
        assert answer.returncode == 0, answer.stderr
        return (self.folder / "command").read_text(encoding="utf-8").splitlines()

    def add_lmdb(self, dataset: str, *splits: str) -> None:
        for split in splits:
            (self.data / "datasets" / dataset / "lmdb" / split).mkdir(parents=True)

    def add_weights(self, name: str) -> Path:
        path = self.data / "pretrained_weights" / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
        return path


def make_clone(parent: Path) -> Clone:
    """A clone below `parent`, with its .venv in place."""
    clone = Clone(parent / "a clone", parent / "data path")
    (clone.folder / "run_scripts").mkdir(parents=True)
    clone.data.mkdir()
    shutil.copytree(ROOT / "run_scripts" / "recipes", clone.folder / "run_scripts" / "recipes")
    for script in (ROOT / "run_scripts").glob("*.sh"):
        shutil.copy(script, clone.folder / "run_scripts")
    for name in ("pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, clone.folder)
    python = clone.folder / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    text = _FAKE_PYTHON.format(root=ROOT, python=sys.executable, clone=clone.folder)
    python.write_text(text, encoding="utf-8")
    python.chmod(0o755)
    return clone
