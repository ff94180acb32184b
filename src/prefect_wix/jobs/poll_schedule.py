"""When to poll a job: at a quantile of the posterior distribution of its duration.

A poll that comes too early costs a request, one that comes too late costs time. `PollSchedule`
keeps one `Latency` for each kind of job, and `JobTimer` waits until the probability that its job
is finished reaches a threshold that grows with the utilization of the rate limit. Until a kind is
calibrated, one of its jobs is polled at a time, and that each of the others is still running counts
as a right-censored observation. The estimator is in `prefect_wix.jobs.latency`; polls and their
failures are in `prefect_wix.jobs.polling`.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Hashable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field

from prefect_wix.client.models import SessionsQuery
from prefect_wix.client.rate_limiter import page_priority
from prefect_wix.clock import Clock
from prefect_wix.jobs.latency import PROBABILITY_IDLE, Latency, job_kind
from prefect_wix.jobs.poll_policy import PollPolicy, Sleep

_PROBABILITY_BUSY = 0.95
"""The quantile at which a job is polled while the rate limit is used up."""
_BUSY_ABOVE = 0.8
"""The utilization of the rate limit from which the quantile rises: unused requests are lost."""
_STARTUP_SECONDS = 60.0
"""How long expected requests count: then the rate limiter has seen a full minute."""
_LEAST_GAP = 0.04
"""The shortest time between two polls, as a fraction of the job's age."""
_SLEEP_FRACTION = 1 / 3
"""The part of the remaining wait to sleep before the poll time is computed again, since other jobs
may have been observed."""
_SHORTEST_SLEEP = 0.02
_NOW_SECONDS = 0.001


@dataclass(eq=False)
class _JobKind:
    """The distribution of one kind of job, and its running jobs in this load."""

    latency: Latency
    active: set[JobTimer] = field(default_factory=set)
    probing: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while a job is polled, until the distribution is calibrated."""

    def posterior(self, timer: JobTimer) -> Latency:
        """The distribution; until it is calibrated, given that the other jobs are running."""
        if self.latency.is_calibrated:
            return self.latency
        running = sorted(one.running for one in self.active - {timer} if one.running)
        return self.latency.given_running(running) if running else self.latency


class PollSchedule:
    """The poll times of all jobs of a load; each finished job is an observation for the next.

    Args:
        clock: measures the ages of jobs.
        poll_policy: the waits without observations, and the longest wait.
        utilization: the share of the rate limit that is used or reserved, from 0 to 1, given the
            number of requests expected later.
        history: observations of earlier runs, oldest first: (query, age last seen running, age
            first seen finished), in seconds.
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
        """Estimated requests of the partitions that have not started."""
        self._started_at = clock.now()
        self._utilization = utilization
        self._kinds: defaultdict[Hashable, _JobKind] = defaultdict(
            lambda: _JobKind(Latency(poll_policy))
        )
        for query, running, finished in history:
            self._kinds[job_kind(query)].latency.observe(running, finished)

    def timer(self, query: SessionsQuery) -> JobTimer:
        """The timer of a job that was submitted just now."""
        return JobTimer(self, self._kinds[job_kind(query)])

    @property
    def required_probability(self) -> float:
        """The probability of being finished at which a job is polled.

        Each running job needs at least one more request.
        """
        is_starting = self.clock.now() < self._started_at + _STARTUP_SECONDS
        running = sum(len(kind.active) for kind in self._kinds.values())
        utilization = self._utilization(self.expected_requests + running if is_starting else 0)
        scarcity = max(0.0, (utilization - _BUSY_ABOVE) / (1 - _BUSY_ABOVE))
        return PROBABILITY_IDLE + (_PROBABILITY_BUSY - PROBABILITY_IDLE) * scarcity


class JobTimer:
    """The poll times of one job that was submitted here, and the ages at which it was observed."""

    def __init__(self, schedule: PollSchedule, kind: _JobKind) -> None:
        self.running = 0.0
        """The age, in seconds, at which the job was last seen running."""
        self.finished: float | None = None
        """The age, in seconds, at which the job was first seen finished."""
        self._schedule = schedule
        self._kind = kind
        self._submitted_at = schedule.clock.now()
        kind.active.add(self)

    @asynccontextmanager
    async def poll(self, sleep: Sleep) -> AsyncIterator[None]:
        """Wait for the poll time; the body polls, under the probe lock until calibrated."""
        await self._wait_until_likely(sleep)
        async with AsyncExitStack() as stack:
            if not self._kind.latency.is_calibrated:
                # Continue without the lock if another poll holds it for too long.
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._schedule.poll_policy.longest_wait_seconds):
                        await stack.enter_async_context(self._kind.probing)
                await self._wait_until_likely(sleep)
            yield

    def probability(self) -> float:
        """The probability that the job is finished by now."""
        return self._kind.posterior(self).probability(self._age, running=self.running)

    def mark_running(self) -> None:
        """Record that a poll found the job running."""
        self.running = self._age

    def mark_finished(self) -> None:
        """Record that a poll found the job finished, and add the observation."""
        self.finished = self._age
        self.end()
        self._kind.latency.observe(self.running, self.finished)

    def end(self) -> None:
        """Remove the job from the running ones. Safe to call twice."""
        self._kind.active.discard(self)

    @property
    def _age(self) -> float:
        return self._schedule.clock.now() - self._submitted_at

    async def _wait_until_likely(self, sleep: Sleep) -> None:
        while (wait := self._next_poll_at() - self._age) > _NOW_SECONDS:
            await sleep(min(wait, max(wait * _SLEEP_FRACTION, _SHORTEST_SLEEP)))

    def _next_poll_at(self) -> float:
        """The age, in seconds, of the next poll."""
        likely = self._kind.posterior(self).quantile(
            self._schedule.required_probability, running=self.running
        )
        latest = self.running + self._schedule.poll_policy.longest_wait_seconds
        return min(max(likely, self.running * (1 + _LEAST_GAP)), latest)


class BackoffTimer:
    """Poll times without observations: at once, then after an exponential backoff.

    For a job whose submit was not observed here, and for pages of a finished job.
    """

    def __init__(self, poll_policy: PollPolicy) -> None:
        self._waits = poll_policy.waits()
        self._next_wait = 0.0

    @asynccontextmanager
    async def poll(self, sleep: Sleep) -> AsyncIterator[None]:
        """Wait for the poll time."""
        await sleep(self._next_wait)
        self._next_wait = next(self._waits)
        yield

    def probability(self) -> float:
        """The priority of a page, since the distribution is unknown."""
        return page_priority()

    def mark_running(self) -> None:
        """Do nothing: the age of the job is unknown."""

    def mark_finished(self) -> None:
        """Do nothing: the age of the job is unknown."""
