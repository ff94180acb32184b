"""When to ask whether a job is finished: how long they take is learned from jobs that were watched.

A poll that comes too early is a request wasted, one that comes too late is time wasted. Jobs of one
kind (days asked for, sort of filter) are taken to be alike, however long they take. What polls tell
of a job is never a time but an interval: still running here, finished there. `Latency` keeps a
distribution over times and moves it a little towards each interval (the predictive recursion of
Newton and Zhang, "A recursive algorithm for nonparametric analysis with missing data", 1999). Of
the first few it makes the most: with each that comes, all of them are weighed anew (a step of the
EM algorithm of Turnbull, "The empirical distribution function with arbitrarily grouped, censored
and truncated data", 1976). `PollSchedule` has a job polled when that distribution says that it is
likely
to be finished: more surely so where requests are scarce. While a kind is not known, one job at a
time is asked on behalf of all.

What a poll is and how it may fail is in `prefect_wix.jobs.polling`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Hashable, Iterable
from contextlib import asynccontextmanager

from prefect_wix.client.models import SessionsQuery
from prefect_wix.client.rate_limiter import page_priority
from prefect_wix.clock import Clock
from prefect_wix.jobs.latency import PROBABILITY_IDLE, Latency, job_kind
from prefect_wix.jobs.poll_policy import PollPolicy, Sleep

__all__ = ["BackoffTimer", "JobTimer", "PollSchedule"]
_PROBABILITY_BUSY = 0.95
"""and when they are scarce."""
_BUSY_ABOVE = 0.8
"""The share of the budget up to which requests are plenty: what is not spent is lost."""
_MINUTE = 60.0
_LEAST_GAP = 0.04
"""No poll comes sooner after another one than by this share of the job's age."""
_REVISIONS = 3
"""How often the time to poll is thought over while it is waited for: others bring news."""
_SHORTEST_SLEEP = 0.02
_AT_ONCE = 0.001


class _JobKind:
    """The jobs of one kind that one load watches."""

    def __init__(self, latency: Latency) -> None:
        self.latency = latency
        self.active: set[JobTimer] = set()
        self.probing = asyncio.Lock()

    @asynccontextmanager
    async def probe(self, longest_wait_seconds: float) -> AsyncIterator[None]:
        """Be the one who asks; where another one's poll hangs, ask all the same after a while."""
        try:
            await asyncio.wait_for(self.probing.acquire(), longest_wait_seconds)
        except TimeoutError:
            yield
            return
        try:
            yield
        finally:
            self.probing.release()

    def distribution(self, timer: JobTimer) -> Latency:
        """What is known; and where that is little, what the other jobs that run let suppose."""
        if self.latency.is_calibrated:
            return self.latency
        running = sorted(one.running for one in self.active - {timer} if one.running)
        return self.latency.given_running(running) if running else self.latency


class PollSchedule:
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
        poll_policy: PollPolicy = PollPolicy(),
        utilization: Callable[[int], float] = lambda _: 0.0,
        history: Iterable[tuple[SessionsQuery, float, float]] = (),
    ) -> None:
        self.clock = clock
        self.poll_policy = poll_policy
        self.expected_requests = 0
        """Requests that the load is going to need, as far as it knows."""
        self._begun = clock.now()
        self._utilization = utilization
        self._kinds: dict[Hashable, _JobKind] = {}
        for query, running, finished in history:
            self._kind(query).latency.observe(running, finished)

    def timer(self, query: SessionsQuery) -> JobTimer:
        """Begin to watch a job that was submitted just now."""
        return JobTimer(self, self._kind(query))

    @property
    def required_probability(self) -> float:
        """The chance of being finished at which a job is polled."""
        # What is to come counts until a minute has shown how much is really spent of the budget.
        is_young = self.clock.now() < self._begun + _MINUTE
        spent = self._utilization(self.expected_requests if is_young else 0)
        scarce = max(0.0, (spent - _BUSY_ABOVE) / (1 - _BUSY_ABOVE))
        return PROBABILITY_IDLE + (_PROBABILITY_BUSY - PROBABILITY_IDLE) * scarce

    def _kind(self, query: SessionsQuery) -> _JobKind:
        kind = job_kind(query)
        if kind not in self._kinds:
            self._kinds[kind] = _JobKind(Latency(self.poll_policy))
        return self._kinds[kind]


class JobTimer:
    """One job that is watched from its submit on."""

    def __init__(self, schedule: PollSchedule, kind: _JobKind) -> None:
        self.running = 0.0
        """The age, in seconds, at which the job was last seen running."""
        self.finished: float | None = None
        """The age at which it was first seen finished."""
        self._schedule = schedule
        self._kind = kind
        self._begun = schedule.clock.now()
        kind.active.add(self)

    @asynccontextmanager
    async def poll(self, sleep: Sleep) -> AsyncIterator[None]:
        """Wait until it is worth asking; what is asked inside is what others wait for."""
        await self._wait_until_likely(sleep)
        if self._kind.latency.is_calibrated:
            yield
            return
        async with self._kind.probe(self._schedule.poll_policy.longest_wait_seconds):
            await self._wait_until_likely(sleep)
            yield

    def probability(self) -> float:
        """The chance that the job is finished by now."""
        return self._kind.distribution(self).probability(self._age, running=self.running)

    def mark_running(self) -> None:
        """A poll found the job running."""
        self.running = self._age

    def mark_finished(self) -> None:
        """A poll found the job finished."""
        self.finished = self._age
        self.end()
        self._kind.latency.observe(self.running, self.finished)

    def end(self) -> None:
        """Watch no longer."""
        self._kind.active.discard(self)

    @property
    def _age(self) -> float:
        return self._schedule.clock.now() - self._begun

    async def _wait_until_likely(self, sleep: Sleep) -> None:
        while (wait := self._next_poll_at() - self._age) > _AT_ONCE:
            await sleep(min(wait, max(wait / _REVISIONS, _SHORTEST_SLEEP)))

    def _next_poll_at(self) -> float:
        likely = self._kind.distribution(self).quantile(
            self._schedule.required_probability, running=self.running
        )
        latest = self.running + self._schedule.poll_policy.longest_wait_seconds
        return min(max(likely, self.running * (1 + _LEAST_GAP)), latest)


class BackoffTimer:
    """Waits of a job that nobody watched from its submit on: none, and then ever longer ones."""

    def __init__(self, poll_policy: PollPolicy) -> None:
        self._waits = poll_policy.waits()
        self._next = 0.0

    @asynccontextmanager
    async def poll(self, sleep: Sleep) -> AsyncIterator[None]:
        """Wait until it is worth asking."""
        await sleep(self._next)
        self._next = next(self._waits)
        yield

    def probability(self) -> float:
        """Not known; as good as a page."""
        return page_priority()

    def mark_running(self) -> None:
        """Nothing is learned."""

    def mark_finished(self) -> None:
        """Nothing is learned."""
