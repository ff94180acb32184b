"""The request budget of one site: at most 200 requests in any minute, and pauses kept together.

Everybody in this process who asks for a site shares one budget. Turns are handed out in the order
they are asked for, as points in time, so that no lock is held while somebody waits and threads and
event loops may mix.

Source of the figure: Wix, "Rate limits" (200 requests a minute for one app instance).
"""

from __future__ import annotations

import threading
from collections import deque

from prefect_wix.clock import SYSTEM_CLOCK, Clock

__all__ = ["REQUESTS_PER_MINUTE", "RequestBudget", "shared_budget"]

REQUESTS_PER_MINUTE = 200

# Wix counts when a request arrives, we when it leaves: a second over the minute keeps the
# difference from showing as a 429.
_WINDOW_SECONDS = 61.0


class RequestBudget:
    """A sliding window over the last minute's requests, with a pause that holds for everybody.

    Args:
        requests_per_minute: how many requests any minute may hold.
        clock: the clock that turns are measured on.
    """

    def __init__(
        self, requests_per_minute: int = REQUESTS_PER_MINUTE, *, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        self._clock = clock
        self._guard = threading.Lock()
        self._turns: deque[float] = deque(maxlen=requests_per_minute)
        self._paused_until = 0.0

    async def turn(self) -> None:
        """Return when one more request may be sent. First come, first served."""
        at = self._book()
        while (wait := max(at, self._paused_until) - self._clock.now()) > 0:
            await self._clock.sleep(wait)

    def pause(self, seconds: float) -> None:
        """Hold every turn of this site, also those already booked, for ``seconds`` from now."""
        with self._guard:
            self._paused_until = max(self._paused_until, self._clock.now() + seconds)

    def _book(self) -> float:
        with self._guard:
            at = max(self._clock.now(), self._paused_until)
            if len(self._turns) == self._turns.maxlen:
                at = max(at, self._turns[0] + _WINDOW_SECONDS)
            self._turns.append(at)
            return at


_budgets: dict[tuple[str, str, int, Clock], RequestBudget] = {}
_budgets_guard = threading.Lock()


def shared_budget(
    base_url: str, site_id: str, requests_per_minute: int, clock: Clock = SYSTEM_CLOCK
) -> RequestBudget:
    """The one budget of this process for a site."""
    key = (base_url, site_id, requests_per_minute, clock)
    with _budgets_guard:
        return _budgets.setdefault(key, RequestBudget(requests_per_minute, clock=clock))
