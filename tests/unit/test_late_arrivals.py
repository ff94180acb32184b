"""After how many days is a day settled?"""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta

import pytest

from prefect_wix.planning.late_arrivals import Lateness, lateness_curve, lookback_to_choose
from prefect_wix.planning.partitions import Ask, AskState, Partition

DAY = Partition("site", date(2024, 3, 1), "device_type=ALL", "Asia/Jerusalem")
NEXT = replace(DAY, day=date(2024, 3, 2))


def asked(partition, after_hours, *, added=0, gone=0, sessions=10):
    """An ask that landed, so many hours after its day was over."""
    at = partition.ends_at + timedelta(hours=after_hours)
    ask = Ask.intend(partition, at=at, run_id=None)
    state = AskState.LANDED if added or gone else AskState.UNCHANGED
    ask = replace(ask, state=state, job_id="job", submitted_at=at)
    return replace(ask, sessions=sessions, added=added, gone=gone)


def test_the_first_answer_is_the_measure_and_each_later_one_a_point():
    """Two days, asked three times each: the first asks make no point of the curve."""
    asks = [
        asked(DAY, 2, added=10),
        asked(DAY, 26, added=1),
        asked(DAY, 50),
        asked(NEXT, 2, added=10),
        asked(NEXT, 26, added=2, gone=1),
        asked(NEXT, 50),
    ]
    assert lateness_curve(reversed(asks)) == [
        Lateness(age_days=2, asks=2, changed=2, added=3, gone=1),
        Lateness(age_days=3, asks=2, changed=0, added=0, gone=0),
    ]


def test_an_answer_from_before_the_end_of_the_day_measures_nothing():
    """What came while the day still ran is not late."""
    assert lateness_curve([asked(DAY, -3, added=5), asked(DAY, 2, added=5)]) == []


def test_a_day_first_asked_when_it_was_old_measures_nothing():
    """A backfill sees no late sessions come; that does not mean that none come."""
    assert lateness_curve([asked(DAY, 500, added=5), asked(DAY, 600)]) == []


def test_asks_that_came_to_nothing_are_passed_over():
    """A failed ask has no answer to compare."""
    failed = replace(asked(DAY, 26), state=AskState.FAILED, sessions=None)
    assert lateness_curve([asked(DAY, 2, added=1), failed]) == []


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
        Lateness(age_days=age, asks=5, changed=changed, added=changed, gone=0)
        for age, changed in changed_by_age.items()
    ]
    assert lookback_to_choose(curve) == lookback
