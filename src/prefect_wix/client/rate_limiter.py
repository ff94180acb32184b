"""The request budget of one site: at most 200 requests in any minute, and pauses kept together.

All clients of a site in this process share one budget: a sliding window over the last minute's
requests. The request of the highest worth is sent first, and the oldest one among equals. No lock
is held while a request waits, and threads and event loops may mix. Requests of other processes are
known to a `GlobalLimiter` alone.

Source of the figure: Wix, "Rate limits" (200 requests a minute for one app instance).
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from prefect_wix.clock import SYSTEM_CLOCK, Clock

__all__ = [
    "GLOBAL_LIMIT_BATCH",
    "REQUESTS_PER_JOB",
    "REQUESTS_PER_MINUTE",
    "GlobalLimiter",
    "Priority",
    "RateLimiter",
    "page_priority",
    "shared_rate_limiter",
    "submit_priority",
]

REQUESTS_PER_MINUTE = 200
REQUESTS_PER_JOB = 2
"""Of most jobs: a submit, and the poll that finds it finished and is its first page."""

# Wix counts when a request arrives, we when it leaves: a second over the minute keeps the
# difference from showing as a 429.
WINDOW_SECONDS = 61.0
"""How long a request counts."""
GLOBAL_LIMIT_BATCH = 5
"""The most requests for which a gate is passed at once, where several wait."""
_GLOBAL_LIMIT_POLL_SECONDS = 0.05
_AT_ONCE = 1e-6
"""Seconds: less than a clock can sleep."""

Priority = Callable[[], float]
"""What a request is worth now: the chance that it brings something, or more."""
GlobalLimiter = Callable[[int], Awaitable[None]]
"""Returns when this many requests may be sent, as far as other processes are concerned."""


def page_priority() -> float:
    """A page surely brings something."""
    return 1.0


def submit_priority() -> float:
    """More: once a job runs, it costs nothing while other requests are sent."""
    return 2.0


@dataclass(eq=False)
class _Ticket:
    """A request that waits, or has waited, for its turn."""

    priority: Priority
    global_limiter: GlobalLimiter | None
    granted: bool = False


class RateLimiter:
    """A sliding window over the last minute's requests, with a pause that holds for all of them.

    Args:
        requests_per_minute: how many requests any minute may hold.
        clock: the clock that the window is measured on.

    Raises:
        ValueError: no request at all is allowed.
    """

    def __init__(
        self, requests_per_minute: int = REQUESTS_PER_MINUTE, *, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        self._clock = clock
        self._guard = threading.Lock()
        self._limit = _checked(requests_per_minute)
        self._sent: deque[float] = deque(maxlen=self._limit)
        self._paused_until = 0.0
        self._waiting: list[_Ticket] = []
        self._global_slots = 0
        self._is_acquiring = False

    def utilization(self, expected_requests: int = 0) -> float:
        """How scarce requests are: the share of a minute's budget that is spent or needed.

        Args:
            to_come: how many requests are needed later, beside those that wait.

        Returns:
            From 0 to 1.
        """
        with self._guard:
            since = self._clock.now() - WINDOW_SECONDS
            sent = len(self._sent) - bisect_right(self._sent, since)
            return min(1.0, (sent + expected_requests + len(self._waiting)) / self._limit)

    async def acquire(
        self, priority: Priority = page_priority, *, global_limiter: GlobalLimiter | None = None
    ) -> None:
        """Return when one more request may be sent.

        Args:
            worth: what the request is worth, compared with the others that wait.
            gate: waits for the requests of other processes; None where they are not known.
        """
        ticket = _Ticket(priority, global_limiter)
        with self._guard:
            self._waiting.append(ticket)
        try:
            while (next_wait := self._grant(ticket)) is not None:
                await next_wait
        finally:
            self._leave(ticket)

    def count_request(self) -> None:
        """Count a request that could not wait for a turn, such as one that is sent once more."""
        with self._guard:
            self._sent.append(self._clock.now())

    def pause(self, seconds: float) -> None:
        """Hold every request of this site for ``seconds`` from now."""
        with self._guard:
            self._paused_until = max(self._paused_until, self._clock.now() + seconds)

    def lower_limit(self, requests_per_minute: int) -> None:
        """Allow no more than this many requests a minute from now on."""
        with self._guard:
            self._limit = min(self._limit, _checked(requests_per_minute))

    def _grant(self, mine: _Ticket) -> Awaitable[None] | None:
        """Give the turns that are free to the requests of the highest worth, up to the caller's.

        Returns:
            What the caller has to wait for before it tries again; None where it has its turn.
        """
        with self._guard:
            while not mine.granted:
                now = self._clock.now()
                if (wait := self._free_at() - now) >= _AT_ONCE:
                    return self._clock.sleep(wait)
                first = max(self._waiting, key=lambda ticket: ticket.priority())
                if first.global_limiter is not None and not self._global_slots:
                    return self._acquire_globally(mine.global_limiter)
                self._waiting.remove(first)
                first.granted = True
                self._global_slots = max(0, self._global_slots - 1)
                self._sent.append(now)
            return None

    def _free_at(self) -> float:
        if len(self._sent) < self._limit:
            return self._paused_until
        return max(self._paused_until, self._sent[-self._limit] + WINDOW_SECONDS)

    def _acquire_globally(self, global_limiter: GlobalLimiter | None) -> Awaitable[None]:
        if self._is_acquiring or global_limiter is None:
            return self._clock.sleep(_GLOBAL_LIMIT_POLL_SECONDS)
        self._is_acquiring = True
        return self._acquire_slots(global_limiter)

    async def _acquire_slots(self, global_limiter: GlobalLimiter) -> None:
        slots = min(len(self._waiting), GLOBAL_LIMIT_BATCH)
        try:
            await global_limiter(slots)
            self._global_slots = slots
        finally:
            self._is_acquiring = False

    def _leave(self, ticket: _Ticket) -> None:
        with self._guard:
            if not ticket.granted:
                self._waiting.remove(ticket)
            if not self._waiting:
                self._global_slots = 0


def _checked(requests_per_minute: int) -> int:
    if requests_per_minute < 1:
        raise ValueError(f"requests_per_minute must be at least 1, not {requests_per_minute}.")
    return requests_per_minute


_budgets: dict[tuple[str, str, Clock], RateLimiter] = {}
_budgets_guard = threading.Lock()


def shared_rate_limiter(
    base_url: str, site_id: str, requests_per_minute: int, clock: Clock = SYSTEM_CLOCK
) -> RateLimiter:
    """The one budget of this process for a site; the lowest figure that anybody named holds.

    Raises:
        ValueError: no request at all is allowed.
    """
    with _budgets_guard:
        new = RateLimiter(requests_per_minute, clock=clock)
        rate_limiter = _budgets.setdefault((base_url, site_id, clock), new)
    rate_limiter.lower_limit(requests_per_minute)
    return rate_limiter
