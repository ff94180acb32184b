"""Loads of one partition by a worker whose clock is wrong, in a process of its own.

`test_race` runs it: ``python -m tests.e2e.racer <URL> <schema> <seconds that its clock is wrong>``.
It loads the partition of each day of March that it reads, several times at once, and prints the
jobs that it submitted.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import sys
import time
from datetime import UTC, datetime, timedelta

from prefect_wix.client.auth import ApiKeyAuth
from prefect_wix.client.client import WixClient
from prefect_wix.client.models import JobPage, JobStatus
from prefect_wix.jobs.poll_policy import PollPolicy
from prefect_wix.load.partition_load import LoadOptions, LoadState, PartitionLoad
from prefect_wix.planning.partitions import JobState
from prefect_wix.warehouse.factory import open_warehouse
from tests.warehouses import on_day

LANDINGS = 12
WAREHOUSE_CLOCKS = ("prefect_wix.warehouse.duckdb", "prefect_wix.warehouse.parquet")
"""Modules in which the clock of this machine is the clock of the warehouse."""


def set_worker_clock(seconds, patch=setattr):
    """Let the worker's clock be wrong by these seconds, and no warehouse's clock."""

    class WrongClock(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) + timedelta(seconds=seconds)

    for name, module in [*sys.modules.items()]:
        is_of_worker = name.startswith("prefect_wix.") and name not in WAREHOUSE_CLOCKS
        if is_of_worker and isinstance(getattr(module, "datetime", None), type):
            patch(module, "datetime", WrongClock)


class Wix(WixClient):
    """Wix without a network. The three IDs of each job name the job.

    Attributes:
        jobs: how many jobs are polled before one finishes.
        longest: the longest delay of a request in seconds.
        submits: by job, when the request began and ended in seconds of `time.monotonic`.
        finished: set when the jobs have finished.
    """

    def __init__(self, *, jobs, longest=0.0):
        super().__init__(ApiKeyAuth("key", "site-1"), base_url="https://wix.test")
        self.jobs = jobs
        self.longest = longest
        self.submits = {}
        self.finished = asyncio.Event()
        self._polls = 0

    async def list_sessions_async(self, query, **_):
        """The rate limit and then Wix delay the request."""
        await self._delay()
        began = time.monotonic()
        await self._delay()
        job_id = f"job-{random.getrandbits(64):x}"
        self.submits[job_id] = [began, time.monotonic()]
        return job_id

    async def get_list_sessions_job_result(self, job_id, **page):
        self._polls += 1
        if self._polls == self.jobs:
            self.finished.set()
        await self.finished.wait()
        await self._delay()
        ids = tuple(f"{job_id} {n}" for n in range(3))
        return JobPage(status=JobStatus.FINISHED, status_text="FINISHED", total=3, session_ids=ids)

    async def _delay(self):
        await asyncio.sleep(random.uniform(0, self.longest))


class NeverAdopting(PartitionLoad):
    """A load that submits a job of its own although another one runs."""

    def _adopt_since(self):
        return datetime.max.replace(tzinfo=UTC)


async def load(wix, warehouse, partition):
    """Load the partition with a new job; its result."""
    policy = PollPolicy(first_wait_seconds=0.01, longest_wait_seconds=0.1)
    options = LoadOptions(datetime.now(UTC), poll_policy=policy)
    state = LoadState(wix, warehouse, options, (), logging.getLogger(__name__))
    return await NeverAdopting(state, partition).run()


def observed_claims(warehouse):
    """A list that gets each claim of this warehouse."""
    claims, claim = [], warehouse.claim

    async def observed(*args, **kwargs):
        claims.append(await claim(*args, **kwargs))
        return claims[-1]

    warehouse.claim = observed
    return claims


def seconds_late(claim):
    """How many seconds after it was read the clock of a claim reached the worker."""
    return time.time() - time.monotonic() + claim.received - claim.at.timestamp()


async def race(wix, warehouse, partition):
    """Load the partition several times, and report the jobs."""
    claims = observed_claims(warehouse)

    async def load_later():
        await asyncio.sleep(random.uniform(0, 0.3))
        try:
            return await load(wix, warehouse, partition)
        finally:
            # One that fails before it polls: the others would wait for its poll.
            wix.finished.set()

    results = await asyncio.gather(*(load_later() for _ in range(LANDINGS)))
    return {
        "failed": [one.reason for one in results if one.state is JobState.FAILED],
        "submits": wix.submits,
        "late": max(map(seconds_late, claims)),
    }


async def main(url, schema, seconds):
    set_worker_clock(float(seconds))
    for line in iter(sys.stdin.readline, ""):
        async with Wix(jobs=LANDINGS, longest=0.1) as wix:
            warehouse = open_warehouse(url, schema=schema or None)
            landed = await race(wix, warehouse, on_day(int(line)))
            print(json.dumps(landed), flush=True)  # noqa: T201


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
