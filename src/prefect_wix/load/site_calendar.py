"""The calendar of a site: the state of each partition of the last 30 days.

It shows a gap before a load looks for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from enum import StrEnum

from prefect_wix.load.partition_load import ADOPT_MAX_AGE
from prefect_wix.planning.partitions import FORGOTTEN, JobRecord, JobState, Receipt
from prefect_wix.planning.plan import CATCH_UP, Reason, RefreshPolicy, earlier_partitions, make_plan
from prefect_wix.planning.segments import Segment
from prefect_wix.planning.windows import ONE_DAY, Window, last_complete_days
from prefect_wix.warehouse.interface import Warehouse

_CLOCK_MARGIN = timedelta(minutes=5)
"""How far the warehouse's clock may run ahead: what just landed is not from the future."""


class DayState(StrEnum):
    """The state of a partition."""

    LANDED = "landed"
    """No load of missing and stale days submits a job for it."""
    STALE = "stale"
    """Landed, but late sessions may be missing."""
    MISSING = "missing"
    """Not landed, or listed before its day was over."""
    FAILED = "failed"
    """Missing or stale, and its last job failed."""
    RUNNING = "running"
    """A job was submitted for it, and its result is not published yet."""
    FORGOTTEN = "forgotten"
    """Its session IDs were erased, and no load submits a job for it by itself."""


_SYMBOLS = dict(zip(DayState, "■◪□✗▸–", strict=True))


@dataclass(frozen=True)
class LoadCalendar:
    """The states of a site's partitions. ``str()`` has a row per segment and a column per day."""

    window: Window
    states: Mapping[str, Mapping[date, DayState]]
    """State by segment and day, without the days before the first one that was loaded."""

    def is_running(self, record: JobRecord) -> bool:
        """Whether the record is that of a running job."""
        state = self.states.get(record.partition.segment, {}).get(record.partition.day)
        return state is DayState.RUNNING and record.state is JobState.SUBMITTED

    def __str__(self) -> str:
        width = max(map(len, self.states), default=0)
        mondays = ""
        for number, day in enumerate(self.window.days()):
            if day.weekday() == 0:
                mondays = mondays.ljust(number) + f"{day:%m-%d}"
        rows = [
            f"{segment:{width}}  "
            + "".join(_SYMBOLS[days[day]] if day in days else " " for day in self.window.days())
            for segment, days in self.states.items()
        ]
        legend = "  ".join(f"{symbol} {state}" for state, symbol in _SYMBOLS.items())
        return "\n".join([f"{'':{width}}  {mondays}", *rows, "", legend])


def calendar_window(now: datetime, timezone: str) -> Window:
    """The days of a calendar: those in which a load of the last days looks for gaps."""
    return last_complete_days(CATCH_UP // ONE_DAY, before=now, timezone=timezone)


async def read_calendar(
    warehouse: Warehouse, site_id: str, policy: RefreshPolicy, *, timezone: str | None = None
) -> tuple[LoadCalendar, list[JobRecord]]:
    """The calendar of a site, and the job records of its days, oldest intent first.

    Args:
        warehouse: the prepared warehouse.
        site_id: the site.
        policy: which landed partitions are loaded again, and the current time.
        timezone: the time zone of the days; that of the newest known day if left out.
    """
    # A day more at each end, for the days of every time zone.
    days = calendar_window(policy.now, "UTC")
    days = Window(days.start - ONE_DAY, days.end + ONE_DAY, days.timezone)
    receipts = await warehouse.receipts(site_id, days)
    records = await warehouse.job_records(site_id, days)
    return make_calendar(site_id, receipts, records, policy, timezone=timezone), records


def make_calendar(
    site_id: str,
    receipts: Sequence[Receipt],
    records: Sequence[JobRecord],
    policy: RefreshPolicy,
    *,
    timezone: str | None = None,
) -> LoadCalendar:
    """The calendar that follows from receipts and job records; see `read_calendar`."""
    known = [*(one.partition for one in receipts), *(one.partition for one in records)]
    newest_day = max(known, key=lambda one: one.day, default=None)
    zone = timezone or (newest_day.timezone if newest_day else "UTC")
    window = calendar_window(policy.now, zone)
    segments = [Segment.parse(key) for key in sorted({one.segment for one in known})]
    today = Window(window.end, window.end + ONE_DAY, zone)
    partitions = earlier_partitions(site_id, today, segments, known)
    with_margin = replace(policy, now=policy.now + _CLOCK_MARGIN)
    reasons = make_plan(partitions, receipts, with_margin).to_load
    confirmed = {one.partition.key: one.confirmed_at for one in receipts}
    # The newest record of each partition, unless a later job was published.
    newest = {
        one.partition.key: one
        for one in records
        if confirmed.get(one.partition.key, one.intended_at) <= one.intended_at
    }
    forgotten = {one.partition.key for one in receipts if one.digest == FORGOTTEN}
    states: dict[str, dict[date, DayState]] = {segment.key: {} for segment in segments}
    for one in partitions:
        reason, record = reasons.get(one), newest.get(one.key)
        state = _state(reason, record, policy.now)
        is_forgotten = state is DayState.LANDED and one.key in forgotten
        states[one.segment][one.day] = DayState.FORGOTTEN if is_forgotten else state
    return LoadCalendar(window, states)


def _state(reason: Reason | None, record: JobRecord | None, now: datetime) -> DayState:
    """The state of a partition.

    Args:
        reason: why the next load submits a job for it; None if it submits none.
        record: its newest job record, unless a later job was published.
        now: the current time. A job that is too old to be adopted is not running any more.
    """
    if record and record.state is JobState.SUBMITTED and record.intended_at >= now - ADOPT_MAX_AGE:
        return DayState.RUNNING
    if reason is None:
        return DayState.LANDED
    if record and record.state is JobState.FAILED:
        return DayState.FAILED
    return DayState.STALE if reason is Reason.STALE else DayState.MISSING
