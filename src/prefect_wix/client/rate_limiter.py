"""The request budget of one site: at most 200 requests in any minute, and pauses kept together.

All clients of a site in this process share one budget: a sliding window over the last minute's
requests. The request of the highest worth is sent first, and the oldest one among equals. No lock
is held while a request waits, and threads and event loops may mix. Requests of other processes are
known to a `Gate` alone.

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
    "GATE_TURNS",
    "REQUESTS_A_JOB",
    "REQUESTS_PER_MINUTE",
    "Gate",
    "RequestBudget",
    "Worth",
    "shared_budget",
    "worth_of_page",
    "worth_of_submit",
]

REQUESTS_PER_MINUTE = 200
REQUESTS_A_JOB = 2
"""Of most jobs: a submit, and the poll that finds it finished and is its first page."""

# Wix counts when a request arrives, we when it leaves: a second over the minute keeps the
# difference from showing as a 429.
WINDOW_SECONDS = 61.0
"""How long a request counts."""
GATE_TURNS = 5
"""The most requests for which a gate is passed at once, where several wait."""
_GATE_POLL_SECONDS = 0.05
_AT_ONCE = 1e-6
"""Seconds: less than a clock can sleep."""

Worth = Callable[[], float]
"""What a request is worth now: the chance that it brings something, or more."""
Gate = Callable[[int], Awaitable[None]]
"""Returns when this many requests may be sent, as far as other processes are concerned."""


def worth_of_page() -> float:
    """A page surely brings something."""
    return 1.0


def worth_of_submit() -> float:
    """More: once a job runs, it costs nothing while other requests are sent."""
    return 2.0


@dataclass(eq=False)
class _Ticket:
    """A request that waits, or has waited, for its turn."""

    worth: Worth
    gate: Gate | None
    granted: bool = False


class RequestBudget:
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
        self._spent: deque[float] = deque(maxlen=self._limit)
        self._paused_until = 0.0
        self._waiting: list[_Ticket] = []
        self._through_gate = 0
        self._at_gate = False

    def scarcity(self, to_come: int = 0) -> float:
        """How scarce requests are: the share of a minute's budget that is spent or needed.

        Args:
            to_come: how many requests are needed later, beside those that wait.

        Returns:
            From 0 to 1.
        """
        with self._guard:
            since = self._clock.now() - WINDOW_SECONDS
            spent = len(self._spent) - bisect_right(self._spent, since)
            return min(1.0, (spent + to_come + len(self._waiting)) / self._limit)

    async def turn(self, worth: Worth = worth_of_page, *, gate: Gate | None = None) -> None:
        """Return when one more request may be sent.

        Args:
            worth: what the request is worth, compared with the others that wait.
            gate: waits for the requests of other processes; None where they are not known.
        """
        ticket = _Ticket(worth, gate)
        with self._guard:
            self._waiting.append(ticket)
        try:
            while (next_wait := self._give_turns(ticket)) is not None:
                await next_wait
        finally:
            self._leave(ticket)

    def spend(self) -> None:
        """Count a request that could not wait for a turn, such as one that is sent once more."""
        with self._guard:
            self._spent.append(self._clock.now())

    def pause(self, seconds: float) -> None:
        """Hold every request of this site for ``seconds`` from now."""
        with self._guard:
            self._paused_until = max(self._paused_until, self._clock.now() + seconds)

    def narrow(self, requests_per_minute: int) -> None:
        """Allow no more than this many requests a minute from now on."""
        with self._guard:
            self._limit = min(self._limit, _checked(requests_per_minute))

    def _give_turns(self, mine: _Ticket) -> Awaitable[None] | None:
        """Give the turns that are free to the requests of the highest worth, up to the caller's.

        Returns:
            What the caller has to wait for before it tries again; None where it has its turn.
        """
        with self._guard:
            while not mine.granted:
                now = self._clock.now()
                if (wait := self._free_at() - now) >= _AT_ONCE:
                    return self._clock.sleep(wait)
                first = max(self._waiting, key=lambda ticket: ticket.worth())
                if first.gate is not None and not self._through_gate:
                    return self._wait_at_gate(mine.gate)
                self._waiting.remove(first)
                first.granted = True
                self._through_gate = max(0, self._through_gate - 1)
                self._spent.append(now)
            return None

    def _free_at(self) -> float:
        if len(self._spent) < self._limit:
            return self._paused_until
        return max(self._paused_until, self._spent[-self._limit] + WINDOW_SECONDS)

    def _wait_at_gate(self, gate: Gate | None) -> Awaitable[None]:
        if self._at_gate or gate is None:
            return self._clock.sleep(_GATE_POLL_SECONDS)
        self._at_gate = True
        return self._pass(gate)

    async def _pass(self, gate: Gate) -> None:
        turns = min(len(self._waiting), GATE_TURNS)
        try:
            await gate(turns)
            self._through_gate = turns
        finally:
            self._at_gate = False

    def _leave(self, ticket: _Ticket) -> None:
        with self._guard:
            if not ticket.granted:
                self._waiting.remove(ticket)
            if not self._waiting:
                self._through_gate = 0


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
