"""`cnclip train --online-learning --online-cache`, whole, where no process can be started."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cache.picture_cache import PictureCache
from cnclip.data.dataset import PairDataset
from cnclip.model.save import save_safetensors
from tests.cache.picture_kit import origin
from tests.cnclip.online.world import COLOURS, NEW, build_world, square, taught_model

ROOT = Path(__file__).resolve().parents[2]
# matplotlib looks for fonts and platform runs `uname`, both once.
PROBE = """
import os, platform, sys
import matplotlib.font_manager, torch
platform.processor()
import cnclip.online.learner, cnclip.training.main
from run_scripts import cli
STARTS = ("subprocess.Popen", "os.exec", "os.fork", "os.posix_spawn", "os.system", "socket.connect")
def forbid(event, arguments):
    if event.startswith(STARTS):
        os.write(2, repr((event, arguments)).encode())
        os._exit(99)
sys.addaudithook(forbid)
code = cli.main(sys.argv[1:])
assert not [name for name in sys.modules if name.startswith(("selenium", "crawler.browser", "crawler.login"))]
sys.exit(code)
"""


@pytest.mark.slow
def test_the_cache_alone_teaches_where_nothing_can_be_started(tmp_path: Path) -> None:
    lmdb = build_world(tmp_path)
    save_safetensors(taught_model(PairDataset(lmdb / "train"))[0], tmp_path / "tiny.safetensors")
    cache = PictureCache(tmp_path / "data" / "valid")
    for number, name in enumerate(NEW):
        rng = np.random.default_rng(number)
        for nth in range(1, 4):
            with Image.open(io.BytesIO(square(COLOURS[name], rng))) as image:
                stream = io.BytesIO()
                image.resize((224, 224)).save(stream, "JPEG", quality=95)
            cache.put(name, nth, stream.getvalue(), origin(f"{name} {nth}"))
    words = f"train --train-data={lmdb}/train --val-data={lmdb}/valid --model={tmp_path}/tiny.safetensors"
    words += f" --logs={tmp_path}/data/experiments --name=run --online-learning --online-cache --device=cpu"
    words += " --online-min-pairs=2 --online-canary=8 --online-replay=16 --batch-size=16 --max-epochs=2"
    words += " --precision=fp32 --num-workers=0 --no-tensorboard"
    answer = subprocess.run(
        [sys.executable, "-c", PROBE, *words.split()],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        env={"PATH": "/nonexistent", "LANG": "C.UTF-8", "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"},
    )
    assert answer.returncode == 0, answer.stderr
    lines = (tmp_path / "data/experiments/run/online/rounds.jsonl").read_text(encoding="utf-8").splitlines()
    rounds = [json.loads(line) for line in lines]
    assert [record["source"] for record in rounds] == ["cache", "cache"]
    offered = [[(row["query"], row["number"]) for row in record["pictures"]] for record in rounds]
    assert [sorted(pictures) for pictures in offered] == [sorted((name, n) for name in NEW) for n in (1, 2)]
    assert all(record["queries"]["missed"] == {"not in the cache": 4} for record in rounds)
