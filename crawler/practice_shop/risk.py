"""When the shop has had enough of a visitor: after so many searches, or when they come too close together."""

from __future__ import annotations

from dataclasses import dataclass

from crawler.practice_shop.settings import RiskKind, ShopSettings


@dataclass
class RiskGuard:
    """Counts searches; once `blocked` is set it stays until a human solves it or the shop is reset."""

    blocked: RiskKind | None = None
    _searches: int = 0
    _last: float | None = None

    def note_search(self, settings: ShopSettings, now: float) -> None:
        """A search came at `now` (monotonic seconds); sets `blocked` if it was one too many or too soon."""
        self._searches += 1
        too_many = settings.risk_after is not None and self._searches > settings.risk_after
        too_soon = self._last is not None and now - self._last < settings.risk_gap_s
        self._last = now
        if self.blocked is None and (too_many or too_soon):
            self.blocked = settings.risk_kind

    def solve(self) -> None:
        """A human passed the check: the counting begins anew."""
        self.blocked, self._searches, self._last = None, 0, None
