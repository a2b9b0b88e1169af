"""Command lines that forgive: underscores for dashes, and the nearest flag named where one is unknown."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """ " (did you mean X?)", or nothing where no known word is near."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.7)
    return f" (did you mean {near[0]}?)" if near else ""


class FlagParser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are one line and exit with 2.

    `--batch_size` works where the flag is `--batch-size`. Also for `parser_class` of `add_subparsers`: an
    unknown flag is then reported by the command it was given to.
    """

    def parse_known_args(  # type: ignore[override]  # the overloads of the stub say the same
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        """As the base class, but nothing is left over: what is unknown ends the program."""
        given = sys.argv[1:] if args is None else args
        parsed, unknown = super().parse_known_args([self._with_dashes(word) for word in given], namespace)
        if unknown:
            flag = next((word for word in unknown if word.startswith("-")), unknown[0]).partition("=")[0]
            if not flag.startswith("-"):
                self.error(f"unexpected argument: {flag}")
            shown = [name for action in self._actions for name in _shown(action)]
            self.error(f"no such flag: {flag}{did_you_mean(flag, shown)}")
        return parsed, []

    def error(self, message: str) -> NoReturn:
        """One line instead of the whole usage."""
        self.exit(2, f"{self.prog}: error: {message}\n")

    def _with_dashes(self, word: str) -> str:
        flag, equals, value = word.partition("=")
        if not flag.startswith("--") or flag in self._option_string_actions:
            return word
        dashed = flag.replace("_", "-")
        return dashed + equals + value if dashed in self._option_string_actions else word


def _shown(action: argparse.Action) -> Sequence[str]:
    return () if action.help == argparse.SUPPRESS else action.option_strings
