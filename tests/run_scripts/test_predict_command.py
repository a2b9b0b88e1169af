"""`cnclip predict`, `cnclip extract` and `cnclip ensemble` with real, tiny models of two architectures."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cnclip
from cnclip.eval import (
    evaluation,
    evaluation_tr,
    extract_features,
    make_topk_predictions,
    make_topk_predictions_ensemble,
    make_topk_predictions_tr,
    transform_ir_annotation_to_tr,
)
from cnclip.prediction.split import open_prediction_split
from run_scripts.cli import main
from tests.cnclip.prediction.kit import expected_top, read_lines
from tests.run_scripts.predict_place import N_IMAGES, N_TEXTS


def run(*arguments: Any) -> None:
    assert main([str(argument) for argument in arguments]) == 0


def scores_of(model: Path, datapath: Path, split: str = "test") -> tuple[list[str], np.ndarray]:
    encoder = cnclip.load(model, device="cpu", dtype="float32")
    data = open_prediction_split(datapath / "datasets" / "MUGE", split)
    images = encoder.encode_images([data.image_bytes(image_id) for image_id in data.image_ids], batch_size=64)
    return data.image_ids, encoder.encode_texts([row.text for row in data.texts]) @ images.T


FLAGS = ("--dtype", "float32", "--device", "cpu")


def test_single(datapath: Path, resume: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("predict", "single", "model-2.pt", "--datapath", datapath, "--top-k", "4", *FLAGS)
    path = datapath / "experiments" / "results" / "test_predictions_1.jsonl"
    assert capsys.readouterr().out == f"{path}\n"
    ids, scores = scores_of(resume / "model-2.pt", datapath)
    found = [row["item_ids"] for row in read_lines(path)]
    assert found == expected_top(ids, scores, 4)
    assert np.allclose(np.load(datapath / "npy_save" / "matrix-1.npy"), scores, atol=1e-5)


def test_places_can_be_named_one_by_one(datapath: Path, resume: Path, tmp_path: Path) -> None:
    run(
        *("predict", "single", resume / "model-1.pt", "--data", datapath / "datasets" / "MUGE"),
        *(
            "--split",
            "valid",
            "--out",
            tmp_path / "o",
            "--npy-save",
            tmp_path / "n",
            "--schema",
            "text_id",
            *FLAGS,
        ),
    )
    assert set(read_lines(tmp_path / "o" / "valid_predictions_1.jsonl")[0]) == {"text_id", "image_ids"}
    assert (tmp_path / "n" / "matrix-1.npy").is_file()


def test_another_split_has_matrices_of_its_own(datapath: Path) -> None:
    run("predict", "single", "model-1.pt", "--datapath", datapath, "--split", "valid", *FLAGS)
    assert [path.name for path in (datapath / "npy_save").iterdir()] == ["valid"]


def test_an_ensemble_of_architectures_and_its_last(datapath: Path, resume: Path) -> None:
    models = [f"model-{n}.pt" for n in (1, 2, 3)]
    run("predict", "ensemble", *models, "--datapath", datapath, *FLAGS)
    path = datapath / "experiments" / "results" / "test_predictions_ensemble.jsonl"
    ids, _ = scores_of(resume / "model-1.pt", datapath)
    total: Any = 0
    for name in models:
        scores = scores_of(resume / name, datapath)[1].astype(np.float64)
        total = total + scores / np.sqrt(scores.var(1).mean())
    assert [row["item_ids"] for row in read_lines(path)] == expected_top(ids, total, 10)
    (datapath / "npy_save").rename(datapath / "npy_save_last")
    run("predict", "ensemble-last", "--datapath", datapath)
    last = path.with_name("test_predictions_ensemble_last.jsonl")
    assert last.read_bytes() == path.read_bytes()
    run("predict", "ensemble", *models, "--datapath", datapath, "--matrices", "no", *FLAGS)
    assert path.read_bytes() == last.read_bytes()
    assert not list((datapath / "npy_save").glob("matrix*"))


def test_learned_weights(datapath: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models = [f"model-{n}.pt" for n in (1, 2, 3)]
    weights = datapath / "w.json"
    fit = ("ensemble", "fit", "--datapath", datapath, "--metric", "mAP", "--folds", "3", "--out", weights)
    run(*fit, "--models", *models, *FLAGS)
    told = capsys.readouterr().out
    content = json.loads(weights.read_text(encoding="utf-8"))
    assert [member["model"] for member in content["members"]] == ["model-1", "model-2", "model-3"]
    assert (
        "6 labelled texts, 15 pictures" in told and "queries that had no say" in told and "<- chosen" in told
    )
    by_name = {row["name"]: row["mAP"] for row in content["results"]}
    assert by_name["chosen"] >= max(by_name[name] for name in ("model-1", "model-2", "model-3"))
    matrices = [datapath / "npy_save" / "valid" / f"matrix-{n}.npy" for n in (1, 2, 3)]
    labels = datapath / "datasets" / "MUGE" / "valid_texts.jsonl"
    again = datapath / "w2.json"
    run(*fit[:-1], again, "--matrices", *matrices, "--labels", labels)
    assert again.read_bytes() == weights.read_bytes()
    run("predict", "ensemble", *models[::-1], "--datapath", datapath, "--weights", weights, *FLAGS)
    used = json.loads((datapath / "npy_save" / "matrix-ensemble.ids.json").read_text(encoding="utf-8"))
    expected = {row["fingerprint"]: row["weight"] for row in content["members"] if row["weight"]}
    assert {row["fingerprint"]: row["weight"] for row in used["members"]} == expected


@pytest.mark.parametrize("form", ["npy", "jsonl"])
def test_extract_top_k_and_score(datapath: Path, resume: Path, form: str) -> None:
    folder, out = datapath / "datasets" / "MUGE", datapath / "features"
    model = resume / "model-1.pt"
    flags = ("--split", "valid", "--out", out, "--format", form, "--feature-dtype", "float32")
    run("extract", "--model", model, "--data", folder, *flags, "--precision", "fp32", "--device", "cpu")
    images, texts = out / f"valid_imgs.img_feat.{form}", out / f"valid_texts.txt_feat.{form}"
    features = ("--image-feats", images, "--text-feats", texts)
    run("predict", "topk", *features, "--output", out / "p.jsonl", "--top-k", 7)
    ids, scores = scores_of(model, datapath, "valid")
    assert [row["image_ids"] for row in read_lines(out / "p.jsonl")] == expected_top(ids, scores, 7)
    run("predict", "topk", *features, "--output", out / "t.jsonl", "--direction", "image-to-text")
    expected = expected_top(range(N_TEXTS), scores.T, 10)
    assert read_lines(out / "t.jsonl") == [
        {"image_id": int(image_id), "text_ids": row} for image_id, row in zip(ids, expected, strict=True)
    ]
    gold = str(folder / "valid_texts.jsonl")
    assert evaluation.main([gold, str(out / "p.jsonl"), str(out / "score.json")]) == 0
    assert transform_ir_annotation_to_tr.main(["--input", gold]) == 0
    turned = gold.replace(".jsonl", ".tr.jsonl")
    assert evaluation_tr.main([turned, str(out / "t.jsonl"), str(out / "score_tr.json")]) == 0
    relevant = [{100 + 2 * i, 101 + i} for i in range(N_TEXTS)]
    hits = [
        set(row["image_ids"][:5]) & wanted
        for row, wanted in zip(read_lines(out / "p.jsonl"), relevant, strict=True)
    ]
    score = json.loads((out / "score.json").read_text(encoding="utf-8"))["scoreJson"]
    assert score["r5"] == pytest.approx(100 * sum(map(bool, hits)) / N_TEXTS)


@pytest.mark.parametrize("dashes", [str, lambda flag: flag[:2] + flag[2:].replace("-", "_")])
def test_the_scripts_of_chinese_clip_as_they_are_called(
    datapath: Path, resume: Path, dashes: Callable[[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = datapath / "datasets" / "MUGE"
    run("build-lmdb", "--data-dir", folder, "--splits", "test")

    def script(module: Any, *flags: str) -> None:
        words = [word if i else dashes(word) for flag in flags for i, word in enumerate(flag.partition("="))]
        joined = ["".join(words[i : i + 3]) for i in range(0, len(words), 3)]
        assert module.main(joined) == 0

    script(
        extract_features,
        *("--extract-image-feats", "--extract-text-feats", f"--image-data={folder}/lmdb/test/imgs"),
        *(f"--text-data={folder}/test_texts.jsonl", "--img-batch-size=32", "--text-batch-size=32"),
        *(
            "--context-length=12",
            f"--resume={resume}/model-1.pt",
            "--vision-model=ViT-B-16",
            "--precision=fp32",
        ),
        *("--text-model=RoBERTa-wwm-ext-base-chinese", "--debug"),
    )
    images, texts = folder / "test_imgs.img_feat.jsonl", folder / "test_texts.txt_feat.jsonl"
    assert set(read_lines(images)[0]) == {"image_id", "feature"}
    assert [row["text_id"] for row in read_lines(texts)] == list(range(N_TEXTS))
    common = (f"--image-feats={images}", f"--text-feats={texts}", "--top-k=5", "--eval-batch-size=4")
    script(make_topk_predictions, *common, f"--output={datapath}/p.jsonl")
    script(make_topk_predictions_tr, *common, f"--output={datapath}/t.jsonl")
    assert [len(row["image_ids"]) for row in read_lines(datapath / "p.jsonl")] == [5] * N_TEXTS
    assert [len(row["text_ids"]) for row in read_lines(datapath / "t.jsonl")] == [5] * N_IMAGES
    npy = datapath / "npy"
    script(make_topk_predictions, *common, f"--output={datapath}/q.jsonl", f"--npy_save={npy}/matrix-1.npy")
    rows = read_lines(datapath / "q.jsonl")
    assert [row["item_ids"] for row in rows] == [row["image_ids"] for row in read_lines(datapath / "p.jsonl")]
    script(
        make_topk_predictions_ensemble,
        *(
            *common,
            f"--output={datapath}/e.jsonl",
            f"--npy_path={npy}",
            f"--npy_save={npy}/matrix-ensemble.npy",
        ),
    )
    assert read_lines(datapath / "e.jsonl") == rows
    capsys.readouterr()
