"""Wrong arguments of the prediction commands: one line, exit code 2."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from run_scripts.cli import main


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["single"], "the following arguments are required: MODEL"),
        (["ensemble", "--datapath", "D"], "the following arguments are required: MODEL"),
        (["both", "m"], "invalid choice: 'both'"),
        (["single", "model-1.pt", "--datapth", "D"], "no such flag: --datapth (did you mean --datapath?)"),
        (["single", "model-1.pt"], "--datapath, or both --out and --npy-save, must be given"),
        (["single", "model-9.pt", "--datapath", "D"], "'model-9.pt': no such file, and not a known name"),
        (["ensemble", "model-1.pt", "m9", "--datapath", "D"], "D/resume/m9 is not there either"),
        (["single", "model-1.pt", "--datapath", "D", "--top-k", "0"], "--top-k: must be at least 1, not 0"),
        (["single", "model-1.pt", "--datapath", "D", "--split", "dev"], "dev_imgs.tsv is there"),
        (["single", "model-1.pt", "--datapath", "D", "--context-length", "99"], "99 is not between 3 and 16"),
        (["ensemble", "model-1.pt", "--datapath", "D", "--weights", "0.5,0.5"], "--weights: 2 for 1 members"),
        (
            ["ensemble", "model-1.pt", "--datapath", "D", "--weights", "x.json"],
            "--weights: 'x.json' is not equal",
        ),
        (
            ["single", "model-1.pt", "--datapath", "D", "--online-cache"],
            "--online-cache: needs --online-learning",
        ),
        (
            ["single", "model-1.pt", "--datapath", "D", "--max-epochs", "0"],
            "--max-epochs: must be at least 1",
        ),
        (
            ["single", "model-1.pt", "--datapath", "D", "--online-learning"],
            "lmdb/train: no such folder; online",
        ),
        (["ensemble-last", "--datapath", "D"], "npy_save_last: no matrix-1.npy, matrix-2.npy, … there"),
        (["topk", "--image-feats", "a", "--text-feats", "b", "--output", "c"], "a: no such file"),
    ],
)
def test_a_mistake_is_one_line_and_exit_2(
    datapath: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["predict", *(str(datapath) if word == "D" else word for word in arguments)]
    try:
        code: Any = main(given)
    except SystemExit as stop:
        code = stop.code
    told = capsys.readouterr().err.replace(str(datapath), "D")
    assert code == 2 and message in told and told.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["extract"], "the following arguments are required: --model/--resume"),
        (["extract", "--model", "lite"], "nothing to extract: --data, or --image-data and --text-data"),
        (
            ["extract", "--model", "lite", "--extract-text-feats"],
            "--text-data: must be given for --extract-text-feats",
        ),
        (["extract", "--model", "lite", "--data", "nowhere"], "nowhere: neither test/imgs"),
        (["extract", "--model", "lite", "--data", "D", "--img-batch-size", "0"], "--img-batch-size: must be"),
        (["ensemble"], "the following arguments are required: ACTION"),
        (["ensemble", "fit", "--out", "w"], "either --models or --matrices must be given"),
        (["ensemble", "fit", "--out", "w", "--matrices", "m.npy"], "--labels: must be given with --matrices"),
        (["ensemble", "fit", "--out", "w", "--models", "m"], "--datapath, or both --data and --npy-save"),
    ],
)
def test_mistakes_of_the_other_commands(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code: Any = main(arguments)
    except SystemExit as stop:
        code = stop.code
    told = capsys.readouterr().err
    assert code == 2 and message in told and told.count("\n") == 1
