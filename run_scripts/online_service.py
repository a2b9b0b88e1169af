"""A running service, as the online worker uses it: which model answers there, and activating another one."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import httpx

from cnclip.errors import InputError

TIMEOUT_S = 30.0
POLL_S = 1.0


class ServiceError(InputError):
    """The service cannot be asked, or says no. The message names it and says why."""


class ModelService:
    """The routes /v1/models of the service at `url`.

    Args:
        sleep: waits between two questions.
    """

    def __init__(
        self,
        url: str,
        api_key: str | None = None,
        *,
        client: httpx.Client | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.url = url.rstrip("/")
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._client = client or httpx.Client(timeout=TIMEOUT_S, trust_env=False)
        self._client.headers.update(headers)
        self._sleep = sleep

    def close(self) -> None:
        self._client.close()

    def active(self) -> tuple[str, str]:
        """(label, fingerprint) of the model that answers there. Raises ServiceError."""
        return _named(self._ask("GET", "/v1/models"), "active")

    def base(self) -> tuple[str, str]:
        """The same of the model that its gallery was made with."""
        return _named(self._ask("GET", "/v1/models"), "base")

    def in_use(self) -> set[str]:
        """Labels of the models it answers with, and could go back to."""
        content = self._ask("GET", "/v1/models")
        found = [content.get(name) for name in ("active", "base", "previous")]
        return {str(one["name"]) for one in found if isinstance(one, dict) and "name" in one}

    def activate(self, label: str, timeout_s: float) -> str:
        """Make the version `label` ("lite/0003") the one that answers; returns what the service found when it
        checked it.

        Raises: ServiceError: refused, failed, or not done within `timeout_s` seconds (it may be done later).
        """
        content = self._ask("POST", "/v1/models:activate", {"version": label})
        deadline = time.monotonic() + timeout_s
        while True:
            state = content.get("activation")
            if not isinstance(state, dict) or state.get("model") != label:
                return self._as_it_was(content, label)
            if state.get("outcome") == "done":
                return str(state.get("canary") or "")
            if state.get("outcome") != "running":
                raise ServiceError(f"{self.url}: {label}: {state.get('outcome')}: {state.get('error')}")
            if time.monotonic() >= deadline:
                raise ServiceError(f"{self.url}: {label}: not active after {timeout_s:.0f} s")
            self._sleep(POLL_S)
            content = self._ask("GET", "/v1/models")

    def _as_it_was(self, content: dict[str, Any], label: str) -> str:
        """Nothing runs: it is active already, or never was."""
        if _named(content, "active")[0] == label:
            return ""
        raise ServiceError(f"{self.url}: {label}: the service does another activation")

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        try:
            answer = self._client.request(method, f"{self.url}{path}", json=body)
            content = answer.json()
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ServiceError(f"{self.url}: cannot be asked ({reason})") from error
        if not isinstance(content, dict):
            raise ServiceError(f"{self.url}: {method} {path}: not the answer of a cnclip service")
        if answer.is_error:
            error_body = content.get("error")
            said = error_body.get("message") if isinstance(error_body, dict) else None
            raise ServiceError(f"{self.url}: {method} {path}: {said or answer.status_code}")
        return content


def _named(content: dict[str, Any], name: str) -> tuple[str, str]:
    found = content.get(name)
    if not isinstance(found, dict) or not {"name", "fingerprint"} <= found.keys():
        raise ServiceError(f"the answer of /v1/models has no {name} model: is that a cnclip service?")
    return str(found["name"]), str(found["fingerprint"])
