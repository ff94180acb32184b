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

    Raises:
        ValueError: no request at all is allowed.
    """

    def __init__(
        self, requests_per_minute: int = REQUESTS_PER_MINUTE, *, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        self._clock = clock
        self._guard = threading.Lock()
        self._turns: deque[float] = deque(maxlen=_checked(requests_per_minute))
        self._paused_until = 0.0
        self._held = 0.0
        """Seconds that pauses have put off the turns that were booked before them."""

    async def turn(self) -> None:
        """Return when one more request may be sent. First come, first served."""
        at, held = self._book()
        while (wait := at + (self._held - held) - self._clock.now()) > 0:
            await self._clock.sleep(wait)

    def pause(self, seconds: float) -> None:
        """Hold every turn of this site for ``seconds`` from now.

        Turns that are booked are put off as a row, so that the end of a pause is no stampede.
        """
        with self._guard:
            now = self._clock.now()
            until = max(self._paused_until, now + seconds)
            longer = until - max(self._paused_until, now)
            self._paused_until = until
            self._held += longer
            for place, at in enumerate(self._turns):
                if at >= now:
                    self._turns[place] = at + longer

    def narrow(self, requests_per_minute: int) -> None:
        """Allow no more than this many requests a minute from now on."""
        with self._guard:
            if _checked(requests_per_minute) < (self._turns.maxlen or 0):
                self._turns = deque(self._turns, maxlen=requests_per_minute)

    def _book(self) -> tuple[float, float]:
        with self._guard:
            at = max(self._clock.now(), self._paused_until)
            if len(self._turns) == self._turns.maxlen:
                at = max(at, self._turns[0] + _WINDOW_SECONDS)
            self._turns.append(at)
            return at, self._held


def _checked(requests_per_minute: int) -> int:
    if requests_per_minute < 1:
        raise ValueError(f"requests_per_minute must be at least 1, not {requests_per_minute}.")
    return requests_per_minute


_budgets: dict[tuple[str, str, Clock], RequestBudget] = {}
_budgets_guard = threading.Lock()


def shared_budget(
    base_url: str, site_id: str, requests_per_minute: int, clock: Clock = SYSTEM_CLOCK
) -> RequestBudget:
    """The one budget of this process for a site; the lowest figure that anybody named holds.

    Raises:
        ValueError: no request at all is allowed.
    """
    with _budgets_guard:
        new = RequestBudget(requests_per_minute, clock=clock)
        budget = _budgets.setdefault((base_url, site_id, clock), new)
    budget.narrow(requests_per_minute)
    return budget
