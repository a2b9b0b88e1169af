"""What `--weights` understands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cnclip.errors import InputError
from cnclip.prediction.weights import (
    REFERENCE,
    FileMember,
    WeightsFile,
    numbers,
    parse_weights,
    read_weights,
    write_weights,
)

FILE = WeightsFile(
    [FileMember("a", "aa", 0.75), FileMember("b", "bb", 0.0), FileMember("c", "cc", 0.25)],
    "minmax",
    {"metric": "mAP", "chosen": "learned"},
)


def test_numbers_by_position() -> None:
    assert parse_weights("0.5,0.25, 1e-1") == [0.5, 0.25, 0.1]
    assert numbers([0.5, 0.25], 2) == [0.5, 0.25]
    for text in (None, "equal"):
        assert parse_weights(text) is None
    assert numbers(None, 4) == [0.25] * 4
    with pytest.raises(InputError, match=r"^--weights: 2 for 3 members$"):
        numbers([0.5, 0.5], 3)
    with pytest.raises(InputError, match=r"^--weights: 0.5, -1: must be 0 or above$"):
        numbers([0.5, -1], 2)


def test_the_reference_has_eight() -> None:
    """(0.5 * m1 + … + 1.25 * m6 + 0.75 * m7 + 0.7 * m8) / 8."""
    assert parse_weights("reference") == list(REFERENCE)
    assert [8 * weight for weight in REFERENCE] == pytest.approx([0.5] * 5 + [1.25, 0.75, 0.7])
    assert numbers(list(REFERENCE), 8) == list(REFERENCE)
    with pytest.raises(InputError, match=r"^--weights reference: is for 8 members, not 3$"):
        numbers(list(REFERENCE), 3)


def test_a_file_goes_by_model(tmp_path: Path) -> None:
    write_weights(tmp_path / "w.json", FILE)
    found = parse_weights(str(tmp_path / "w.json"))
    assert isinstance(found, WeightsFile)
    assert (found.members, found.normalize, found.details) == (FILE.members, "minmax", FILE.details)
    assert [found.weight_of("x", fingerprint) for fingerprint in ("cc", "aa", "bb")] == [0.25, 0.75, 0.0]
    with pytest.raises(InputError, match=r"w.json: has no weight for x \(dd\), only for a \(aa\), b \(bb\)"):
        found.weight_of("x", "dd")
    found.check_complete(["cc", "aa"])
    with pytest.raises(InputError, match=r"w.json: needs c, not among the models given"):
        found.check_complete(["aa", "bb"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 7}, "not a weights file"),
        ({"normalize": "x"}, "field normalize: not one of zscore"),
        ({"members": []}, "field members: weights: all are 0"),
        ({"members": None}, "field members: weights: all are 0"),
        ({"members": [{"model": "a", "weight": 1}]}, "lacks model, fingerprint or weight"),
        ({"members": [{"model": "a", "fingerprint": "aa", "weight": -1}]}, "must be 0 or above"),
    ],
)
def test_a_broken_file_is_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    path = tmp_path / "w.json"
    write_weights(path, FILE)
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**content, **change}), encoding="utf-8")
    with pytest.raises(InputError, match=message):
        read_weights(path)
    path.write_text("nonsense", encoding="utf-8")
    with pytest.raises(InputError, match="not a weights file"):
        parse_weights(str(path))


def test_anything_else_is_named() -> None:
    with pytest.raises(
        InputError, match=r"--weights: 'equl' is not equal, reference, numbers like 0.5,0.5 or a"
    ):
        parse_weights("equl")
