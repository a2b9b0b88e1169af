"""Commands that run the model set the process up for it first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import cnclip
from cnclip.errors import InputError
from run_scripts import cli
from service import lifecycle


@pytest.mark.parametrize(
    "command",
    [
        ["serve", "--port", "0", "--gallery", "{gallery}"],
        ["search", "红", "--gallery", "{gallery}"],
        ["evaluate", "--data", "{data}"],
    ],
    ids=lambda command: command[0],
)
def test_memory_is_kept_from_before_the_model_is_loaded(
    command: list[str], gallery_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def tune() -> bool:
        calls.append("tune_malloc")
        return True

    def load(*_: Any, **__: Any) -> None:
        calls.append("load")
        raise InputError("far enough")

    monkeypatch.setattr("cnclip.model.device.tune_malloc", tune)
    monkeypatch.setattr(cnclip, "load", load)
    monkeypatch.setattr(lifecycle, "load_encoder", load)
    (tmp_path / "valid_imgs.tsv").write_text("")
    (tmp_path / "valid_texts.jsonl").write_text("")
    words = [word.format(gallery=gallery_path, data=tmp_path) for word in command]
    assert cli.main(words) == 2
    assert calls == ["tune_malloc", "load"]
