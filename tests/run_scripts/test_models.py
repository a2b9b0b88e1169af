"""`cnclip models` from the outside."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cnclip.model.config import ModelConfig
from cnclip.model.dual_encoder import DualEncoder
from cnclip.model.save import save_pt
from run_scripts.cli import main
from tests.cnclip.model.conftest import VIT, config_of


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    config: ModelConfig = config_of(VIT)
    save_pt(DualEncoder(config), tmp_path / "tiny.pt", epoch=2, step=30)
    return tmp_path / "tiny.pt"


def test_list(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CNCLIP_MODELS_DIR", str(tmp_path))
    assert main(["models", "list", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert list(rows) == ["lite", "ViT-B-16", "ViT-L-14", "ViT-L-14-336", "ViT-H-14", "RN50"]
    assert rows["ViT-L-14-336"]["resolution"] == 336
    assert rows["ViT-H-14"]["dim"] == 1024
    assert main(["models", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 7
    assert max(map(len, lines)) <= 80


def test_info(capsys: pytest.CaptureFixture[str], checkpoint: Path) -> None:
    assert main(["models", "info", str(checkpoint), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["format"] == "pt"
    assert facts["image_tower"] == "vit-128x2-16"
    assert facts["checkpoint"] == {"epoch": 2, "step": 30, "name": "cnclip"}
    assert facts["preprocess"]["resize_mode"] == "squash"
    assert len(facts["fingerprint"]) == 64
    assert main(["models", "info", str(checkpoint)]) == 0
    assert facts["fingerprint"] in capsys.readouterr().out


def test_convert(capsys: pytest.CaptureFixture[str], checkpoint: Path, tmp_path: Path) -> None:
    target = tmp_path / "tiny.safetensors"
    assert main(["models", "convert", str(checkpoint), str(target), "--dtype", "float16"]) == 0
    out = capsys.readouterr().out
    assert "images 1.0000000" in out or "images 0.99999" in out
    assert "(unchanged)" in out
    assert main(["models", "convert", str(checkpoint), str(target)]) == 2
    assert "exists already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["info", "nothing-here.pt"], "nothing-here.pt"),
        (["download", "ViT-B-9"], "unknown model 'ViT-B-9'"),
        (["download", "RN50", "--mirror", "http://127.0.0.1:1"], "no connection"),
    ],
)
def test_bad_input_is_one_line(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    argv: list[str],
    expected: str,
) -> None:
    monkeypatch.setenv("CNCLIP_MODELS_DIR", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert main(["models", *argv]) == 2
    captured = capsys.readouterr()
    assert expected in captured.err
    assert captured.err.count("\n") == 1


def test_a_truncated_checkpoint(capsys: pytest.CaptureFixture[str], checkpoint: Path) -> None:
    checkpoint.write_bytes(checkpoint.read_bytes()[:5000])
    assert main(["models", "info", str(checkpoint)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_help_and_list_import_no_torch() -> None:
    for argv in (["--help"], ["list"]):
        code = (
            "import sys\nfrom run_scripts.cli import main\n"
            f"try: main(['models', *{argv!r}])\nexcept SystemExit: pass\n"
            "sys.exit('torch' in sys.modules)"
        )
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
