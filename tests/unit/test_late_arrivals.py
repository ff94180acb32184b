"""After how many days is a day settled?"""

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


def asked(partition, after_hours, *, added=0, removed=0, sessions=10):
    """An ask that landed, so many hours after its day was over."""
    at = partition.ends_at + timedelta(hours=after_hours)
    record = JobRecord.intend(partition, at=at, run_id=None)
    state = JobState.LANDED if added or removed else JobState.UNCHANGED
    record = replace(record, state=state, job_id="job", submitted_at=at)
    return replace(record, sessions=sessions, added=added, removed=removed)


def test_the_first_answer_is_the_measure_and_each_later_one_a_point():
    """Two days, asked three times each: the first asks make no point of the curve."""
    records = [
        asked(DAY, 2, added=10),
        asked(DAY, 26, added=1),
        asked(DAY, 50),
        asked(NEXT, 2, added=10),
        asked(NEXT, 26, added=2, removed=1),
        asked(NEXT, 50),
    ]
    assert late_arrivals_by_age(reversed(records)) == [
        LateArrivals(age_days=2, records=2, changed=2, added=3, removed=1),
        LateArrivals(age_days=3, records=2, changed=0, added=0, removed=0),
    ]


def test_an_answer_from_before_the_end_of_the_day_measures_nothing():
    """What came while the day still ran is not late."""
    assert late_arrivals_by_age([asked(DAY, -3, added=5), asked(DAY, 2, added=5)]) == []


def test_a_day_first_asked_when_it_was_old_measures_nothing():
    """A backfill sees no late sessions come; that does not mean that none come."""
    assert late_arrivals_by_age([asked(DAY, 500, added=5), asked(DAY, 600)]) == []


def test_asks_that_came_to_nothing_are_passed_over():
    """A failed ask has no answer to compare."""
    failed = replace(asked(DAY, 26), state=JobState.FAILED, sessions=None)
    assert late_arrivals_by_age([asked(DAY, 2, added=1), failed]) == []


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
    """It is known only where enough asks were later than that, and found nothing new."""
    curve = [
        LateArrivals(age_days=age, records=5, changed=changed, added=changed, removed=0)
        for age, changed in changed_by_age.items()
    ]
    assert recommended_lookback(curve) == lookback
