"""Poll times: estimated from observed jobs, and close to those of a clairvoyant schedule."""

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
from tests.options import repeated
from tests.schedules import MINUTE, mixed_jobs, queries, simulate
from tests.virtual_time import LoopClock, run

DAY = {"start_date": "2024-01-01", "end_date": "2024-01-02"}


def observing(*jobs):
    """A distribution after these observations: (age last seen running, first seen finished)."""
    latency = Latency(PollPolicy())
    for running, finished in jobs:
        latency.observe(running, finished)
    return latency


def poll_ages(latency, probability=0.65, count=6):
    """The ages at which a job that never finishes is polled."""
    ages = [0.0]
    for _ in range(count):
        ages.append(latency.quantile(probability, running=ages[-1]))
    return ages[1:]


def test_the_prior_gives_the_ages_of_the_poll_policy():
    ages = poll_ages(Latency(PollPolicy(first_wait_seconds=2.0, growth=3.0)))
    assert ages[0] == pytest.approx(2.0, rel=0.04)
    assert all(age / before == pytest.approx(3.0, rel=0.04) for before, age in pairwise(ages))


def test_the_quantile_converges_to_a_constant_duration():
    latency = observing(*[(4.0, 5.0)] * 3, *[(4.7, 4.9)] * 10)
    assert 4.7 <= latency.quantile(0.65, running=0.0) <= 5.1


def test_one_narrow_interval_narrows_the_wide_ones():
    """One job ran at 1.99 s; the wide intervals of the others contain durations above that."""
    intervals = [*[(0.0, 2.11)] * 4, (1.99, 2.11), *[(0.0, 2.05)] * 5]
    assert 1.99 < observing(*intervals).quantile(0.65, running=0.0) < 2.11


def test_the_quantile_follows_a_change_of_durations():
    latency = observing(*[(0.9, 1.1)] * 200, *[(9.0, 11.0)] * 40)
    assert latency.quantile(0.65, running=0.0) > 8.0


def test_a_job_slower_than_all_observed_ones_is_polled_at_growing_ages():
    latency = observing(*[(0.9, 1.1)] * 500)
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
def test_probabilities_are_between_0_and_1_and_grow_with_age(jobs, running, later):
    latency = observing(*((at, at + more) for at, more in jobs))
    soon, late = (latency.probability(running + wait, running=running) for wait in (0, later))
    assert -1e-9 <= soon <= late <= 1 + 1e-9
    assert latency.quantile(0.9, running=running) > min(running, 7200.0) * 0.999


def test_a_job_kind_is_a_number_of_days_and_a_kind_of_filter():
    day = SessionsQuery(**DAY, device_type=DeviceType.MOBILE)
    assert job_kind(day) == job_kind(SessionsQuery(**DAY, device_type=DeviceType.TABLET))
    assert job_kind(day) != job_kind(SessionsQuery(**DAY, funnel_include=FunnelStep.ADDED_TO_CART))
    week = {"start_date": "2024-01-01", "end_date": "2024-01-08"}
    assert job_kind(day) != job_kind(SessionsQuery(**week, device_type=DeviceType.MOBILE))


def test_observations_of_earlier_runs_set_the_first_poll():
    [query] = queries(1)

    async def first_poll():
        schedule = PollSchedule(LoopClock(), history=[(query, 18.0, 20.0)] * 15)
        async with schedule.timer(query).poll(asyncio.sleep):
            return schedule.clock.now()

    at, _ = run(first_poll())
    assert 18.0 <= at <= 21.0


def test_only_one_job_of_an_uncalibrated_kind_is_polled_at_a_time():
    seconds, wix = simulate(dict.fromkeys(queries(8), 30.0), slots=8)
    assert wix.requests <= 45  # separate polls would need 8 * (1 + 10)
    assert seconds < 34.0


def test_a_used_up_rate_limit_raises_the_required_probability():
    clock = LoopClock()

    async def required(utilization):
        return PollSchedule(clock, utilization=lambda _: utilization).required_probability

    (idle, _), (busy, _) = run(required(0.3)), run(required(1.0))
    assert idle < busy


def test_twenty_equal_jobs_take_at_most_5_percent_longer_than_necessary():
    """Four at a time: 10 s, and the round trips of 5 submits and 5 polls."""
    seconds, wix = simulate(dict.fromkeys(queries(20), 2.0), slots=4)
    assert seconds <= 1.05 * (10.0 + 5 * 2 * 0.02)
    assert wix.requests <= 20 * 2.3


@pytest.mark.parametrize("seed", range(repeated(1, soak=12)))
def test_mixed_jobs_take_at_most_15_percent_longer_than_a_clairvoyant_schedule(seed):
    """500 jobs of 3 kinds at 200 requests a minute, 16 at a time."""
    latencies, totals = mixed_jobs(500, seed)
    seconds, wix = simulate(latencies, slots=16, totals=totals)
    best, clairvoyant = simulate(latencies, slots=16, totals=totals, clairvoyant=True)
    assert best >= MINUTE * (clairvoyant.requests // 200)
    assert seconds <= 1.15 * best
    assert wix.requests - clairvoyant.requests <= 0.2 * len(latencies)
    assert most_in_a_minute(wix.sent) <= 200


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_early_polls_do_not_push_a_load_into_a_second_minute(seed):
    """80 jobs need 160 of 200 requests; 41 early polls would delay the last job by 30 s."""
    random_seconds = random.Random(seed).uniform
    seconds, wix = simulate({query: random_seconds(0.5, 6.0) for query in queries(80)}, slots=16)
    assert wix.requests <= 200
    assert seconds < MINUTE / 2


def most_in_a_minute(sent):
    return max(
        sum(start <= at < start + 60 for at in sent[n : n + 400]) for n, start in enumerate(sent)
    )


def test_a_clairvoyant_schedule_needs_2_requests_per_job_of_one_page():
    """The simulation counts requests correctly."""
    latencies = {query: random.Random(1).uniform(1, 9) for query in queries(40)}
    _, wix = simulate(latencies, slots=4, clairvoyant=True)
    assert wix.requests == 80
