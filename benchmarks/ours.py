"""This project as a contestant without Prefect: ``list`` only fetches, ``load`` lands as well.

``reload`` lands, lands the same again, and tells how many session rows the second time wrote.
"""

from __future__ import annotations

import asyncio
import sys
import time
from dataclasses import dataclass
from datetime import date

import duckdb

from benchmarks.contest import Task, tell, told_task
from benchmarks.shop import NOW
from prefect_wix.client.auth import ApiKeyAuth
from prefect_wix.client.client import WixClient
from prefect_wix.clock import SYSTEM_CLOCK, Clock
from prefect_wix.jobs.listing import Listing
from prefect_wix.jobs.poll_schedule import PollSchedule
from prefect_wix.load.loader import load_partitions
from prefect_wix.load.partition_load import LoadOptions, PartitionResult
from prefect_wix.planning.partitions import JobState, Partition
from prefect_wix.warehouse.factory import open_warehouse

SEGMENT = "device_type=ALL"


@dataclass(eq=False)
class HastyClock:
    """A clock on which waiting takes no time: it is moved on instead."""

    skipped: float = 0.0

    def now(self) -> float:
        """Seconds, with those that were not waited for."""
        return time.monotonic() + self.skipped

    async def sleep(self, seconds: float) -> None:
        """Let others go on, and be later."""
        self.skipped += max(0.0, seconds)
        await asyncio.sleep(0)


async def list_all(task: Task) -> int:
    """Fetch and verify every day and land nothing. Returns how many ids there were."""
    slots = asyncio.Semaphore(task.slots)
    async with _client(task) as client:
        schedule = PollSchedule(client.clock, utilization=client.rate_limiter.utilization)

        async def one(partition: Partition) -> int:
            async with slots, Listing(client, partition.query, schedule=schedule) as listing:
                return (await listing.read_all()).sessions

        return sum(await asyncio.gather(*map(one, _partitions(task))))


async def load_all(task: Task) -> int:
    """Land every day in a warehouse. Returns how many sessions it holds then."""
    return sum(outcome.sessions for outcome in await _load(task))


async def load_twice(task: Task) -> int:
    """Land every day in a DuckDB file twice. Returns how many rows the second time wrote.

    Read off the file: a row that was not touched is in the same place.
    """
    await _load(task)
    before = _places(task)
    await _load(task)
    return len(_places(task) - before)


def _places(task: Task) -> set[tuple[int, str]]:
    with duckdb.connect(task.warehouse.removeprefix("duckdb:///"), read_only=True) as database:
        rows = database.execute("SELECT rowid, session_id FROM wix_session_ids").fetchall()
    return set(rows)


async def _load(task: Task) -> list[PartitionResult]:
    warehouse = open_warehouse(task.warehouse)
    await warehouse.prepare()
    options = LoadOptions(as_of=NOW, jobs_in_flight=task.slots)
    async with _client(task) as client:
        outcomes = await load_partitions(
            client, warehouse, _partitions(task), options, on_progress=_nobody_watches
        )
    failed = [one.reason for one in outcomes if one.state is JobState.FAILED]
    if failed:
        raise RuntimeError(f"{len(failed)} partitions failed; the first: {failed[0]}")
    return outcomes


def _client(task: Task) -> WixClient:
    return WixClient(
        ApiKeyAuth(task.api_key, task.site_id),
        base_url=task.base_url,
        requests_per_minute=task.requests_per_minute,
        clock=_clock(task),
    )


def _clock(task: Task) -> Clock:
    return HastyClock() if task.no_waiting else SYSTEM_CLOCK


def _partitions(task: Task) -> list[Partition]:
    days = (date.fromisoformat(first) for first, _ in task.days)
    return [Partition(task.site_id, day, SEGMENT, task.timezone) for day in days]


async def _nobody_watches(outcome: PartitionResult) -> None:
    """Take a partition's outcome and do nothing."""


VERBS = {"list": list_all, "load": load_all, "reload": load_twice}

if __name__ == "__main__":
    verb, the_task = VERBS[sys.argv[1]], told_task()
    tell(lambda: asyncio.run(verb(the_task)))
