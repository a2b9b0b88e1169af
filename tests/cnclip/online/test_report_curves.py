"""The picture of a run's rounds."""

from __future__ import annotations

import io
from typing import Any

import pytest
from PIL import Image

from cnclip.online.report_curves import draw_rounds
from cnclip.online.report_rounds import Log, to_round
from cnclip.training.report_style import DARK, LIGHT
from tests.cnclip.online.round_records import record

UNLABELLED: dict[str, Any] = {"labelled": None, "taught": None, "others": None}


def colours(data: bytes) -> dict[tuple[int, ...], int]:
    """Pixels of each colour."""
    with Image.open(io.BytesIO(data)) as image:
        assert image.width == 1690
        return {tuple(colour): count for count, colour in image.convert("RGB").getcolors(2**24) or []}  # type: ignore[arg-type]


def rgb(colour: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(colour[1:]))


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [record(0)],
        [record(5, "skipped", **UNLABELLED, canary=None, seconds={})],
        [record(n, **UNLABELLED) for n in range(3)],
        [record(n, taught=None, others=None) for n in range(30)],
        [{"round": 1, "decision": "?", "seconds": {str(n): 1.0 for n in range(9)}}],
    ],
)
def test_odd_runs_are_drawn(rows: list[dict[str, Any]]) -> None:
    """None, one, unlabelled, a name with Chinese, mathematics and what no font has; warnings are errors."""
    pytest.importorskip("matplotlib")
    log = Log("商品 $x_$ \U0001f9ff \ue123\n", [to_round(row) for row in rows])
    assert len(colours(draw_rounds(log, DARK))) > 20


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_a_round_that_was_rolled_back_is_marked(theme: Any) -> None:
    pytest.importorskip("matplotlib")
    kept = [to_round(record(n)) for n in range(4)]
    undone = [*kept[:3], to_round(record(3, "rolled back"))]
    mark = rgb(theme.bad[0])
    assert colours(draw_rounds(Log("run", kept), theme)).get(mark, 0) == 0
    assert colours(draw_rounds(Log("run", undone), theme))[mark] > 50
