"""Moments of an activation at which a server kills itself, as `kill -9` would."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

from service import activation, models
from service.gallery import gallery, switching
from service.gallery.switching import Switch

POINTS = ("begun", "staging", "checking", "exchanging", "committed", "installing", "cleaning")


def die(*_: Any, **__: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _at_call(number: int, real: Callable[..., Any]) -> Callable[..., Any]:
    """`real`, which kills at its call number `number`."""
    calls = 0

    def counting(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number:
            die()
        return real(*args, **kwargs)

    return counting


def prepare(point: str) -> None:
    """Die at `point`, or live if that is empty. Pictures are embedded a few at a time."""
    switching.PAGE = 4
    targets: dict[str, tuple[Any, str, int]] = {
        "begun": (Switch, "without_picture", 1),
        "staging": (Switch, "stage", 3),
        "checking": (activation.Activation, "_check", 1),
        "exchanging": (switching, "write_state", 2),  # the first is of the beginning
        "committed": (gallery, "write_manifest", 1),
        "installing": (models.Models, "_install", 1),
        "cleaning": (switching, "drop_sets", 1),
    }
    if point:
        owner, name, number = targets[point]
        setattr(owner, name, _at_call(number, getattr(owner, name)))
