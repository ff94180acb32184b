"""What a load is going to take is told before it starts, and nine times in ten it is true."""

from __future__ import annotations

import asyncio
import math
import sys
from dataclasses import dataclass, replace
from datetime import date, timedelta
from functools import cache
from itertools import pairwise
from random import Random
from statistics import median

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefect_wix import estimate as estimating
from prefect_wix import pace
from prefect_wix.estimate import Estimate, Range, estimate_load
from prefect_wix.listing import Listing
from prefect_wix.pace import Pace
from prefect_wix.partitions import Ask, Partition, Receipt
from tests.schedules import SimulatedWix
from tests.virtual_time import run

MONDAY = date(2024, 1, 1)
MOBILE, ALL = "device_type=MOBILE", "device_type=ALL"
CART, LEFT = "conversion_funnel=+ADDED_TO_CART", "navigation_flow=/{Homepage}>*>__DROP__"
FIGURES = ("requests", "sessions", "minutes")
WORLDS = 60


def partitions(days, *segments, since=0):
    """Each of so many days, from Monday on, and each segment."""
    return [
        Partition("site", MONDAY + timedelta(since + n), segment, "Etc/UTC")
        for n in range(days)
        for segment in segments
    ]


def receipt(partition, sessions):
    over = partition.ends_at
    return Receipt(
        partition, sessions, "d", "j", over, over, over, sessions, gone=0, stayed=0, repeats=0
    )


def ask(partition, running, finished):
    return Ask.intend(partition, at=partition.ends_at, run_id=None).watched(running, finished)


def estimate(asked, receipts=(), asks=(), *, slots=16, **budget):
    return estimate_load(asked, receipts, asks, jobs_in_flight=slots, **budget)


def figures(estimated):
    return [getattr(estimated, figure) for figure in FIGURES]


def width(interval):
    return interval.high - interval.low


@dataclass(frozen=True)
class World:
    """A site with segments of some size, quieter weekends, luck, and jobs that take some time."""

    seed: int
    history_days: int = 42

    def estimate_and_truth(self):
        """What is estimated for a backfill, and what it took in requests, sessions and minutes."""
        random = Random(self.seed)
        segments = random.sample([MOBILE, ALL, CART, LEFT], random.randint(1, 3))
        size = self._sizes(random, segments)
        takes = self._latencies(random, segments)
        days = random.randint(20, 40) // len(segments)
        history = partitions(self.history_days, *segments, since=days)
        receipts = [receipt(one, size(one)) for one in history]
        asks = [ask(one, *self._seen(random, takes(one))) for one in history]
        asked = partitions(days, *segments)
        slots, budget = random.choice([4, 8, 16]), random.choice([60, 200])
        estimated = estimate(asked, receipts, asks, slots=slots, requests_per_minute=budget)
        totals = {one.query: size(one) for one in asked}
        latencies = {one.query: takes(one) for one in asked}
        requests, seconds = run(ask_all(latencies, totals, asks, slots, budget))
        return estimated, (requests, sum(totals.values()), seconds / 60)

    @staticmethod
    def _sizes(random, segments):
        levels = {segment: 10 ** random.uniform(1.5, 3.6) for segment in segments}
        weekend, noise = random.choice([0.3, 0.6, 1.0]), random.choice([0.1, 0.3, 0.5])

        def size(partition):
            quiet = weekend if partition.day.weekday() >= 5 else 1.0
            return round(levels[partition.segment] * quiet * random.lognormvariate(0, noise))

        return size

    @staticmethod
    def _latencies(random, segments):
        seconds = {segment: random.choice([1.5, 4.0, 9.0]) for segment in segments}
        spread = random.choice([0.1, 0.3, 0.6])
        if {MOBILE, ALL} <= set(segments):  # jobs of one kind
            seconds[ALL] = seconds[MOBILE]
        return lambda partition: seconds[partition.segment] * random.lognormvariate(0, spread)

    @staticmethod
    def _seen(random, takes):
        return takes * random.uniform(0.7, 1.0), takes * random.uniform(1.0, 1.3)


async def ask_all(latencies, totals, asks, slots, budget):
    """Ask all as a load does that knows the ledger; returns how many requests that took."""
    wix = SimulatedWix(latencies, totals, budget)
    known = [(one.partition.query, one.running_seconds, one.finished_seconds) for one in asks]
    pace = Pace(wix.clock, scarcity=wix.budget.scarcity, history=known)
    pace.to_come = 2 * len(latencies)
    free = asyncio.Semaphore(slots)

    async def drain(query):
        async with free, Listing(wix, query, pace=pace) as listing:
            pace.to_come -= 2
            await listing.drain()

    async with asyncio.TaskGroup() as group:
        for query in latencies:
            group.create_task(drain(query))
    return wix.requests


@cache
def rich_worlds():
    """Six weeks of history, and a backfill of the days before them."""
    return [World(seed).estimate_and_truth() for seed in range(WORLDS)]


@pytest.mark.parametrize("figure", FIGURES)
def test_the_truth_lies_in_the_range(figure):
    """In at least eight worlds of ten, with the code that really asks, in virtual time."""
    place = FIGURES.index(figure)
    hits = [
        figures(estimated)[place].low <= truth[place] <= figures(estimated)[place].high
        for estimated, truth in rich_worlds()
    ]
    assert sum(hits) >= 0.8 * WORLDS


@pytest.mark.parametrize(
    ("figure", "share"), [("requests", 0.3), ("sessions", 0.4), ("minutes", 0.4)]
)
def test_where_history_is_rich_the_range_is_of_use(figure, share):
    """Half of the ranges are no wider than this share of the truth."""
    place = FIGURES.index(figure)
    widths = [width(figures(one)[place]) / truth[place] for one, truth in rich_worlds()]
    assert median(widths) <= share


@pytest.mark.parametrize("figure", FIGURES)
def test_more_history_makes_the_range_narrower(figure):
    """Nothing, a day, a week, half a year, with the same sizes and the same jobs."""
    asked = partitions(14, MOBILE)
    history = partitions(180, MOBILE, since=14)
    random = Random(1)
    receipts = [receipt(one, round(random.lognormvariate(8.5, 0.3))) for one in history]
    latencies = [30 * random.lognormvariate(0, 0.2) for _ in history]
    asks = [ask(one, 0.8 * takes, takes) for one, takes in zip(history, latencies, strict=True)]
    ranges = [
        getattr(estimate(asked, receipts[:days], asks[:days], slots=4), figure)
        for days in (0, 1, 7, 180)
    ]
    widths = [width(interval) / interval.expected for interval in ranges]
    assert all(wide > narrow for wide, narrow in pairwise(widths))


@st.composite
def loads(draw):
    """Some partitions, and any history."""
    segments = st.sampled_from([MOBILE, ALL, CART, LEFT])
    days = st.integers(0, 100).map(lambda n: MONDAY + timedelta(n))
    any_partition = st.builds(Partition, st.just("site"), days, segments, st.just("Etc/UTC"))
    seconds = st.floats(0, 600)
    receipts = st.builds(receipt, any_partition, st.integers(0, 50_000))
    asks = st.builds(lambda one, at, more: ask(one, at, at + more), any_partition, seconds, seconds)
    few = {"max_size": 12}
    asked = draw(st.lists(any_partition, unique=True, **few))
    return asked, draw(st.lists(receipts, **few)), draw(st.lists(asks, **few))


@given(loads(), st.integers(1, 20), st.integers(1, 300))
@settings(deadline=None, max_examples=60)
def test_a_range_is_a_range_whatever_is_known(load, slots, budget):
    """In order, not negative, and of no less than two requests a job."""
    estimated = estimate(*load, slots=slots, requests_per_minute=budget)
    assert estimated.jobs == len(load[0])
    assert estimated.requests.low >= 2 * estimated.jobs
    for interval in figures(estimated):
        assert 0 <= interval.low <= interval.expected <= interval.high < math.inf
    assert estimated == estimate(*load, slots=slots, requests_per_minute=budget)


@given(loads())
@settings(deadline=None, max_examples=30)
def test_more_partitions_never_hold_fewer_sessions(load):
    asked, receipts, asks = load
    fewer, more = estimate(asked[:-1], receipts, asks), estimate(asked, receipts, asks)
    for end in ("low", "expected", "high"):
        assert getattr(fewer.sessions, end) <= getattr(more.sessions, end)


@given(loads(), st.integers(1, 20))
@settings(deadline=None, max_examples=30)
def test_twice_as_many_days_never_take_less(load, slots):
    """A few more may: where requests get scarce, fewer of them are wasted on early polls."""
    asked, receipts, asks = load
    again = [replace(one, day=one.day + timedelta(200)) for one in asked]
    once, twice = (
        estimate(days, receipts, asks, slots=slots) for days in (asked, [*asked, *again])
    )
    for fewer, more in zip(figures(once), figures(twice), strict=True):
        assert (fewer.low, fewer.expected, fewer.high) <= (more.low, more.expected, more.high)


def test_no_partitions_take_nothing():
    nothing = estimate([])
    assert figures(nothing) == [Range(0, 0, 0)] * 3
    assert str(nothing) == "Nothing to ask for: no requests."


def test_where_nothing_is_known_one_partition_may_be_one_page_or_many():
    """And its job may take a fraction of a second or half a minute."""
    one = estimate(partitions(1, MOBILE))
    assert one.requests.low <= 3
    assert one.requests.high >= 20
    assert one.minutes.low < 1 / 60
    assert one.minutes.high > 0.5


def test_quiet_weekends_are_known_as_such():
    history = partitions(42, MOBILE, since=7)
    receipts = [receipt(one, 100 if one.day.weekday() >= 5 else 900) for one in history]
    weekend = estimate(partitions(2, MOBILE, since=5), receipts)
    assert 100 < weekend.sessions.expected < 300
    assert weekend.sessions.high < 500


def test_a_day_that_is_asked_again_is_as_great_as_it_was():
    [one] = partitions(1, MOBILE)
    others = [receipt(other, 5) for other in partitions(40, MOBILE, since=1)]
    again = estimate([one], [*others, receipt(one, 10_000)])
    assert 9_500 < again.sessions.low < 10_000 < again.sessions.high < 10_500


def test_the_further_from_what_is_known_the_wider():
    receipts = [receipt(one, 900) for one in partitions(60, MOBILE)]
    near, far = (
        estimate(partitions(7, MOBILE, since=since), receipts).sessions for since in (60, 660)
    )
    assert width(far) > 2 * width(near)


def test_a_day_that_was_asked_before_it_was_over_tells_nothing():
    [one] = partitions(1, MOBILE)
    soon = one.begins_at + timedelta(hours=2)
    partly = replace(receipt(one, 3), asked_at=soon, confirmed_at=soon)
    assert estimate([one], [partly]) == estimate([one])


def test_a_segment_that_never_landed_is_no_greater_than_all_sessions():
    """What it has in common with others is all that is known, so its range is wide."""
    receipts = [receipt(one, 900) for one in partitions(30, ALL)]
    [known, unknown] = (
        estimate(partitions(10, segment, since=30), receipts).sessions for segment in (ALL, CART)
    )
    assert unknown.high <= 10 * 900
    assert width(unknown) > 3 * width(known)
    assert unknown.low < 0.3 * known.low


def test_jobs_share_the_slots():
    """Twelve jobs of half a minute: one after the other, or four at a time."""
    asked, history = partitions(12, MOBILE), partitions(40, MOBILE, since=12)
    asks = [ask(one, 29.0, 30.0) for one in history]
    receipts = [receipt(one, 100) for one in history]
    alone, four = (estimate(asked, receipts, asks, slots=slots).minutes for slots in (1, 4))
    assert 5.5 < alone.expected < 7.0
    assert 1.4 < four.expected < 1.8


def test_requests_share_the_budget():
    """Five hundred days of up to a page: the fifth minute's budget is needed."""
    history = partitions(40, MOBILE, since=500)
    asks = [ask(one, 0.9, 1.0) for one in history]
    receipts = [receipt(one, 400) for one in history]
    estimated = estimate(partitions(500, MOBILE), receipts, asks, slots=64)
    assert 1000 <= estimated.requests.expected < 1200
    assert estimated.minutes.low >= 4 * 61 / 60
    assert estimated.minutes.high < 6


def test_the_pages_of_one_job_share_the_budget_too():
    """A million ids are a thousand pages, whatever else is asked."""
    [one] = partitions(1, MOBILE)
    million = estimate([one], [receipt(one, 1_000_000)], [ask(one, 0.9, 1.0)])
    assert 1000 < million.requests.expected < 1010
    assert million.minutes.low >= 4 * 61 / 60
    assert million.minutes.high < 6


@given(loads(), st.sampled_from([MOBILE, None]))
@settings(deadline=None, max_examples=60)
def test_the_nearest_days_are_those_that_a_look_at_all_would_find(load, segment):
    """Of the same weekday where there are four, and of days equally near the earlier one."""
    asked, receipts, _ = load
    receipts.sort(key=lambda one: one.partition.day)
    of_segment = [one for one in receipts if segment in {None, one.partition.segment}]
    alike = estimating._Alike(receipts)
    for day in {one.day for one in asked if of_segment}:
        same = [one for one in of_segment if one.partition.day.weekday() == day.weekday()]
        chosen = same if len(same) >= 4 else of_segment
        by_distance = sorted(chosen, key=lambda one: abs(one.partition.day - day))
        assert alike.nearest(day, segment) == by_distance[:12]


@pytest.mark.parametrize("segment", [MOBILE, CART])
def test_a_longer_history_makes_no_partition_dearer(segment):
    """Else a backfill of years, which is estimated partition by partition, takes minutes."""
    [one] = partitions(1, segment)

    def steps(days):
        sizes = estimating._Sizes([receipt(each, 900) for each in partitions(days, MOBILE, ALL)])
        return calls(lambda: sizes.of(replace(one, day=one.day - timedelta(1))))

    assert steps(5_000) < 2 * steps(100)


def calls(work):
    """How many functions are called in doing it."""
    events = []
    sys.setprofile(lambda _, event, __: events.append(event))
    try:
        work()
    finally:
        sys.setprofile(None)
    return len(events)


def test_requests_are_taken_to_be_scarce_between_plenty_and_none():
    """A load polls the more surely, the more is spent; an estimate knows only two ways."""
    assert pace._PLENTY_UNTIL < estimating._SCARCE_FROM < 1.0


def test_it_reads_as_one_sentence():
    estimated = Estimate(
        jobs=540,
        requests=Range(1182.0, 1241.0, 1394.0),
        sessions=Range(289_700, 310_200, 331_000),
        minutes=Range(6.1, 6.6, 7.9),
    )
    assert str(estimated) == (
        "About 1,240 requests (1,180 to 1,390) for 540 jobs and "
        "310,000 sessions (290,000 to 331,000): 6 to 8 minutes at 200 requests a minute."
    )


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (0.1, 0.9, ": less than a minute at"),
        (0.1, 1.1, ": up to 2 minutes at"),
        (1.1, 1.9, ": 1 to 2 minutes at"),
        (999.5, 1200.1, ": 999 to 1,201 minutes at"),
    ],
)
def test_minutes_are_rounded_outwards(low, high, words):
    one = replace(estimate(partitions(1, MOBILE)), minutes=Range(low, low, high))
    assert words in str(one)
    assert "1 job and" in str(one)
