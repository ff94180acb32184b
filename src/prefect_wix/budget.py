"""The request budget of one site: at most 200 requests in any minute, and pauses kept together.

Everybody in this process who asks for a site shares one budget. Whoever finds a turn free gives it
to the one whose turn it is: askers take turns, so that one with little to ask is not kept waiting
by one with much, and each asker sends what is worth most first. No lock is held while somebody
waits, and threads and event loops may mix. What other processes spend is known to a `Gate` alone.

Source of the figure: Wix, "Rate limits" (200 requests a minute for one app instance).
"""

from __future__ import annotations

import itertools
import threading
from bisect import bisect_right
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from weakref import WeakKeyDictionary

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
"""As many turns as are asked of a gate at once, for those who wait."""
_GATE_POLL_SECONDS = 0.05
_AT_ONCE = 1e-6
"""Less than a clock can be told to sleep."""

Worth = Callable[[], float]
"""What a request is worth now: the chance that it brings something, or more."""
Gate = Callable[[int], Awaitable[None]]
"""Returns when so many requests may be sent, as far as other processes are concerned."""


def worth_of_page() -> float:
    """A page surely brings something."""
    return 1.0


def worth_of_submit() -> float:
    """More: once a job runs, it costs nothing while other requests are sent."""
    return 2.0


@dataclass(eq=False)
class _Ticket:
    asker: object
    worth: Worth
    number: int
    gate: Gate | None
    granted: bool = False


class _Anybody:
    """The asker that all are who do not say who they are."""


_ANYBODY = _Anybody()


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
        self._spent: deque[float] = deque(maxlen=_checked(requests_per_minute))
        self._paused_until = 0.0
        self._waiting: list[_Ticket] = []
        self._numbers = itertools.count()
        self._had = _Shares()
        self._through_gate = 0
        self._at_gate = False

    def scarcity(self, to_come: int = 0) -> float:
        """How scarce requests are: the share of a minute's budget that is spent, or spoken for.

        Args:
            to_come: how many requests are yet to be asked for, beside those that wait.

        Returns:
            From 0 to 1; 1 where somebody waits.
        """
        with self._guard:
            since = self._clock.now() - WINDOW_SECONDS
            spent = len(self._spent) - bisect_right(self._spent, since)
            asked_for = spent + to_come + len(self._waiting)
            return min(1.0, asked_for / (self._spent.maxlen or 1))

    async def turn(
        self, worth: Worth = worth_of_page, *, asker: object = _ANYBODY, gate: Gate | None = None
    ) -> None:
        """Return when one more request may be sent.

        Args:
            worth: what it is worth, held against the asker's other requests that wait.
            asker: who asks; askers take turns.
            gate: where what other processes spend is waited for; None where nobody knows.
        """
        ticket = self._join(asker, worth, gate)
        try:
            while (wait := self._give_turns(ticket)) is not None:
                if not wait:
                    await self._pass(ticket.gate)
                else:
                    await self._clock.sleep(wait)
        finally:
            self._leave(ticket)

    def spend(self) -> None:
        """Count a request that could not wait for a turn, such as one that is sent once more."""
        with self._guard:
            self._spent.append(self._clock.now())

    def pause(self, seconds: float) -> None:
        """Hold every turn of this site for ``seconds`` from now."""
        with self._guard:
            self._paused_until = max(self._paused_until, self._clock.now() + seconds)

    def narrow(self, requests_per_minute: int) -> None:
        """Allow no more than this many requests a minute from now on."""
        with self._guard:
            if _checked(requests_per_minute) < (self._spent.maxlen or 0):
                self._spent = deque(self._spent, maxlen=requests_per_minute)

    def _join(self, asker: object, worth: Worth, gate: Gate | None) -> _Ticket:
        with self._guard:
            ticket = _Ticket(asker, worth, next(self._numbers), gate)
            self._had.welcome(asker)
            self._waiting.append(ticket)
            return ticket

    def _leave(self, ticket: _Ticket) -> None:
        with self._guard:
            if ticket in self._waiting:
                self._waiting.remove(ticket)
            if not self._waiting:
                self._through_gate = 0

    def _give_turns(self, mine: _Ticket) -> float | None:
        """Give the turns that are free to whose turn it is.

        Returns:
            None where mine was among them; else how long to wait before looking again: 0 where it
            is for the caller to pass the gate.
        """
        with self._guard:
            now = self._clock.now()
            while self._waiting and (wait := self._free_at() - now) < _AT_ONCE:
                ticket = min(self._waiting, key=self._rank)
                if ticket.gate is not None and not self._through_gate:
                    return self._wait_at_gate(mine)
                self._give(ticket, now)
            return None if mine.granted else wait

    def _wait_at_gate(self, mine: _Ticket) -> float | None:
        if mine.granted:
            return None
        if self._at_gate or mine.gate is None:
            return _GATE_POLL_SECONDS
        self._at_gate = True
        return 0.0

    def _give(self, ticket: _Ticket, now: float) -> None:
        self._waiting.remove(ticket)
        ticket.granted = True
        self._had.count(ticket.asker)
        self._through_gate = max(0, self._through_gate - 1)
        self._spent.append(now)

    def _rank(self, ticket: _Ticket) -> tuple[float, float, int]:
        return self._had.of(ticket.asker), -ticket.worth(), ticket.number

    def _free_at(self) -> float:
        if len(self._spent) < (self._spent.maxlen or 0):
            return self._paused_until
        return max(self._paused_until, self._spent[0] + WINDOW_SECONDS)

    async def _pass(self, gate: Gate | None) -> None:
        turns = min(len(self._waiting), GATE_TURNS)
        try:
            if gate is not None:
                await gate(turns)
            self._through_gate = turns
        finally:
            self._at_gate = False


class _Shares:
    """How many turns each asker has had, as start-time fair queueing counts them.

    One who comes late, or comes back, is treated as if he had had as many as the last one served:
    so he neither waits for what others had before, nor may make up for the time he was away.
    """

    def __init__(self) -> None:
        self._turns: WeakKeyDictionary[object, int] = WeakKeyDictionary()
        self._last = 0

    def welcome(self, asker: object) -> None:
        self._turns[asker] = max(self._turns.get(asker, 0), self._last)

    def of(self, asker: object) -> int:
        return self._turns[asker]

    def count(self, asker: object) -> None:
        self._last = self._turns[asker]
        self._turns[asker] += 1


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
