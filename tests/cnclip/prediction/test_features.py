"""Feature files in both forms."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from cnclip.errors import InputError, ModelMismatchError
from cnclip.prediction.feature_lines import model_path, write_jsonl
from cnclip.prediction.features import Features, check_one_model, read_features, write_npy
from tests.cnclip.data.muge_files import write_lines

RNG = np.random.default_rng(0)
VECTORS = RNG.standard_normal((20, 6)).astype(np.float32)
FEATURES = Features("image", [*range(100, 119), "a7"], VECTORS, "lite", "f" * 64)


def test_json_lines_are_those_of_chinese_clip(tmp_path: Path) -> None:
    path = tmp_path / "test_imgs.img_feat.jsonl"
    write_jsonl(path, FEATURES)
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    expected = [
        json.dumps({"image_id": i, "feature": row.tolist()})
        for i, row in zip(FEATURES.ids, VECTORS, strict=True)
    ]
    assert path.read_text(encoding="utf-8").splitlines() == expected
    assert set(lines[0]) == {"image_id", "feature"} and lines[-1]["image_id"] == "a7"
    found = read_features(path, "image")
    assert found.ids == FEATURES.ids and (found.model, found.fingerprint) == ("lite", "f" * 64)
    assert found.vectors.dtype == np.float32 and np.array_equal(found.vectors, VECTORS)


def test_the_binary_form_is_mapped_and_small(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", FEATURES)
    for dtype, tolerance in ((np.float16, 1e-3), (np.float32, 0.0)):
        write_npy(tmp_path / "a.npy", FEATURES, dtype=dtype)
        found = read_features(tmp_path / "a.npy", "image")
        assert found.vectors.dtype == dtype and isinstance(found.vectors, np.memmap)
        assert np.allclose(found.vectors, VECTORS, rtol=tolerance, atol=0)
        assert (found.ids, found.model, found.fingerprint) == (FEATURES.ids, "lite", "f" * 64)


def test_a_replaced_file_is_not_taken_for_that_models(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    write_jsonl(path, FEATURES)
    write_lines(path, ['{"image_id": 1, "feature": [0.5, 0.5]}'])
    assert read_features(path, "image").fingerprint == ""
    model_path(path).unlink()
    assert read_features(path, "image").ids == [1]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "a.jsonl:3: not a JSON object on one line"),
        ("[1]", "a.jsonl:3: not a JSON object on one line"),
        ('{"feature": [1, 2]}', "a.jsonl:3: field text_id: missing, or neither a whole number nor text"),
        ('{"text_id": true, "feature": [1, 2]}', "a.jsonl:3: field text_id: missing, or neither"),
        ('{"text_id": 3}', "a.jsonl:3: field feature: missing, or not a list of numbers"),
        ('{"text_id": 3, "feature": []}', "a.jsonl:3: field feature: missing, or not a list of numbers"),
        ('{"text_id": 3, "feature": [1]}', "a.jsonl:3: field feature: 1 numbers, not 2"),
        ('{"text_id": 3, "feature": [1, NaN]}', "a.jsonl:3: field feature: holds something that is not a"),
        ('{"text_id": 3, "feature": [1, "x"]}', "a.jsonl:3: field feature: holds something that is not a"),
        ('{"text_id": 3, "feature": [1, [2]]}', "a.jsonl:3: field feature: holds something that is not a"),
        ('{"text_id": 3, "feature": [1, 1e999]}', "a.jsonl:3: field feature: holds something that is not a"),
        ('{"text_id": "1", "feature": [1, 2]}', "a.jsonl: field text_id: 1 more than once"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    good = '{"text_id": 1, "feature": [0.5, 0.5]}'
    path = write_lines(tmp_path / "a.jsonl", [good, "", line, good.replace("1,", "9,", 1)])
    with pytest.raises(InputError) as refused:
        read_features(path, "text")
    assert message in str(refused.value) and "\n" not in str(refused.value)


def test_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    write_npy(path, FEATURES)
    with pytest.raises(InputError, match="field what: these are image features, not text features"):
        read_features(path, "text")
    beside = tmp_path / "a.ids.json"
    content = json.loads(beside.read_text(encoding="utf-8"))
    beside.write_text(json.dumps({**content, "ids": content["ids"][:-1]}), encoding="utf-8")
    with pytest.raises(InputError, match="field ids: 19 for 20 rows"):
        read_features(path, "image")
    beside.write_text(json.dumps({**content, "ids": [1] * 20}), encoding="utf-8")
    with pytest.raises(InputError, match="field image_id: 1 more than once"):
        read_features(path, "image")
    beside.unlink()
    with pytest.raises(InputError, match=r"a.ids.json is not beside it"):
        read_features(path, "image")
    with pytest.raises(InputError, match="no such file"):
        read_features(tmp_path / "b.jsonl", "image")
    with pytest.raises(InputError, match="holds no features"):
        read_features(write_lines(tmp_path / "c.jsonl", []), "image")


def test_features_of_two_models_are_not_mixed() -> None:
    texts = Features("text", [1], VECTORS[:1], "lite", "f" * 64)
    check_one_model(texts, FEATURES)
    check_one_model(Features("text", [1], VECTORS[:1]), FEATURES)
    with pytest.raises(
        ModelMismatchError, match=r"text features is of other \(eeeeeeeeeeee\), image features"
    ):
        check_one_model(Features("text", [1], VECTORS[:1], "other", "e" * 64), FEATURES)
    with pytest.raises(InputError, match="5 and 6 dimensions, so not of one model"):
        check_one_model(Features("text", [1], VECTORS[:1, :5]), FEATURES)
