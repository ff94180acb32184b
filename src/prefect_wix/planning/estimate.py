"""Estimate the jobs, sessions and requests of a load before it starts.

The sizes of recently loaded days predict the sizes of the days to load: their mean is expected,
their minimum and maximum are the range. The limit that needs confirmation is in the flow.
"""

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from prefect_wix.client.models import PAGE_LIMIT
from prefect_wix.planning.partitions import Partition, Receipt
from prefect_wix.planning.plan import Plan

_RECENT_DAYS = 28
"""Whole weeks, so that every weekday has the same weight."""


@dataclass(frozen=True)
class Range:
    """An expected number between a minimum and a maximum."""

    low: int
    expected: int
    high: int

    def of(self, noun: str) -> str:
        """The numbers with a noun, as in ``204 requests (180 to 240)``."""
        ends = f" ({self.low:,} to {self.high:,})" if self.low < self.high else ""
        return f"{counted(self.expected, noun)}{ends}"


@dataclass(frozen=True)
class Estimate:
    """The cost of a load. ``str()`` is one sentence.

    A segment without history counts as empty, which gives the minimum. Polls that find a job still
    running, retries and the time that jobs take at Wix are not included.
    """

    jobs: int
    sessions: Range
    requests: Range
    segments: int
    segments_without_history: int
    requests_per_minute: int

    @property
    def has_history(self) -> bool:
        """Whether at least one of the segments has been loaded before."""
        return self.segments_without_history < self.segments

    def __str__(self) -> str:
        if not self.jobs:
            return "Nothing to load."
        jobs = counted(self.jobs, "job")
        requests = f"{self.requests.of('request')}{self._duration}"
        if not self.has_history:
            return f"{jobs}: first load, no history yet; at least {requests}."
        sentence = f"{jobs}: about {self.sessions.of('session')} in {requests}"
        if new := self.segments_without_history:
            return (
                f"{sentence} (no history for {new} of {self.segments} segments, counted as empty)."
            )
        return f"{sentence}."

    @property
    def _duration(self) -> str:
        # The requests of the first minute may all be sent at once.
        minutes = (self.requests.expected - 1) // self.requests_per_minute
        rate = counted(self.requests_per_minute, "request")
        return f", at least {counted(minutes, 'minute')} at {rate} a minute" if minutes else ""


def estimate_load(
    partitions: Sequence[Partition],
    receipts: Iterable[Receipt],
    *,
    requests_per_minute: int,
) -> Estimate:
    """Estimate the cost of loading partitions of one site.

    Args:
        partitions: the partitions to load, one job each.
        receipts: receipts of earlier loads of the site, for any days and segments.
        requests_per_minute: the site's rate limit, assumed to be fully available.
    """
    jobs = Counter(partition.segment for partition in partitions)
    recent = _recent_sizes(receipts)
    sizes = {segment: recent.get(segment, [0]) for segment in jobs}
    # One submit, and one request per page up to the first that is not full. The poll that finds
    # the job finished is page one.
    requests = {segment: [2 + one // PAGE_LIMIT for one in sizes[segment]] for segment in jobs}
    return Estimate(
        jobs=len(partitions),
        sessions=_total(jobs, sizes),
        requests=_total(jobs, requests),
        segments=len(jobs),
        segments_without_history=len(jobs.keys() - recent.keys()),
        requests_per_minute=requests_per_minute,
    )


def limit_requests(plan: Plan, receipts: Sequence[Receipt], max_requests: int) -> Plan:
    """The plan with the most urgent partitions within a limit; it postpones the others.

    Args:
        plan: the plan of the whole load.
        receipts: receipts of earlier loads of the site, as in `estimate_load`.
        max_requests: the limit on expected requests. One partition is loaded even if it needs more,
            since otherwise no run would ever load it.
    """
    planned = [*plan.to_load.items()]

    def expected_requests(count: int) -> int:
        first = [partition for partition, _ in planned[:count]]
        return estimate_load(first, receipts, requests_per_minute=1).requests.expected

    counts = range(1, len(planned) + 1)
    count = max(1, bisect_right(counts, max_requests, key=expected_requests))
    return replace(plan, to_load=dict(planned[:count]), postponed=dict(planned[count:]))


def _recent_sizes(receipts: Iterable[Receipt]) -> Mapping[str, Sequence[int]]:
    """Sessions a day of each segment, newest first, without days listed before they were over."""
    complete = (one for one in receipts if one.confirmed_at >= one.partition.ends_at)
    sizes: defaultdict[str, list[int]] = defaultdict(list)
    for receipt in sorted(complete, key=lambda one: one.partition.day, reverse=True):
        sizes[receipt.partition.segment].append(receipt.sessions)
    return {segment: newest_first[:_RECENT_DAYS] for segment, newest_first in sizes.items()}


def _total(jobs: Mapping[str, int], history: Mapping[str, Sequence[int]]) -> Range:
    """The sum over all jobs, given the numbers of recent jobs of each segment."""
    low, expected, high = (
        round(sum(count * statistic(history[segment]) for segment, count in jobs.items()))
        for statistic in (min, fmean, max)
    )
    return Range(low, expected, high)


def counted(count: int, noun: str) -> str:
    """A number and its noun, as in ``1 site`` and ``23,121 sessions``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
