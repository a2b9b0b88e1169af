"""The picture of a run's curves."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image

from cnclip.training.curves import draw_curves
from cnclip.training.history import History, read_history
from cnclip.training.report_style import DARK
from tests.cnclip.training.test_report import write_run


def test_curves_of_odd_runs_are_drawn(tmp_path: Path) -> None:
    """Empty, one log line, a name with Chinese, mathematics and what no font has; warnings are errors."""
    pytest.importorskip("matplotlib")
    one = History("商品 $x_$ \U0001f9ff \ue123\n")
    one.train.append((3, {"loss": 1.0, "lr": 5e-8, "samples_per_s": 0.0, "data_s": 0.1, "i2t_acc": 0.5}))
    full = read_history(write_run(tmp_path, {0: 0.3, **dict.fromkeys(range(10, 300, 10), 0.4)}))
    sizes = set()
    for history in (History(""), one, full):
        with Image.open(io.BytesIO(draw_curves(history, DARK))) as image:
            sizes.add(image.size)
            assert len(image.convert("RGB").getcolors(2**24) or []) > 20
    assert len(sizes) == 1
