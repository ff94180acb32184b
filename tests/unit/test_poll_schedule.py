"""When to poll: learned from what was watched, and near to what a clairvoyant would do."""

from __future__ import annotations

import asyncio
import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefect_wix.client.models import DeviceType, FunnelStep, SessionsQuery
from prefect_wix.jobs.latency import Latency, job_kind
from prefect_wix.jobs.poll_policy import PollPolicy
from prefect_wix.jobs.poll_schedule import PollSchedule
from tests.schedules import FLOOR_OF_A_MINUTE, mixed_jobs, queries, simulate
from tests.virtual_time import LoopClock, run

DAY = {"start_date": "2024-01-01", "end_date": "2024-01-02"}


def taught(*jobs):
    latency = Latency(PollPolicy())
    for running, finished in jobs:
        latency.observe(running, finished)
    return latency


def polls(latency, probability=0.65, count=6):
    """The ages at which a job is polled that is always found running."""
    ages = [0.0]
    for _ in range(count):
        ages.append(latency.quantile(probability, running=ages[-1]))
    return ages[1:]


def test_while_nothing_is_known_a_job_is_polled_at_growing_ages():
    """As its patience says."""
    ages = polls(Latency(PollPolicy(first_wait_seconds=2.0, growth=3.0)))
    assert ages[0] == pytest.approx(2.0, rel=0.04)
    assert all(age / before == pytest.approx(3.0, rel=0.04) for before, age in pairwise(ages))


def test_jobs_that_all_take_as_long_are_soon_asked_for_just_then():
    latency = taught(*[(4.0, 5.0)] * 3, *[(4.7, 4.9)] * 10)
    assert 4.7 <= latency.quantile(0.65, running=0.0) <= 5.1


def test_what_one_job_tells_is_believed_of_others_that_tell_less():
    """One was still running at 1.99. That others were found finished soon after fits with that."""
    seen = [*[(0.0, 2.11)] * 4, (1.99, 2.11), *[(0.0, 2.05)] * 5]
    assert 1.99 < taught(*seen).quantile(0.65, running=0.0) < 2.11


def test_a_change_is_noticed():
    """Wix was fast, and is slow now."""
    latency = taught(*[(0.9, 1.1)] * 200, *[(9.0, 11.0)] * 40)
    assert latency.quantile(0.65, running=0.0) > 8.0


def test_a_job_that_takes_longer_than_any_before_is_not_asked_for_ever_more_often():
    latency = taught(*[(0.9, 1.1)] * 500)
    ages = [1.2]
    for _ in range(8):
        ages.append(latency.quantile(0.65, running=ages[-1]))
    assert all(later >= 1.02 * age for age, later in pairwise(ages))
    assert ages[-1] > 10 * ages[0]


@given(
    jobs=st.lists(st.tuples(st.floats(0, 100), st.floats(0.001, 1000)), max_size=30),
    running=st.floats(0, 500),
    later=st.floats(0, 500),
)
@settings(deadline=None)
def test_whatever_is_seen_the_chances_are_chances(jobs, running, later):
    """From nothing to one, and never less for having waited longer."""
    latency = taught(*((at, at + more) for at, more in jobs))
    soon, late = (latency.probability(running + wait, running=running) for wait in (0, later))
    assert -1e-9 <= soon <= late <= 1 + 1e-9
    assert latency.quantile(0.9, running=running) > min(running, 7200.0) * 0.999


def test_jobs_of_one_kind_are_those_of_as_many_days_and_one_sort_of_filter():
    day = SessionsQuery(**DAY, device_type=DeviceType.MOBILE)
    assert job_kind(day) == job_kind(SessionsQuery(**DAY, device_type=DeviceType.TABLET))
    assert job_kind(day) != job_kind(SessionsQuery(**DAY, funnel_include=FunnelStep.ADDED_TO_CART))
    week = {"start_date": "2024-01-01", "end_date": "2024-01-08"}
    assert job_kind(day) != job_kind(SessionsQuery(**week, device_type=DeviceType.MOBILE))


def test_what_earlier_runs_watched_is_known_from_the_start():
    """The first poll of a new run finds a job that takes twenty seconds finished, or nearly so."""
    [query] = queries(1)

    async def first_poll():
        schedule = PollSchedule(LoopClock(), history=[(query, 18.0, 20.0)] * 15)
        async with schedule.timer(query).poll(asyncio.sleep):
            return schedule.clock.now()

    at, _ = run(first_poll())
    assert 18.0 <= at <= 21.0


def test_one_job_is_asked_on_behalf_of_all_while_their_kind_is_not_known():
    """Eight jobs that run need not be asked eight times to know that they run."""
    seconds, wix = simulate(dict.fromkeys(queries(8), 30.0), slots=8)
    assert wix.requests <= 45  # each for itself would need 8 * (1 + 10)
    assert seconds < 34.0


def test_where_the_budget_is_scarce_a_job_is_asked_for_more_surely():
    clock = LoopClock()

    async def both():
        return PollSchedule(clock, utilization=lambda _: 0.3), PollSchedule(
            clock, utilization=lambda _: 1.0
        )

    (plenty, scarce), _ = run(both_sure(both))
    assert plenty < scarce


async def both_sure(both):
    return [schedule.required_probability for schedule in await both()]


def test_twenty_jobs_of_two_seconds_take_hardly_longer_than_they_must():
    """Four at a time: ten seconds, and the round trips of five submits and five polls."""
    seconds, wix = simulate(dict.fromkeys(queries(20), 2.0), slots=4)
    assert seconds <= 1.05 * (10.0 + 5 * 2 * 0.02)
    assert wix.requests <= 20 * 2.3


@pytest.mark.parametrize("seed", range(4))
def test_many_jobs_take_hardly_longer_than_a_clairvoyant_would_have_them(seed):
    """Five hundred jobs of three kinds at 200 requests a minute, sixteen at a time."""
    latencies, totals = mixed_jobs(500, seed)
    seconds, wix = simulate(latencies, slots=16, totals=totals)
    best, clairvoyant = simulate(latencies, slots=16, totals=totals, clairvoyant=True)
    assert best >= FLOOR_OF_A_MINUTE * (clairvoyant.requests // 200)
    assert seconds <= 1.15 * best
    assert wix.requests - clairvoyant.requests <= 0.2 * len(latencies)
    assert most_in_a_minute(wix.sent) <= 200


def most_in_a_minute(sent):
    return max(
        sum(start <= at < start + 60 for at in sent[n : n + 400]) for n, start in enumerate(sent)
    )


def test_a_simulation_knows_what_a_job_costs():
    """What the tests above stand on: a clairvoyant asks twice for a job of up to a page."""
    latencies = {query: random.Random(1).uniform(1, 9) for query in queries(40)}
    _, wix = simulate(latencies, slots=4, clairvoyant=True)
    assert wix.requests == 80
