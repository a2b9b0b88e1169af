"""What the worker asks a running service, and what it makes of the answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from run_scripts.online_service import ModelService, ServiceError

Answer = Callable[[httpx.Request], httpx.Response]
BASE, FIRST = {"name": "lite", "fingerprint": "b" * 8}, {"name": "lite/0001", "fingerprint": "f" * 8}


def models(active: dict[str, str], activation: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    return {
        "active": active,
        "base": BASE,
        "previous": None,
        "versions": [],
        "activation": activation,
        **more,
    }


class Played:
    """A service that gives these answers, in order."""

    def __init__(self, *answers: tuple[int, Any]) -> None:
        self.answers, self.asked, self.slept = list(answers), [], 0.0  # type: ignore[var-annotated]

    def __call__(self, request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content) if request.content else None
        self.asked.append((request.method, request.url.path, body, request.headers.get("Authorization")))
        status, content = self.answers.pop(0)
        return (
            httpx.Response(status, json=content)
            if not isinstance(content, str)
            else httpx.Response(status, text=content)
        )

    def sleep(self, seconds: float) -> None:
        self.slept += seconds

    def service(self, key: str | None = None) -> ModelService:
        client = httpx.Client(transport=httpx.MockTransport(self))
        return ModelService("http://shop.example/", key, client=client, sleep=self.sleep)


def running(step: str = "embedding", **more: Any) -> dict[str, Any]:
    return {"model": "lite/0001", "outcome": "running", "step": step, "error": None, "canary": None, **more}


def test_which_model_answers() -> None:
    played = Played((200, models(FIRST)), (200, models(FIRST)), (200, models(FIRST, previous=BASE)))
    service = played.service("secret key")
    assert service.active() == ("lite/0001", "f" * 8) and service.base() == ("lite", "b" * 8)
    assert service.in_use() == {"lite/0001", "lite"}
    assert played.asked == [("GET", "/v1/models", None, "Bearer secret key")] * 3
    service.close()


def test_an_activation_is_followed_to_its_end() -> None:
    done = running(outcome="done", canary="97 of 100 titles")
    played = Played(
        (202, models(BASE, running())), (200, models(BASE, running())), (200, models(FIRST, done))
    )
    assert played.service().activate("lite/0001", 60) == "97 of 100 titles"
    assert played.asked[0] == ("POST", "/v1/models:activate", {"version": "lite/0001"}, None)
    assert played.slept == 2


def test_what_is_active_needs_no_activation() -> None:
    other = running(model="lite/0000", outcome="done")
    for activation in (None, other):
        assert Played((200, models(FIRST, activation))).service().activate("lite/0001", 60) == ""


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ([(202, models(BASE, running(outcome="refused", error="finds less")))], "refused: finds less"),
        ([(409, {"error": {"code": "x", "message": "one at a time"}})], "one at a time"),
        ([(404, {})], "404"),
        ([(200, models(BASE, None))], "the service does another activation"),
        ([(200, "<html>")], "cannot be asked"),
        ([(200, ["list"])], "not the answer of a cnclip service"),
        ([(200, {"activation": None})], "is that a cnclip service"),
        ([(202, models(BASE, running()))] * 2, "not active after 0 s"),
    ],
)
def test_a_service_that_says_no(answers: list[tuple[int, Any]], words: str) -> None:
    with pytest.raises(ServiceError, match=words) as caught:
        Played(*answers).service().activate("lite/0001", 0)
    assert "\n" not in str(caught.value)


def test_a_service_that_is_not_there() -> None:
    service = ModelService("http://127.0.0.1:1")
    with pytest.raises(ServiceError, match=r"http://127.0.0.1:1: cannot be asked"):
        service.active()
    service.close()
    broken = ModelService("no address")
    with pytest.raises(ServiceError, match="no address: cannot be asked"):
        broken.active()
    broken.close()
