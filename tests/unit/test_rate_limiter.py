"""The budget: never more requests than Wix allows, in the order they were asked for."""

from __future__ import annotations

import asyncio
import itertools
import random
import threading
import time
from heapq import heappop, heappush

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from prefect_wix.client.auth import ApiKeyAuth
from prefect_wix.client.client import WixClient
from prefect_wix.client.models import DeviceType, Period, SessionsQuery
from prefect_wix.client.rate_limiter import (
    REQUESTS_PER_MINUTE,
    RateLimiter,
    page_priority,
    shared_rate_limiter,
    submit_priority,
)
from prefect_wix.clock import SYSTEM_CLOCK
from prefect_wix.errors import RequestNotSentError

QUERY = SessionsQuery(period=Period.TODAY, device_type=DeviceType.ALL, timezone="UTC")


class VirtualClock:
    """A clock that is wound on as soon as everybody sleeps, to when the first one wakes."""

    def __init__(self):
        self._now = 0.0
        self._asleep = []
        self._numbers = itertools.count()

    def now(self):
        return self._now

    async def sleep(self, seconds):
        me = (self._now + max(seconds, 0.0), next(self._numbers))
        heappush(self._asleep, me)
        try:
            await asyncio.sleep(0)
            while self._asleep[0] != me:
                await asyncio.sleep(0)
        finally:
            if self._asleep[0] == me:
                heappop(self._asleep)
            else:  # cancelled while others wake earlier
                self._asleep.remove(me)
                self._asleep.sort()
        self._now = max(self._now, me[0])


async def grants(rate_limiter, clock, arrivals, pauses=(), global_limiter=None):
    """When each turn came, in the order of the arrivals; `pauses` are (when, how long)."""
    start, came = clock.now(), {}

    async def record(number, after):
        await clock.sleep(after)
        await rate_limiter.acquire(global_limiter=global_limiter)
        came[number] = clock.now() - start

    async def hold(after, seconds):
        await clock.sleep(after)
        rate_limiter.pause(seconds)

    await asyncio.gather(
        *(hold(*pause) for pause in pauses),
        *(record(number, after) for number, after in enumerate(arrivals)),
    )
    return [came[number] for number in range(len(arrivals))]


def most_in_a_minute(times):
    times = sorted(times)
    return max((sum(start <= at < start + 60 for at in times) for start in times), default=0)


arrivals = st.lists(
    st.one_of(st.just(0.0), st.floats(0, 300), st.sampled_from([59.0, 60.0, 61.0, 62.0])),
    max_size=40,
)


@given(limit=st.integers(1, 7), arrivals=arrivals)
@settings(max_examples=150, deadline=None)
async def test_no_minute_holds_more_than_the_budget(limit, arrivals):
    """However requests arrive; and nobody waits longer than the budget makes him."""
    clock = VirtualClock()
    times = await grants(RateLimiter(limit, clock=clock), clock, arrivals)
    assert most_in_a_minute(times) <= limit
    assert all(at >= asked for at, asked in zip(times, arrivals, strict=True))
    assert max(times, default=0) <= max(arrivals, default=0) + 61 * (len(arrivals) // limit + 1)


@given(
    limit=st.integers(1, 5),
    arrivals=arrivals,
    pauses=st.lists(st.tuples(st.floats(0, 200), st.floats(1, 300)), max_size=3),
)
@example(limit=2, arrivals=[0.0] * 6, pauses=[(1.0, 200.0)])
@settings(max_examples=150, deadline=None)
async def test_no_minute_holds_more_than_the_budget_even_after_a_pause(limit, arrivals, pauses):
    """Those who were held do not all rush out when the pause ends."""
    clock = VirtualClock()
    times = await grants(RateLimiter(limit, clock=clock), clock, arrivals, pauses)
    assert most_in_a_minute(times) <= limit


async def test_a_spent_budget_is_waited_for_and_no_longer():
    clock = VirtualClock()
    times = await grants(RateLimiter(3, clock=clock), clock, [0, 0, 0, 0, 0, 0, 0])
    assert times == [0, 0, 0, 61, 61, 61, 122]


async def test_a_budget_that_is_not_spent_costs_nothing():
    clock = VirtualClock()
    rate_limiter = RateLimiter(clock=clock)
    assert await grants(rate_limiter, clock, [0.0] * REQUESTS_PER_MINUTE) == [0.0] * 200


async def test_turns_come_in_the_order_they_are_asked_for():
    clock = VirtualClock()
    rate_limiter, order = RateLimiter(2, clock=clock), []

    async def record(number):
        await rate_limiter.acquire()
        order.append((clock.now(), number))

    await asyncio.gather(*map(record, range(20)))
    assert [at for at, _ in order] == sorted(at for at, _ in order)
    assert [number for _, number in sorted(order)] == list(range(20))


async def test_a_pause_holds_everybody_once():
    """Ten requests that are all told to wait a minute wait one minute, not ten."""
    clock = VirtualClock()
    rate_limiter = RateLimiter(100, clock=clock)
    pauses = [(0.0, 60.0)] * 10
    times = await grants(rate_limiter, clock, [0.5, 1.0, 59.0, 61.0], pauses)
    assert times == [60.0, 60.0, 60.0, 61.0]


async def test_a_shorter_pause_does_not_cut_a_longer_one_short():
    clock = VirtualClock()
    rate_limiter = RateLimiter(100, clock=clock)
    assert await grants(rate_limiter, clock, [2.0], [(0.0, 60.0), (1.0, 5.0)]) == [60.0]


async def test_a_pause_also_holds_a_turn_that_was_booked_before_it():
    clock = VirtualClock()
    rate_limiter = RateLimiter(1, clock=clock)
    first, second = await grants(rate_limiter, clock, [0.0, 0.0], [(60.0, 30.0)])
    assert (first, 90 <= second <= 91) == (0.0, True)


async def test_the_worthiest_request_is_sent_first():
    """A submit before a page, a page before a poll, the likeliest poll before the others."""
    clock = VirtualClock()
    rate_limiter, order = RateLimiter(1, clock=clock), []
    await rate_limiter.acquire()

    async def record(priority, name):
        await rate_limiter.acquire(priority)
        order.append(name)

    async with asyncio.TaskGroup() as group:
        for priority, name in (
            (lambda: 0.2, "unlikely poll"),
            (lambda: min(0.9, clock.now() / 100), "poll that ripens"),
            (page_priority, "page"),
            (submit_priority, "submit"),
        ):
            group.create_task(record(priority, name))
    assert order == ["submit", "page", "poll that ripens", "unlikely poll"]


async def test_what_is_sent_without_a_turn_is_counted():
    """A token request or a resend has no turn; the next turn waits for it all the same."""
    clock = VirtualClock()
    rate_limiter = RateLimiter(2, clock=clock)
    rate_limiter.count_request()
    assert await grants(rate_limiter, clock, [0.0, 0.0]) == [0.0, 61.0]


async def test_scarcity_is_the_share_that_is_spent_or_spoken_for():
    clock = VirtualClock()
    rate_limiter = RateLimiter(10, clock=clock)
    await grants(rate_limiter, clock, [0.0] * 5)
    assert (
        rate_limiter.utilization(),
        rate_limiter.utilization(3),
        rate_limiter.utilization(99),
    ) == (0.5, 0.8, 1.0)
    await clock.sleep(62.0)
    assert rate_limiter.utilization() == 0.0


async def test_turns_also_wait_for_what_other_processes_spend():
    """The gate is asked for as many turns as are waited for, five at most, by one at a time."""
    clock, asked = VirtualClock(), []
    rate_limiter = RateLimiter(100, clock=clock)

    async def global_limiter(slots):
        asked.append(slots)
        await clock.sleep(slots * 1.0)

    times = await grants(rate_limiter, clock, [0.0] * 12, global_limiter=global_limiter)
    assert asked == [1, 5, 5, 1]
    assert [round(at) for at in times] == [1, *[6] * 5, *[11] * 5, 12]


async def test_a_gate_that_is_left_by_the_one_who_stood_at_it_is_passed_by_the_next():
    clock, asked = VirtualClock(), []
    rate_limiter = RateLimiter(100, clock=clock)

    async def global_limiter(slots):
        asked.append(slots)
        await clock.sleep(5.0)

    first = asyncio.create_task(rate_limiter.acquire(global_limiter=global_limiter))
    second = asyncio.create_task(rate_limiter.acquire(global_limiter=global_limiter))
    await clock.sleep(1.0)
    first.cancel()
    await second
    assert first.cancelled()
    assert len(asked) == 2


async def test_a_gate_is_passed_by_those_who_brought_it():
    """That of a run is not left standing for others in the process, who may outlive the run."""
    clock, passed = VirtualClock(), []

    async def record(global_limiter):
        auth = ApiKeyAuth("key", "site")
        async with WixClient(
            auth, base_url="http://127.0.0.1:9", clock=clock, global_limiter=global_limiter
        ) as client:
            with pytest.raises(RequestNotSentError):
                await client.list_sessions_async(QUERY)

    def gate_of(run):
        async def global_limiter(_):
            passed.append(run)

        return global_limiter

    await record(gate_of("one"))
    runs = len(passed)
    await record(None)
    assert passed == ["one"] * runs
    await record(gate_of("two"))
    assert {*passed[runs:]} == {"two"}


async def test_one_without_a_gate_waits_his_turn_beside_those_with_one():
    clock = VirtualClock()

    async def global_limiter(slots):
        await clock.sleep(slots * 1.0)

    rate_limiter = RateLimiter(100, clock=clock)
    both = await asyncio.gather(
        grants(rate_limiter, clock, [0.0] * 4, global_limiter=global_limiter),
        grants(rate_limiter, clock, [0.0] * 4),
    )
    assert max(map(max, both)) <= 8


async def test_a_turn_that_is_given_up_lets_the_others_pass():
    clock = VirtualClock()
    rate_limiter = RateLimiter(1, clock=clock)
    await rate_limiter.acquire()
    given_up = asyncio.create_task(rate_limiter.acquire())
    await asyncio.sleep(0)
    given_up.cancel()
    with pytest.raises(asyncio.CancelledError):
        await given_up
    start = clock.now()
    await rate_limiter.acquire()
    assert clock.now() - start <= 122


def test_everybody_who_asks_for_a_site_shares_its_budget():
    clock = VirtualClock()
    one = shared_rate_limiter("https://wix.test", "site", 200, clock)
    assert shared_rate_limiter("https://wix.test", "site", 200, clock) is one


@pytest.mark.parametrize(
    ("base_url", "site"), [("https://wix.test", "other"), ("https://elsewhere.test", "site")]
)
def test_another_site_has_a_budget_of_its_own(base_url, site):
    clock = VirtualClock()
    one = shared_rate_limiter("https://wix.test", "site", 200, clock)
    assert shared_rate_limiter(base_url, site, 200, clock) is not one


async def test_two_clients_of_a_site_share_its_budget():
    clock = VirtualClock()
    one, two = (
        WixClient(ApiKeyAuth("key", "site"), base_url="https://wix.test", clock=clock)
        for _ in range(2)
    )
    assert one.rate_limiter is two.rate_limiter
    await one.__aexit__()
    await two.__aexit__()


def test_a_site_has_one_budget_whatever_it_is_told_to_be():
    clock = VirtualClock()
    one = shared_rate_limiter("https://wix.test", "site", 200, clock)
    assert shared_rate_limiter("https://wix.test", "site", 100, clock) is one


async def test_the_lowest_limit_that_was_named_holds():
    """Also for what was sent before it was named; a higher one changes nothing."""
    clock = VirtualClock()
    rate_limiter = shared_rate_limiter("https://wix.test", "site", 4, clock)
    await grants(rate_limiter, clock, [0.0, 0.0, 0.0])
    for limit in (2, 3):
        shared_rate_limiter("https://wix.test", "site", limit, clock)
    assert rate_limiter.utilization() == 1.0
    assert await grants(rate_limiter, clock, [0.0] * 3) == [61.0, 61.0, 122.0]


@pytest.mark.parametrize("limit", [0, -1])
def test_a_budget_of_nothing_is_refused_at_once(limit):
    """In the words of the one who gave it."""
    with pytest.raises(ValueError, match="requests_per_minute"):
        RateLimiter(limit)


class _HandWoundClock:
    """A clock for many threads that stands still until it is wound on."""

    def __init__(self):
        self.at = 0.0

    def now(self):
        return self.at

    async def sleep(self, seconds):
        until = self.at + seconds
        while self.at < until:
            await asyncio.sleep(0.001)


def test_threads_and_their_loops_share_one_budget():
    clock = _HandWoundClock()
    rate_limiter, came = RateLimiter(50, clock=clock), []

    async def ask_often():
        for _ in range(25):
            await rate_limiter.acquire()
            came.append(clock.now())

    threads = [threading.Thread(target=asyncio.run, args=(ask_often(),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 10
    while len(came) < 50 and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(0.05)
    assert came == [0.0] * 50
    clock.at = 61.0
    for thread in threads:
        thread.join(10)
    assert came == [0.0] * 50 + [61.0] * 50


async def test_the_system_clock_goes_by_real_time():
    start = SYSTEM_CLOCK.now()
    await SYSTEM_CLOCK.sleep(0.02)
    assert 0.019 <= SYSTEM_CLOCK.now() - start < 1.0


async def test_the_virtual_clock_wakes_sleepers_in_order():
    """What the tests above stand on: sleeps overlap, and time never runs backwards."""
    clock, woke = VirtualClock(), []

    async def sleeper(seconds):
        await clock.sleep(seconds)
        woke.append((seconds, clock.now()))

    naps = random.Random(3).sample(range(100), 30)
    await asyncio.gather(*map(sleeper, naps))
    assert woke == [(nap, nap) for nap in sorted(naps)]
