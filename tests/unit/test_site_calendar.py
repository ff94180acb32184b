"""The calendar follows from receipts and job records alone."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pytest
from test_plan import receipt

from prefect_wix.load.site_calendar import DayState, make_calendar
from prefect_wix.planning.partitions import FORGOTTEN, JobRecord, JobState, Partition
from prefect_wix.planning.plan import Refresh, RefreshPolicy

NOW = datetime(2024, 5, 20, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
DAY = date(2024, 5, 15)
PARTITION = Partition("site", DAY, "device_type=MOBILE", "UTC")
FIRST = Partition("site", DAY - timedelta(days=1), "device_type=MOBILE", "UTC")
POLICY = RefreshPolicy(Refresh.STALE, 72 * HOUR, NOW, NOW)


def record(state, *, at):
    intent = JobRecord.intend(PARTITION, at=at, run_id=None)
    return intent.ended(state, at=at)


def calendar(receipts, records):
    return make_calendar("site", receipts, records, POLICY)


EARLY = PARTITION.ends_at - HOUR
SOON = PARTITION.ends_at + HOUR
LATE = PARTITION.ends_at + 73 * HOUR
FAILED, SUBMITTED, LANDED = JobState.FAILED, JobState.SUBMITTED, JobState.LANDED


@pytest.mark.parametrize(
    ("confirmed_at", "state", "at", "expected"),
    [
        (LATE, None, None, DayState.LANDED),
        (SOON, None, None, DayState.STALE),
        (EARLY, None, None, DayState.MISSING),
        (None, None, None, DayState.MISSING),
        (None, FAILED, SOON, DayState.FAILED),
        (SOON, FAILED, LATE, DayState.FAILED),
        # A job after the failed one was published.
        (LATE, FAILED, SOON, DayState.LANDED),
        (SOON, FAILED, EARLY, DayState.STALE),
        # No load needs what failed.
        (LATE, FAILED, LATE + HOUR, DayState.LANDED),
        (None, SUBMITTED, NOW - HOUR, DayState.RUNNING),
        (SOON, SUBMITTED, NOW - HOUR, DayState.RUNNING),
        # Too old to be adopted.
        (None, SUBMITTED, NOW - 7 * HOUR, DayState.MISSING),
        (None, JobState.INTENDED, NOW - HOUR, DayState.MISSING),
        (SOON, JobState.ORPHANED, LATE, DayState.STALE),
    ],
)
def test_the_state_of_a_day(confirmed_at, state, at, expected):
    receipts = [receipt(LATE, FIRST)]
    receipts += [receipt(confirmed_at, PARTITION)] if confirmed_at else []
    records = [record(state, at=at)] if state else []
    states = calendar(receipts, records).states["device_type=MOBILE"]
    assert states[DAY] is expected


def test_a_forgotten_day_is_no_landed_one():
    receipts = [replace(receipt(SOON, PARTITION), digest=FORGOTTEN), receipt(LATE, FIRST)]
    states = calendar(receipts, []).states["device_type=MOBILE"]
    assert (states[FIRST.day], states[DAY]) == (DayState.LANDED, DayState.FORGOTTEN)


def test_the_newest_record_counts():
    records = [record(FAILED, at=SOON), record(SUBMITTED, at=NOW - HOUR)]
    assert calendar([], records).states["device_type=MOBILE"][DAY] is DayState.RUNNING


def test_each_segment_has_a_row_and_each_day_a_column():
    """The row begins at the first day that was loaded; the dates of Mondays stand above."""
    receipts = [receipt(LATE, FIRST), receipt(SOON, PARTITION)]
    assert str(calendar(receipts, [record(FAILED, at=LATE)])).splitlines() == [
        "                      04-22  04-29  05-06  05-13",
        "device_type=MOBILE                          ■✗□□□□",
        "",
        "■ landed  ◪ stale  □ missing  ✗ failed  ▸ running  – forgotten",
    ]


def test_a_site_without_history_has_no_rows():
    assert calendar([], []).states == {}
