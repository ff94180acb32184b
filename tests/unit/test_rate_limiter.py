"""The rate limiter: at most the allowed requests in any minute, by priority and arrival."""

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
    """A clock that advances to the next wake-up as soon as all tasks sleep."""

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
            else:  # cancelled while an earlier sleeper waits
                self._asleep.remove(me)
                self._asleep.sort()
        self._now = max(self._now, me[0])


async def grants(rate_limiter, clock, arrivals, pauses=(), global_limiter=None):
    """The time of each grant, in the order of the arrivals; `pauses` are (start, seconds)."""
    start, granted = clock.now(), {}

    async def record(number, after):
        await clock.sleep(after)
        await rate_limiter.acquire(global_limiter=global_limiter)
        rate_limiter.accepted(sent_at=clock.now())
        granted[number] = clock.now() - start

    async def pause(after, seconds):
        await clock.sleep(after)
        rate_limiter.pause(seconds, sent_at=clock.now())

    await asyncio.gather(
        *(pause(*times) for times in pauses),
        *(record(number, after) for number, after in enumerate(arrivals)),
    )
    return [granted[number] for number in range(len(arrivals))]


def most_in_a_minute(times):
    times = sorted(times)
    return max((sum(start <= at < start + 60 for at in times) for start in times), default=0)


arrivals = st.lists(
    st.one_of(st.just(0.0), st.floats(0, 300), st.sampled_from([59.0, 60.0, 61.0, 62.0])),
    max_size=40,
)


@given(limit=st.integers(1, 7), arrivals=arrivals)
@settings(max_examples=150, deadline=None)
async def test_no_minute_has_more_requests_than_the_limit(limit, arrivals):
    """Requests arrive at any times, and none waits longer than the limit requires."""
    clock = VirtualClock()
    times = await grants(RateLimiter(limit, clock=clock), clock, arrivals)
    assert most_in_a_minute(times) <= limit
    assert all(at >= arrival for at, arrival in zip(times, arrivals, strict=True))
    assert max(times, default=0) <= max(arrivals, default=0) + 61 * (len(arrivals) // limit + 1)


@given(
    limit=st.integers(1, 5),
    arrivals=arrivals,
    pauses=st.lists(st.tuples(st.floats(0, 200), st.floats(1, 300)), max_size=3),
)
@example(limit=2, arrivals=[0.0] * 6, pauses=[(1.0, 200.0)])
@settings(max_examples=150, deadline=None)
async def test_no_minute_has_more_requests_than_the_limit_after_a_pause(limit, arrivals, pauses):
    """The requests that waited for the pause are not all sent at its end."""
    clock = VirtualClock()
    times = await grants(RateLimiter(limit, clock=clock), clock, arrivals, pauses)
    assert most_in_a_minute(times) <= limit


async def test_a_request_beyond_the_limit_waits_until_the_window_has_space():
    clock = VirtualClock()
    times = await grants(RateLimiter(3, clock=clock), clock, [0, 0, 0, 0, 0, 0, 0])
    assert times == [0, 0, 0, 61, 61, 61, 122]


async def test_requests_within_the_limit_do_not_wait():
    clock = VirtualClock()
    rate_limiter = RateLimiter(clock=clock)
    assert await grants(rate_limiter, clock, [0.0] * REQUESTS_PER_MINUTE) == [0.0] * 200


async def test_requests_of_equal_priority_are_granted_in_order_of_arrival():
    clock = VirtualClock()
    rate_limiter, order = RateLimiter(2, clock=clock), []

    async def record(number):
        await rate_limiter.acquire()
        order.append((clock.now(), number))

    await asyncio.gather(*map(record, range(20)))
    assert [at for at, _ in order] == sorted(at for at, _ in order)
    assert [number for _, number in sorted(order)] == list(range(20))


async def test_simultaneous_pauses_do_not_add_up():
    """Ten pauses of a minute at the same time pause all requests for one minute, not ten."""
    clock = VirtualClock()
    rate_limiter = RateLimiter(100, clock=clock)
    pauses = [(0.0, 60.0)] * 10
    times = await grants(rate_limiter, clock, [0.5, 1.0, 59.0, 61.0], pauses)
    assert times == [60.0, 60.0, 60.0, 61.0]


async def test_a_shorter_pause_does_not_end_a_longer_one():
    clock = VirtualClock()
    rate_limiter = RateLimiter(100, clock=clock)
    assert await grants(rate_limiter, clock, [2.0], [(0.0, 60.0), (1.0, 5.0)]) == [60.0]


async def test_a_pause_also_delays_a_request_that_waited_before_it():
    clock = VirtualClock()
    rate_limiter = RateLimiter(1, clock=clock)
    first, second = await grants(rate_limiter, clock, [0.0, 0.0], [(60.0, 30.0)])
    assert (first, 90 <= second <= 91) == (0.0, True)


async def test_the_request_of_the_highest_priority_is_sent_first():
    """A submit before a page, a page before a poll, and polls by their current priority."""
    clock = VirtualClock()
    rate_limiter, order = RateLimiter(1, clock=clock), []
    await rate_limiter.acquire()

    async def record(priority, name):
        await rate_limiter.acquire(priority)
        order.append(name)

    async with asyncio.TaskGroup() as group:
        for priority, name in (
            (lambda: 0.2, "unlikely poll"),
            (lambda: min(0.9, clock.now() / 100), "poll with growing priority"),
            (page_priority, "page"),
            (submit_priority, "submit"),
        ):
            group.create_task(record(priority, name))
    assert order == ["submit", "page", "poll with growing priority", "unlikely poll"]


async def test_a_request_without_a_slot_is_counted():
    """A token request or a resend acquires no slot, but later requests wait for it."""
    clock = VirtualClock()
    rate_limiter = RateLimiter(2, clock=clock)
    rate_limiter.count_request()
    assert await grants(rate_limiter, clock, [0.0, 0.0]) == [0.0, 61.0]


async def test_utilization_is_the_share_of_sent_and_expected_requests():
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


async def test_requests_also_wait_for_the_global_limiter():
    """A request without a slot waits, by priority; the limiter gets the number of them."""
    clock, waiting, slots = VirtualClock(), [], [3]
    rate_limiter = RateLimiter(100, clock=clock)

    def global_limiter(requests):
        waiting.append(requests)
        slots[0] -= slots[0] > 0
        return slots[0] > 0

    async def add_slots():
        await clock.sleep(7.0)
        slots[0] = 11

    refill = asyncio.create_task(add_slots())
    times = await grants(rate_limiter, clock, [0.0] * 12, global_limiter=global_limiter)
    await refill
    assert [round(at) for at in times] == [0, 0, *[7] * 10]
    assert (waiting[0], max(waiting)) == (1, 10)


async def test_a_global_limiter_is_used_only_by_requests_of_its_own_client():
    calls = []

    async def send(global_limiter):
        auth = ApiKeyAuth("key", "site")
        async with WixClient(
            auth, base_url="http://127.0.0.1:9", clock=VirtualClock(), global_limiter=global_limiter
        ) as client:
            with pytest.raises(RequestNotSentError):
                await client.list_sessions_async(QUERY)

    await send(None)
    assert calls == []
    await send(lambda waiting: not calls.append(waiting))
    assert {*calls} == {1}


async def test_requests_with_and_without_a_global_limiter_share_a_rate_limiter():
    """The others do not wait for long behind one without a slot."""
    clock = VirtualClock()
    rate_limiter = RateLimiter(100, clock=clock)
    both = await asyncio.gather(
        grants(rate_limiter, clock, [0.0] * 4, global_limiter=lambda _: clock.now() > 2.0),
        grants(rate_limiter, clock, [0.0] * 4),
    )
    assert max(map(max, both)) <= 3


async def test_a_cancelled_request_does_not_block_the_others():
    clock = VirtualClock()
    rate_limiter = RateLimiter(1, clock=clock)
    await rate_limiter.acquire()
    cancelled = asyncio.create_task(rate_limiter.acquire())
    await asyncio.sleep(0)
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    start = clock.now()
    await rate_limiter.acquire()
    assert clock.now() - start <= 122


def test_a_site_has_one_rate_limiter_in_the_process():
    clock = VirtualClock()
    one = shared_rate_limiter("https://wix.test", "site", 200, clock)
    assert shared_rate_limiter("https://wix.test", "site", 200, clock) is one


@pytest.mark.parametrize(
    ("base_url", "site"), [("https://wix.test", "other"), ("https://elsewhere.test", "site")]
)
def test_another_site_has_its_own_rate_limiter(base_url, site):
    clock = VirtualClock()
    one = shared_rate_limiter("https://wix.test", "site", 200, clock)
    assert shared_rate_limiter(base_url, site, 200, clock) is not one


async def test_two_clients_of_a_site_share_its_rate_limiter():
    clock = VirtualClock()
    one, two = (
        WixClient(ApiKeyAuth("key", "site"), base_url="https://wix.test", clock=clock)
        for _ in range(2)
    )
    assert one.rate_limiter is two.rate_limiter
    await one.__aexit__()
    await two.__aexit__()


def test_a_site_has_one_rate_limiter_whatever_limit_is_given():
    clock = VirtualClock()
    one = shared_rate_limiter("https://wix.test", "site", 200, clock)
    assert shared_rate_limiter("https://wix.test", "site", 100, clock) is one


async def test_the_lowest_limit_of_a_site_applies():
    """Requests that were sent before count too, and a higher limit has no effect."""
    clock = VirtualClock()
    rate_limiter = shared_rate_limiter("https://wix.test", "site", 4, clock)
    await grants(rate_limiter, clock, [0.0, 0.0, 0.0])
    for limit in (2, 3):
        shared_rate_limiter("https://wix.test", "site", limit, clock)
    assert rate_limiter.utilization() == 1.0
    assert await grants(rate_limiter, clock, [0.0] * 3) == [61.0, 61.0, 122.0]


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_below_one_is_rejected(limit):
    """The message names the parameter."""
    with pytest.raises(ValueError, match="requests_per_minute"):
        RateLimiter(limit)


class _ManualClock:
    """A clock for several threads that a test sets."""

    def __init__(self):
        self.at = 0.0

    def now(self):
        return self.at

    async def sleep(self, seconds):
        until = self.at + seconds
        while self.at < until:
            await asyncio.sleep(0.001)


def test_threads_and_their_event_loops_share_one_rate_limiter():
    clock = _ManualClock()
    rate_limiter, granted = RateLimiter(50, clock=clock), []

    async def acquire_repeatedly():
        for _ in range(25):
            await rate_limiter.acquire()
            granted.append(clock.now())

    threads = [threading.Thread(target=asyncio.run, args=(acquire_repeatedly(),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 60
    while len(granted) < 50 and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(0.05)
    assert granted == [0.0] * 50
    clock.at = 61.0
    for thread in threads:
        thread.join(60)
    assert granted == [0.0] * 50 + [61.0] * 50


async def test_the_system_clock_sleeps_in_real_time():
    start = SYSTEM_CLOCK.now()
    await SYSTEM_CLOCK.sleep(0.02)
    assert SYSTEM_CLOCK.now() - start >= 0.019


async def test_the_virtual_clock_wakes_sleepers_in_order():
    """A precondition of the tests above: sleeps overlap, and time never decreases."""
    clock, woken = VirtualClock(), []

    async def sleeper(seconds):
        await clock.sleep(seconds)
        woken.append((seconds, clock.now()))

    sleeps = random.Random(3).sample(range(100), 30)
    await asyncio.gather(*map(sleeper, sleeps))
    assert woken == [(seconds, seconds) for seconds in sorted(sleeps)]
