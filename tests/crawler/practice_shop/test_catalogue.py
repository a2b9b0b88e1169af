"""Real pictures in the shop."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image

from crawler.errors import SettingsError
from crawler.practice_shop import PracticeShop, ShopSettings
from crawler.practice_shop.catalogue import load_catalogue
from tests.crawler.practice_shop.visitor import Visitor


def save(path: Path, colour: str, size: tuple[int, int] = (300, 200)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


def test_a_folder_per_query(tmp_path: Path) -> None:
    first, second = save(tmp_path / "红裙" / "1.jpg", "red"), save(tmp_path / "红裙" / "2.png", "pink")
    save(tmp_path / "蓝裙" / "x.webp", "blue")
    (tmp_path / "红裙" / "notes.txt").write_text("no picture", encoding="utf-8")
    (tmp_path / "空").mkdir()
    catalogue = load_catalogue(tmp_path)
    assert catalogue["红裙"] == (first, second) and set(catalogue) == {"红裙", "蓝裙"}


def test_a_manifest(tmp_path: Path) -> None:
    picture = save(tmp_path / "pictures" / "1.jpg", "red")
    manifest = tmp_path / "muge.jsonl"
    rows = '{"query": "a/b", "image": "pictures/1.jpg"}\n\n{"query": "a/b", "image": "pictures/1.jpg"}\n'
    manifest.write_text(rows, encoding="utf-8")
    assert load_catalogue(manifest) == {"a/b": (picture, picture)}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "muge.jsonl:2: not JSON"),
        ("[]", "muge.jsonl:2: not a JSON object"),
        ('{"image": "1.jpg"}', "muge.jsonl:2: query"),
        ('{"query": "x", "image": 3}', "muge.jsonl:2: image"),
        ('{"query": "x", "image": "gone.jpg"}', "muge.jsonl:2: image: no file"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, content: str, said: str) -> None:
    save(tmp_path / "1.jpg", "red")
    manifest = tmp_path / "muge.jsonl"
    manifest.write_text(f'{{"query": "x", "image": "1.jpg"}}\n{content}\n', encoding="utf-8")
    with pytest.raises(SettingsError, match="practice shop: catalogue: ") as refusal:
        PracticeShop(ShopSettings(catalogue=manifest))
    assert said in str(refusal.value)


def test_no_catalogue_there(tmp_path: Path, shop: PracticeShop) -> None:
    with pytest.raises(SettingsError, match="no pictures"):
        load_catalogue(tmp_path)
    with pytest.raises(SettingsError, match="No such file"):
        shop.set(catalogue=tmp_path / "gone")
    assert shop.settings.catalogue is None


def test_the_shop_shows_the_files(tmp_path: Path, shop: PracticeShop, visitor: Visitor) -> None:
    picture = save(tmp_path / "红裙" / "1.jpg", "red")
    save(tmp_path / "红裙" / "2.png", "pink")
    (tmp_path / "红裙" / "3.jpg").write_bytes(b"no picture at all")
    shop.set(catalogue=str(tmp_path), url_forms="plain")
    images = visitor.cards("红裙").all("img")
    assert len(images) == 3
    original = visitor.get(f"http:{images[0]['src']}")
    assert original.content == picture.read_bytes() and original.headers["content-type"] == "image/jpeg"
    assert visitor.get(f"http:{images[1]['src']}").headers["content-type"] == "image/png"
    assert visitor.get(f"http:{images[2]['src']}").status_code == 404
    small = visitor.get(f"http:{images[0]['src']}_180x180.jpg_.webp")
    with Image.open(io.BytesIO(small.content)) as image:
        assert image.size == (180, 120) and image.format == "WEBP"
    assert "没有找到" in visitor.cards("绿裙").text
    shop.set(catalogue="")
    assert visitor.cards("绿裙").all("img")
