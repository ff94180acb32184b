"""Decide which partitions to load: pure functions over days, segments and receipts.

The receipts show partition by partition what has landed; there is no cursor. A gap is a partition
without a receipt. How a partition is loaded is in `prefect_wix.load`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from enum import StrEnum

from prefect_wix.planning.partitions import FORGOTTEN, UNCONFIRMED, Partition, Receipt
from prefect_wix.planning.segments import Segment
from prefect_wix.planning.windows import Window

CATCH_UP = timedelta(days=30)
"""How far before its days a load looks for gaps. Load older gaps by their dates."""


class Refresh(StrEnum):
    """Which partitions of its range a load submits jobs for."""

    MISSING = "missing"
    """Partitions that are not landed, or whose job was submitted before the day was over."""
    STALE = "stale"
    """Also days that may have received late sessions since their last job."""
    ALL = "all"
    """Every partition of the range, even forgotten ones."""


class WhenTooBig(StrEnum):
    """What a load does whose estimated requests exceed its limit, without confirmation."""

    REFUSE = "refuse"
    """Submit nothing and fail: a person decides."""
    PARTIAL = "partial"
    """Load the most urgent partitions within the limit, and leave the others for the next run."""


class Reason(StrEnum):
    """Why a job is submitted for a partition, most urgent first."""

    MISSING = "missing"
    """The partition is not landed: a gap."""
    OTHER_ZONE = "other zone"
    """The partition landed as a day of another time zone."""
    UNFINISHED = "unfinished"
    """Its last job was submitted before the day was over."""
    STALE = "stale"
    """Its last job was submitted within the lookback, so late sessions may be missing; or the first
    edition derived it from other segments, without a job of its own."""
    REFRESH = "refresh"
    """`Refresh.ALL` loads every partition."""


@dataclass(frozen=True)
class RefreshPolicy:
    """Which landed partitions are loaded again.

    Attributes:
        refresh: which partitions.
        lookback: how long after the end of its day a partition may receive late sessions.
        as_of: scheduled time of the load. Partitions confirmed since then, such as by the first
            attempt of a retried run, are not loaded again.
        now: the current time.
    """

    refresh: Refresh
    lookback: timedelta
    as_of: datetime
    now: datetime


@dataclass(frozen=True)
class Plan:
    """The partitions to load, most urgent first, and those that need no job."""

    to_load: Mapping[Partition, Reason]
    settled: tuple[Partition, ...]
    not_begun: tuple[Partition, ...] = ()
    """Partitions of the range whose day is in the future."""
    postponed: Mapping[Partition, Reason] = field(default_factory=dict)
    """Partitions that exceed the limit of a partial load; the next run plans them again."""


def partitions_of(site_id: str, window: Window, segments: Iterable[Segment]) -> list[Partition]:
    """Every partition of a window: each local day, each segment."""
    keys = [segment.key for segment in segments]
    return [Partition(site_id, day, key, window.timezone) for day in window.days() for key in keys]


def earlier_partitions(
    site_id: str, window: Window, segments: Iterable[Segment], known: Iterable[Partition]
) -> list[Partition]:
    """The partitions within `CATCH_UP` before a window, from each segment's first known day on.

    A load of the last days fills the gaps that failed or paused runs left there.

    Args:
        known: partitions that have job records.
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
    """Decide which partitions to load.

    Of one reason, the partitions of the range come first, then earlier ones, both oldest first:
    gaps that can't be loaded leave the range, and are then behind its new days. Settled ones that
    are loaded again come in the order of their last confirmation.

    Args:
        partitions: every partition of the range.
        receipts: receipts of landed partitions.
        policy: which landed partitions to load again.
        earlier: partitions before the range; of these, gaps and stale days are loaded.
    """
    landed = {receipt.partition.key: receipt for receipt in receipts}
    begun = [one for one in partitions if one.begins_at <= policy.now]
    reasons = {one: _reason(one, landed.get(one.key), policy) for one in begun}
    # `Refresh.ALL` does not apply to days before the range.
    gaps = replace(policy, refresh=Refresh.STALE) if policy.refresh is Refresh.ALL else policy
    catch_up = {one: _reason(one, landed.get(one.key), gaps) for one in earlier}
    to_load = {one: reason for one, reason in (reasons | catch_up).items() if reason}

    def urgency(planned: tuple[Partition, Reason]) -> tuple[int, datetime]:
        partition, reason = planned
        # Partial loads one after another load each in turn again.
        since = landed[partition.key].confirmed_at if reason is Reason.REFRESH else policy.now
        return [*Reason].index(reason), since

    return Plan(
        to_load=dict(sorted(to_load.items(), key=urgency)),
        settled=tuple(one for one, reason in reasons.items() if reason is None),
        not_begun=tuple(one for one in partitions if one.begins_at > policy.now),
    )


def _reason(partition: Partition, receipt: Receipt | None, policy: RefreshPolicy) -> Reason | None:
    if receipt is not None and receipt.digest == FORGOTTEN:
        return Reason.REFRESH if policy.refresh is Refresh.ALL else None
    # A receipt from the future was written by a clock that ran ahead, so it is ignored.
    if receipt is None or receipt.confirmed_at > policy.now:
        return Reason.MISSING
    if receipt.partition.timezone != partition.timezone:
        return Reason.OTHER_ZONE
    if receipt.submitted_at == UNCONFIRMED:
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
