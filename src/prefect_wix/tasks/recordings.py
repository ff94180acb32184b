"""Tasks that mark sessions as recorded and recordings as deleted.

The marking itself, without Prefect, is in `prefect_wix.load.mark_recordings`.
"""

from __future__ import annotations

import prefect.runtime
from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from prefect_wix.blocks.credentials import AnyWixCredentials
from prefect_wix.blocks.warehouse import SessionsWarehouse
from prefect_wix.client.models import MarkAction, MarkOutcome
from prefect_wix.load.id_source import IdSource
from prefect_wix.load.mark_recordings import MarkSummary, mark_sessions, plan_marks
from prefect_wix.load.mark_records import MarkRecords
from prefect_wix.spool.id_spool import Spool
from prefect_wix.tasks.jobs import had_no_effect
from prefect_wix.tasks.progress import MARK_KEY, Progress
from prefect_wix.tasks.reports import marking_progress
from prefect_wix.tasks.run_names import run_name
from prefect_wix.warehouse.transactions import sql_warehouse


@task(
    task_run_name=run_name("mark as recorded", "session_id"),
    cache_policy=NO_CACHE,
    retry_condition_fn=had_no_effect,
)
async def mark_session_as_recorded(credentials: AnyWixCredentials, session_id: str) -> None:
    """Mark a session as recorded: a recording of it exists.

    Raises:
        RequestError: see the tree in `prefect_wix.errors`. After a `ResponseLostError` the session
            may be marked.
    """
    async with credentials.get_client() as client:
        await client.mark_session_as_recorded(session_id)


@task(
    task_run_name=run_name("mark recordings as deleted:", "session_ids"),
    cache_policy=NO_CACHE,
    retry_condition_fn=had_no_effect,
)
async def mark_recordings_as_deleted(
    credentials: AnyWixCredentials, session_ids: list[str]
) -> None:
    """Mark the recordings of 1 to 100 sessions as deleted, in one call.

    The flow `prefect_wix.flows.mark_recordings` marks any number, each once.

    Raises:
        ValueError: another number of IDs.
        RequestError: see the tree in `prefect_wix.errors`. After a `ResponseLostError` the
            recordings may be marked.
    """
    async with credentials.get_client() as client:
        await client.mark_recordings_as_deleted(session_ids)


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
    """Count the IDs that `mark_many_sessions` would send. Sends no request to Wix.

    Args:
        warehouse: the block of the warehouse that holds the mark records.
        site_id: the site.
        action: the mark to make.
        source: the session IDs.
        retry_unknown: whether to count IDs that were sent without a response.

    Raises:
        IdSourceError: the IDs cannot be read.
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
    """Mark any number of sessions, each once. Safe to retry and to kill.

    Args:
        credentials: the credentials block of the site.
        warehouse: the block of the warehouse that holds the mark records.
        action: the mark to make.
        source: the session IDs.
        calls_in_flight: the maximum number of concurrent calls.
        retry_unknown: whether to send IDs again that were sent without a response.

    Returns:
        The numbers of IDs by outcome, including those that are not marked.

    Raises:
        IdSourceError: the IDs cannot be read.
        WarehouseError: see the tree in `prefect_wix.errors`.
    """
    log = get_run_logger()
    mark_records = await _open_mark_records(
        warehouse, credentials.site_id, action, retry_unknown=retry_unknown
    )
    summary = MarkSummary(credentials.site_id, action, wanted=0)

    async def on_progress(latest: MarkSummary) -> None:
        nonlocal summary
        summary = latest

    with Spool() as spool:
        await source.read(spool, mark_records.warehouse)
        progress = Progress(MARK_KEY, log, lambda: marking_progress(summary))
        async with credentials.get_client() as client, progress:
            return await mark_sessions(
                client,
                mark_records,
                spool,
                calls_in_flight=calls_in_flight,
                on_progress=on_progress,
                log=log,
            )


@task(task_run_name=run_name("find sessions not marked as", "action"), cache_policy=NO_CACHE)
async def find_unmarked_sessions(
    warehouse: SessionsWarehouse, site_id: str, action: MarkAction, most: int = 1000
) -> list[MarkOutcome]:
    """The IDs whose mark record is refused or unknown, newest first.

    Args:
        warehouse: the block of the warehouse that holds the mark records.
        site_id: the site.
        action: the mark.
        most: the maximum number of IDs.
    """
    return await (await _open_mark_records(warehouse, site_id, action)).unmarked(most)


async def _open_mark_records(
    warehouse: SessionsWarehouse, site_id: str, action: MarkAction, *, retry_unknown: bool = False
) -> MarkRecords:
    engine = sql_warehouse(warehouse.get_warehouse(), what_for="Marks")
    await engine.prepare()
    return MarkRecords(
        engine, site_id, action, retry_unknown=retry_unknown, run_id=prefect.runtime.flow_run.id
    )
