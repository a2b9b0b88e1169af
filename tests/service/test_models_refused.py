"""What may not be activated is not, the reason is said, and the model in use stays."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import cnclip
from cnclip.online.versions import ModelVersions
from service import activation
from service.gallery import Gallery, Item
from service.gallery.model_ref import ref_of
from service.reembed import ReembedError
from tests.service.conftest import MakeClient
from tests.service.dummy import AppClient, DummyEncoder, error_of, vector_of_text
from tests.service.dummy_models import InProcess, activate, first_color, load, models_of, publish, settled

MISSING = {"version": "0001"}


@pytest.fixture(autouse=True)
def dummies(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(vars(cnclip), "load", load)
    monkeypatch.setattr(activation, "EmbeddingProcess", InProcess)
    monkeypatch.setattr(InProcess, "asked", [])
    yield


@pytest.fixture
def models(gallery_path: Path) -> Path:
    return gallery_path / "models"


def check_old_model_answers(client: AppClient) -> None:
    body = client.search("红色").json()
    assert (first_color(body), body["model"]["name"]) == ("红", "dummy")
    assert models_of(client)["active"]["name"] == "dummy"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, (422, "invalid_request")),
        ({"version": ""}, (422, "invalid_request")),
        ({"version": 1}, (422, "invalid_request")),
        ({"version": "0001", "colour": "red"}, (422, "invalid_request")),
        ({"version": "0009"}, (404, "version_not_found")),
        ({"version": "dummy/0009"}, (404, "version_not_found")),
        ({"version": "other/0001"}, (404, "version_not_found")),
        ({"version": "0001", "name": "other"}, (404, "version_not_found")),
        ({"version": "base", "name": "other"}, (404, "version_not_found")),
        ({"version": "../dummy/0001"}, (404, "version_not_found")),
    ],
)
def test_bad_requests(client: AppClient, models: Path, body: Any, expected: tuple[int, str]) -> None:
    publish(models, 1, 2)
    response = client.post("/v1/models:activate", body)
    assert error_of(response) == expected
    if expected[0] == 404:
        assert "there: base, dummy/0001" in response.json()["error"]["message"]
    assert models_of(client)["activation"] is None


def test_the_base_is_in_use_already(client: AppClient) -> None:
    response = client.post("/v1/models:activate", {"version": "base"})
    assert response.status_code == 200 and response.json()["activation"] is None


def test_who_may_not_write_may_not_activate(make_client: MakeClient, models: Path, gallery: Gallery) -> None:
    publish(models, 1, 2)
    for client, code in (
        (make_client(read_only=True), "read_only"),
        (make_client(host="0.0.0.0"), "api_key_required"),
    ):
        for path in ("activate", "rollback", "cancel"):
            response = client.post(f"/v1/models:{path}", MISSING if path == "activate" else None)
            assert error_of(response) == (403, code)
        assert len(models_of(client)["versions"]) == 1
    local = make_client("http://localhost:8000")
    foreign = local.post("/v1/models:activate", MISSING, headers={"Origin": "http://evil.example"})
    assert error_of(foreign) == (403, "api_key_required")
    assert gallery.models().pending is None


@pytest.mark.parametrize(
    ("flaw", "side", "why"),
    [
        ("nan", "text", "vectors"),
        ("long", "text", "vectors of texts have length 3"),
        ("alike", "text", "all texts for alike"),
        ("nan", "image", "not finite"),
        ("long", "image", "unit length, not 3"),
        ("alike", "image", "all pictures for alike"),
    ],
)
def test_a_model_that_makes_no_sense_is_refused(
    make_client: MakeClient, models: Path, flaw: str, side: str, why: str
) -> None:
    client = make_client(canary_margin=1)
    publish(models, 1, 2, flaw=flaw, side=side)
    refused = activate(client, "0001")
    assert (refused["outcome"], refused["model"]) in (("refused", "dummy/0001"), ("failed", "dummy/0001"))
    if (flaw, side) != ("nan", "text"):  # of which the batcher says that it is no vector
        assert refused["outcome"] == "refused" and why in refused["error"]
    check_old_model_answers(client)
    publish(models, 1, 2)
    assert activate(client, "0002")["outcome"] == "done"


def test_a_model_that_finds_less_is_refused_within_the_margin(make_client: MakeClient, models: Path) -> None:
    publish(models, 1, 2)  # finds red for black, and so on: no title any more
    client = make_client()
    refused = activate(client, "0001")
    assert refused["outcome"] == "refused"
    assert refused["error"] == (
        "the new model finds less (32 titles, found among the first 3: "
        f"{_share(refused):.3f} before, 0.000 after; it may be 0.05 less)"
    )
    assert _share(refused) > 0.5
    check_old_model_answers(client)
    publish(models, 2, 2)  # another basis, the same answers
    done = activate(client, "0002")
    assert done["outcome"] == "done"
    assert done["canary"].startswith("32 titles, found among the first 3: ")
    back = client.post("/v1/models:rollback")
    assert back.status_code == 202 and settled(client)["outcome"] == "done"


def _share(refused: dict[str, Any]) -> float:
    return float(refused["error"].split("first 3: ")[1].split(" ")[0])


def test_going_back_is_not_compared(make_client: MakeClient, models: Path) -> None:
    publish(models, 1, 2)
    with_margin = make_client(canary_margin=1)
    activate(with_margin, "0001")
    with_margin.post("/v1/models:rollback")
    assert settled(with_margin)["canary"] == "32 queries, none of them compared"


def test_items_without_a_picture_are_counted(client: AppClient, models: Path, gallery: Gallery) -> None:
    gallery.upsert([Item(f"bare{i}", vector_of_text(f"bare{i}")) for i in range(3)])
    publish(models, 1, 2)
    response = client.post("/v1/models:activate", MISSING)
    assert error_of(response) == (409, "items_without_picture")
    assert response.json()["error"]["message"].startswith("3 items have no picture")
    publish(models, 0, 0, flaw="other", side="text")  # the same vectors of pictures
    assert activate(client, "0002")["outcome"] == "done"


def test_a_picture_that_is_gone_is_named(client: AppClient, models: Path, gallery: Gallery) -> None:
    row = gallery.get("黄/square")
    assert row is not None
    path = gallery.image_path(row)
    assert path is not None
    data = path.read_bytes()
    path.unlink()
    publish(models, 2, 2)
    refused = activate(client, "0001")
    assert refused["outcome"] == "refused"
    assert "pictures of 1 items cannot be embedded again: '黄/square'" in refused["error"]
    check_old_model_answers(client)
    path.write_bytes(data)
    assert activate(client, "0001")["outcome"] == "done"


def test_files_that_are_not_what_their_record_says(client: AppClient, models: Path) -> None:
    publish(models, 2, 2, fingerprint="ab" * 32)
    assert "fingerprint differs" in activate(client, "0001")["error"]
    publish(models, 2, 2, image_fingerprint="ab" * 32)
    assert "image fingerprint differs" in activate(client, "0002")["error"]
    check_old_model_answers(client)


def test_a_version_that_is_gone_cannot_be_gone_back_to(make_client: MakeClient, models: Path) -> None:
    client = make_client(canary_margin=1)
    publish(models, 2, 2)
    publish(models, 3, 3)
    activate(client, "0001")
    activate(client, "0002")
    ModelVersions(models).prune(1)
    response = client.post("/v1/models:rollback")
    assert error_of(response) == (409, "version_not_found")
    assert "dummy/0001" in response.json()["error"]["message"]
    assert activate(client, "base")["outcome"] == "done"


def test_a_process_that_dies_ends_the_activation_only(
    client: AppClient, models: Path, gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(models, 2, 2)
    real = InProcess.embed

    def die(*_: Any) -> None:
        raise ReembedError("the process that embeds pictures has ended (exit code -9)")

    monkeypatch.setattr(InProcess, "embed", die)
    refused = activate(client, "0001")
    assert refused["outcome"] == "refused" and "exit code -9" in refused["error"]
    check_old_model_answers(client)
    assert gallery.models().pending is None
    monkeypatch.setattr(InProcess, "embed", real)
    assert activate(client, "0001")["outcome"] == "done"


def test_an_error_that_nobody_expected_is_in_the_log(
    client: AppClient, models: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    publish(models, 2, 2)

    def broken(*_: Any) -> None:
        raise RuntimeError("hunter2")

    monkeypatch.setattr(InProcess, "embed", broken)
    failed = activate(client, "0001")
    assert failed["outcome"] == "failed" and "hunter2" not in failed["error"]
    assert "hunter2" in caplog.text
    check_old_model_answers(client)


def test_what_was_interrupted_and_is_gone_is_dropped(
    make_client: MakeClient, models: Path, gallery: Gallery
) -> None:
    version = publish(models, 2, 2)
    known = replace(gallery.models().active, image_fingerprint=DummyEncoder.image_fingerprint)
    gallery.switch_to(ref_of(version, gallery.path), current=known)
    (version.folder / "model.safetensors").unlink()
    client = make_client()
    refused = settled(client)
    assert (refused["outcome"], refused["resumed"]) == ("refused", True)
    assert "is not in" in refused["error"]
    check_old_model_answers(client)


def test_dimensions_must_agree(client: AppClient, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(models, 0, 1)

    def load_wide(weights: str) -> Any:
        encoder = load(weights)
        encoder.dim = 14
        return encoder

    monkeypatch.setitem(vars(cnclip), "load", load_wide)
    assert "vectors of 14 numbers, the gallery has 13" in activate(client, "0001")["error"]
    check_old_model_answers(client)
