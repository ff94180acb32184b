"""What a load is going to take, before it starts: requests, sessions and minutes, as ranges.

Receipts tell how many sessions a segment had on other days, the ledger tells how long jobs ran.
From these a hundred possible worlds are drawn: in each, a size for every partition and a run for
every job. The less is known of a segment or of a kind of job, the further the worlds lie apart.
What nine in ten of them hold is the range. It is no promise: nothing here knows of failures, of
who else asks for the site, or of a trend.

Pure functions; the same question has the same answer. Who decides by it is elsewhere.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from heapq import heapreplace, nsmallest
from itertools import chain, cycle, product
from random import Random
from statistics import NormalDist, median, pvariance
from typing import NamedTuple

from prefect_wix.budget import REQUESTS_A_JOB, REQUESTS_PER_MINUTE, WINDOW_SECONDS
from prefect_wix.models import PAGE_LIMIT
from prefect_wix.pace import LEAST_GAP, PLENTY, SCARCE, Latency, Patience, kind_of
from prefect_wix.partitions import Ask, Partition, Receipt
from prefect_wix.segments import ALL_SESSIONS

__all__ = ["Estimate", "Range", "estimate_load"]

_WORLDS = 100
_TAIL = 0.05
"""The share of the worlds that is left out at either end of a range."""
_LEVELS = [NormalDist().inv_cdf((number + 0.5) / _WORLDS) for number in range(_WORLDS)]
"""How much greater sizes are in each world than they seem, in standard deviations."""
_SLOWNESS = Random(1).sample(_LEVELS, k=_WORLDS)  # noqa: S311
"""How much slower jobs are: another question, and so in another order."""
_ROUND_TRIPS = [0.1 * math.exp(level) for level in Random(2).sample(_LEVELS, k=_WORLDS)]  # noqa: S311
"""Seconds that the requests of a job take beside its run, which no ledger holds: 0.02 to 0.5."""

# Every doubt is the standard deviation of a logarithm: 1.0 is a factor of 5 up or down.
_DOUBT_BEFORE_ANY = 1.0
"""How much days of a segment, or jobs of a kind, may differ as far as one of them can tell."""
_DRIFT = 0.04
"""How far sizes, and how long jobs take, drift in a week; sizes twice as far in four."""
_ENOUGH_DAYS = 4
"""Days of one weekday from which the other weekdays are left aside."""
_NEAREST_DAYS = 12
"""As many days are looked at, the nearest."""
_OTHER_SEGMENT_DOUBT = 1.5
"""How much a segment that never landed differs from those that did."""
_UNKNOWN_SIZE = 1000
_UNKNOWN_SIZE_DOUBT = 2.0
"""The sessions of a partition where nothing ever landed: from one page to many."""
_UNKNOWN_SECONDS = 3.0
_UNKNOWN_SECONDS_DOUBT = 1.4
"""How long jobs run that nobody watched: from a fraction of a second to half a minute."""

_JOBS_LEARNED_FROM = 60
"""The last of a kind; older ones are forgotten."""
_SCARCE_FROM = 0.9
"""The share of the budget from which requests are taken to be scarce."""
_INEXACT = 0.1
"""How far off the chance may be at which jobs are polled: the ledger's times are not exact;"""
_SURELY = 0.97
"""and what it never exceeds."""

_PATIENCE = Patience()


@dataclass(frozen=True)
class Range:
    """What holds the truth in about nine cases of ten, and the middle of it."""

    low: float
    expected: float
    high: float

    def __str__(self) -> str:
        return f"{_rounded(self.low)} to {_rounded(self.high)}"


@dataclass(frozen=True)
class Estimate:
    """What a load is going to take. ``str()`` is one sentence for a person."""

    jobs: int
    requests: Range
    sessions: Range
    minutes: Range
    requests_per_minute: int = REQUESTS_PER_MINUTE

    def __str__(self) -> str:
        if not self.jobs:
            return "Nothing to ask for: no requests."
        return (
            f"About {_rounded(self.requests.expected)} requests ({self.requests}) for "
            f"{self.jobs:,} job{'s' if self.jobs > 1 else ''} and "
            f"{_rounded(self.sessions.expected)} sessions ({self.sessions}): "
            f"{_span(self.minutes)} at {self.requests_per_minute:,} requests a minute."
        )


def estimate_load(
    partitions: Sequence[Partition],
    receipts: Iterable[Receipt],
    asks: Iterable[Ask],
    *,
    jobs_in_flight: int,
    requests_per_minute: int = REQUESTS_PER_MINUTE,
) -> Estimate:
    """Estimate what it takes to ask for some partitions of one site.

    Args:
        partitions: what is going to be asked, in that order, by one job each.
        receipts: what is landed, of any days and segments of the site.
        asks: the ledger, oldest first.
        jobs_in_flight: how many jobs may run at Wix at once.
        requests_per_minute: the site's budget, of which all is taken to be free.
    """
    worlds = [_World(jobs_in_flight, requests_per_minute, trip) for trip in _ROUND_TRIPS]
    sizes, runs = _Sizes(receipts), _Runs(partitions, asks, jobs_in_flight, requests_per_minute)
    for one in partitions:
        for world, size, run in zip(worlds, sizes.of(one), runs.of(one), strict=True):
            world.add(size, run)
    return Estimate(
        jobs=len(partitions),
        requests=_range(world.requests for world in worlds),
        sessions=_range(world.sessions for world in worlds),
        minutes=_range(world.seconds / 60 for world in worlds),
        requests_per_minute=requests_per_minute,
    )


class _Run(NamedTuple):
    """How one job is watched in one world."""

    polls: int
    """The last of them finds it finished, and is its first page."""
    seconds: float
    """From its submit to that poll."""


class _World:
    """What a load takes in one world: each job begins as soon as a slot and the budget are free."""

    def __init__(self, slots: int, requests_per_minute: int, round_trips: float) -> None:
        self.sessions = 0
        self.requests = 0
        self.seconds = 0.0
        """Until the last job is done."""
        self._free_at = [0.0] * slots
        self._requests_per_minute = requests_per_minute
        self._round_trips = round_trips

    def add(self, sessions: int, run: _Run) -> None:
        """Ask for one more partition."""
        # Jobs are submitted before others are polled: each that runs has a request to come.
        before = max(0, self.requests - len(self._free_at))
        begun = max(self._free_at[0], self._turn_of(before))
        self.sessions += sessions
        self.requests += 1 + run.polls + max(0, math.ceil(sessions / PAGE_LIMIT) - 1)
        ended = max(begun + run.seconds, self._turn_of(self.requests - 1))
        heapreplace(self._free_at, ended + self._round_trips)
        self.seconds = max(self.seconds, ended + self._round_trips)

    def _turn_of(self, number: int) -> float:
        return WINDOW_SECONDS * (number // self._requests_per_minute)


def _range(values: Iterable[float]) -> Range:
    row = sorted(values)
    tail = int(_TAIL * len(row))
    return Range(row[tail], median(row), row[-1 - tail])


def _doubt(seen: Sequence[float]) -> float:
    """How far off the level of some days, or of some jobs, may be that were seen."""
    variance = pvariance([math.log1p(one) for one in seen]) + _DOUBT_BEFORE_ANY**2 / len(seen)
    return math.sqrt(variance / len(seen))


class _Sizes:
    """What receipts tell of the sizes of partitions."""

    def __init__(self, receipts: Iterable[Receipt]) -> None:
        # What was asked before its day was over tells of a part of the day.
        self._whole = [one for one in receipts if one.confirmed_at >= one.partition.ends_at]
        self._landed = {one.partition.key: one for one in self._whole}
        sizes: defaultdict[str, list[int]] = defaultdict(list)
        for one in self._whole:
            sizes[one.partition.segment].append(one.sessions)
        self._doubts = {segment: _doubt(known) for segment, known in sizes.items()}
        self._most = max(sizes.get(ALL_SESSIONS.key, ()), default=math.inf)
        self._alike = _Alike(self._whole)

    def of(self, partition: Partition) -> list[int]:
        """The sessions of a partition in each world."""
        if partition.key in self._landed:
            return _drawn(partition, [self._landed[partition.key]], doubt=0.0)
        if partition.segment in self._doubts:
            known = self._alike.nearest(partition.day, partition.segment)
            return _drawn(partition, known, self._doubts[partition.segment])
        if self._whole:
            others = self._alike.nearest(partition.day, _ANY)
            drawn = _drawn(partition, others, _OTHER_SEGMENT_DOUBT)
            return [int(min(size, self._most)) for size in drawn]
        return [round(_UNKNOWN_SIZE * math.exp(_UNKNOWN_SIZE_DOUBT * level)) for level in _LEVELS]


_ANY = None
"""Whatever the segment, or the weekday."""


class _Alike:
    """Receipts by segment and weekday, and of each such group the nearest to a day."""

    def __init__(self, receipts: Iterable[Receipt]) -> None:
        groups: defaultdict[tuple[str | None, int | None], list[Receipt]] = defaultdict(list)
        for one in receipts:
            which = one.partition
            for group in product((which.segment, _ANY), (which.day.weekday(), _ANY)):
                groups[group].append(one)
        self._groups = {group: _ByDay(among) for group, among in groups.items()}

    def nearest(self, day: date, segment: str | None) -> list[Receipt]:
        """Those of the same weekday, or of any where these are few."""
        same = self._groups.get((segment, day.weekday()))
        if same is None or same.count < _ENOUGH_DAYS:
            same = self._groups[segment, _ANY]
        return same.nearest(day)


class _ByDay:
    """Receipts by day: a backfill looks for the nearest once for each of its partitions."""

    def __init__(self, receipts: Sequence[Receipt]) -> None:
        self.count = len(receipts)
        self._of: defaultdict[date, list[Receipt]] = defaultdict(list)
        for one in receipts:
            self._of[one.partition.day].append(one)
        self._days = sorted(self._of)

    def nearest(self, day: date) -> list[Receipt]:
        place = bisect_left(self._days, day)
        near = self._days[max(0, place - _NEAREST_DAYS) : place + _NEAREST_DAYS]
        among = chain.from_iterable(self._of[one][:_NEAREST_DAYS] for one in near)
        return nsmallest(_NEAREST_DAYS, among, key=lambda one: abs(one.partition.day - day))


def _drawn(partition: Partition, alike: list[Receipt], doubt: float) -> list[int]:
    weeks = (1 + min(_days_between(partition, one) for one in alike)) / 7
    apart = math.hypot(doubt, _DRIFT * math.sqrt(weeks))
    # Its luck is a partition's own, whatever else is asked: with more of them no sum is smaller.
    drawn = Random(f"size of {partition}").choices(alike, k=_WORLDS)  # noqa: S311
    return [
        round(one.sessions * math.exp(apart * level))
        for one, level in zip(drawn, _LEVELS, strict=True)
    ]


def _days_between(partition: Partition, receipt: Receipt) -> int:
    return abs((partition.day - receipt.partition.day).days)


class _Kind:
    """What the ledger tells of the jobs of one kind.

    Args:
        watched: (seen running at, seen finished at) of each, in seconds, oldest first.
    """

    def __init__(self, watched: Sequence[tuple[float, float]]) -> None:
        self.latency = Latency(_PATIENCE)
        for running, finished in watched or _SUPPOSED:
            self.latency.learn(running, finished)
        seen = [finished for _, finished in watched]
        self.doubt = math.hypot(_doubt(seen), _DRIFT) if seen else _UNKNOWN_SECONDS_DOUBT


_SUPPOSED = [
    (0.95 * seconds, seconds)
    for level in _LEVELS[5::10]
    for seconds in [_UNKNOWN_SECONDS * math.exp(0.3 * level)]
]
"""A kind that nobody watched is taken to be as even as this, however long its jobs run."""


class _Runs:
    """How often jobs are polled and how long they take, as `prefect_wix.pace` would have it."""

    def __init__(
        self,
        partitions: Sequence[Partition],
        asks: Iterable[Ask],
        jobs_in_flight: int,
        requests_per_minute: int,
    ) -> None:
        self._kinds = _kinds(partitions, asks)
        first_polls = [
            self._kinds[one.segment].latency.likely_at(PLENTY, running=0.0) for one in partitions
        ]
        share = REQUESTS_A_JOB * len(partitions) / requests_per_minute
        windows = max(1.0, sum(first_polls) / jobs_in_flight / WINDOW_SECONDS)
        chances = _chances(share, windows)
        self._ladders = {
            kind: [_ladder(kind.latency, chance) for chance in chances]
            for kind in self._kinds.values()
        }

    def of(self, partition: Partition) -> list[_Run]:
        """How the job for a partition is watched in each world."""
        kind, luck = self._kinds[partition.segment], Random(f"run of {partition}")  # noqa: S311
        ladders = cycle(self._ladders[kind])
        takes = (kind.latency.likely_at(luck.random(), running=0.0) for _ in _SLOWNESS)
        return [
            _watched(one, next(ladders), math.exp(kind.doubt * level))
            for one, level in zip(takes, _SLOWNESS, strict=True)
        ]


def _kinds(partitions: Sequence[Partition], asks: Iterable[Ask]) -> Mapping[str, _Kind]:
    """The kind of job that asks for a segment, by its key."""
    watched = [ask for ask in asks if ask.finished_seconds is not None]
    of_segment = {one.segment: one for one in (*(ask.partition for ask in watched), *partitions)}
    kinds = {segment: kind_of(one.query) for segment, one in of_segment.items()}
    seen: defaultdict[Hashable, list[tuple[float, float]]] = defaultdict(list)
    for ask in watched:
        times = ask.running_seconds or 0.0, ask.finished_seconds or 0.0
        seen[kinds[ask.partition.segment]].append(times)
    known = {kind: _Kind(seen[kind][-_JOBS_LEARNED_FROM:]) for kind in set(kinds.values())}
    return {segment: known[kind] for segment, kind in kinds.items()}


def _chances(share: float, windows: float) -> list[float]:
    """How surely finished jobs are when they are polled, in one world or another.

    At first everything that is to come makes requests scarce, and later what is really spent.

    Args:
        share: of one minute's budget, what the load needs.
        windows: over how many minutes that is spread.
    """
    at_first, later = _sure_enough(share), _sure_enough(share / windows)
    return [later - _INEXACT, later, at_first, min(at_first + _INEXACT, _SURELY)]


def _sure_enough(share: float) -> float:
    return SCARCE if share >= _SCARCE_FROM else PLENTY


def _ladder(latency: Latency, chance: float) -> list[float]:
    """The ages at which a job is polled that runs on and on."""
    ages = [latency.likely_at(chance, running=0.0)]
    while ages[-1] < _PATIENCE.timeout_seconds:
        likely = max(latency.likely_at(chance, running=ages[-1]), ages[-1] * (1 + LEAST_GAP))
        ages.append(min(likely, ages[-1] + _PATIENCE.longest_wait_seconds))
    return ages


def _watched(takes: float, ladder: Sequence[float], slowness: float) -> _Run:
    # In a slower world all of a kind are slower, and are soon polled as much later.
    place = min(bisect_left(ladder, takes), len(ladder) - 1)
    return _Run(place + 1, ladder[place] * slowness)


def _rounded(number: float) -> str:
    """To three digits: an estimate has no more."""
    return f"{float(f'{number:.3g}'):,.0f}"


def _span(minutes: Range) -> str:
    low, high = math.floor(minutes.low), math.ceil(minutes.high)
    if high <= 1:
        return "less than a minute"
    return f"{low:,} to {high:,} minutes" if low else f"up to {high:,} minutes"
