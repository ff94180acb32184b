"""Late arrivals are measured by reloads, and give the recommended lookback."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta

import pytest

from prefect_wix.planning.late_arrivals import (
    LateArrivals,
    late_arrivals_by_age,
    recommended_lookback,
)
from prefect_wix.planning.partitions import JobRecord, JobState, Partition

DAY = Partition("site", date(2024, 3, 1), "device_type=ALL", "Asia/Jerusalem")
NEXT = replace(DAY, day=date(2024, 3, 2))


def loaded(partition, after_hours, *, added=0, removed=0, sessions=10):
    """A published job record, submitted ``after_hours`` hours after the day ended."""
    at = partition.ends_at + timedelta(hours=after_hours)
    record = JobRecord.intend(partition, at=at, run_id=None)
    state = JobState.LANDED if added or removed else JobState.UNCHANGED
    record = replace(record, state=state, job_id="job", submitted_at=at)
    return replace(record, sessions=sessions, added=added, removed=removed)


def test_reloads_are_compared_with_the_load_before_and_grouped_by_age():
    """Of two days with three loads each, the first loads are baselines."""
    records = [
        loaded(DAY, 2, added=10),
        loaded(DAY, 26, added=1),
        loaded(DAY, 50),
        loaded(NEXT, 2, added=10),
        loaded(NEXT, 26, added=2, removed=1),
        loaded(NEXT, 50),
    ]
    assert late_arrivals_by_age(reversed(records)) == [
        LateArrivals(age_days=2, reloads=2, changed=2, added=3, removed=1),
        LateArrivals(age_days=3, reloads=2, changed=0, added=0, removed=0),
    ]


def test_a_load_before_the_end_of_the_day_is_ignored():
    """Sessions that arrive during their day are not late."""
    assert late_arrivals_by_age([loaded(DAY, -3, added=5), loaded(DAY, 2, added=5)]) == []


def test_a_backfilled_day_is_ignored():
    """A first load after days already contains the late sessions."""
    assert late_arrivals_by_age([loaded(DAY, 500, added=5), loaded(DAY, 600)]) == []


def test_failed_jobs_are_ignored():
    """A failed job has no result to compare."""
    failed = replace(loaded(DAY, 26), state=JobState.FAILED, sessions=None)
    assert late_arrivals_by_age([loaded(DAY, 2, added=1), failed]) == []


@pytest.mark.parametrize(
    ("changed_by_age", "lookback"),
    [
        ({}, None),
        ({1: 0}, None),
        ({1: 0, 2: 0}, 0),
        ({1: 3, 2: 0, 3: 0}, 1),
        ({1: 3, 2: 0, 3: 1, 4: 0, 5: 0}, 3),
        ({1: 3, 2: 0, 3: 1, 4: 0}, None),
        ({1: 3}, None),
        ({1: 0, 2: 1}, None),
    ],
)
def test_the_lookback_is_the_last_age_at_which_something_changed(changed_by_age, lookback):
    """It is known only if enough later reloads found no change."""
    curve = [
        LateArrivals(age_days=age, reloads=5, changed=changed, added=changed, removed=0)
        for age, changed in changed_by_age.items()
    ]
    assert recommended_lookback(curve) == lookback
