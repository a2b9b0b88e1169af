"""Model versions: numbered, whole or absent, and compared with their parents tower by tower."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import pytest
import torch

import cnclip
from cnclip.errors import InputError, WeightsError
from cnclip.model.dual_encoder import DualEncoder
from cnclip.online.versions import ModelVersions
from tests.cnclip.model.conftest import RESNET, TEXT, VIT, config_of, make_model


@pytest.fixture(scope="module")
def model() -> DualEncoder:
    return make_model(config_of(VIT, replace(TEXT, vocab_size=300)))


@pytest.fixture
def versions(tmp_path: Path) -> ModelVersions:
    return ModelVersions(tmp_path / "models")


def moved(model: DualEncoder, *prefixes: str) -> DualEncoder:
    """A copy whose weights that begin with one of `prefixes` are a little different."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        for name, tensor in other.named_parameters():
            if name.startswith(prefixes):
                tensor.add_(0.01)
    return other


def test_a_published_version_is_a_model_to_load(versions: ModelVersions, model: DualEncoder) -> None:
    before = datetime.now(timezone.utc).replace(microsecond=0)
    version = versions.publish("tiny", model, summary={"mAP": 0.5, "pairs": 12})
    assert (version.name, version.version, version.label) == ("tiny", "0001", "tiny/0001")
    encoder = cnclip.load(version.weights, dtype="float32")
    assert encoder.fingerprint == version.fingerprint
    assert encoder.image_fingerprint == version.image_fingerprint
    for name, tensor in model.state_dict().items():
        assert torch.equal(encoder.model.state_dict()[name], tensor), name
    assert version.summary == {"mAP": 0.5, "pairs": 12.0}
    assert version.parent is None and version.changed == "both"
    assert before <= datetime.fromisoformat(version.created) <= datetime.now(timezone.utc)
    record = json.loads((version.folder / "version.json").read_text())
    assert set(record) == {
        "schema", "name", "version", "fingerprint", "image_fingerprint", "text_fingerprint",
        "parent", "created", "changed", "summary",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("prefixes", "changed"),
    [
        (("visual.",), "image"),
        (("bert.",), "text"),
        (("text_projection",), "text"),
        (("bert.", "visual.proj"), "both"),
        (("logit_scale",), "none"),
    ],
)
def test_what_changed_is_told_from_the_weights(
    versions: ModelVersions, model: DualEncoder, prefixes: tuple[str, ...], changed: str
) -> None:
    parent = versions.publish("tiny", model)
    child = versions.publish("tiny", moved(model, *prefixes), parent=parent)
    assert child.changed == changed
    assert child.parent is not None
    assert (child.parent.version, child.parent.fingerprint) == ("0001", parent.fingerprint)
    assert child.fingerprint != parent.fingerprint
    assert (child.image_fingerprint == parent.image_fingerprint) == (changed in ("text", "none"))


def test_one_moved_statistic_of_a_batch_norm_counts(versions: ModelVersions) -> None:
    resnet = make_model(config_of(RESNET, replace(TEXT, vocab_size=300)))
    parent = versions.publish("tiny", resnet)
    state = {name: tensor.clone() for name, tensor in resnet.state_dict().items()}
    state["visual.bn1.running_mean"][0] += 0.5
    assert versions.publish("tiny", resnet, parent=parent, state=state).changed == "image"


def test_a_parent_that_is_no_version_is_read_from_its_file(
    versions: ModelVersions, model: DualEncoder, tmp_path: Path
) -> None:
    other = ModelVersions(tmp_path / "elsewhere").publish("base", model, dtype=torch.float16)
    child = versions.publish("tiny", moved(model, "bert."), parent_weights=other.weights)
    assert child.parent is not None and child.parent.version is None
    assert child.parent.fingerprint == other.fingerprint
    assert child.changed == "text"  # half precision of the parent's file notwithstanding
    with pytest.raises(InputError, match=r"nowhere\.pt"):
        versions.publish("tiny", model, parent_weights=tmp_path / "nowhere.pt")
    assert [version.version for version in versions.list()] == ["0001"]


def test_files_come_along(versions: ModelVersions, model: DualEncoder, tmp_path: Path) -> None:
    (tmp_path / "made.html").write_text("<p>报告</p>")
    files: dict[str, str | bytes | Path] = {
        "report.json": '{"轮": 3}', "notes.bin": b"\x00\x01", "report.html": tmp_path / "made.html"
    }  # fmt: skip
    version = versions.publish("tiny", model, files=files)
    report = version.file("report.html")
    assert report is not None and report.read_text() == "<p>报告</p>"
    assert (version.folder / "report.json").read_text() == '{"轮": 3}'
    assert (version.folder / "notes.bin").read_bytes() == b"\x00\x01"
    assert version.file("other.html") is None
    assert version.file("../0001/report.html") is None


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "a/b", "a\\b", "x" * 65, "a b"])
def test_names_that_are_no_folder_are_refused(versions: ModelVersions, model: DualEncoder, name: str) -> None:
    with pytest.raises(InputError, match="name"):
        versions.publish(name, model)
    with pytest.raises(InputError, match="no model version"):
        versions.get(name, "0001")
    assert versions.list(name) == []
    assert not versions.root.exists()


@pytest.mark.parametrize("file", ["../x", "a/b", "", ".hidden", "model.safetensors", "version.json"])
def test_file_names_that_would_do_harm_are_refused(
    versions: ModelVersions, model: DualEncoder, file: str
) -> None:
    with pytest.raises(InputError, match="possible name"):
        versions.publish("tiny", model, files={file: "text"})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), True, "0.5", None])
def test_a_summary_is_numbers(versions: ModelVersions, model: DualEncoder, value: object) -> None:
    with pytest.raises(InputError, match=r"summary: 'mAP'"):
        versions.publish("tiny", model, summary={"mAP": value})  # type: ignore[dict-item]


def test_weights_that_are_not_finite_are_not_published(versions: ModelVersions, model: DualEncoder) -> None:
    broken = copy.deepcopy(model)
    broken.text_projection.data[0, 0] = float("nan")
    with pytest.raises(WeightsError, match=r"not published.*not finite.*text_projection"):
        versions.publish("tiny", broken)
    assert versions.list() == []
    assert list((versions.root / "tiny").iterdir()) == []


def test_listing_is_by_name_and_number(versions: ModelVersions, model: DualEncoder) -> None:
    for name in ("b", "a", "b"):
        versions.publish(name, model)
    (versions.root / "b" / "0002").rename(versions.root / "b" / "9999")
    assert versions.publish("b", model).label == "b/10000"
    assert [version.label for version in versions.list()] == ["a/0001", "b/0001", "b/9999", "b/10000"]
    assert [version.label for version in versions.list("a")] == ["a/0001"]
    latest = versions.latest("b")
    assert latest is not None and latest.label == "b/10000"
    assert versions.latest("c") is None


def test_what_is_no_whole_version_is_not_listed(
    versions: ModelVersions, model: DualEncoder, caplog: pytest.LogCaptureFixture
) -> None:
    good = versions.publish("tiny", model)
    home = versions.root / "tiny"
    (home / "0002").mkdir()  # without a record
    (home / "0003").mkdir()
    (home / "0003" / "version.json").write_text((good.folder / "version.json").read_text())  # nor weights
    for number, text in (
        ("0004", "{"),
        ("0005", "[]"),
        ("0006", '{"schema": 99}'),
        ("0007", '{"schema": 1}'),
    ):
        (home / number).mkdir()
        (home / number / "model.safetensors").touch()
        (home / number / "version.json").write_text(text)
    (home / "notes").mkdir()
    (versions.root / "a file").touch()
    assert [version.version for version in versions.list()] == ["0001"]
    assert sum("not a model version" in record.message for record in caplog.records) == 4
    for number in ("0002", "0003", "0008", "notes"):
        with pytest.raises(InputError, match=f"no model version tiny/{number} .*there: tiny/0001"):
            versions.get("tiny", number)
    with pytest.raises(InputError, match=r"0004/version\.json: damaged"):
        versions.get("tiny", "0004")
    with pytest.raises(InputError, match="newer version"):
        versions.get("tiny", "0006")
    assert versions.publish("tiny", model).version == "0008"


def test_publishers_at_the_same_time_get_different_numbers(
    versions: ModelVersions, model: DualEncoder
) -> None:
    with ThreadPoolExecutor(4) as pool:
        published = list(pool.map(lambda _: versions.publish("tiny", model).version, range(8)))
    assert sorted(published) == [f"{number:04d}" for number in range(1, 9)]
    for version in versions.list():
        assert json.loads((version.folder / "version.json").read_text())["version"] == version.version


def test_a_number_that_is_taken_in_the_last_moment_is_left_to_the_other(
    versions: ModelVersions, model: DualEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename, others = Path.rename, ["0001", "0002"]

    def slow_rename(self: Path, target: Path) -> Path:
        if others and target.name == others[0]:
            others.pop(0)
            target.mkdir()
            (target / "version.json").write_text("theirs")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", slow_rename)
    assert versions.publish("tiny", model).version == "0003"
    assert (versions.root / "tiny" / "0001" / "version.json").read_text() == "theirs"


KILLED = """
    import os, sys
    from pathlib import Path
    from dataclasses import replace
    from cnclip.online import versions
    from tests.cnclip.model.conftest import TEXT, VIT, config_of, make_model
    real = getattr(versions, sys.argv[2])
    def die(*args):
        real(*args)
        os._exit(9)
    setattr(versions, sys.argv[2], die)
    model = make_model(config_of(VIT, replace(TEXT, vocab_size=300)))
    versions.ModelVersions(sys.argv[1]).publish("tiny", model, files={"report.json": "{}"})
"""


@pytest.mark.slow
@pytest.mark.parametrize("last", ["_write", "_identity", "_descent"])
def test_a_killed_publisher_leaves_nothing_that_is_listed(
    versions: ModelVersions, model: DualEncoder, last: str
) -> None:
    command = [sys.executable, "-c", textwrap.dedent(KILLED), str(versions.root), last]
    done = subprocess.run(command, cwd=Path(__file__).parents[3], timeout=120, check=False)
    assert done.returncode == 9
    (leftover,) = (versions.root / "tiny").iterdir()
    assert (leftover / "model.safetensors").is_file()
    assert versions.list() == []
    assert versions.publish("tiny", model).version == "0001"
    assert leftover.exists()  # for all we know its publisher is at work
    os.utime(leftover, (0, 0))
    versions.publish("tiny", model)
    assert not leftover.exists()


def test_pruning_keeps_the_newest_and_the_spared(versions: ModelVersions, model: DualEncoder) -> None:
    make: Callable[[str], object] = lambda name: versions.publish(name, model)  # noqa: E731
    for name in ("a", "a", "a", "a", "b"):
        make(name)
    removed = versions.prune(2, spare=["a/0001"])
    assert [version.label for version in removed] == ["a/0002"]
    assert [version.label for version in versions.list()] == ["a/0001", "a/0003", "a/0004", "b/0001"]
    assert {path.name for path in (versions.root / "a").iterdir()} == {"0001", "0003", "0004"}
    assert versions.prune(1, name="b") == []
    with pytest.raises(InputError, match="keep"):
        versions.prune(0)
    assert versions.publish("a", model).version == "0005"


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path, model: DualEncoder) -> None:
    (tmp_path / "models").write_text("a file")
    with pytest.raises(InputError, match=r"models/tiny: cannot be written"):
        ModelVersions(tmp_path / "models").publish("tiny", model)
