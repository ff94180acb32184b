"""Gaps are a query: the plan follows from the receipts alone."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_wix.client.models import SessionsJob
from prefect_wix.planning.partitions import UNCONFIRMED, JobRecord, JobState, Partition, Receipt
from prefect_wix.planning.plan import (
    CATCH_UP,
    Plan,
    Reason,
    Refresh,
    RefreshPolicy,
    earlier_partitions,
    make_plan,
    partitions_of,
)
from prefect_wix.planning.segments import DEVICES, Segment
from prefect_wix.planning.windows import Window, choose_window

DAY = date(2024, 5, 1)
ENDS = datetime(2024, 5, 2, tzinfo=UTC)
HOUR = timedelta(hours=1)
LOOKBACK = 48 * HOUR
AS_OF = ENDS + 100 * HOUR
NOW = AS_OF + 1000 * HOUR
PARTITION = Partition("site", DAY, "device_type=MOBILE", "UTC")


def receipt(confirmed_at, partition=PARTITION):
    return Receipt(
        partition=partition,
        sessions=1,
        digest="d",
        job_id="j",
        submitted_at=confirmed_at,
        landed_at=confirmed_at,
        confirmed_at=confirmed_at,
        added=1,
        removed=0,
        kept=0,
        duplicates=0,
    )


def plan(confirmed_at, refresh, as_of=AS_OF, lookback=LOOKBACK):
    receipts = [] if confirmed_at is None else [receipt(confirmed_at)]
    return make_plan([PARTITION], receipts, policy(refresh, as_of=as_of, lookback=lookback))


def policy(refresh, *, as_of=AS_OF, lookback=LOOKBACK, now=NOW):
    return RefreshPolicy(refresh, lookback, as_of, now)


MISSING, STALE, ALL = Refresh.MISSING, Refresh.STALE, Refresh.ALL
INSTANT = timedelta(microseconds=1)


@pytest.mark.parametrize(
    ("confirmed_at", "refresh", "reason"),
    [
        (None, MISSING, Reason.MISSING),
        (None, STALE, Reason.MISSING),
        (None, ALL, Reason.MISSING),
        # Submitted before the day was over: loaded again with every refresh.
        (ENDS - INSTANT, MISSING, Reason.UNFINISHED),
        (ENDS - INSTANT, STALE, Reason.UNFINISHED),
        (ENDS - INSTANT, ALL, Reason.UNFINISHED),
        # Submitted from the end of the day to the end of the lookback.
        (ENDS, MISSING, None),
        (ENDS, STALE, Reason.STALE),
        (ENDS, ALL, Reason.REFRESH),
        (ENDS + LOOKBACK - INSTANT, STALE, Reason.STALE),
        (ENDS + LOOKBACK, STALE, None),
        (ENDS + LOOKBACK, MISSING, None),
        (ENDS + LOOKBACK, ALL, Reason.REFRESH),
        # Confirmed since the scheduled time, such as by the first attempt of the run.
        (AS_OF - INSTANT, ALL, Reason.REFRESH),
        (AS_OF, ALL, None),
        (AS_OF + HOUR, ALL, None),
        (AS_OF + HOUR, STALE, None),
    ],
)
def test_a_partition_is_loaded_for_a_reason_or_settled(confirmed_at, refresh, reason):
    expected = (
        Plan(to_load={}, settled=(PARTITION,))
        if reason is None
        else Plan(to_load={PARTITION: reason}, settled=())
    )
    got = plan(confirmed_at, refresh)
    # With ALL, a stale partition may have either reason.
    if refresh is ALL and reason is Reason.REFRESH:
        assert [*got.to_load.values()] in ([Reason.REFRESH], [Reason.STALE])
    else:
        assert got == expected


@pytest.mark.parametrize("refresh", Refresh)
@pytest.mark.parametrize("confirmed_at", [AS_OF, AS_OF + HOUR])
def test_a_retried_run_skips_what_its_first_attempt_confirmed(refresh, confirmed_at):
    """Also a day that is not over, since the same run has loaded it."""
    assert plan(confirmed_at, refresh).to_load == {}
    running = plan(ENDS - HOUR, refresh, as_of=ENDS - HOUR)
    assert running.to_load == {}


def test_the_next_run_reloads_a_day_that_was_not_over():
    got = plan(ENDS - HOUR, MISSING, as_of=ENDS - HOUR / 2)
    assert got.to_load == {PARTITION: Reason.UNFINISHED}


def test_without_a_lookback_nothing_is_stale():
    assert plan(ENDS, STALE, lookback=timedelta(0)).to_load == {}


@pytest.mark.parametrize("refresh", Refresh)
def test_a_partition_without_a_job_of_its_own_is_stale(refresh):
    """The first edition derived such partitions; refresh and lookback make no difference."""
    for lookback in (timedelta(0), LOOKBACK):
        got = make_plan([PARTITION], [receipt(UNCONFIRMED)], policy(refresh, lookback=lookback))
        assert got == Plan(to_load={PARTITION: Reason.STALE}, settled=())


def test_gaps_are_loaded_first_then_unfinished_stale_and_other_days():
    """Within one reason, partitions keep the order of the range."""
    confirmed = {
        1: ENDS + LOOKBACK + 24 * HOUR,
        2: ENDS + 2 * 24 * HOUR,
        4: ENDS,
        5: ENDS + LOOKBACK + 24 * HOUR,
    }
    days = [Partition("site", date(2024, 5, n), "device_type=ALL", "UTC") for n in range(1, 7)]
    receipts = [receipt(at, days[n - 1]) for n, at in confirmed.items()]
    got = make_plan(days, receipts, policy(ALL))
    order = [(one.day.day, reason) for one, reason in got.to_load.items()]
    assert [day for day, _ in order[:3]] == [3, 6, 4]
    assert [reason for _, reason in order[:3]] == [
        Reason.MISSING,
        Reason.MISSING,
        Reason.UNFINISHED,
    ]
    ranks = [list(Reason).index(reason) for _, reason in order]
    assert ranks == sorted(ranks)
    assert {day for day, _ in order} == {1, 2, 3, 4, 5, 6}


@given(st.lists(st.none() | st.integers(-200, 400), max_size=20), st.sampled_from(Refresh))
def test_every_partition_is_either_loaded_or_settled(hours, refresh):
    days = [Partition("s", DAY + n * timedelta(days=1), "k", "UTC") for n in range(len(hours))]
    receipts = [
        receipt(ENDS + hour * HOUR, day)
        for day, hour in zip(days, hours, strict=True)
        if hour is not None
    ]
    got = make_plan(days, receipts, policy(refresh))
    assert sorted([*got.to_load, *got.settled]) == days


@pytest.mark.parametrize(
    "other",
    [
        Partition("other", DAY, "device_type=MOBILE", "UTC"),
        Partition("site", DAY, "device_type=TABLET", "UTC"),
        Partition("site", date(2024, 4, 30), "device_type=MOBILE", "UTC"),
    ],
)
def test_a_receipt_counts_for_its_own_partition_only(other):
    receipts = [receipt(ENDS + LOOKBACK, other)]
    got = make_plan([PARTITION], receipts, policy(MISSING))
    assert [*got.to_load.values()] == [Reason.MISSING]


def test_the_same_date_in_another_zone_is_another_day():
    """Runs with different zones replace each other's days; the reason shows it."""
    other = Partition("site", DAY, "device_type=MOBILE", "Asia/Jerusalem")
    got = make_plan([PARTITION], [receipt(ENDS + LOOKBACK, other)], policy(MISSING))
    assert [*got.to_load.values()] == [Reason.OTHER_ZONE]


def test_days_loaded_again_come_in_the_order_of_their_confirmation():
    """So that partial loads one after another load each of them, in turn."""
    days = [Partition("site", DAY - timedelta(n), "device_type=ALL", "UTC") for n in range(3)]
    ages = (300, 100, 200)
    receipts = [receipt(AS_OF - age * HOUR, one) for age, one in zip(ages, days, strict=True)]
    planned = make_plan(days, receipts, policy(ALL, lookback=timedelta()))
    assert [*planned.to_load] == [days[0], days[2], days[1]]


def test_a_receipt_from_the_future_is_ignored():
    """A clock that once ran ahead must not settle a day permanently."""
    got = make_plan([PARTITION], [receipt(NOW + HOUR)], policy(MISSING))
    assert [*got.to_load.values()] == [Reason.MISSING]


def test_a_day_that_has_not_begun_is_not_loaded():
    """Its result would be empty and would land as an empty day."""
    got = make_plan([PARTITION], [], policy(ALL, now=PARTITION.begins_at - INSTANT))
    assert got == Plan(to_load={}, settled=(), not_begun=(PARTITION,))


MOBILE = Segment.parse("device_type=MOBILE")
LAST_DAY = Window(DAY, DAY + 24 * HOUR, "UTC")


def days_before(count):
    return [Partition("site", DAY - n * 24 * HOUR, MOBILE.key, "UTC") for n in range(count, 0, -1)]


def test_a_load_of_the_last_day_fills_earlier_gaps():
    """Gaps count from the first day with a job record, whether it landed or not."""
    earlier = earlier_partitions("site", LAST_DAY, [MOBILE], known=[days_before(5)[0]])
    assert earlier == days_before(5)
    landed = [receipt(ENDS + LOOKBACK, one) for one in days_before(5)[:2]]
    got = make_plan([PARTITION], landed, policy(ALL), earlier=earlier)
    assert {*got.to_load} == {PARTITION, *days_before(5)[2:]}
    assert got.settled == ()


def test_a_day_before_the_first_job_record_is_no_gap():
    """A segment's first load of one day loads no other day."""
    other = Partition("site", DAY - 72 * HOUR, "device_type=ALL", "UTC")
    assert earlier_partitions("site", LAST_DAY, [MOBILE], known=[]) == []
    assert earlier_partitions("site", LAST_DAY, [MOBILE], known=[other, PARTITION]) == []


def test_the_catch_up_is_limited():
    """Days before the catch-up are loaded only by their dates."""
    long_ago = Partition("site", DAY - 300 * 24 * HOUR, MOBILE.key, "UTC")
    earlier = earlier_partitions("site", LAST_DAY, [MOBILE], known=[long_ago])
    assert earlier == days_before(CATCH_UP.days)


def test_stale_days_before_the_range_are_loaded():
    """A load of one day also reloads earlier days that are stale."""
    earlier = days_before(5)
    landed = [receipt(one.ends_at + HOUR, one) for one in earlier]
    lookback = policy(STALE, lookback=72 * HOUR, as_of=ENDS + HOUR, now=ENDS + HOUR)
    got = make_plan([PARTITION], landed, lookback, earlier=earlier)
    assert [*got.to_load.values()] == [Reason.MISSING] + 5 * [Reason.STALE]


def test_a_range_has_a_partition_for_each_day_and_segment():
    window = Window(date(2024, 2, 28), date(2024, 3, 1), "UTC")
    got = partitions_of("site", window, DEVICES)
    assert [(one.day.day, one.segment) for one in got] == [
        (day, f"device_type={device}")
        for day in (28, 29)
        for device in ("DESKTOP", "MOBILE", "TABLET")
    ]


def test_a_partition_queries_its_own_day_zone_and_segment():
    segment = Segment(page_interactions=("/{Homepage}", "", "__DROP__"))
    partition = Partition("site", DAY, segment.key, "Asia/Jerusalem")
    assert partition.query.to_wire() == {
        "customTimePeriod": {"startDate": "2024-05-01", "endDate": "2024-05-02"},
        "navigationFlow": {"pageInteractions": ["/{Homepage}", "", "__DROP__"]},
        "timezone": "Asia/Jerusalem",
    }


def test_a_job_record_returns_the_submitted_job():
    record = JobRecord.intend(PARTITION, at=AS_OF, run_id="run")
    with pytest.raises(ValueError, match="No job is known for 2024-05-01 device_type=MOBILE"):
        _ = record.job
    job = SessionsJob(job_id="j", query=PARTITION.query, site_id="site", submitted_at=AS_OF)
    submitted = record.submitted(job)
    assert submitted.state is JobState.SUBMITTED
    assert submitted.job == job


@pytest.mark.parametrize(
    ("day", "hours"), [(date(2024, 3, 31), 23), (date(2024, 6, 1), 24), (date(2024, 10, 27), 25)]
)
def test_the_running_day_is_listed_every_hour_and_once_after_its_end(day, hours):
    """The hourly deployment, over days with 23, 24 and 25 hours: as many jobs, and one more."""
    zone, jobs, receipts = "Europe/Berlin", [], []
    begins = Partition("site", day, "device_type=ALL", zone).begins_at
    for hour in range(hours + 24):
        now = begins + hour * HOUR + HOUR / 2
        window = choose_window(None, None, 1, before=now, timezone=zone, include_today=True)
        policy = RefreshPolicy(MISSING, timedelta(0), now, now)
        segments = [Segment.parse("device_type=ALL")]
        plan = make_plan(partitions_of("site", window, segments), receipts, policy)
        jobs += [(one.day, hour) for one in plan.to_load]
        loaded = [receipt(now, one) for one in plan.to_load]
        keys = {one.partition.key for one in loaded}
        receipts = [one for one in receipts if one.partition.key not in keys] + loaded
    assert [hour for one, hour in jobs if one == day] == [*range(hours), hours]
