"""predict.sh: which command it starts from its arguments and settings, and three models end to end."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from cnclip.model.save import save_pt
from tests.cnclip.data.muge_files import image_line, picture, text_line, write_lines
from tests.cnclip.online.world import COLOURS, KNOWN, NEW, square, write_split
from tests.cnclip.prediction.kit import read_lines
from tests.run_scripts.clone import Clone, make_clone
from tests.run_scripts.predict_place import save_models, tiny

PLAIN = ("single", "None", "None", "1", "model-1.pt")


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    return make_clone(tmp_path)


def command(clone: Clone, *arguments: str, **settings: str) -> list[str]:
    return clone.command("predict.sh", *arguments, **settings)


def common(clone: Clone) -> list[str]:
    return [f"--datapath={clone.data.resolve()}", "--dataset=MUGE", "--split=test"]


def test_the_plain_commands(clone: Clone) -> None:
    start = ["-m", "run_scripts.cli", "predict"]
    assert command(clone, *PLAIN) == [*start, "single", "model-1.pt", *common(clone)]
    models = [f"model-{n}.pt" for n in range(1, 9)]
    assert command(clone, "ensemble", "None", "None", "1", *models) == [
        *(*start, "ensemble", *models, *common(clone)),
    ]
    for arguments in (["ensemble-last"], ["ensemble-last", "None", "None", "1", *models]):
        assert command(clone, *arguments) == [*start, "ensemble-last", *common(clone)]


def test_settings_become_flags_where_they_matter(clone: Clone) -> None:
    settings = {
        **{"SCHEMA": "text_id", "TOP_K": "5", "OUT": "/o ut", "NPY_SAVE": "/n", "TEXT_DATA": "/t.jsonl"},
        **{"BATCH_SIZE": "8", "CONTEXT_LENGTH": "24", "DEVICE": "cpu", "DTYPE": "float32"},
    }
    expected = {f"--{name.lower().replace('_', '-')}={value}" for name, value in settings.items()}
    ensembles = {"WEIGHTS": "0.5,0.5", "NORMALIZE": "none"}
    assert expected == set(command(clone, *PLAIN, **settings, **ensembles)[6:]) - set(common(clone))
    both = command(clone, "ensemble", "None", "None", "1", "a", "b", **settings, **ensembles)
    assert expected | {"--weights=0.5,0.5", "--normalize=none"} < set(both)
    last = command(clone, "ensemble-last", "None", "None", "1", **settings, **ensembles)
    assert {word.partition("=")[0] for word in last[4:]} == {
        *("--datapath", "--dataset", "--split", "--schema", "--top-k", "--out", "--npy-save"),
        *("--weights", "--normalize"),
    }
    other = command(clone, *PLAIN, DATASET="Flickr", SPLIT="valid")
    assert {"--dataset=Flickr", "--split=valid"} < set(other)


def test_online_learning(clone: Clone) -> None:
    settings = {
        "SOURCE": "folder",
        "FOLDER": "/f",
        "ONLINE_BUDGET": "9",
        "TRAIN_DATA": "/t",
        "VAL_DATA": "/v",
    }
    expected = {f"--{name.lower().replace('_', '-')}={value}" for name, value in settings.items()}
    assert not expected & set(command(clone, *PLAIN, **settings))
    both = command(clone, "single", "--online-learning", "--online-cache", "50", "model-1.pt", **settings)
    assert expected | {"--online-learning", "--online-cache", "--max-epochs=50"} < set(both)
    alone = command(clone, "single", "--online_learning", "None", "2", "model-1.pt")
    assert alone[-2:] == ["--online-learning", "--max-epochs=2"]


def test_online_learning_needs_other_splits_built(clone: Clone) -> None:
    folder = clone.data.resolve() / "datasets" / "MUGE"
    folder.mkdir(parents=True)
    for split in ("train", "valid", "test"):
        (folder / f"{split}_imgs.tsv").touch()
    online = ("single", "--online-learning", "--online-cache", "1", "model-1.pt")
    assert clone.run("predict.sh", clone.data, *online, VAL_DATA="None").returncode == 0
    builds = (clone.folder / "builds").read_text(encoding="utf-8")
    assert [line.split()[-1] for line in builds.splitlines()] == ["test", "train"]
    assert clone.run("predict.sh", clone.data, *online, "--train-data", "/t").returncode == 0
    builds = (clone.folder / "builds").read_text(encoding="utf-8")
    assert [line.split()[-1] for line in builds.splitlines()] == ["test", "train", "valid"]


def test_flags_come_last(clone: Clone) -> None:
    given = command(clone, *PLAIN, "--top-k", "3", "--force", TOP_K="9")
    assert given[-3:] == ["--top-k", "3", "--force"] and given.index("--top-k=9") < len(given) - 3


def test_a_missing_lmdb_is_built_from_the_muge_files(clone: Clone) -> None:
    folder = clone.data.resolve() / "datasets" / "MUGE"
    folder.mkdir(parents=True)
    (folder / "test_imgs.tsv").touch()
    answer = clone.run("predict.sh", clone.data, *PLAIN)
    assert answer.returncode == 0 and f"building {folder}/lmdb/test" in answer.stdout + answer.stderr
    builds = (clone.folder / "builds").read_text(encoding="utf-8")
    assert builds == f"-m run_scripts.cli build-lmdb --data-dir {folder} --splits test\n"
    clone.run("predict.sh", clone.data, *PLAIN)
    clone.run("predict.sh", clone.data, "ensemble-last", SPLIT="valid")
    clone.run("predict.sh", clone.data, *PLAIN, "--data", str(folder), SPLIT="other")
    assert (clone.folder / "builds").read_text(encoding="utf-8") == builds, "once, and not where it is no use"


def test_a_build_that_fails_is_the_end(clone: Clone) -> None:
    (clone.data / "datasets" / "MUGE").mkdir(parents=True)
    (clone.data / "datasets" / "MUGE" / "test_imgs.tsv").touch()
    assert clone.run("predict.sh", clone.data, *PLAIN, FAKE_BUILD_EXIT="2").returncode == 2
    assert not (clone.folder / "command").exists()


def test_a_dry_run_starts_nothing(clone: Clone) -> None:
    (clone.data / "datasets" / "MUGE").mkdir(parents=True)
    (clone.data / "datasets" / "MUGE" / "test_imgs.tsv").touch()
    answer = clone.run("predict.sh", clone.data, *PLAIN, DRY_RUN="1")
    assert answer.returncode == 0 and "run_scripts.cli predict single model-1.pt" in answer.stdout
    assert not (clone.folder / "command").exists() and not (clone.folder / "builds").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["/nonexistent folder", *PLAIN], "/nonexistent folder: no such folder"),
        (["DATA"], "the mode is missing: single, ensemble or ensemble-last"),
        (["DATA", "both"], "mode both: not single, ensemble or ensemble-last"),
        (["DATA", "single", "yes"], "argument 3 is yes, not --online-learning or None"),
        (["DATA", "single", "None", "no"], "argument 4 is no, not --online-cache or None"),
        (["DATA", "single", "None", "None", "model-1.pt"], "MAX_EPOCHS is model-1.pt, not a number above 0"),
        (["DATA", "single", "None", "None", "0", "m.pt"], "MAX_EPOCHS is 0, not a number above 0"),
        (["DATA", "single", "None", "None", "1"], "single takes one MODEL, not 0"),
        (["DATA", "single", "None", "None", "1", "a.pt", "b.pt"], "single takes one MODEL, not 2"),
        (["DATA", "ensemble", "None", "None", "1"], "ensemble takes at least one MODEL"),
        (
            ["DATA", "ensemble", "--online-learning", "None", "1", "a"],
            "--online-learning goes with single only",
        ),
        (
            ["DATA", "single", "None", "--online-cache", "1", "a"],
            "--online-cache goes with --online-learning",
        ),
    ],
)
def test_a_mistake_is_one_line_and_exit_2(clone: Clone, arguments: list[str], message: str) -> None:
    given = [str(clone.data) if word == "DATA" else word for word in arguments]
    answer = clone.run("predict.sh", *given)
    assert answer.returncode == 2
    assert answer.stderr.startswith(f"error: {message}") and answer.stderr.count("\n") == 1
    assert not (clone.folder / "command").exists()


def test_help_and_no_arguments(clone: Clone) -> None:
    for arguments in (["--help"], [str(clone.data), "-h"]):
        answer = clone.run("predict.sh", *arguments)
        assert (answer.returncode, answer.stderr) == (0, "")
        assert answer.stdout.startswith("usage: bash run_scripts/predict.sh DATAPATH")
    missing = clone.run("predict.sh")
    assert missing.returncode == 2
    assert missing.stderr.startswith("error: DATAPATH is missing\nusage: ")


def test_the_exit_code_is_that_of_the_prediction(clone: Clone) -> None:
    assert clone.run("predict.sh", clone.data, *PLAIN, FAKE_EXIT="130").returncode == 130


@pytest.mark.slow
def test_three_models_end_to_end(clone: Clone) -> None:
    """An unlabelled split in MUGE files, three architectures, from the shell to the prediction files."""
    folder = clone.data / "datasets" / "MUGE"
    folder.mkdir(parents=True)
    write_lines(folder / "test_imgs.tsv", (image_line(100 + i, picture(i)) for i in range(12)))
    write_lines(folder / "test_texts.jsonl", (text_line(i, f"第{i}条") for i in range(5)))
    models = [f"model-{n}.pt" for n in (1, 2, 3)]
    (clone.data / "resume").mkdir()
    save_models(clone.data / "resume")
    really = {"REALLY": "1", "DTYPE": "float32", "DEVICE": "cpu", "OMP_NUM_THREADS": "1"}
    answer = clone.run("predict.sh", clone.data, "ensemble", "None", "None", "1", *models, **really)
    assert answer.returncode == 0, answer.stderr
    results = clone.data / "experiments" / "results"
    assert sorted(path.name for path in results.iterdir()) == [
        *(f"test_predictions_{n}.jsonl" for n in (1, 2, 3)), "test_predictions_ensemble.jsonl",
    ]  # fmt: skip
    rows = read_lines(results / "test_predictions_ensemble.jsonl")
    assert [row["query_id"] for row in rows] == list(range(5))
    assert all(len(set(row["item_ids"])) == 10 for row in rows)
    shutil.copytree(clone.data / "npy_save", clone.data / "npy_save_last")
    answer = clone.run("predict.sh", clone.data, "ensemble-last", "None", "None", "1", REALLY="1")
    assert answer.returncode == 0, answer.stderr
    last = results / "test_predictions_ensemble_last.jsonl"
    assert last.read_bytes() == (results / "test_predictions_ensemble.jsonl").read_bytes()
    single = clone.run(
        "predict.sh", clone.data, *PLAIN[:-1], "model-2.pt", SCHEMA="text_id", TOP_K="3", **really
    )
    assert single.returncode == 0, single.stderr
    assert [len(row["image_ids"]) for row in read_lines(results / "test_predictions_1.jsonl")] == [3] * 5


@pytest.mark.slow
def test_online_learning_from_a_cache_end_to_end(clone: Clone) -> None:
    """Two epochs on pictures that Online-CNCLIP's crawler left in DATAPATH/test, then the predictions."""
    folder = clone.data / "datasets" / "MUGE"
    folder.mkdir(parents=True)
    for split, each in (("train", 24), ("valid", 8), ("test", 6)):
        write_split(folder, split, KNOWN if split == "train" else COLOURS, each)
    texts = read_lines(folder / "test_texts.jsonl")
    write_lines(folder / "test_texts.jsonl", (text_line(row["text_id"], row["text"]) for row in texts))
    rng = np.random.default_rng(5)
    for name in NEW:
        (clone.data / "test" / name).mkdir(parents=True)
        for number in range(1, 6):
            (clone.data / "test" / name / f"{number}.jpg").write_bytes(square(COLOURS[name], rng, 224))
    (clone.data / "resume").mkdir()
    save_pt(tiny(32, 32, 16), clone.data / "resume" / "model-1.pt", epoch=4)
    settings = {"REALLY": "1", "DTYPE": "float32", "DEVICE": "cpu", "ONLINE_PICTURES": "5"}
    online = ("single", "--online-learning", "--online-cache", "2", "model-1.pt")
    answer = clone.run("predict.sh", clone.data, *online, OMP_NUM_THREADS="1", **settings)
    assert answer.returncode == 0, answer.stderr
    experiments = clone.data / "experiments"
    assert (experiments / "epoch4_online_2.pt").is_file()
    rounds = read_lines(experiments / "model-1_online" / "online" / "rounds.jsonl")
    assert [row["epoch"] for row in rounds] == [0, 1] and {row["source"] for row in rounds} == {"cache"}
    assert all(row["queries"]["asked"] == 6 and row["queries"]["with pictures"] == 2 for row in rounds)
    rows = read_lines(experiments / "results" / "test_predictions_1.jsonl")
    assert [row["query_id"] for row in rows] == list(range(6))
    described = json.loads((clone.data / "npy_save" / "matrix-1.ids.json").read_text(encoding="utf-8"))
    assert described["model"] == "epoch4_online_2"
