"""The rate limiter of a site: a sliding window of 200 requests a minute, with priority and pause.

All clients of a site in this process share one rate limiter, across threads and event loops; no
lock is held while a request waits. The waiting request with the highest priority is sent first,
the oldest one among equals. Other processes are counted by a `GlobalLimiter`; the one on the
Prefect server is in `prefect_wix.blocks.shared_limit`.

Source: Wix, "Rate limits" (200 requests a minute for one app instance).
"""

import threading
from bisect import bisect_right
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from prefect_wix.clock import SYSTEM_CLOCK, Clock

REQUESTS_PER_MINUTE = 200
REQUESTS_PER_JOB = 2
"""Most jobs need a submit, and a poll that finds the job finished and returns its only page."""

WINDOW_SECONDS = 61.0
"""The time that a request counts. Wix counts a request when it arrives, the limiter when it is
sent: the second above a minute absorbs the difference, which would otherwise cause a 429."""
_GLOBAL_LIMIT_POLL_SECONDS = 0.05
_PROBE_SECONDS = 1.0
"""After a pause, one request per second is sent until one of them is accepted."""
_SHORTEST_SLEEP_SECONDS = 1e-6
"""A shorter wait counts as none, since a clock cannot sleep for less."""

Priority = Callable[[], float]
"""Returns the current priority of a request; for a poll, the probability of a finished job."""
GlobalLimiter = Callable[[int], bool]
"""Takes one slot of the limit that processes share, if there is one, and returns whether there was.
It returns at once; its argument is the number of waiting requests."""


def page_priority() -> float:
    """Pages are sent before polls, which can find the job unfinished."""
    return 1.0


def submit_priority() -> float:
    """Submits are sent first, since the job then runs while other requests are sent."""
    return 2.0


@dataclass(eq=False)
class _Ticket:
    """A request that waits for a slot, or has one."""

    priority: Priority
    global_limiter: GlobalLimiter | None
    granted: bool = False


class RateLimiter:
    """A sliding window over the requests of the last minute, with a pause for all of them.

    Args:
        requests_per_minute: the most requests in any minute.
        clock: the clock of the window.

    Raises:
        ValueError: the limit is below 1.
    """

    def __init__(
        self, requests_per_minute: int = REQUESTS_PER_MINUTE, *, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        if requests_per_minute < 1:
            raise ValueError(f"requests_per_minute must be at least 1, not {requests_per_minute}.")
        self.was_reached = False
        """Whether a request of the site has got a response."""
        self._clock = clock
        self._lock = threading.Lock()
        self._limit = requests_per_minute
        self._sent: deque[float] = deque(maxlen=self._limit)
        self._paused_until = 0.0
        self._pauses = 0
        """Consecutive pauses after which the first request was rejected again."""
        self._probe_until = 0.0
        self._waiting: list[_Ticket] = []

    def utilization(self, expected_requests: int = 0) -> float:
        """The share of a minute's requests that is used or needed, from 0 to 1.

        Args:
            expected_requests: the number of later requests, beside the waiting ones.
        """
        with self._lock:
            since = self._clock.now() - WINDOW_SECONDS
            sent = len(self._sent) - bisect_right(self._sent, since)
            return min(1.0, (sent + expected_requests + len(self._waiting)) / self._limit)

    async def acquire(
        self, priority: Priority = page_priority, *, global_limiter: GlobalLimiter | None = None
    ) -> None:
        """Wait until one more request may be sent, and count it.

        Args:
            priority: the request's priority among the waiting ones.
            global_limiter: grants slots of the limit that processes share; None without one.
        """
        ticket = _Ticket(priority, global_limiter)
        with self._lock:
            self._waiting.append(ticket)
        try:
            while (next_wait := self._grant(ticket)) is not None:
                await next_wait
        finally:
            with self._lock:
                if not ticket.granted:
                    self._waiting.remove(ticket)

    def count_request(self) -> None:
        """Count a request that was sent without `acquire`, such as a token request."""
        with self._lock:
            self._sent.append(self._clock.now())

    def pause(self, seconds: float, sent_at: float) -> bool:
        """Send no request for ``seconds`` from now, and then one a second until one is accepted.

        A shorter pause does not end a longer one.

        Args:
            seconds: the pause that Wix named. After a pause that was too short, it is at least 1
                second, then 2, 4, ... 64.
            sent_at: when the failed request was sent. One sent before the present pause does not
                show that the pause was too short.

        Returns:
            Whether this is the first pause since a request was accepted.
        """
        with self._lock:
            is_new = sent_at >= self._paused_until
            if is_new:
                if self._pauses:
                    seconds = max(seconds, 2 ** min(self._pauses - 1, 6))
                self._pauses += 1
            self._paused_until = max(self._paused_until, self._clock.now() + seconds)
            return is_new and self._pauses == 1

    def accepted(self, sent_at: float) -> None:
        """Send requests at the full rate again, if this one was sent after the last pause."""
        with self._lock:
            if sent_at >= self._paused_until:
                self._pauses = 0

    def lower_limit(self, requests_per_minute: int) -> None:
        """Lower the limit to ``requests_per_minute``; a higher value has no effect."""
        with self._lock:
            self._limit = min(self._limit, requests_per_minute)

    def _grant(self, caller: _Ticket) -> Awaitable[None] | None:
        """Grant free slots by priority until none is free or the caller has one.

        Returns:
            The awaitable to await before the next attempt; None once the caller has a slot.
        """
        with self._lock:
            while not caller.granted:
                now = self._clock.now()
                if (wait := self._free_at() - now) >= _SHORTEST_SLEEP_SECONDS:
                    return self._clock.sleep(wait)
                first = max(self._waiting, key=lambda ticket: ticket.priority())
                if first.global_limiter and not first.global_limiter(len(self._waiting)):
                    return self._clock.sleep(_GLOBAL_LIMIT_POLL_SECONDS)
                self._waiting.remove(first)
                first.granted = True
                self._sent.append(now)
                self._probe_until = now + _PROBE_SECONDS
            return None

    def _free_at(self) -> float:
        free_at = max(self._paused_until, self._probe_until if self._pauses else 0.0)
        if len(self._sent) < self._limit:
            return free_at
        return max(free_at, self._sent[-self._limit] + WINDOW_SECONDS)


_rate_limiters: dict[tuple[str, str, Clock], RateLimiter] = {}
_rate_limiters_lock = threading.Lock()


def shared_rate_limiter(
    base_url: str, site_id: str, requests_per_minute: int, clock: Clock = SYSTEM_CLOCK
) -> RateLimiter:
    """The rate limiter that all clients of a site in this process share; its lowest limit applies.

    Raises:
        ValueError: the limit is below 1.
    """
    with _rate_limiters_lock:
        new = RateLimiter(requests_per_minute, clock=clock)
        rate_limiter = _rate_limiters.setdefault((base_url, site_id, clock), new)
    rate_limiter.lower_limit(requests_per_minute)
    return rate_limiter
