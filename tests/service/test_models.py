"""`/v1/models`: versions are listed, one is activated, a rollback goes back."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import cnclip
from cnclip.online.versions import Version
from service import activation
from service.app import create_app
from service.gallery import Gallery, find_model
from service.gallery import switching as gallery_switching
from service.settings import ServiceSettings
from tests.service.conftest import MakeClient
from tests.service.dummy import AppClient, DummyEncoder, error_of, picture
from tests.service.dummy_models import (
    COLORS,
    InProcess,
    activate,
    answer_of,
    first_color,
    load,
    models_of,
    publish,
    settled,
)
from tests.service.test_items import path_of

Publish = Callable[..., Version]


@pytest.fixture(autouse=True)
def dummies(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """`cnclip.load` gives dummies, and the process that embeds is this one."""
    monkeypatch.setitem(vars(cnclip), "load", load)
    monkeypatch.setattr(activation, "EmbeddingProcess", InProcess)
    monkeypatch.setattr(InProcess, "asked", [])
    monkeypatch.setattr(gallery_switching, "PAGE", 5)
    yield


@pytest.fixture
def versions(gallery_path: Path) -> Publish:
    return lambda *args, **kwargs: publish(gallery_path / "models", *args, **kwargs)


@pytest.fixture
def client(make_client: MakeClient) -> AppClient:
    return make_client(canary_margin=1)


def answers(client: AppClient) -> tuple[str, str]:
    """The colours that are found for each colour, and the model that says so."""
    bodies = [client.search(f"{color}色", top_k=4).json() for color in COLORS]
    names = {body["model"]["name"] for body in bodies}
    for body in bodies:
        assert {result["id"][0] for result in body["results"]} == {first_color(body)}
    assert len(names) == 1
    return "".join(map(first_color, bodies)), names.pop()


def turned(image: int, text: int) -> str:
    return "".join(answer_of(color, image, text) for color in COLORS)


def test_nothing_to_choose_from(client: AppClient) -> None:
    dummy = {"name": "dummy", "fingerprint": DummyEncoder.fingerprint}
    assert models_of(client) == {
        "active": dummy,
        "base": dummy,
        "previous": None,
        "versions": [],
        "activation": None,
    }


def test_versions_are_listed_with_what_they_are(client: AppClient, versions: Publish) -> None:
    first = versions(1, 2)
    versions(1, 5, parent=first)
    listed = models_of(client)["versions"]
    assert [one["version"] for one in listed] == ["0001", "0002"]
    assert listed[1] == {
        "name": "dummy",
        "version": "0002",
        "fingerprint": listed[1]["fingerprint"],
        "parent": {"version": "0001", "fingerprint": first.fingerprint},
        "created": "2026-01-02T03:04:05+00:00",
        "changed": "text",
        "summary": {"mAP": 0.51},
        "active": False,
    }


def test_a_version_is_activated(client: AppClient, versions: Publish, gallery: Gallery) -> None:
    version = versions(1, 2)
    assert answers(client) == (turned(0, 0), "dummy")
    done = activate(client, "0001")
    assert (done["outcome"], done["kind"], done["model"]) == ("done", "activate", "dummy/0001")
    assert (done["done"], done["total"], done["error"], done["resumed"]) == (32, 32, None, False)
    assert answers(client) == (turned(1, 2), "dummy/0001")
    body = models_of(client)
    assert body["active"] == {"name": "dummy/0001", "fingerprint": version.fingerprint}
    assert body["base"] == body["previous"] == {"name": "dummy", "fingerprint": DummyEncoder.fingerprint}
    assert [one["active"] for one in body["versions"]] == [True]
    assert sum(len(page) for page in InProcess.asked) == 32
    assert client.get("/readyz").json()["model"] == body["active"]
    assert gallery.manifest.model_version == "dummy/0001"
    by_item = client.post("/v1/search", {"item_id": "红/circle", "top_k": 3}).json()
    assert first_color(by_item) == "红" and by_item["model"]["name"] == "dummy/0001"
    by_image = client.post("/v1/search/image", files={"file": picture("蓝")}).json()
    assert first_color(by_image) == "蓝" and by_image["model"]["name"] == "dummy/0001"
    again = client.post("/v1/models:activate", {"version": "dummy/0001"})
    assert again.status_code == 200 and again.json()["activation"]["outcome"] == "done"


def test_embeddings_know_the_model_by_all_its_names(client: AppClient, versions: Publish) -> None:
    version = versions(1, 2)
    activate(client, "0001")
    for name in ("dummy", "dummy/0001", version.fingerprint, None):
        body = client.post("/v1/embeddings", {"input": "红", "model": name}).json()
        assert body["model"] == "dummy/0001"
    gone = client.post("/v1/embeddings", {"input": "红", "model": DummyEncoder.fingerprint})
    assert error_of(gone) == (404, "model_not_found")


def test_another_text_tower_embeds_no_picture(client: AppClient, versions: Publish) -> None:
    versions(0, 3)
    done = activate(client, "0001")
    assert (done["outcome"], done["done"], done["total"]) == ("done", 0, 0)
    assert InProcess.asked == []
    assert answers(client) == (turned(0, 3), "dummy/0001")


def test_rollbacks_go_back_one_by_one(client: AppClient, versions: Publish) -> None:
    for image, text in ((1, 2), (2, 4), (2, 5)):
        versions(image, text)
        assert activate(client, f"{len(models_of(client)['versions']):04d}")["outcome"] == "done"
    assert answers(client) == (turned(2, 5), "dummy/0003")
    InProcess.asked.clear()
    for expected, name, embedded in (
        (turned(2, 4), "dummy/0002", 0),  # only the text tower was another one
        (turned(1, 2), "dummy/0001", 0),  # its vectors were kept
        (turned(0, 0), "dummy", 32),
    ):
        InProcess.asked.clear()
        response = client.post("/v1/models:rollback")
        assert response.status_code == 202 and response.json()["activation"]["kind"] == "rollback"
        assert settled(client)["outcome"] == "done"
        assert answers(client) == (expected, name)
        assert sum(len(page) for page in InProcess.asked) == embedded
    assert error_of(client.post("/v1/models:rollback")) == (409, "no_previous_model")


def test_the_base_can_be_asked_for(client: AppClient, versions: Publish) -> None:
    versions(1, 2)
    versions(2, 4)
    activate(client, "0001")
    activate(client, "0002")
    assert activate(client, "base")["model"] == "dummy"
    assert answers(client) == (turned(0, 0), "dummy")
    assert client.post("/v1/models:rollback").status_code == 202
    settled(client)
    assert answers(client) == (turned(2, 4), "dummy/0002"), "what was before, not what is older"


def test_several_lines_of_models(client: AppClient, versions: Publish) -> None:
    versions(1, 2, name="a")
    versions(2, 4, name="b")
    ambiguous = client.post("/v1/models:activate", {"version": "0001"})
    assert error_of(ambiguous) == (409, "ambiguous_version")
    assert "a/0001, b/0001" in ambiguous.json()["error"]["message"]
    assert activate(client, "b/0001")["outcome"] == "done"
    assert answers(client)[1] == "b/0001"
    named = client.post("/v1/models:activate", {"version": "0001", "name": "a"})
    assert named.status_code == 202 and settled(client)["outcome"] == "done"
    assert answers(client)[1] == "a/0001"
    versions(3, 6, name="b")
    assert activate(client, "0002")["model"] == "b/0002", "there is one only"


def test_a_folder_of_versions_elsewhere(make_client: MakeClient, tmp_path: Path, gallery: Gallery) -> None:
    version = publish(tmp_path / "elsewhere", 1, 2)
    client = make_client(models=tmp_path / "elsewhere", canary_margin=1)
    assert activate(client, "0001")["outcome"] == "done"
    active = gallery.models().active
    assert active.model == str(version.weights)
    assert find_model(gallery.path, active) == str(version.weights)


def metrics_of(client: AppClient) -> dict[str, float]:
    lines = client.get("/metrics").text.splitlines()
    return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines if line[0] != "#"}


def test_progress_and_metrics(
    client: AppClient, versions: Publish, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    version = versions(1, 2)
    monkeypatch.setattr(InProcess, "hold", 3)
    client.post("/v1/models:activate", {"version": "0001"})
    while (running := models_of(client)["activation"])["done"] < 15:
        assert running["outcome"] == "running"
    assert (running["step"], running["done"], running["total"]) == ("embedding", 15, 32)
    samples = metrics_of(client)
    assert samples['cnclip_activation_items{state="done"}'] == 15
    assert samples['cnclip_activation_items{state="total"}'] == 32
    assert samples[f'cnclip_model_info{{fingerprint="{DummyEncoder.fingerprint}",model="dummy"}}'] == 1
    other = client.post("/v1/models:activate", {"version": "0001"})
    assert error_of(other) == (409, "activation_running")
    assert error_of(client.post("/v1/models:rollback")) == (409, "no_previous_model")
    assert client.post("/v1/models:cancel").status_code == 202
    assert settled(client)["outcome"] == "cancelled"
    assert error_of(client.post("/v1/models:cancel")) == (409, "no_activation")
    assert answers(client) == (turned(0, 0), "dummy")
    monkeypatch.setattr(InProcess, "hold", None)
    InProcess.asked.clear()
    assert activate(client, "0001")["outcome"] == "done"
    assert sum(len(page) for page in InProcess.asked) == 32, "what was cancelled is forgotten"
    samples = metrics_of(client)
    assert samples['cnclip_activations_total{outcome="cancelled"}'] == 1
    assert samples['cnclip_activations_total{outcome="done"}'] == 1
    infos = [key for key in samples if key.startswith("cnclip_model_info")]
    assert infos == [f'cnclip_model_info{{fingerprint="{version.fingerprint}",model="dummy/0001"}}']
    assert re.search(r"dummy/0001: done after [\d.]+ s", caplog.text) or caplog.text == ""


def test_what_is_stopped_in_the_middle_goes_on_at_the_next_start(
    make_client: MakeClient,
    versions: Publish,
    gallery: Gallery,
    encoder: DummyEncoder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    versions(1, 2)
    monkeypatch.setattr(InProcess, "hold", 2)
    settings = ServiceSettings(gallery=gallery.path, canary_margin=1)
    with AppClient(create_app(settings, encoder, gallery)) as first:
        first.post("/v1/models:activate", {"version": "0001"})
        while models_of(first)["activation"]["done"] < 10:
            continue
    assert gallery.models().pending is not None
    monkeypatch.setattr(InProcess, "hold", None)
    InProcess.asked.clear()
    second = make_client(canary_margin=1)
    done = settled(second)
    assert (done["outcome"], done["resumed"]) == ("done", True)
    assert sum(len(page) for page in InProcess.asked) == 22
    assert answers(second) == (turned(1, 2), "dummy/0001")


def test_items_written_meanwhile_are_there_and_of_the_new_model(
    client: AppClient, versions: Publish, gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions(1, 2)
    monkeypatch.setattr(InProcess, "hold", 3)
    client.post("/v1/models:activate", {"version": "0001"})
    while models_of(client)["activation"]["done"] < 15:
        continue
    new = {"file": picture("紫", "square", 200)}
    assert client.request("PUT", path_of("新/one"), files=new, data={"title": "新品"}).status_code == 201
    moved = {"file": picture("黑", "circle")}
    assert client.request("PUT", path_of("红/circle"), files=moved).status_code == 200
    assert client.request("DELETE", path_of("橙/circle")).status_code == 204
    monkeypatch.setattr(InProcess, "hold", None)
    assert settled(client)["outcome"] == "done"

    def ids(text: str) -> set[str]:
        body: dict[str, Any] = client.search(text, top_k=5, min_relevance=0.5).json()
        return {result["id"] for result in body["results"]}

    asked = {answer_of(color, 1, 2): color for color in COLORS}
    assert "新/one" in ids(asked["紫"])
    assert "红/circle" in ids(asked["黑"]) and "红/circle" not in ids(asked["红"])
    assert len(gallery) == 32 and gallery.get("橙/circle") is None
