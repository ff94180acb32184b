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

import math
from bisect import bisect_left, bisect_right
from collections.abc import Hashable, Iterable
from copy import copy
from itertools import accumulate, pairwise

from prefect_wix.client.models import SessionsQuery
from prefect_wix.jobs.poll_policy import PollPolicy

__all__ = ["Latency", "job_kind"]

_SHORTEST = 0.01
_LONGEST = 7200.0
_STEP = 1.03
_TIMES = [_SHORTEST * _STEP**n for n in range(2 + int(math.log(_LONGEST / _SHORTEST, _STEP)))]
"""The ends of the bins, in seconds: 3 % apart, which is as exact as a poll need be."""
_NO_TIME = _SHORTEST / _STEP
PROBABILITY_IDLE = 0.65
"""The chance of being finished at which a job is polled while requests are plenty,"""
_PRIOR_JOBS = 0.5
"""How many watched jobs the guess at the beginning is worth."""
_MEMORY = 30
"""As many jobs as are averaged over, so that a change is noticed."""
_CALIBRATED_AFTER = 12
"""Jobs after which a kind is known: one more is weighed against them and not with them, and each of
its jobs is polled for itself."""
_NOTHING = 1e-9


def job_kind(query: SessionsQuery) -> Hashable:
    """What jobs have in common that are taken to last alike: their days, and the sort of filter."""
    days = (
        query.end_date - query.start_date if query.start_date and query.end_date else query.period
    )
    return days, query.filter_kind


class Latency:
    """How long jobs of one kind take, as a distribution over seconds.

    At first a guess, made so that polling by it waits as a `PollPolicy` says.
    """

    def __init__(self, poll_policy: PollPolicy) -> None:
        self.observed = 0
        """Jobs that it was learned from."""
        self._growth = poll_policy.growth
        longer = [_prior_survival(time, poll_policy) for time in _TIMES]
        self._prior = [1 - longer[0], *(a - b for a, b in pairwise(longer)), longer[-1]]
        self._observations: list[slice] = []
        self._set_mass(self._prior)

    @property
    def is_calibrated(self) -> bool:
        """Whether it was learned from so many jobs that one more makes little difference."""
        return self.observed >= _CALIBRATED_AFTER

    def observe(self, running: float, finished: float) -> None:
        """Take in one job that was seen running at one age and finished at another, in seconds."""
        bins = _bins(min(running, finished), finished)
        if self.is_calibrated:
            self._update(bins)
        else:
            self._refit(bins)

    def given_running(self, running: Iterable[float]) -> Latency:
        """What is to be thought while some jobs are seen to run, at these ages, and not known."""
        supposed = copy(self)
        for age in running:
            supposed._update(_bins(age, math.inf))  # noqa: SLF001
        return supposed

    def probability(self, age: float, *, running: float) -> float:
        """The chance that a job is finished at an age which was seen running at an earlier one."""
        before, left = self._cdf_at(running), 1 - self._cdf_at(running)
        return (self._cdf_at(age) - before) / left if left > _NOTHING else 1.0

    def quantile(self, probability: float, *, running: float) -> float:
        """The age at which such a job is finished with that chance."""
        before = self._cdf_at(running)
        if 1 - before <= _NOTHING:
            return running * self._growth
        return _TIMES[min(bisect_left(self._cdf, before + probability * (1 - before)), _LAST)]

    def _update(self, bins: slice) -> None:
        self.observed += 1
        share = max(1 / (self.observed + _PRIOR_JOBS), 1 / _MEMORY)
        mass = [part * (1 - share) for part in self._mass]
        self._spread(share, bins, mass)
        self._set_mass(mass)

    def _refit(self, bins: slice) -> None:
        self.observed += 1
        self._observations = [*self._observations, bins]
        share = 1 / (self.observed + _PRIOR_JOBS)
        mass = [part * share * _PRIOR_JOBS for part in self._prior]
        for one in self._observations:
            self._spread(share, one, mass)
        self._set_mass(mass)

    def _spread(self, share: float, bins: slice, mass: list[float]) -> None:
        """Add a job's share to the bins it may belong to, as likely as each is believed to be."""
        inside = self._mass[bins]
        total = sum(inside)
        if total <= _NOTHING:
            inside, total = [1.0] * len(inside), float(len(inside))
        mass[bins] = [
            there + share * part / total for there, part in zip(mass[bins], inside, strict=True)
        ]

    def _set_mass(self, mass: list[float]) -> None:
        self._mass, self._cdf = mass, list(accumulate(mass))

    def _cdf_at(self, age: float) -> float:
        place = bisect_right(_TIMES, age)
        return self._cdf[place - 1] if place else 0.0


_LAST = len(_TIMES) - 1


def _bins(running: float, finished: float) -> slice:
    """The bins between two ages, the ends included."""
    return slice(bisect_right(_TIMES, running), bisect_left(_TIMES, finished) + 1)


def _prior_survival(seconds: float, poll_policy: PollPolicy) -> float:
    """The prior: the chance that a job takes longer than this."""
    first = max(poll_policy.first_wait_seconds, _SHORTEST)
    if seconds < first:
        return 1 - PROBABILITY_IDLE * math.log(seconds / _NO_TIME) / math.log(first / _NO_TIME)
    return math.pow(
        1 - PROBABILITY_IDLE, 1 + math.log(seconds / first) / math.log(poll_policy.growth)
    )
