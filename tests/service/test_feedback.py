"""`POST /v1/feedback` and the query log."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from service.gallery import Gallery
from service.journal import Journal, JournalError
from service.query_log import QueryLog
from tests.service.conftest import MakeClient
from tests.service.dummy import AppClient, DummyEncoder, error_of

GOOD: dict[str, Any] = {"query": " 红色的圆 ", "item_id": "红/circle", "relevant": True}


@pytest.fixture
def journal(gallery_path: Path) -> Journal:
    """As another process reads it."""
    return Journal(gallery_path / "journal.sqlite")


def test_feedback_is_stored_with_what_it_was_about(
    client: AppClient, journal: Journal, gallery: Gallery
) -> None:
    before = time.time()
    first = client.post("/v1/feedback", GOOD)
    assert (first.status_code, first.json()) == (201, {"id": 1})
    assert client.post("/v1/feedback", {**GOOD, "relevant": False}).json() == {"id": 2}
    yes, no = journal.feedback()
    row = gallery.get("红/circle")
    assert row is not None and row.image_sha256 is not None
    assert (yes.id, yes.query, yes.item_id, yes.relevant) == (1, "红色的圆", "红/circle", True)
    assert (yes.image_sha256, yes.fingerprint) == (row.image_sha256, DummyEncoder.fingerprint)
    assert before <= yes.time <= no.time <= time.time()
    assert no.relevant is False
    assert [feedback.id for feedback in journal.feedback(since=1)] == [2]
    samples = client.get("/metrics").text
    assert 'cnclip_feedback_total{relevant="true"} 1.0' in samples
    assert 'cnclip_feedback_total{relevant="false"} 1.0' in samples


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"item_id": "nobody"}, (404, "not_found")),
        ({"item_id": ""}, (422, "invalid_request")),
        ({"item_id": "x" * 513}, (422, "invalid_request")),
        ({"query": "  "}, (422, "invalid_request")),
        ({"query": "红" * 513}, (422, "text_too_long")),
        ({"query": None}, (422, "invalid_request")),
        ({"relevant": "yes"}, (422, "invalid_request")),
        ({"relevant": 1}, (422, "invalid_request")),
        ({"relevant": None}, (422, "invalid_request")),
        ({"stars": 5}, (422, "invalid_request")),
    ],
)
def test_bad_feedback(
    client: AppClient, journal: Journal, change: dict[str, Any], expected: tuple[int, str]
) -> None:
    body = {name: value for name, value in {**GOOD, **change}.items() if value is not None}
    assert error_of(client.post("/v1/feedback", body)) == expected
    assert list(journal.feedback()) == []


def test_who_may_not_write_may_not_say(make_client: MakeClient, journal: Journal) -> None:
    outside = make_client(host="0.0.0.0")
    assert error_of(outside.post("/v1/feedback", GOOD)) == (403, "api_key_required")
    assert outside.get("/readyz").json()["feedback"] is False
    local = make_client("http://localhost:8000")
    assert local.get("/readyz").json()["feedback"] is True
    foreign = local.post("/v1/feedback", GOOD, headers={"Origin": "http://evil.example"})
    assert error_of(foreign) == (403, "api_key_required")
    keyed = make_client(host="0.0.0.0", api_key="a long key")
    assert error_of(keyed.post("/v1/feedback", GOOD)) == (401, "unauthorized")
    assert keyed.post("/v1/feedback", GOOD, headers={"X-API-Key": "a long key"}).status_code == 201
    assert len(list(journal.feedback())) == 1


def test_a_read_only_gallery_needs_a_file_elsewhere(
    make_client: MakeClient, journal: Journal, tmp_path: Path
) -> None:
    without = make_client(read_only=True, query_log=True)
    refused = without.post("/v1/feedback", GOOD)
    assert error_of(refused) == (403, "read_only")
    assert "--journal FILE" in refused.json()["error"]["message"]
    assert without.get("/readyz").json()["feedback"] is False
    assert without.search("红").status_code == 200
    elsewhere = make_client(read_only=True, journal=tmp_path / "notes.sqlite")
    assert elsewhere.get("/readyz").json()["feedback"] is True
    assert elsewhere.post("/v1/feedback", GOOD).status_code == 201
    assert [one.query for one in Journal(tmp_path / "notes.sqlite").feedback()] == ["红色的圆"]
    assert not journal.path.exists()


def flush(client: AppClient) -> None:
    log: QueryLog = client.app.state.service.searcher._query_log
    log.flush()


def test_searches_are_noted_if_that_is_wanted(make_client: MakeClient, journal: Journal) -> None:
    client = make_client(query_log=True)
    before = time.time()
    client.search("红色", top_k=3)
    client.get("/v1/search", params={"q": "蓝色", "k": 2, "mode": "keyword"})
    client.search("红色", top_k=3, min_relevance=2.0)
    client.post("/v1/search", {"item_id": "红/circle"})  # no text
    client.search("")  # refused
    client.search("x" * 600)
    flush(client)
    noted = list(journal.queries())
    assert [(one.text, one.results) for one in noted] == [("红色", 3), ("蓝色", 2), ("红色", 0)]
    assert [one.id for one in noted] == [1, 2, 3]
    assert {one.fingerprint for one in noted} == {DummyEncoder.fingerprint}
    assert before <= noted[0].time <= noted[2].time <= time.time()
    assert journal.recent_queries(5) == ["红色", "蓝色"]
    assert journal.recent_queries(1) == ["红色"]


def test_searches_are_not_noted_otherwise(client: AppClient, journal: Journal) -> None:
    client.search("秘密")
    assert list(journal.queries()) == [] and "秘密".encode() not in journal.path.read_bytes()


def test_the_query_log_is_bounded_and_its_ids_go_on(make_client: MakeClient, journal: Journal) -> None:
    client = make_client(query_log=True, query_log_size=3)
    for i in range(5):
        client.search(f"查询{i}")
    flush(client)
    assert [(one.id, one.text) for one in journal.queries()] == [(3, "查询2"), (4, "查询3"), (5, "查询4")]
    for i in range(5, 9):
        client.search(f"查询{i}")
        flush(client)
    assert [one.id for one in journal.queries(since=5)] == [7, 8, 9]


def test_what_was_noted_is_written_at_the_end(
    gallery: Gallery, encoder: DummyEncoder, journal: Journal
) -> None:
    from service.app import create_app
    from service.settings import ServiceSettings

    with AppClient(
        create_app(ServiceSettings(gallery=gallery.path, query_log=True), encoder, gallery)
    ) as client:
        client.search("最后")
    assert [one.text for one in journal.queries()] == ["最后"]


def test_a_journal_that_refuses_costs_no_search(
    make_client: MakeClient,
    journal: Journal,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    client = make_client(query_log=True)
    real = Journal.add_queries

    def full(*_: Any) -> None:
        raise JournalError("journal.sqlite: database or disk is full")

    monkeypatch.setattr(Journal, "add_queries", full)
    for i in range(3):
        assert client.search(f"红{i}").status_code == 200
        flush(client)
    assert caplog.text.count("disk is full") == 1
    monkeypatch.setattr(Journal, "add_queries", real)
    flush(client)
    assert [one.text for one in journal.queries()] == ["红0", "红1", "红2"], "kept until then"


def test_more_searches_than_the_disk_takes_are_dropped_and_counted(
    make_client: MakeClient, monkeypatch: pytest.MonkeyPatch, journal: Journal
) -> None:
    monkeypatch.setattr("service.query_log.MAX_WAITING", 2)
    monkeypatch.setattr("service.query_log.INTERVAL_S", 3600.0)
    client = make_client(query_log=True)
    for i in range(5):
        assert client.search(f"红{i}").status_code == 200
    flush(client)
    assert [one.text for one in journal.queries()] == ["红0", "红1"]
    assert "cnclip_query_log_dropped_total 3.0" in client.get("/metrics").text


def test_a_disk_that_refuses_feedback_is_an_error(client: AppClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> int:
        raise JournalError("/srv/secret/journal.sqlite: database or disk is full")

    monkeypatch.setattr(Journal, "add_feedback", full)
    response = client.post("/v1/feedback", GOOD)
    assert error_of(response) == (500, "journal_error")
    assert "/srv" not in response.text


def test_an_activation_asks_what_was_searched_for(make_client: MakeClient) -> None:
    client = make_client(query_log=True)
    client.search("最近搜过")
    flush(client)
    models = client.app.state.service.models
    assert list(models._recent()) == ["最近搜过"]
