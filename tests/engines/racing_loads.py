"""Publishes twelve results of a partition for each line that it reads: a number and a URL."""

from __future__ import annotations

import asyncio
import random
import sys

from prefect_wix.warehouse.factory import open_warehouse
from tests.warehouses import ids_of, land


def submitted(line, process):
    """When a process submitted its jobs, in hours, in the order in which it publishes them."""
    return random.Random(f"{line} {process}").sample(range(process, 300, 3), 12)


def listed(hours):
    """The IDs that a job listed: often those of another job."""
    return ids_of(str(hours % 4), 20)


async def publish(process):
    for line in map(str.strip, sys.stdin):
        warehouse = open_warehouse(line.partition(" ")[2])
        for hours in submitted(line, process):
            await land(warehouse, listed(hours), hours=hours)
        print("done", flush=True)  # noqa: T201


if __name__ == "__main__":
    asyncio.run(publish(int(sys.argv[1])))
