"""Which partitions to ask for: pure functions over days, segments and receipts.

What is landed is known partition by partition from the receipts, never from a cursor. So a gap,
however it came about, is simply a partition without a receipt.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from prefect_wix.partitions import Partition, Receipt
from prefect_wix.segments import Segment
from prefect_wix.windows import Window

__all__ = ["Plan", "PlannedPartition", "Reason", "Refresh", "make_plan", "partitions_of"]


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
    UNFINISHED = "unfinished"
    """It was asked before its day was over."""
    STALE = "stale"
    """It was asked so soon after its day that late sessions may be missing."""
    REFRESH = "refresh"
    """It is asked for again because the caller wants all."""


@dataclass(frozen=True)
class PlannedPartition:
    """One partition to ask for, and why."""

    partition: Partition
    reason: Reason


@dataclass(frozen=True)
class Plan:
    """What a load asks for, gaps first, and what it leaves alone."""

    to_ask: tuple[PlannedPartition, ...]
    settled: tuple[Partition, ...]


def partitions_of(site_id: str, window: Window, segments: Iterable[Segment]) -> list[Partition]:
    """Every partition of a window: each local day, each segment."""
    keys = [segment.key for segment in segments]
    return [Partition(site_id, day, key, window.timezone) for day in window.days() for key in keys]


def make_plan(
    partitions: Sequence[Partition],
    receipts: Iterable[Receipt],
    *,
    refresh: Refresh,
    lookback: timedelta,
    as_of: datetime,
) -> Plan:
    """Decide which partitions to ask for.

    Args:
        partitions: every partition of the range.
        receipts: what is landed.
        refresh: how much to ask again.
        lookback: how long after the end of its day a partition may still get late sessions.
        as_of: when this load was due. What has been confirmed since then, as by the first try of
            a run that is retried, is left alone.
    """
    landed = {receipt.partition: receipt for receipt in receipts}
    reasons = {
        partition: _reason(partition, landed.get(partition), refresh, lookback, as_of)
        for partition in partitions
    }
    to_ask = [PlannedPartition(one, reason) for one, reason in reasons.items() if reason]
    rank = list(Reason).index
    return Plan(
        to_ask=tuple(sorted(to_ask, key=lambda planned: rank(planned.reason))),
        settled=tuple(one for one, reason in reasons.items() if reason is None),
    )


def _reason(
    partition: Partition,
    receipt: Receipt | None,
    refresh: Refresh,
    lookback: timedelta,
    as_of: datetime,
) -> Reason | None:
    if receipt is None:
        return Reason.MISSING
    if receipt.confirmed_at >= as_of:
        return None
    if receipt.confirmed_at < partition.ends_at:
        return Reason.UNFINISHED
    if refresh is not Refresh.MISSING and receipt.confirmed_at < partition.ends_at + lookback:
        return Reason.STALE
    return Reason.REFRESH if refresh is Refresh.ALL else None
