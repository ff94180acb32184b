"""Which partitions to ask for: pure functions over days, segments and receipts.

What is landed is known partition by partition from the receipts, never from a cursor. So a gap,
however it came about, is simply a partition without a receipt.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from enum import StrEnum
from itertools import groupby
from statistics import fmean
from typing import Self

from prefect_wix.cover import Cover, Derivation, cheapest_cover
from prefect_wix.partitions import Partition, Receipt
from prefect_wix.segments import Segment
from prefect_wix.windows import Window

__all__ = [
    "CATCH_UP",
    "CoverBy",
    "Plan",
    "PlannedPartition",
    "Reason",
    "Refresh",
    "RefreshPolicy",
    "cover_cheaply",
    "earlier_partitions",
    "make_plan",
    "partitions_of",
]

CATCH_UP = timedelta(days=30)
"""How far a load of the last days looks back for gaps. Older ones are asked for by their dates."""


class Refresh(StrEnum):
    """Which partitions a load asks for again."""

    MISSING = "missing"
    """Only what is not landed, or was asked before its day was over."""
    STALE = "stale"
    """Also days that may have got late sessions since they were asked."""
    ALL = "all"
    """Every partition of the range."""


class CoverBy(StrEnum):
    """How the segments of a day are come by."""

    ASKING = "asking"
    """Each is asked for at Wix."""
    CHEAPEST = "cheapest"
    """What follows from others is derived, where that costs fewer requests."""


class Reason(StrEnum):
    """Why a partition is asked for, the most urgent first."""

    MISSING = "missing"
    """It is not landed: a gap."""
    OTHER_ZONE = "other zone"
    """It is landed as a day of another time zone."""
    UNFINISHED = "unfinished"
    """It was asked before its day was over."""
    STALE = "stale"
    """It was asked so soon after its day that late sessions may be missing."""
    REFRESH = "refresh"
    """It is asked for again because the caller wants all."""
    AUXILIARY = "auxiliary"
    """Nobody wants it, but others follow from it, and all of it costs less."""


@dataclass(frozen=True)
class RefreshPolicy:
    """How much of what is landed is asked for again.

    Attributes:
        refresh: which partitions.
        lookback: how long after the end of its day a partition may still get late sessions.
        as_of: when the load was due. What has been confirmed since then, as by the first try of
            a run that is retried, is left alone.
        now: the time it is.
    """

    refresh: Refresh
    lookback: timedelta
    as_of: datetime
    now: datetime

    def for_earlier(self) -> Self:
        """The policy for days before the range, which nobody asked to refresh as such."""
        return replace(self, refresh=Refresh.STALE) if self.refresh is Refresh.ALL else self


@dataclass(frozen=True)
class PlannedPartition:
    """One partition to ask for or to derive, and why."""

    partition: Partition
    reason: Reason
    derivation: Derivation | None = None
    """How it follows from other partitions of its day; None where it is asked for at Wix."""


@dataclass(frozen=True)
class Plan:
    """What a load asks for, gaps first, and what it leaves alone."""

    to_ask: tuple[PlannedPartition, ...]
    settled: tuple[Partition, ...]
    not_begun: tuple[Partition, ...] = ()
    """Days of the range that lie in the future."""
    savings: tuple[str, ...] = ()
    """What is derived instead of asked for, and what that saves, in words."""

    @property
    def asked(self) -> list[Partition]:
        """The partitions that a job is to be submitted for."""
        return [one.partition for one in self.to_ask if one.derivation is None]

    @property
    def derived(self) -> dict[Partition, Derivation]:
        """The partitions that follow from those, and how."""
        return {one.partition: one.derivation for one in self.to_ask if one.derivation}


def partitions_of(site_id: str, window: Window, segments: Iterable[Segment]) -> list[Partition]:
    """Every partition of a window: each local day, each segment."""
    keys = [segment.key for segment in segments]
    return [Partition(site_id, day, key, window.timezone) for day in window.days() for key in keys]


def earlier_partitions(
    site_id: str, window: Window, segments: Iterable[Segment], known: Iterable[Partition]
) -> list[Partition]:
    """The partitions before a window, up to `CATCH_UP`, of the segments that were loaded by then.

    A load of the last days takes up here what a failed run or a pause has left behind.

    Args:
        known: the partitions that have been asked for.
    """
    since: dict[str, date] = {}
    for partition in known:
        since[partition.segment] = min(partition.day, since.get(partition.segment, partition.day))
    earlier = Window(window.start - CATCH_UP, window.start, window.timezone)
    return [
        partition
        for partition in partitions_of(site_id, earlier, segments)
        if since.get(partition.segment, window.end) <= partition.day
    ]


def make_plan(
    partitions: Sequence[Partition],
    receipts: Iterable[Receipt],
    policy: RefreshPolicy,
    *,
    earlier: Sequence[Partition] = (),
) -> Plan:
    """Decide which partitions to ask for.

    Args:
        partitions: every partition of the range.
        receipts: what is landed.
        policy: how much to ask again.
        earlier: partitions before the range, of which gaps and stale days are taken up.
    """
    landed = {receipt.partition.key: receipt for receipt in receipts}
    begun = [one for one in partitions if one.begins_at <= policy.now]
    reasons = {one: _reason(one, landed.get(one.key), policy) for one in begun}
    taken_up = {one: _reason(one, landed.get(one.key), policy.for_earlier()) for one in earlier}
    to_ask = [
        PlannedPartition(one, reason) for one, reason in (reasons | taken_up).items() if reason
    ]
    return Plan(
        to_ask=tuple(sorted(to_ask, key=_urgency)),
        settled=tuple(one for one, reason in reasons.items() if reason is None),
        not_begun=tuple(one for one in partitions if one.begins_at > policy.now),
    )


def cover_cheaply(plan: Plan, receipts: Iterable[Receipt], policy: RefreshPolicy) -> Plan:
    """The plan with what follows from others derived, where that costs fewer requests.

    A day that may still get sessions is left as it is: one that comes between two answers would be
    filed wrongly. See `prefect_wix.cover` for what it rests on, and why nobody gets it unasked.

    Args:
        plan: what to ask for.
        receipts: tell how many sessions a segment has.
        policy: tells until when a day may still get sessions.
    """
    sizes = _mean_sizes(receipts)
    covers: dict[tuple[str, ...], Cover] = {}
    planned: list[PlannedPartition] = []
    days = [list(of_a_day) for _, of_a_day in groupby(sorted(plan.to_ask, key=_day), key=_day)]
    # What belongs to a day stays together, so that no answer is kept longer than it must be.
    for wanted in sorted(days, key=lambda wanted: min(map(_urgency, wanted))):
        if wanted[0].partition.ends_at + policy.lookback > policy.now:
            planned += wanted
            continue
        segments = tuple(sorted(one.partition.segment for one in wanted))
        if segments not in covers:
            covers[segments] = cheapest_cover(segments, sizes)
        planned += _covered(wanted, covers[segments])
    why = dict.fromkeys(cover.why for cover in covers.values() if cover.derived)
    return replace(plan, to_ask=tuple(planned), savings=tuple(why))


def _covered(wanted: Sequence[PlannedPartition], cover: Cover) -> list[PlannedPartition]:
    by_segment = {one.partition.segment: one for one in wanted}
    day = wanted[0].partition
    asked = [
        by_segment.get(key) or PlannedPartition(replace(day, segment=key), Reason.AUXILIARY)
        for key in cover.asked
    ]
    return [
        *asked,
        *(replace(by_segment[how.segment], derivation=how) for how in cover.derived),
    ]


def _mean_sizes(receipts: Iterable[Receipt]) -> dict[str, float]:
    sizes: defaultdict[str, list[int]] = defaultdict(list)
    for receipt in receipts:
        sizes[receipt.partition.segment].append(receipt.sessions)
    return {segment: fmean(counts) for segment, counts in sizes.items()}


def _day(planned: PlannedPartition) -> date:
    return planned.partition.day


def _urgency(planned: PlannedPartition) -> int:
    return list(Reason).index(planned.reason)


def _reason(partition: Partition, receipt: Receipt | None, policy: RefreshPolicy) -> Reason | None:
    # A receipt from the future was written by a clock that ran ahead, and proves nothing.
    if receipt is None or receipt.confirmed_at > policy.now:
        return Reason.MISSING
    if receipt.partition.timezone != partition.timezone:
        return Reason.OTHER_ZONE
    if receipt.confirmed_at >= policy.as_of:
        return None
    if receipt.confirmed_at < partition.ends_at:
        return Reason.UNFINISHED
    may_be_stale = receipt.confirmed_at < partition.ends_at + policy.lookback
    if policy.refresh is not Refresh.MISSING and may_be_stale:
        return Reason.STALE
    return Reason.REFRESH if policy.refresh is Refresh.ALL else None
