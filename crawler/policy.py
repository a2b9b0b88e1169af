"""When the next request may go out, and when none may: pace, circuit breaker, cool-down.

A pause begins when the request before it has ended, so a slow site is asked even less often. What must
outlive a run (the last search, a block) is in one small file per site and account.
"""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cache.files import write_durably
from crawler.clock import Clock
from crawler.errors import BlockedError, CrawlError, SettingsError
from crawler.profile import Pace
from crawler.types import PageState

LATEST = 1e11  # seconds since 1970, the year 5138: what is later is no time
FORGIVEN_AFTER = 20  # good searches after which the next block counts as a first one again
_NUMBERS = ("last_search", "blocked_until", "cooldown_s", "good_since")
_ADVICE = {
    PageState.CAPTCHA: "the site asks whether you are human; open it in your own browser and answer there",
    PageState.THROTTLED: "the site says there are too many requests",
    PageState.DENIED: "the site refuses this network (usual for servers and proxies); crawl on a desktop at "
    "home and move the pictures with: cnclip cache export",
    PageState.IDENTITY_CHECK: "the site wants to check who you are; log in with your own browser and answer",
}


@dataclass
class SiteState:
    """What is remembered about a site between runs. Times in seconds since 1970.

    blocked_by: a blocking PageState, or "" while searching is allowed. cooldown_s: of the last block, doubled
    by the next one. good_since: searches that went well since then.
    """

    last_search: float = 0.0
    blocked_by: str = ""
    blocked_until: float = 0.0
    cooldown_s: float = 0.0
    good_since: float = 0.0


class Policy:
    """Decides for one site and account; used by one crawl at a time.

    Args:
        path: the file that remembers.
        pace: of the profile, slowed down by the user's flags.
        resume: whether the user has looked at a block and wants to go on.
    """

    def __init__(
        self, path: Path, pace: Pace, clock: Clock, rng: random.Random, *, resume: bool = False
    ) -> None:
        self.path, self.pace = path, pace
        self._clock, self._rng, self._resume = clock, rng, resume
        self._state = read_state(path)
        self._last_search = self._last_picture = -1e9  # monotonic
        self._failures = 0

    def check(self, *, login: bool = False) -> None:
        """Raise BlockedError while cooling down, and after that until the user says `resume`.

        login: it is for a human's login, which is the cure where the site asked a question.
        """
        state = self._state
        if not state.blocked_by:
            return
        reason = PageState(state.blocked_by)
        if login and reason in (PageState.CAPTCHA, PageState.IDENTITY_CHECK):
            return
        left = state.blocked_until - self._clock.now()
        if left > 0:
            until = datetime.fromtimestamp(state.blocked_until).strftime("%Y-%m-%d %H:%M")
            raise BlockedError(
                f"stopped by {reason.value}: {_ADVICE[reason]}; no requests before {until} "
                f"({max(1, round(left / 60))} min), then run again with --resume"
            )
        if not self._resume:
            raise BlockedError(
                f"stopped by {reason.value} earlier: {_ADVICE[reason]}; "
                "the pause is over, go on with --resume"
            )
        state.blocked_by = ""
        self._save()

    def wait_for_search(self) -> None:
        """Return when the next search may go out. Raises BlockedError."""
        self.check()
        gap = self.pace.gap_s + self._rng.uniform(0, self.pace.jitter_s)
        elapsed = self._clock.monotonic() - self._last_search
        since_last_run = self._clock.now() - self._state.last_search
        if since_last_run >= 0:  # a clock that was set back must not make us wait for years
            elapsed = min(elapsed, since_last_run)
        if elapsed < gap:
            self._clock.sleep(gap - elapsed)

    def searched(self) -> None:
        """A search has ended, however."""
        self._last_search = self._clock.monotonic()
        self._state.last_search = self._clock.now()
        self._save()

    def wait_for_picture(self) -> None:
        """Return when the next picture may be fetched."""
        left = self._last_picture + self.pace.picture_gap_s - self._clock.monotonic()
        if left > 0:
            self._clock.sleep(left)

    def fetched(self) -> None:
        """A picture has been fetched, or refused."""
        self._last_picture = self._clock.monotonic()

    def wait_for_retry(self, attempt: int) -> None:
        """Back off after failed attempt `attempt` (from 0): retry_s * 3^attempt and up to as much jitter."""
        self._clock.sleep(self.pace.retry_s * 3**attempt + self._rng.uniform(0, self.pace.retry_s))

    def succeeded(self) -> None:
        """The site answered a search as it should."""
        self._failures = 0
        self._state.good_since += 1
        if self._state.good_since >= FORGIVEN_AFTER:
            self._state.cooldown_s = 0

    def failed(self, detail: str) -> None:
        """A query could not be answered. Raises CrawlError when that happens too often in a row."""
        self._failures += 1
        if self._failures >= self.pace.breaker:
            raise CrawlError(
                f"{self._failures} queries in a row failed (last: {detail}); stopped, run again later"
            )

    def blocked(self, state: PageState) -> BlockedError:
        """Remember that the site said no, for twice as long as the last time; the error to raise."""
        pace = self.pace
        cooldown = min(max(self._state.cooldown_s * 2, pace.cooldown_s), pace.max_cooldown_s)
        self._state.blocked_by, self._state.cooldown_s = state.value, cooldown
        self._state.blocked_until = self._clock.now() + cooldown
        self._state.good_since = 0
        self._save()
        return BlockedError(
            f"stopped: {_ADVICE[state]}. Nothing more is asked for {max(1, round(cooldown / 60))} min; "
            "then go on with --resume"
        )

    @contextlib.contextmanager
    def remembering_blocks(self) -> Iterator[None]:
        """A block that is met inside counts. Raises BlockedError."""
        try:
            yield
        except BlockedError as error:
            if error.state is None:
                raise
            raise self.blocked(error.state) from None

    def answered(self) -> None:
        """A human answered the question that the site had: go on."""
        self._state.blocked_by = ""
        self._save()

    def _save(self) -> None:
        write_durably(self.path, json.dumps(vars(self._state), indent=1).encode())


def read_state(path: Path) -> SiteState:
    """What is remembered, or a fresh state. Raises SettingsError if the file is damaged: it may say stop."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        state = SiteState(**content)
        if state.blocked_by and not PageState(state.blocked_by).blocked:
            raise ValueError(f"blocked_by {state.blocked_by!r}")
        for name in _NUMBERS:
            number = float(getattr(state, name))
            if not 0 <= number < LATEST:
                raise ValueError(f"{name} {number}")
            setattr(state, name, number)
    except FileNotFoundError:
        return SiteState()
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise SettingsError(
            f"{path}: cannot be read ({error}); remove it if no block is to be kept"
        ) from None
    return state
