"""From partitions to rows: ask for each, wait, drain, land. Many at once, each on its own.

How one partition is asked for is in `prefect_wix.load.partition_load`. Knows nothing of Prefect.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from prefect_wix.client.client import Log, WixClient
from prefect_wix.client.rate_limiter import REQUESTS_PER_JOB
from prefect_wix.load.partition_load import (
    Load,
    LoadOptions,
    PartitionLoad,
    PartitionResult,
    observed_jobs,
)
from prefect_wix.planning.partitions import Partition
from prefect_wix.warehouse.connection import kept_open
from prefect_wix.warehouse.interface import Warehouse

__all__ = ["load_partitions"]

Progress = Callable[[PartitionResult], Awaitable[None]]


async def load_partitions(
    client: WixClient,
    warehouse: Warehouse,
    partitions: Sequence[Partition],
    options: LoadOptions,
    *,
    on_progress: Progress,
    log: Log = logging.getLogger(__name__),  # noqa: B008
) -> list[PartitionResult]:
    """Load each partition; one that fails does not stop the others.

    Where a failure holds for all of them (a wrong key, a warehouse that can't be written) those
    that have not begun are not begun any more, and fail for the same reason.

    Args:
        client: who asks.
        warehouse: where sessions land.
        partitions: what to ask for.
        options: how to go about it.
        on_progress: awaited with what became of each.
        log: where to tell what a person should know.

    Returns:
        What became of each, in the order they were given.
    """
    async with kept_open(warehouse):
        load = Load(client, warehouse, options, await observed_jobs(warehouse, partitions), log)
        load.schedule.expected_requests = REQUESTS_PER_JOB * len(partitions)

        async def load_one(partition: Partition) -> PartitionResult:
            outcome = await PartitionLoad(load, partition).run()
            await on_progress(outcome)
            return outcome

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(load_one(partition)) for partition in partitions]
        return [task.result() for task in tasks]
