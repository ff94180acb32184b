"""Load many partitions concurrently and independently of each other.

One partition, from claim to publish, is in `prefect_wix.load.partition_load`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from prefect_wix.client.client import Log, WixClient
from prefect_wix.client.rate_limiter import REQUESTS_PER_JOB
from prefect_wix.load.partition_load import (
    LoadOptions,
    LoadState,
    PartitionLoad,
    PartitionResult,
    observed_jobs,
)
from prefect_wix.planning.partitions import Partition
from prefect_wix.warehouse.interface import Warehouse, kept_open

Progress = Callable[[PartitionResult], Awaitable[None]]


async def load_partitions(
    client: WixClient,
    warehouse: Warehouse,
    partitions: Sequence[Partition],
    options: LoadOptions,
    *,
    on_progress: Progress,
    at_wix: set[Partition] | None = None,
    log: Log = logging.getLogger(__name__),  # noqa: B008
) -> list[PartitionResult]:
    """Load each partition; a failed partition does not stop the others.

    A failure that affects every partition (a rejected key, a warehouse that can't be written) stops
    the load: partitions without a job fail for the same reason, and nothing is submitted for them.

    Args:
        client: the client of the site.
        warehouse: the prepared warehouse to publish to.
        partitions: the partitions to load.
        options: scheduled time, concurrency, polling and run ID.
        on_progress: awaited with the result of each partition.
        at_wix: always holds the partitions whose jobs run, or failed.
        log: logger or run logger.

    Returns:
        One result per partition, in the order of ``partitions``.
    """
    async with kept_open(warehouse):
        history = await observed_jobs(warehouse, partitions)
        load = LoadState(client, warehouse, options, history, log)
        load.pending = len(partitions)
        load.at_wix = at_wix if at_wix is not None else set()
        load.schedule.expected_requests = REQUESTS_PER_JOB * len(partitions)

        async def load_one(partition: Partition) -> PartitionResult:
            result = await PartitionLoad(load, partition).run()
            load.pending -= 1
            await on_progress(result)
            return result

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(load_one(partition)) for partition in partitions]
        return [task.result() for task in tasks]
