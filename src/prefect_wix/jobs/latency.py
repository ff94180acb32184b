"""The distribution of job durations, estimated from interval-censored observations.

A poll never shows when a job finished, only that it was running at one age and finished at a later
one. `Latency` keeps a histogram over durations, starts from a prior that reproduces the waits of
`PollPolicy`, and computes the posterior: up to `_CALIBRATED_AFTER` jobs by one EM step over all
observations (Turnbull, "The empirical distribution function with arbitrarily grouped, censored and
truncated data", 1976), later by predictive recursion over the newest one (Newton and Zhang, "A
recursive algorithm for nonparametric analysis with missing data", 1999). When a job is polled is
decided in `prefect_wix.jobs.poll_schedule`.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Hashable, Iterable
from copy import copy
from itertools import accumulate, pairwise

from prefect_wix.client.models import SessionsQuery
from prefect_wix.jobs.poll_policy import PollPolicy

_SHORTEST = 0.01
_LONGEST = 7200.0
_RATIO = 1.03
_EDGES = [_SHORTEST * _RATIO**n for n in range(2 + int(math.log(_LONGEST / _SHORTEST, _RATIO)))]
"""Upper edges of the bins in seconds, 3 % apart: as precise as a poll needs."""
_LAST = len(_EDGES) - 1
_ORIGIN = _SHORTEST / _RATIO
PROBABILITY_IDLE = 0.65
"""The quantile at which a job is polled while the rate limit is not used up."""
_PRIOR_WEIGHT = 0.5
"""Weight of the prior, in observed jobs."""
_MEMORY_JOBS = 30
"""Predictive recursion weighs the newest job by at least 1/30, so that it follows changes."""
_CALIBRATED_AFTER = 12
"""Observed jobs after which the EM steps end and jobs of the kind are polled concurrently."""
_NEGLIGIBLE = 1e-9


def job_kind(query: SessionsQuery) -> Hashable:
    """The key of jobs with the same latency distribution: number of days, and fields."""
    days = (
        query.end_date - query.start_date if query.start_date and query.end_date else query.period
    )
    return days, frozenset(query.to_wire())


class Latency:
    """The distribution of the durations, in seconds, of jobs of one kind.

    Args:
        poll_policy: defines the prior: polling at its `PROBABILITY_IDLE` quantiles gives the waits
            of the policy.
    """

    def __init__(self, poll_policy: PollPolicy) -> None:
        self.observed = 0
        """Observed jobs; in a copy from `given_running` also the running ones."""
        self._growth = poll_policy.growth
        survival = [_prior_survival(edge, poll_policy) for edge in _EDGES]
        self._prior = [1 - survival[0], *(a - b for a, b in pairwise(survival)), survival[-1]]
        self._observations: list[slice] = []
        self._set_mass(self._prior)

    @property
    def is_calibrated(self) -> bool:
        """Whether enough jobs were observed for one more to make little difference."""
        return self.observed >= _CALIBRATED_AFTER

    def observe(self, running: float, finished: float) -> None:
        """Add an interval-censored observation: the ages (s) last seen running, first finished."""
        interval = _bins(min(running, finished), finished)
        if self.is_calibrated:
            self._update(interval)
        else:
            self._refit(interval)

    def given_running(self, running: Iterable[float]) -> Latency:
        """The posterior given right-censored jobs: those still running at these ages (s)."""
        posterior = copy(self)
        for age in running:
            posterior._update(_bins(age, math.inf))  # noqa: SLF001
        return posterior

    def probability(self, age: float, *, running: float) -> float:
        """The probability that a job is finished at ``age``, given that it ran at ``running``."""
        before, survival = self._cdf_at(running), 1 - self._cdf_at(running)
        return (self._cdf_at(age) - before) / survival if survival > _NEGLIGIBLE else 1.0

    def quantile(self, probability: float, *, running: float) -> float:
        """The age (s) by which a job is finished with ``probability``, given it ran at ``running``.

        Beyond all observed durations the hazard is unknown; the age grows as in the poll policy.
        """
        before = self._cdf_at(running)
        if 1 - before <= _NEGLIGIBLE:
            return running * self._growth
        return _EDGES[min(bisect_left(self._cdf, before + probability * (1 - before)), _LAST)]

    def _update(self, interval: slice) -> None:
        """Predictive recursion: mix the old distribution with the newest observation's."""
        self.observed += 1
        weight = max(1 / (self.observed + _PRIOR_WEIGHT), 1 / _MEMORY_JOBS)
        mass = [part * (1 - weight) for part in self._mass]
        self._distribute(weight, interval, mass)
        self._set_mass(mass)

    def _refit(self, interval: slice) -> None:
        """One EM step over the prior and all observations."""
        self.observed += 1
        self._observations = [*self._observations, interval]
        weight = 1 / (self.observed + _PRIOR_WEIGHT)
        mass = [part * weight * _PRIOR_WEIGHT for part in self._prior]
        for one in self._observations:
            self._distribute(weight, one, mass)
        self._set_mass(mass)

    def _distribute(self, weight: float, interval: slice, mass: list[float]) -> None:
        """Add one observation's weight to the bins of its interval, by their current mass."""
        inside = self._mass[interval]
        total = sum(inside)
        if total <= _NEGLIGIBLE:
            inside, total = [1.0] * len(inside), float(len(inside))
        mass[interval] = [
            old + weight * part / total for old, part in zip(mass[interval], inside, strict=True)
        ]

    def _set_mass(self, mass: list[float]) -> None:
        self._mass, self._cdf = mass, list(accumulate(mass))

    def _cdf_at(self, age: float) -> float:
        index = bisect_right(_EDGES, age)
        return self._cdf[index - 1] if index else 0.0


def _bins(running: float, finished: float) -> slice:
    """The bins between two ages, both bins of the ends included."""
    return slice(bisect_right(_EDGES, running), bisect_left(_EDGES, finished) + 1)


def _prior_survival(seconds: float, poll_policy: PollPolicy) -> float:
    """The prior probability that a job takes longer than this."""
    first = max(poll_policy.first_wait_seconds, _SHORTEST)
    if seconds < first:
        return 1 - PROBABILITY_IDLE * math.log(seconds / _ORIGIN) / math.log(first / _ORIGIN)
    return math.pow(
        1 - PROBABILITY_IDLE, 1 + math.log(seconds / first) / math.log(poll_policy.growth)
    )
