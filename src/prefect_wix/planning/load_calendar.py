"""The calendar of a site: the state of each partition of the last 30 days.

Pure functions over receipts and job records. The calendar shows a gap before a load looks for it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum

from prefect_wix.planning.partitions import JobRecord, JobState, Receipt
from prefect_wix.planning.plan import CATCH_UP, Reason, RefreshPolicy, earlier_partitions, make_plan
from prefect_wix.planning.segments import Segment
from prefect_wix.planning.windows import ONE_DAY, Window, last_complete_days


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


_SYMBOLS = dict(zip(DayState, "■◪□✗▸", strict=True))


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


def make_calendar(
    site_id: str,
    window: Window,
    receipts: Sequence[Receipt],
    records: Sequence[JobRecord],
    policy: RefreshPolicy,
    *,
    running_since: datetime,
) -> LoadCalendar:
    """The calendar of a site, of every segment that was loaded in the window.

    Args:
        site_id: the site.
        window: the days, from `calendar_window`.
        receipts: the receipts of the window, all segments.
        records: the job records of the window, all segments, oldest intent first.
        policy: which landed partitions are loaded again.
        running_since: jobs submitted before this instant are not running any more.
    """
    known = [*(one.partition for one in receipts), *(one.partition for one in records)]
    segments = [Segment.parse(key) for key in sorted({one.segment for one in known})]
    today = Window(window.end, window.end + ONE_DAY, window.timezone)
    partitions = earlier_partitions(site_id, today, segments, known)
    reasons = make_plan(partitions, receipts, policy).to_load
    newest = {record.partition.key: record for record in records}
    confirmed = {one.partition.key: one.confirmed_at for one in receipts}
    states: dict[str, dict[date, DayState]] = {segment.key: {} for segment in segments}
    for one in partitions:
        record = newest.get(one.key)
        if record and confirmed.get(one.key, record.intended_at) > record.intended_at:
            record = None
        states[one.segment][one.day] = _state(reasons.get(one), record, running_since)
    return LoadCalendar(window, states)


def _state(reason: Reason | None, record: JobRecord | None, running_since: datetime) -> DayState:
    """The state of a partition.

    Args:
        reason: why the next load submits a job for it; None if it submits none.
        record: its newest job record, unless a later job was published.
        running_since: see `make_calendar`.
    """
    if record and record.state is JobState.SUBMITTED and record.intended_at >= running_since:
        return DayState.RUNNING
    if reason is None:
        return DayState.LANDED
    if record and record.state is JobState.FAILED:
        return DayState.FAILED
    return DayState.STALE if reason is Reason.STALE else DayState.MISSING
