"""predict.sh: which command it starts from its arguments and settings, and three models end to end."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from cnclip.model.save import save_pt
from tests.cnclip.data.muge_files import image_line, picture, text_line, write_lines
from tests.cnclip.prediction.kit import read_lines
from tests.run_scripts.clone import Clone, make_clone
from tests.run_scripts.test_predict_command import tiny

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
    for name, shape in zip(models, ((32, 32, 16), (48, 16, 8), (32, 48, 24)), strict=True):
        (clone.data / "resume").mkdir(exist_ok=True)
        save_pt(tiny(*shape), clone.data / "resume" / name)
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
