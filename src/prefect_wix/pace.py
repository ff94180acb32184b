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

What a poll is and how it may fail is in `prefect_wix.result`.
"""

from __future__ import annotations

import asyncio
import math
import random
from bisect import bisect_left, bisect_right
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Iterable, Iterator
from contextlib import asynccontextmanager
from copy import copy
from dataclasses import dataclass
from itertools import accumulate, pairwise

from prefect_wix.budget import worth_of_page
from prefect_wix.clock import Clock
from prefect_wix.models import SessionsQuery

__all__ = [
    "Ladder",
    "Latency",
    "Pace",
    "Patience",
    "Sleep",
    "Watch",
    "kind_of",
]

Sleep = Callable[[float], Awaitable[None]]
"""How to wait for some seconds, or raise where the deadline comes first."""

_SHORTEST = 0.01
_LONGEST = 7200.0
_STEP = 1.03
_TIMES = [_SHORTEST * _STEP**n for n in range(2 + int(math.log(_LONGEST / _SHORTEST, _STEP)))]
"""The ends of the bins, in seconds: 3 % apart, which is as exact as a poll need be."""
_NO_TIME = _SHORTEST / _STEP
_PLENTY = 0.65
"""The chance of being finished at which a job is polled while requests are plenty,"""
_SCARCE = 0.95
"""and when they are scarce."""
_PLENTY_UNTIL = 0.8
"""The share of the budget up to which requests are plenty: what is not spent is lost."""
_MINUTE = 60.0
_PRIOR_JOBS = 0.5
"""How many watched jobs the guess at the beginning is worth."""
_MEMORY = 30
"""As many jobs as are averaged over, so that a change is noticed."""
_KNOWN_AFTER = 12
"""Jobs after which a kind is known: one more is weighed against them and not with them, and each of
its jobs is polled for itself."""
_LEAST_GAP = 0.04
"""No poll comes sooner after another one than by this share of the job's age."""
_LOOKS = 3
"""How often the time to poll is thought over while it is waited for: others bring news."""
_SHORTEST_SLEEP = 0.02
_AT_ONCE = 0.001
_NOTHING = 1e-9


@dataclass(frozen=True)
class Patience:
    """How a job is waited for.

    Attributes:
        timeout_seconds: from when there is a job to its last page, by the monotonic clock.
        first_wait_seconds: the wait before the first poll, while it is not known how long such jobs
            take.
        growth: and until it is, the age of a job at each poll is this much that at the one before.
        longest_wait_seconds: no wait between two polls is longer.
        jitter: waits for something else than a job, such as the end of an outage, grow too, and
            are drawn from plus or minus this share, so that many spread out.
    """

    timeout_seconds: float = 3600.0
    first_wait_seconds: float = 1.0
    growth: float = 1.5
    longest_wait_seconds: float = 30.0
    jitter: float = 0.2

    def waits(self) -> Iterator[float]:
        """Waits for something that nothing is known about, in seconds, without end."""
        wait = self.first_wait_seconds
        while True:
            yield wait * random.uniform(1 - self.jitter, 1 + self.jitter)  # noqa: S311
            wait = min(wait * self.growth, self.longest_wait_seconds)


def kind_of(query: SessionsQuery) -> Hashable:
    """What jobs have in common that are taken to last alike: their days, and the sort of filter."""
    days = (
        query.end_date - query.start_date if query.start_date and query.end_date else query.period
    )
    return days, query.sort_of_filter


class Latency:
    """How long jobs of one kind take, as a distribution over seconds.

    At first a guess, made so that polling by it waits as a `Patience` says.
    """

    def __init__(self, patience: Patience) -> None:
        self.known = 0
        """Jobs that it was learned from."""
        self._growth = patience.growth
        longer = [_longer(time, patience) for time in _TIMES]
        self._guess = [1 - longer[0], *(a - b for a, b in pairwise(longer)), longer[-1]]
        self._first: list[slice] = []
        self._believe(self._guess)

    @property
    def is_known(self) -> bool:
        """Whether it was learned from so many jobs that one more makes little difference."""
        return self.known >= _KNOWN_AFTER

    def learn(self, running: float, finished: float) -> None:
        """Take in one job that was seen running at one age and finished at another, in seconds."""
        bins = _bins(min(running, finished), finished)
        if self.is_known:
            self._lean(bins)
        else:
            self._weigh_anew(bins)

    def supposing(self, running: Iterable[float]) -> Latency:
        """What is to be thought while some jobs are seen to run, at these ages, and not known."""
        supposed = copy(self)
        for age in running:
            supposed._lean(_bins(age, math.inf))  # noqa: SLF001
        return supposed

    def chance(self, age: float, *, running: float) -> float:
        """The chance that a job is finished at an age which was seen running at an earlier one."""
        before, left = self._below_at(running), 1 - self._below_at(running)
        return (self._below_at(age) - before) / left if left > _NOTHING else 1.0

    def likely_at(self, chance: float, *, running: float) -> float:
        """The age at which such a job is finished with that chance."""
        before = self._below_at(running)
        if 1 - before <= _NOTHING:
            return running * self._growth
        return _TIMES[min(bisect_left(self._below, before + chance * (1 - before)), _LAST)]

    def _lean(self, bins: slice) -> None:
        self.known += 1
        share = max(1 / (self.known + _PRIOR_JOBS), 1 / _MEMORY)
        mass = [part * (1 - share) for part in self._mass]
        self._spread(share, bins, mass)
        self._believe(mass)

    def _weigh_anew(self, bins: slice) -> None:
        self.known += 1
        self._first = [*self._first, bins]
        share = 1 / (self.known + _PRIOR_JOBS)
        mass = [part * share * _PRIOR_JOBS for part in self._guess]
        for one in self._first:
            self._spread(share, one, mass)
        self._believe(mass)

    def _spread(self, share: float, bins: slice, mass: list[float]) -> None:
        """Add a job's share to the bins it may belong to, as likely as each is believed to be."""
        inside = self._mass[bins]
        total = sum(inside)
        if total <= _NOTHING:
            inside, total = [1.0] * len(inside), float(len(inside))
        mass[bins] = [
            there + share * part / total for there, part in zip(mass[bins], inside, strict=True)
        ]

    def _believe(self, mass: list[float]) -> None:
        self._mass, self._below = mass, list(accumulate(mass))

    def _below_at(self, age: float) -> float:
        place = bisect_right(_TIMES, age)
        return self._below[place - 1] if place else 0.0


_LAST = len(_TIMES) - 1


def _bins(running: float, finished: float) -> slice:
    """The bins between two ages, the ends included."""
    return slice(bisect_right(_TIMES, running), bisect_left(_TIMES, finished) + 1)


def _longer(seconds: float, patience: Patience) -> float:
    """The guess: the chance that a job takes longer. Each wait of the ladder finds `_PLENTY`."""
    first = max(patience.first_wait_seconds, _SHORTEST)
    if seconds < first:
        return 1 - _PLENTY * math.log(seconds / _NO_TIME) / math.log(first / _NO_TIME)
    return math.pow(1 - _PLENTY, 1 + math.log(seconds / first) / math.log(patience.growth))


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
        return _PLENTY + (_SCARCE - _PLENTY) * scarce

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
