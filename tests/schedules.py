"""A simulation of poll schedules in virtual time: jobs of given durations and one rate limiter.

`SimulatedWix` replaces `WixClient` and implements only what a schedule depends on. The real client
and its errors are tested in `tests/unit/test_client.py`.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from datetime import date, timedelta
from random import Random

from prefect_wix.client.models import DeviceType, FunnelStep, JobPage, JobStatus, SessionsQuery
from prefect_wix.client.rate_limiter import RateLimiter, submit_priority
from prefect_wix.jobs.listing import Listing
from prefect_wix.jobs.poll_policy import PollPolicy
from prefect_wix.jobs.poll_schedule import PollSchedule
from tests.virtual_time import LoopClock, run

ROUND_TRIP = 0.02
MINUTE = 60.0


class SimulatedWix:
    """Replaces `WixClient`.

    Args:
        latencies: query -> duration of its job, in seconds.
        totals: query -> number of its IDs; 10 by default.
    """

    site_id = "site"
    log = logging.getLogger("simulated")
    page_limit = 1000

    def __init__(self, latencies, totals):
        self.clock = LoopClock()
        self.rate_limiter = RateLimiter(clock=self.clock)
        self.latencies = latencies
        self.totals = totals
        self.ready = {}
        self.requests = 0
        self.sent = []
        self._ids = itertools.count()

    async def _request(self, priority):
        await self.rate_limiter.acquire(priority)
        self.requests += 1
        self.sent.append(self.clock.now())
        await asyncio.sleep(ROUND_TRIP / 2)

    async def list_sessions_async(self, query, **_):
        await self._request(submit_priority)
        job = str(next(self._ids))
        self.ready[job] = (self.clock.now() + self.latencies[query], self.totals.get(query, 10))
        await asyncio.sleep(ROUND_TRIP / 2)
        return job

    async def get_list_sessions_job_result(self, job_id, *, limit, offset, priority):
        await self._request(priority)
        ready, total = self.ready[job_id]
        finished = self.clock.now() >= ready
        await asyncio.sleep(ROUND_TRIP / 2)
        if not finished:
            return JobPage(
                status=JobStatus.IN_PROGRESS, status_text="IN_PROGRESS", total=None, session_ids=[]
            )
        ids = [f"{job_id}-{n}" for n in range(offset, min(total, offset + limit))]
        return JobPage(
            status=JobStatus.FINISHED, status_text="FINISHED", total=total, session_ids=ids
        )


class Clairvoyant(PollSchedule):
    """Polls every job at the moment it finishes: a lower bound of time and requests."""

    def __init__(self, wix):
        super().__init__(wix.clock)
        self._wix = wix

    def timer(self, query):
        timer = super().timer(query)
        ready = self._wix.clock.now() + self._wix.latencies[query] - ROUND_TRIP / 2
        timer._next_poll_at = lambda: ready - timer._submitted_at
        timer._kind.latency.observed = 12  # calibrated: without the probe lock
        timer.probability = lambda: 1.0
        return timer


KINDS = (
    {"device_type": DeviceType.MOBILE},
    {"funnel_include": FunnelStep.ADDED_TO_CART},
    {"page_interactions": ("", "__DROP__")},
)


def queries(count, kinds=KINDS[:1]):
    """Queries of consecutive days that alternate between these kinds of filter."""
    day = date(2024, 1, 1)
    return [
        SessionsQuery(
            start_date=day + timedelta(n),
            end_date=day + timedelta(n + 1),
            timezone="Etc/UTC",
            **kinds[n % len(kinds)],
        )
        for n in range(count)
    ]


def mixed_jobs(count, seed, spread=0.3):
    """Durations (medians 1.5, 4 and 9 s) and totals of jobs of 3 kinds; 10 % have 2 to 5 pages."""
    random = Random(seed)
    medians = (1.5, 4.0, 9.0)
    jobs = queries(count, KINDS)
    latencies = {
        query: medians[n % 3] * random.lognormvariate(0, spread) for n, query in enumerate(jobs)
    }
    totals = {
        query: random.randint(1001, 5000) if random.random() < 0.1 else random.randint(0, 1000)
        for query in jobs
    }
    return latencies, totals


def simulate(latencies, *, slots, totals=None, clairvoyant=False, poll_policy=PollPolicy()):
    """List all queries; returns the duration in virtual seconds, and the `SimulatedWix`."""
    return run(_list_all(latencies, totals or {}, slots, clairvoyant, poll_policy))[::-1]


async def _list_all(latencies, totals, slots, clairvoyant, poll_policy):
    wix = SimulatedWix(latencies, totals)
    semaphore = asyncio.Semaphore(slots)
    schedule = (
        Clairvoyant(wix)
        if clairvoyant
        else PollSchedule(wix.clock, poll_policy, wix.rate_limiter.utilization)
    )
    schedule.expected_requests = 2 * len(latencies)

    async def read_all(query):
        listing = Listing(wix, query, poll_policy=poll_policy, schedule=schedule)
        async with semaphore, listing:
            schedule.expected_requests -= 2
            await listing.read_all()

    async with asyncio.TaskGroup() as group:
        for query in latencies:
            group.create_task(read_all(query))
    return wix
