"""Which partitions to ask for: pure functions over days, segments and receipts.

What is landed is known partition by partition from the receipts, never from a cursor. So a gap,
however it came about, is simply a partition without a receipt.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from enum import StrEnum
from typing import Self

from prefect_wix.planning.partitions import UNCONFIRMED, Partition, Receipt
from prefect_wix.planning.segments import Segment
from prefect_wix.planning.windows import Window

__all__ = [
    "CATCH_UP",
    "Plan",
    "Reason",
    "Refresh",
    "RefreshPolicy",
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


class Reason(StrEnum):
    """Why a partition is asked for, the most urgent first."""

    MISSING = "missing"
    """It is not landed: a gap."""
    OTHER_ZONE = "other zone"
    """It is landed as a day of another time zone."""
    UNFINISHED = "unfinished"
    """It was asked before its day was over."""
    STALE = "stale"
    """It was asked so soon after its day that late sessions may be missing; or no job listed it,
    because an earlier version derived it from other segments."""
    REFRESH = "refresh"
    """It is asked for again because the caller wants all."""


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
class Plan:
    """What a load asks for, gaps first, and what it leaves alone."""

    to_load: Mapping[Partition, Reason]
    settled: tuple[Partition, ...]
    not_begun: tuple[Partition, ...] = ()
    """Days of the range that lie in the future."""


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
    to_load = {one: reason for one, reason in (reasons | taken_up).items() if reason}
    return Plan(
        to_load=dict(sorted(to_load.items(), key=_urgency)),
        settled=tuple(one for one, reason in reasons.items() if reason is None),
        not_begun=tuple(one for one in partitions if one.begins_at > policy.now),
    )


def _urgency(planned: tuple[Partition, Reason]) -> int:
    return list(Reason).index(planned[1])


def _reason(partition: Partition, receipt: Receipt | None, policy: RefreshPolicy) -> Reason | None:
    # A receipt from the future was written by a clock that ran ahead, and proves nothing.
    if receipt is None or receipt.confirmed_at > policy.now:
        return Reason.MISSING
    if receipt.partition.timezone != partition.timezone:
        return Reason.OTHER_ZONE
    if receipt.confirmed_at == UNCONFIRMED:
        return Reason.STALE
    return _reason_by_time(receipt, policy)


def _reason_by_time(receipt: Receipt, policy: RefreshPolicy) -> Reason | None:
    ends_at = receipt.partition.ends_at
    if receipt.confirmed_at >= policy.as_of:
        return None
    if receipt.confirmed_at < ends_at:
        return Reason.UNFINISHED
    may_be_stale = receipt.confirmed_at < ends_at + policy.lookback
    if policy.refresh is not Refresh.MISSING and may_be_stale:
        return Reason.STALE
    return Reason.REFRESH if policy.refresh is Refresh.ALL else None
