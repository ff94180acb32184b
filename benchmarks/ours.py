"""prefect-wix without Prefect as a candidate: ``list`` only fetches, ``load`` also loads.

``reload`` loads the same days twice and returns how many session rows the second load wrote.
"""

from __future__ import annotations

import asyncio
import sys
import time
from dataclasses import dataclass
from datetime import date

import duckdb

from benchmarks.sandboxes import NOW
from benchmarks.task import Task, measure_work, task_from_arguments
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
class SkippingClock:
    """A clock that moves ahead instead of waiting."""

    skipped: float = 0.0

    def now(self) -> float:
        """Monotonic seconds plus the skipped ones."""
        return time.monotonic() + self.skipped

    async def sleep(self, seconds: float) -> None:
        """Move ahead, and let other tasks run."""
        self.skipped += max(0.0, seconds)
        await asyncio.sleep(0)


async def list_all(task: Task) -> int:
    """Fetch and verify every day without a warehouse. Returns the number of IDs."""
    slots = asyncio.Semaphore(task.slots)
    async with _client(task) as client:
        schedule = PollSchedule(client.clock, utilization=client.rate_limiter.utilization)

        async def one(partition: Partition) -> int:
            async with slots, Listing(client, partition.query, schedule=schedule) as listing:
                return (await listing.read_all()).sessions

        return sum(await asyncio.gather(*map(one, _partitions(task))))


async def load_all(task: Task) -> int:
    """Load every day into a warehouse. Returns the number of sessions that it then contains."""
    return sum(result.sessions for result in await _load(task))


async def load_twice(task: Task) -> int:
    """Load every day into a DuckDB file twice. Returns the number of rows the second load wrote.

    An untouched row keeps its ``rowid``.
    """
    await _load(task)
    before = _row_ids(task)
    await _load(task)
    return len(_row_ids(task) - before)


def _row_ids(task: Task) -> set[tuple[int, str]]:
    with duckdb.connect(task.warehouse.removeprefix("duckdb:///"), read_only=True) as database:
        rows = database.execute("SELECT rowid, session_id FROM wix_session_ids").fetchall()
    return set(rows)


async def _load(task: Task) -> list[PartitionResult]:
    warehouse = open_warehouse(task.warehouse)
    await warehouse.prepare()
    options = LoadOptions(as_of=NOW, jobs_in_flight=task.slots)
    async with _client(task) as client:
        results = await load_partitions(
            client, warehouse, _partitions(task), options, on_progress=_ignore_progress
        )
    failed = [one.reason for one in results if one.state is JobState.FAILED]
    if failed:
        raise RuntimeError(f"{len(failed)} partitions failed. The first: {failed[0]}")
    return results


def _client(task: Task) -> WixClient:
    return WixClient(
        ApiKeyAuth(task.api_key, task.site_id),
        base_url=task.base_url,
        requests_per_minute=task.requests_per_minute,
        clock=_clock(task),
    )


def _clock(task: Task) -> Clock:
    return SkippingClock() if task.no_waiting else SYSTEM_CLOCK


def _partitions(task: Task) -> list[Partition]:
    days = (date.fromisoformat(first) for first, _ in task.days)
    return [Partition(task.site_id, day, SEGMENT, task.timezone) for day in days]


async def _ignore_progress(result: PartitionResult) -> None:
    """Do nothing."""


VERBS = {"list": list_all, "load": load_all, "reload": load_twice}

if __name__ == "__main__":
    verb, the_task = VERBS[sys.argv[1]], task_from_arguments()
    measure_work(lambda: asyncio.run(verb(the_task)))
