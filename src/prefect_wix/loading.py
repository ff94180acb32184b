"""From partitions to rows: ask for each, wait, drain, land. Many at once, each on its own.

How one partition is asked for is in `prefect_wix.asking`, and what is derived instead in
`prefect_wix.derived`. Knows nothing of Prefect.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

from prefect_wix.asking import (
    ADOPT_WITHIN,
    Load,
    LoadOptions,
    Outcome,
    PartitionLoad,
    watched_jobs,
)
from prefect_wix.budget import REQUESTS_A_JOB
from prefect_wix.client import WixClient
from prefect_wix.cover import Derivation
from prefect_wix.derived import Derived, Parts, sources_of
from prefect_wix.lending import Lending
from prefect_wix.partitions import ANSWERED, Partition
from prefect_wix.result import Log
from prefect_wix.warehouse import Warehouse
from prefect_wix.warehouse.connection import kept_open

__all__ = ["ADOPT_WITHIN", "LoadOptions", "Outcome", "load_partitions"]

Progress = Callable[[Outcome], Awaitable[None]]


async def load_partitions(
    client: WixClient,
    warehouse: Warehouse,
    partitions: Sequence[Partition],
    options: LoadOptions,
    *,
    derivations: Mapping[Partition, Derivation] = {},
    on_progress: Progress,
    log: Log = logging.getLogger(__name__),  # noqa: B008
) -> list[Outcome]:
    """Load each partition; one that fails does not stop the others.

    One whose job came to nothing at Wix, though others landed, is put together from its parts where
    two ways of doing so, which have no part in common, agree.

    Where a failure holds for all of them (a wrong key, a warehouse that can't be written) those
    that have not begun are not begun any more, and fail for the same reason.

    Args:
        client: who asks.
        warehouse: where sessions land.
        partitions: what to ask for.
        options: how to go about it.
        derivations: what to derive from partitions that are asked for, and how; what the answers
            contradict is asked for all the same.
        on_progress: awaited with what became of each.
        log: where to tell what a person should know.

    Returns:
        What became of each, in the order they were given, those that were derived last.
    """
    async with kept_open(warehouse):
        load = Load(client, warehouse, options, await watched_jobs(warehouse, partitions), log)
        return await _load(load, partitions, derivations, on_progress)


async def _load(
    load: Load,
    partitions: Sequence[Partition],
    derivations: Mapping[Partition, Derivation],
    on_progress: Progress,
) -> list[Outcome]:
    load.pace.to_come = REQUESTS_A_JOB * len(partitions)
    lending = Lending(chain.from_iterable(map(sources_of, derivations, derivations.values())))
    for source in lending.needed - {*partitions}:
        lending.has_none(source)
    works: list[PartitionLoad | Derived] = [
        *(PartitionLoad(load, partition, lending) for partition in partitions),
        *(Derived(load, partition, how, lending) for partition, how in derivations.items()),
    ]

    async def told(outcome: Outcome) -> Outcome:
        await on_progress(outcome)
        return outcome

    async def one(work: PartitionLoad | Derived) -> Outcome:
        outcome = await work.run()
        return outcome if outcome.partition in load.poisoned else await told(outcome)

    async def another_way(outcome: Outcome) -> Outcome:
        if outcome.partition not in load.poisoned:
            return outcome
        return await told(await Parts(load, outcome).run())

    outcomes = await _all(map(one, works))
    load.has_landed = any(outcome.state in ANSWERED for outcome in outcomes)
    return await _all(map(another_way, outcomes))


async def _all(work: Iterable[Coroutine[Any, Any, Outcome]]) -> list[Outcome]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one) for one in work]
    return [task.result() for task in tasks]
