"""The shop converter on a miniature of the two clones' real layout."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from cnclip.data.dataset import PairDataset
from cnclip.data.muge import iter_images, read_texts
from cnclip.errors import InputError
from preprocess import shop

CLASSES_CSV = """Class Name (str),Class ID (int),Coarse Class Name (str),Coarse Class ID (int),Iconic
Golden-Delicious,0,Apple,0,/a.jpg
Granny-Smith,1,Apple,0,/b.jpg
Avocado,5,Avocado,1,/c.jpg
Brown-Cap-Mushroom,67,Mushroom,36,/d.jpg
"""
GROCERY = {
    "train": [
        "train/Fruit/Apple/Golden-Delicious/Golden-Delicious_001.jpg, 0, 0",
        "train/Fruit/Apple/Granny-Smith/Granny-Smith_001.jpg, 1, 0",
        "train/Fruit/Apple/Granny-Smith/Granny-Smith_002.jpg, 1, 0",
        "train/Fruit/Avocado/Avocado_001.jpg, 5, 1",
    ],
    "val": [
        "val/Vegetables/Brown-Cap-Mushroom/Brown-Cap-Mushroom_001.jpg, 67, 36",  # not below Mushroom
        "val/Fruit/Avocado/Avocado_001.jpg",  # older lists name no ids
    ],
    "test": ["test/Fruit/Avocado/Avocado_001.jpg, 5, 1"],
}
CLOTHING = {
    "train": ["dress/b.jpg", "dress/a.jpg", "t-shirt/c.jpg"],
    "validation": ["hat/a.jpg"],
    "test": ["hat/z.jpg"],
}


def save(path: Path, size: tuple[int, int] = (60, 40), *, mode: str = "RGB", exif: bytes = b"") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, 120).save(path, "JPEG", exif=exif)


@pytest.fixture
def clones(tmp_path: Path) -> tuple[Path, Path]:
    grocery, clothing = tmp_path / "GroceryStoreDataset", tmp_path / "clothing-dataset-small"
    for split, lines in GROCERY.items():
        for line in lines:
            save(grocery / "dataset" / line.split(",")[0])
        (grocery / "dataset" / f"{split}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (grocery / "dataset" / "classes.csv").write_text(CLASSES_CSV, encoding="utf-8")
    for split, names in CLOTHING.items():
        for name in names:
            save(clothing / split / name)
    (clothing / "README.md").write_text("not a photo", encoding="utf-8")
    return grocery, clothing


def texts_of(out: Path, split: str) -> dict[str, list[str]]:
    return {row.text: row.image_ids for row in read_texts(out / f"{split}_texts.jsonl")}


def test_every_photo_is_listed_under_all_its_queries(clones: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "shop"
    reports = shop.convert(*clones, out)
    assert [(report.split, report.photos) for report in reports] == [("train", 7), ("valid", 3), ("test", 2)]
    assert texts_of(out, "train") == {
        "金冠苹果": ["100000"],
        "黄色苹果": ["100000"],
        "苹果": ["100000", "100001", "100002"],
        "青苹果": ["100001", "100002"],
        "澳洲青苹果": ["100001", "100002"],
        "牛油果": ["100003"],
        "鳄梨": ["100003"],
        "连衣裙": ["100004", "100005"],
        "女士裙装": ["100004", "100005"],
        "T恤": ["100006"],
        "短袖": ["100006"],
    }
    assert list(texts_of(out, "valid")) == ["褐蘑菇", "口蘑", "蘑菇", "牛油果", "鳄梨", "帽子", "遮阳帽"]
    rows = read_texts(out / "test_texts.jsonl")
    assert [row.text_id for row in rows] == list(range(300_000, 300_004))
    assert [row.image_id for row in iter_images(out / "valid_imgs.tsv")] == ["200000", "200001", "200002"]
    assert len(PairDataset.from_muge(out, "train")) == 17


def test_photos_are_upright_rgb_jpeg_of_at_most_224(clones: tuple[Path, Path], tmp_path: Path) -> None:
    grocery, clothing = clones
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    first, second, third, fourth = [grocery / "dataset" / line.split(",")[0] for line in GROCERY["train"]]
    save(first, (1000, 500), exif=exif.tobytes())
    save(second, (300, 300), mode="L")
    save(third, (448, 460), mode="CMYK")
    save(fourth, (120, 900))
    shop.convert(grocery, clothing, tmp_path / "shop", splits=["train"])
    images = [Image.open(io.BytesIO(row.data)) for row in iter_images(tmp_path / "shop" / "train_imgs.tsv")]
    assert [image.size for image in images[:4]] == [(224, 448), (224, 224), (224, 230), (120, 900)]
    assert {(image.mode, image.format) for image in images} == {("RGB", "JPEG")}


def test_unreadable_photos_are_dropped_and_named(clones: tuple[Path, Path], tmp_path: Path) -> None:
    grocery, clothing = clones
    lost = grocery / "dataset" / GROCERY["train"][1].split(",")[0]
    lost.unlink()
    (clothing / "train" / "dress" / "a.jpg").write_bytes(b"\xff\xd8 cut off")
    save(clothing / "train" / "spacesuit" / "x.jpg")
    report = shop.convert(grocery, clothing, tmp_path / "shop", splits=["train"])[0]
    assert dict(report.dropped) == {
        "no such file": 1,
        "not a readable picture": 1,
        "class without a query": 1,
    }
    assert (report.found, report.photos) == (8, 5)
    assert report.problems[0] == f"{lost}: no such file"
    assert texts_of(tmp_path / "shop", "train")["苹果"] == ["100000", "100001"]  # no gap in the ids


def test_a_second_run_keeps_and_force_repeats_the_same_bytes(
    clones: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "shop"
    argv = ["--grocery", str(clones[0]), "--clothing", str(clones[1]), "--out", str(out)]
    assert shop.main(argv) == 0
    before = {path.name: path.read_bytes() for path in sorted(out.iterdir())}
    assert len(before) == 6 and "kept" not in capsys.readouterr().out
    assert all(report.kept_from_before for report in shop.convert(*clones, out))
    assert shop.main([*argv, "--force"]) == 0
    assert {path.name: path.read_bytes() for path in sorted(out.iterdir())} == before
    assert shop.main(argv) == 0 and "kept" in capsys.readouterr().out


def break_list(clone: Path, lines: Sequence[str]) -> None:
    (clone / "dataset" / "train.txt").write_text("\n".join(lines), encoding="utf-8")


def test_clones_that_do_not_fit_are_one_line(
    clones: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grocery, clothing = clones
    out = tmp_path / "shop"
    with pytest.raises(InputError, match="unknown split 'dev'"):
        shop.convert(grocery, clothing, out, splits=["dev"])
    with pytest.raises(InputError, match=r"classes\.csv: cannot be read"):
        shop.convert(clothing, clothing, out)
    with pytest.raises(InputError, match="no such directory"):
        shop.convert(grocery, grocery, out)
    for line, why in (
        ("train/Fruit/Kiwi/Kiwi_001.jpg", "no such class"),
        ("train/x.jpg, 99, 0", "no such class"),
        ("train/x.jpg, zero, 0", "no such class"),
        ("../../secret.jpg, 0, 0", "leaves the clone"),
    ):
        break_list(grocery, ["", GROCERY["train"][0], line])
        with pytest.raises(InputError, match=rf"train\.txt:3: .*{why}"):
            shop.convert(grocery, clothing, out)
    (tmp_path / "table.json").write_text('{"clothing": 5}', encoding="utf-8")
    argv = ["--grocery", str(grocery), "--clothing", str(clothing), "--out", str(out)]
    assert shop.main([*argv, "--classes", str(tmp_path / "table.json")]) == 2
    assert capsys.readouterr().err.endswith("\n") and not list(tmp_path.glob("shop/.*"))


def test_the_shipped_table_gives_the_queries_of_the_real_data(shop_data: Path) -> None:
    table = shop.read_classes(Path(shop.__file__).with_name("shop_classes.json"))
    assert table == json.loads((shop_data / "classes.json").read_text(encoding="utf-8"))
    queries = {query for kind in table.values() for names in kind.values() for query in names}
    train = texts_of(shop_data, "train")
    assert set(train) == queries and len(queries) == 173
    for names in table["clothing"].values():  # the queries of one class have the same photos
        assert len({tuple(train[query]) for query in names}) == 1
    assert set(texts_of(shop_data, "valid")) < queries
