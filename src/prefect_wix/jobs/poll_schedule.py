"""When to ask whether a job is finished: how long they take is learned from jobs that were watched.

A poll that comes too early is a request wasted, one that comes too late is time wasted. Jobs of one
kind (days asked for, sort of filter) are taken to be alike, however long they take. What polls tell
of a job is never a time but an interval: still running here, finished there. `Latency` keeps a
distribution over times and moves it a little towards each interval (the predictive recursion of
Newton and Zhang, "A recursive algorithm for nonparametric analysis with missing data", 1999). Of
the first few it makes the most: with each that comes, all of them are weighed anew (a step of the
EM algorithm of Turnbull, "The empirical distribution function with arbitrarily grouped, censored
and truncated data", 1976). `Pace` has a job polled when that distribution says that it is likely
to be finished: more surely so where requests are scarce. While a kind is not known, one job at a
time is asked on behalf of all.

What a poll is and how it may fail is in `prefect_wix.jobs.polling`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Hashable, Iterable
from contextlib import asynccontextmanager

from prefect_wix.client.models import SessionsQuery
from prefect_wix.client.rate_limiter import worth_of_page
from prefect_wix.clock import Clock
from prefect_wix.jobs.latency import PLENTY, Latency, kind_of
from prefect_wix.jobs.poll_policy import Patience, Sleep

__all__ = ["Ladder", "Pace", "Watch"]
_SCARCE = 0.95
"""and when they are scarce."""
_PLENTY_UNTIL = 0.8
"""The share of the budget up to which requests are plenty: what is not spent is lost."""
_MINUTE = 60.0
_LEAST_GAP = 0.04
"""No poll comes sooner after another one than by this share of the job's age."""
_LOOKS = 3
"""How often the time to poll is thought over while it is waited for: others bring news."""
_SHORTEST_SLEEP = 0.02
_AT_ONCE = 0.001


class _Kind:
    """The jobs of one kind that one load watches."""

    def __init__(self, latency: Latency) -> None:
        self.latency = latency
        self.watched: set[Watch] = set()
        self.scouting = asyncio.Lock()

    @asynccontextmanager
    async def scout(self, longest_wait_seconds: float) -> AsyncIterator[None]:
        """Be the one who asks; where another one's poll hangs, ask all the same after a while."""
        try:
            await asyncio.wait_for(self.scouting.acquire(), longest_wait_seconds)
        except TimeoutError:
            yield
            return
        try:
            yield
        finally:
            self.scouting.release()

    def outlook(self, watch: Watch) -> Latency:
        """What is known; and where that is little, what the other jobs that run let suppose."""
        if self.latency.is_known:
            return self.latency
        running = sorted(one.running for one in self.watched - {watch} if one.running)
        return self.latency.supposing(running) if running else self.latency


class Pace:
    """Who watches the jobs of a load, and learns from each when to ask about the next.

    Args:
        clock: what ages are measured on.
        patience: what to do while nothing is known.
        scarcity: the share of the budget that is spent or spoken for, from 0 to 1, given how many
            requests are to come.
        history: what earlier runs watched, oldest first: (query, seen running at, finished at).
    """

    def __init__(
        self,
        clock: Clock,
        patience: Patience = Patience(),
        scarcity: Callable[[int], float] = lambda _: 0.0,
        history: Iterable[tuple[SessionsQuery, float, float]] = (),
    ) -> None:
        self.clock = clock
        self.patience = patience
        self.to_come = 0
        """Requests that the load is going to need, as far as it knows."""
        self._begun = clock.now()
        self._scarcity = scarcity
        self._kinds: dict[Hashable, _Kind] = {}
        for query, running, finished in history:
            self._kind(query).latency.learn(running, finished)

    def watch(self, query: SessionsQuery) -> Watch:
        """Begin to watch a job that was submitted just now."""
        return Watch(self, self._kind(query))

    @property
    def sure_enough(self) -> float:
        """The chance of being finished at which a job is polled."""
        # What is to come counts until a minute has shown how much is really spent of the budget.
        is_young = self.clock.now() < self._begun + _MINUTE
        spent = self._scarcity(self.to_come if is_young else 0)
        scarce = max(0.0, (spent - _PLENTY_UNTIL) / (1 - _PLENTY_UNTIL))
        return PLENTY + (_SCARCE - PLENTY) * scarce

    def _kind(self, query: SessionsQuery) -> _Kind:
        kind = kind_of(query)
        if kind not in self._kinds:
            self._kinds[kind] = _Kind(Latency(self.patience))
        return self._kinds[kind]


class Watch:
    """One job that is watched from its submit on."""

    def __init__(self, pace: Pace, kind: _Kind) -> None:
        self.running = 0.0
        """The age, in seconds, at which the job was last seen running."""
        self.finished: float | None = None
        """The age at which it was first seen finished."""
        self._pace = pace
        self._kind = kind
        self._begun = pace.clock.now()
        kind.watched.add(self)

    @asynccontextmanager
    async def poll(self, sleep: Sleep) -> AsyncIterator[None]:
        """Wait until it is worth asking; what is asked inside is what others wait for."""
        await self._until_likely(sleep)
        if self._kind.latency.is_known:
            yield
            return
        async with self._kind.scout(self._pace.patience.longest_wait_seconds):
            await self._until_likely(sleep)
            yield

    def chance(self) -> float:
        """The chance that the job is finished by now."""
        return self._kind.outlook(self).chance(self._age, running=self.running)

    def saw_running(self) -> None:
        """A poll found the job running."""
        self.running = self._age

    def saw_finished(self) -> None:
        """A poll found the job finished."""
        self.finished = self._age
        self.end()
        self._kind.latency.learn(self.running, self.finished)

    def end(self) -> None:
        """Watch no longer."""
        self._kind.watched.discard(self)

    @property
    def _age(self) -> float:
        return self._pace.clock.now() - self._begun

    async def _until_likely(self, sleep: Sleep) -> None:
        while (wait := self._likely_at() - self._age) > _AT_ONCE:
            await sleep(min(wait, max(wait / _LOOKS, _SHORTEST_SLEEP)))

    def _likely_at(self) -> float:
        likely = self._kind.outlook(self).likely_at(self._pace.sure_enough, running=self.running)
        latest = self.running + self._pace.patience.longest_wait_seconds
        return min(max(likely, self.running * (1 + _LEAST_GAP)), latest)


class Ladder:
    """Waits of a job that nobody watched from its submit on: none, and then ever longer ones."""

    def __init__(self, patience: Patience) -> None:
        self._waits = patience.waits()
        self._next = 0.0

    @asynccontextmanager
    async def poll(self, sleep: Sleep) -> AsyncIterator[None]:
        """Wait until it is worth asking."""
        await sleep(self._next)
        self._next = next(self._waits)
        yield

    def chance(self) -> float:
        """Not known; as good as a page."""
        return worth_of_page()

    def saw_running(self) -> None:
        """Nothing is learned."""

    def saw_finished(self) -> None:
        """Nothing is learned."""
