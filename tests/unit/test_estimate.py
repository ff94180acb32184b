"""The sizes of recent loads predict the sessions and requests of the next load."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_wix.planning.estimate import Range, estimate_load, limit_requests
from prefect_wix.planning.partitions import Partition, Receipt
from prefect_wix.planning.plan import (
    Plan,
    Reason,
    Refresh,
    RefreshPolicy,
    earlier_partitions,
    make_plan,
    partitions_of,
)
from prefect_wix.planning.segments import DEVICES
from prefect_wix.planning.windows import ONE_DAY, Window

MONDAY = date(2024, 1, 1)
MOBILE, ALL, CART = (
    "device_type=MOBILE",
    "device_type=ALL",
    "conversion_funnel=+ADDED_TO_CART",
)


def partitions(days, *segments):
    """A partition for each of ``days`` days from Monday on and each segment."""
    return [
        Partition("site", MONDAY + timedelta(n), segment, "Etc/UTC")
        for n in range(days)
        for segment in segments
    ]


def receipt(partition, sessions):
    at = partition.ends_at
    return Receipt(
        partition, sessions, "d", "j", at, at, at, sessions, removed=0, kept=0, duplicates=0
    )


def estimate(load, known, requests_per_minute=200):
    return estimate_load(load, known, requests_per_minute=requests_per_minute)


def history(segment, *sizes):
    """A receipt for each size, one a day from Monday on."""
    days = partitions(len(sizes), segment)
    return [receipt(day, size) for day, size in zip(days, sizes, strict=True)]


def test_a_job_is_estimated_as_the_mean_of_its_segment_with_minimum_and_maximum():
    known = [*history(MOBILE, 100, 200, 600), *history(ALL, 1000, 1002)]
    estimated = estimate(partitions(4, MOBILE, ALL), known)
    assert estimated.jobs == 8
    assert estimated.sessions == Range(low=4 * 1100, expected=4 * 1301, high=4 * 1602)
    assert estimated.has_history


@pytest.mark.parametrize(
    ("sessions", "requests"), [(0, 2), (1, 2), (999, 2), (1000, 3), (1001, 3), (1_000_000, 1002)]
)
def test_a_job_takes_a_submit_and_a_request_per_page(sessions, requests):
    """The poll that finds the job finished is page one, also of an empty list."""
    estimated = estimate(partitions(3, MOBILE), history(MOBILE, sessions))
    assert estimated.requests == Range(3 * requests, 3 * requests, 3 * requests)


def test_requests_are_averaged_per_day_not_derived_from_mean_sessions():
    """A mean of 600 sessions is one page, but every other day took two."""
    estimated = estimate(partitions(10, MOBILE), history(MOBILE, 100, 1100))
    assert estimated.requests == Range(low=20, expected=25, high=30)


def test_only_the_newest_four_weeks_count():
    known = history(MOBILE, 90_000, *[100] * 28)
    Random(1).shuffle(known)
    assert estimate(partitions(1, MOBILE), known).sessions == Range(100, 100, 100)


def test_a_day_that_was_loaded_before_it_was_over_does_not_count():
    partition, *load = partitions(2, MOBILE)
    during = replace(receipt(partition, 3), confirmed_at=partition.ends_at - timedelta(seconds=1))
    assert estimate(load, [during]) == estimate(load, [])


def test_a_first_load_takes_at_least_two_requests_a_job():
    """The sizes of other segments are not used."""
    estimated = estimate(partitions(90, MOBILE), history(ALL, 5000))
    assert not estimated.has_history
    assert estimated.requests == Range(180, 180, 180)


def test_a_segment_without_history_counts_as_empty():
    known = history(MOBILE, 1500)
    estimated = estimate(partitions(2, MOBILE, ALL, CART), known)
    assert estimated.has_history
    assert (estimated.segments_without_history, estimated.segments) == (2, 3)
    assert estimated.sessions.expected == 2 * 1500
    assert estimated.requests.expected == 2 * (3 + 2 + 2)


segments = st.sampled_from([MOBILE, ALL, CART])
any_partitions = st.builds(
    lambda segment, day: Partition("site", MONDAY + timedelta(day), segment, "Etc/UTC"),
    segments,
    st.integers(0, 100),
)
any_receipts = st.builds(receipt, any_partitions, st.integers(0, 2_000_000))


@given(st.lists(any_partitions, max_size=20), st.lists(any_receipts, max_size=60))
def test_expected_numbers_are_within_their_ranges(load, known):
    """Every job takes at least two requests."""
    estimated = estimate(load, known)
    assert 0 <= estimated.sessions.low <= estimated.sessions.expected <= estimated.sessions.high
    assert estimated.requests.low <= estimated.requests.expected <= estimated.requests.high
    assert estimated.requests.low >= 2 * len(load)
    assert estimated.requests.high <= 2 * len(load) + estimated.sessions.high / 1000


@pytest.mark.parametrize(
    ("load", "known", "requests_per_minute", "sentence"),
    [
        (partitions(0), history(MOBILE, 5), 200, "Nothing to load."),
        (
            partitions(90, MOBILE),
            [],
            200,
            "90 jobs: first load, no history yet; at least 180 requests.",
        ),
        (
            partitions(500, MOBILE),
            [],
            200,
            "500 jobs: first load, no history yet; at least 1,000 requests, "
            "at least 4 minutes at 200 requests a minute.",
        ),
        (
            partitions(1, MOBILE),
            history(MOBILE, 1),
            1,
            "1 job: about 1 session in 2 requests, at least 1 minute at 1 request a minute.",
        ),
        (
            partitions(600, MOBILE),
            history(MOBILE, 400, 600, 1100),
            200,
            "600 jobs: about 420,000 sessions (240,000 to 660,000) in 1,400 requests "
            "(1,200 to 1,800), at least 6 minutes at 200 requests a minute.",
        ),
        (
            partitions(2, MOBILE, ALL, CART),
            history(MOBILE, 1500),
            200,
            "6 jobs: about 3,000 sessions in 14 requests "
            "(no history for 2 of 3 segments, counted as empty).",
        ),
    ],
)
def test_an_estimate_is_one_sentence(load, known, requests_per_minute, sentence):
    assert str(estimate(load, known, requests_per_minute)) == sentence


@pytest.mark.parametrize(
    ("jobs", "sentence"),
    [(100, "200 requests."), (101, "at least 1 minute at"), (201, "at least 2 minutes at")],
)
def test_the_rate_limit_determines_the_minimum_duration(jobs, sentence):
    """The first 200 requests may be sent at once, the next 200 a minute later."""
    assert sentence in str(estimate(partitions(jobs, MOBILE), []))


@pytest.mark.parametrize(("max_requests", "loaded"), [(11, 1), (12, 2), (17, 2), (18, 3), (24, 4)])
def test_a_limited_plan_loads_the_most_urgent_partitions_within_the_limit(max_requests, loaded):
    """The others are postponed with their reasons; a job of 4,000 sessions takes 6 requests."""
    days = partitions(4, MOBILE)
    stale = dict.fromkeys(days[:1], Reason.STALE)
    plan = Plan(to_load={**dict.fromkeys(days[1:], Reason.MISSING), **stale}, settled=())
    limited = limit_requests(plan, history(MOBILE, 4000), max_requests)
    assert [*limited.to_load] == [*plan.to_load][:loaded]
    assert {**limited.to_load, **limited.postponed} == plan.to_load
    assert len(limited.postponed) == 4 - loaded


def test_a_limited_plan_loads_one_partition_that_exceeds_the_limit():
    """Otherwise no run would ever load it."""
    plan = Plan(to_load=dict.fromkeys(partitions(2, MOBILE), Reason.MISSING), settled=())
    limited = limit_requests(plan, history(MOBILE, 1_000_000), 5)
    assert [*limited.to_load] == [*plan.to_load][:1]


@given(st.lists(st.sampled_from([MOBILE, ALL, CART]), max_size=9), st.integers(1, 40))
def test_a_limited_plan_loads_as_much_as_the_limit_permits(segments, max_requests):
    """No more than the limit, and with the next partition it would be more."""
    days = [partitions(n + 1, segment)[-1] for n, segment in enumerate(segments)]
    known = [*history(MOBILE, 1500, 4000), *history(ALL, 9000)]
    plan = Plan(to_load=dict.fromkeys(days, Reason.MISSING), settled=())
    limited = limit_requests(plan, known, max_requests)
    loaded = len(limited.to_load)
    assert loaded <= 1 or estimate(days[:loaded], known).requests.expected <= max_requests
    assert loaded == len(days) or (
        estimate(days[: loaded + 1], known).requests.expected > max_requests
    )


@pytest.mark.parametrize("missed", [1, 5, 20, 29])
def test_partial_daily_runs_close_a_gap_of_a_site_with_a_million_sessions_a_day(missed):
    """No day of the gap is lost, and in the end each run loads its four days as planned."""
    receipts = {one.key: receipt(one, 333_333) for one in days_of_devices(-10, 0)}
    for day in range(missed + 1, missed + 25):
        now = datetime(2024, 1, 1, 4, tzinfo=UTC) + day * ONE_DAY
        policy = RefreshPolicy(Refresh.STALE, 3 * ONE_DAY, as_of=now, now=now)
        known = [*receipts.values()]
        window = Window(MONDAY + (day - 7) * ONE_DAY, MONDAY + day * ONE_DAY, "Etc/UTC")
        earlier = earlier_partitions("site", window, DEVICES, [one.partition for one in known])
        plan = make_plan(days_of_devices(day - 7, day), known, policy, earlier=earlier)
        limited = limit_requests(plan, known, 5000)
        assert estimate([*limited.to_load], known).requests.expected <= 5000
        for one in limited.to_load:
            receipts[one.key] = replace(receipt(one, 333_333), confirmed_at=now)
    assert receipts.keys() >= {one.key for one in days_of_devices(0, day)}
    assert (len(limited.to_load), limited.postponed) == (4 * 3, {})


def days_of_devices(first, after):
    """The partitions of the days from ``first`` to before ``after``, counted from Monday on."""
    window = Window(MONDAY + first * ONE_DAY, MONDAY + after * ONE_DAY, "Etc/UTC")
    return partitions_of("site", window, DEVICES)
