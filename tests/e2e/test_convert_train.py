"""Other people's data, from their files to a trained model: COCO, Flickr30k-CN and ZeroVL's csv."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from cnclip.model.save import save_safetensors
from cnclip.model.weights import load_model
from run_scripts.cli import main as cnclip
from tests.cnclip.training.conftest import build_tiny_model
from tests.preprocess.convert_trees import put_json, put_pictures, put_text

COUNT = 12
SPLITS = ("train", "valid")
CAPTIONS = ("一只猫", "两条狗", "红色的车", "一碗面")


def coco(root: Path) -> str:
    """The last annotation of each split names a picture that is not there."""
    for folder in ("train2017", "val2017"):
        names = [f"{i:012d}.jpg" for i in range(1, COUNT + 1)]
        put_pictures(root / folder, names)
        images = [{"id": i + 1, "file_name": name} for i, name in enumerate(names)]
        notes = [{"id": 100 + i, "image_id": i + 1, "caption": CAPTIONS[i % 4]} for i in range(COUNT)]
        notes.append({"id": 999, "image_id": 4711, "caption": "没有图"})
        put_json(root / "annotations" / f"captions_{folder}.json", {"images": images, "annotations": notes})
    return "captions_train2017.json"


def flickr30k_cn(root: Path) -> str:
    for split, name in zip(SPLITS, ("train", "val"), strict=True):
        numbers = [f"10000{split == 'valid':d}{i:03d}" for i in range(COUNT)]
        put_pictures(root / "flickr30k-images", [f"{number}.jpg" for number in numbers])
        rows = [f"{number}.jpg#zhm#0\t{CAPTIONS[i % 4]}" for i, number in enumerate(numbers)]
        put_text(root / f"flickr30k_cn_{name}.txt", *rows, "4711.jpg#zhm#0\t没有图")
    return "flickr30k_cn_train.txt:13"


def csv(root: Path) -> str:
    for split in SPLITS:
        put_pictures(root / split, [f"{i}.jpg" for i in range(COUNT)])
        rows = [f"{i}.jpg,{i},{CAPTIONS[i % 4]},{i}" for i in range(COUNT)]
        put_text(
            root / f"{split}_anno.csv", "image,image_id,caption,caption_id", *rows, "gone.jpg,99,没有图,99"
        )
    return "train_anno.csv:14"


FORMATS = {"coco": coco, "flickr30k-cn": flickr30k_cn, "csv": csv}


@pytest.mark.slow
def test_converted_data_trains(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each by itself, then all three at once, every batch from one of them."""
    save_safetensors(build_tiny_model(), tmp_path / "start.safetensors")
    common = (
        f"--model {tmp_path}/start.safetensors --logs {tmp_path}/logs --batch-size 6 --lr 0.001 --warmup 2 "
        "--precision fp32 --num-workers 0 --device cpu --no-tensorboard --max-epochs 2"
    ).split()
    for kind, build in FORMATS.items():
        broken = build(tmp_path / kind)
        assert (
            cnclip(["convert-dataset", kind, str(tmp_path / kind), "--out", str(tmp_path / f"{kind}-out")])
            == 0
        )
        captured = capsys.readouterr()
        assert broken in re.sub(r"\s", "", captured.out + captured.err), kind
        lmdb = tmp_path / f"{kind}-out" / "lmdb"
        data = ["--train-data", str(lmdb / "train"), "--val-data", str(lmdb / "valid"), "--name", kind]
        assert cnclip(["train", *data, *common]) == 0
        load_model(tmp_path / "logs" / kind / "best.safetensors")
    sources = ",".join(str(tmp_path / f"{kind}-out" / "lmdb" / "train") for kind in FORMATS)
    assert cnclip(["train", "--train-data", sources, "--name", "all", *common]) == 0
    rows = map(json.loads, (tmp_path / "logs" / "all" / "metrics.jsonl").read_text().splitlines())
    steps = len(FORMATS) * COUNT // 6 * 2
    assert [row["step"] for row in rows if row["kind"] == "train"][-1] == steps
