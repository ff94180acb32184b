"""Tasks that mark sessions as recorded and recordings as deleted."""

from __future__ import annotations

import prefect.runtime
from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from prefect_wix.blocks.credentials import AnyWixCredentials
from prefect_wix.blocks.warehouse import SessionsWarehouse
from prefect_wix.client.models import (
    MarkAction,
    MarkOutcome,
    MarkState,
)
from prefect_wix.errors import MarkError
from prefect_wix.load.id_source import IdSource
from prefect_wix.load.mark_recordings import MarkSummary, mark_sessions, plan_marks
from prefect_wix.load.mark_records import MarkRecords
from prefect_wix.spool.id_spool import Spool
from prefect_wix.tasks.artifacts import run_name
from prefect_wix.tasks.jobs import had_no_effect
from prefect_wix.tasks.progress import MarkProgress
from prefect_wix.warehouse.transactions import sql_warehouse

__all__ = [
    "find_unmarked_sessions",
    "mark_many_sessions",
    "mark_recordings_as_deleted",
    "mark_session_as_recorded",
    "plan_many_marks",
]


@task(
    task_run_name=run_name("mark recorded", "session_id"),
    cache_policy=NO_CACHE,
    retry_condition_fn=had_no_effect,
)
async def mark_session_as_recorded(credentials: AnyWixCredentials, session_id: str) -> None:
    """Tell Wix that a recording of a session exists.

    Raises:
        RequestError: see the tree in `prefect_wix.errors`. After a `ResponseLostError` the mark may
            have been made.
    """
    async with credentials.get_client() as client:
        await client.mark_session_as_recorded(session_id)


@task(cache_policy=NO_CACHE, retry_condition_fn=had_no_effect)
async def mark_recordings_as_deleted(
    credentials: AnyWixCredentials, session_ids: list[str]
) -> list[MarkOutcome]:
    """Tell Wix that recordings are gone: any number, in calls of 100.

    What failed is for the caller to look at and to ask again; ``retries`` do not repeat it.

    Returns:
        What became of every call.

    Raises:
        MarkError: some calls did not go through; its ``outcomes`` say which.
        TypeError: what was given is not a list.
    """
    if not isinstance(session_ids, list):
        raise TypeError("session_ids must be a list of ids.")
    async with credentials.get_client() as client:
        outcomes = await client.mark_recordings_as_deleted(session_ids)
    undone = [one for one in outcomes if one.state is not MarkState.DONE]
    if undone:
        ids, count = sum(len(one.session_ids) for one in undone), len(undone)
        raise MarkError(
            f"{ids} recordings in {count} of {len(outcomes)} calls are not marked as deleted. "
            f"The first reason: {undone[0].reason}",
            outcomes=tuple(outcomes),
        )
    return outcomes


@task(
    task_run_name=run_name("plan to mark as", "action"),
    cache_policy=NO_CACHE,
)
async def plan_many_marks(
    warehouse: SessionsWarehouse,
    site_id: str,
    action: MarkAction,
    source: IdSource,
    *,
    retry_unknown: bool = False,
) -> MarkSummary:
    """How many ids would be sent, given what is on record. Asks Wix for nothing.

    Args:
        warehouse: where what became of each id is on record.
        site_id: whose sessions.
        action: which mark.
        source: where the ids are.
        retry_unknown: whether ids that were sent without a reply are counted too.

    Raises:
        IdSourceError: the ids can't be read.
        WarehouseError: see the tree in `prefect_wix.errors`.
    """
    mark_records = await _open_mark_records(warehouse, site_id, action, retry_unknown=retry_unknown)
    with Spool() as spool:
        await source.read(spool, mark_records.warehouse)
        return await plan_marks(mark_records, spool)


@task(task_run_name=run_name("mark as", "action"), cache_policy=NO_CACHE)
async def mark_many_sessions(
    credentials: AnyWixCredentials,
    warehouse: SessionsWarehouse,
    action: MarkAction,
    source: IdSource,
    *,
    calls_in_flight: int = 4,
    retry_unknown: bool = False,
) -> MarkSummary:
    """Mark any number of sessions, each once. Safe to retry, and to kill.

    Args:
        credentials: who marks, and on which site.
        warehouse: where what became of each id is kept.
        action: which mark.
        source: where the ids are.
        calls_in_flight: how many calls may be on their way at once.
        retry_unknown: whether ids that were sent without a reply are sent again.

    Returns:
        What became of how many; look for those that are not marked.

    Raises:
        IdSourceError: the ids can't be read.
        WarehouseError: see the tree in `prefect_wix.errors`.
    """
    log = get_run_logger()
    mark_records = await _open_mark_records(
        warehouse, credentials.site_id, action, retry_unknown=retry_unknown
    )
    with Spool() as spool:
        await source.read(spool, mark_records.warehouse)
        async with credentials.get_client() as client, MarkProgress(log) as progress:
            return await mark_sessions(
                client,
                mark_records,
                spool,
                calls_in_flight=calls_in_flight,
                on_progress=progress.tell,
                log=log,
            )


@task(cache_policy=NO_CACHE)
async def find_unmarked_sessions(
    warehouse: SessionsWarehouse, site_id: str, action: MarkAction, most: int = 1000
) -> list[MarkOutcome]:
    """Ids that are on record as refused or unknown, the latest first.

    Args:
        warehouse: where they are on record.
        site_id: whose sessions.
        action: which mark.
        most: how many at most.
    """
    return await (await _open_mark_records(warehouse, site_id, action)).unmarked(most)


async def _open_mark_records(
    warehouse: SessionsWarehouse, site_id: str, action: MarkAction, *, retry_unknown: bool = False
) -> MarkRecords:
    place = sql_warehouse(warehouse.get_warehouse(), what_for="Marks")
    await place.prepare()
    return MarkRecords(
        place, site_id, action, retry_unknown=retry_unknown, run_id=prefect.runtime.flow_run.id
    )
