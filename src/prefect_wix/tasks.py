"""The verbs of a flow: one task run for each, never one for a poll or a page.

`submit_sessions_job`, `wait_for_sessions_job` and `fetch_session_ids` are for flows that chain one
job across runs. `collect_sessions` and `load_sessions_partitions` wait and drain in one task run,
so that the poll that finds a job finished is page one already.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import prefect.runtime
from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE, RUN_ID, CachePolicy
from prefect.client.schemas.objects import State, TaskRun
from prefect.context import TaskRunContext
from prefect.tasks import Task
from prefect.utilities.hashing import hash_objects
from pydantic import BaseModel

from prefect_wix.artifacts import run_name
from prefect_wix.blocks import AnyWixCredentials, SessionsWarehouse
from prefect_wix.errors import MarkError, RequestError, WixError
from prefect_wix.estimate import Estimate, estimate_load
from prefect_wix.files import check_output, write_session_ids
from prefect_wix.halving import drained
from prefect_wix.lateness import Lateness, lateness_curve
from prefect_wix.listing import Listing, ListingSummary, submit_job
from prefect_wix.loading import LoadOptions, Outcome, load_partitions
from prefect_wix.marking import MarkSummary, mark_sessions, plan_marks
from prefect_wix.models import (
    MarkAction,
    MarkOutcome,
    MarkState,
    SessionsJob,
    SessionsQuery,
    check_timezone,
)
from prefect_wix.pace import Patience
from prefect_wix.partitions import Partition
from prefect_wix.plan import (
    CATCH_UP,
    Plan,
    RefreshPolicy,
    earlier_partitions,
    make_plan,
    partitions_of,
)
from prefect_wix.progress import LoadProgress, MarkProgress
from prefect_wix.segments import Segment
from prefect_wix.sources import IdSource
from prefect_wix.spool import Spool
from prefect_wix.warehouse.marks import MarkLedger
from prefect_wix.warehouse.sql import sql_warehouse
from prefect_wix.windows import Window, last_complete_days

__all__ = [
    "SessionsListing",
    "collect_sessions",
    "fetch_session_ids",
    "find_site_timezone",
    "find_unmarked_sessions",
    "load_sessions_partitions",
    "mark_many_sessions",
    "mark_recordings_as_deleted",
    "mark_session_as_recorded",
    "measure_lateness",
    "plan_many_marks",
    "plan_sessions_load",
    "submit_sessions_job",
    "wait_for_sessions_job",
]

TIMEOUT_SECONDS = 3600.0


@dataclass
class _OneJobPerRun(CachePolicy):
    """A flow run that is retried gets back the job it submitted for the same site and query.

    Not a policy over the inputs: a block's secret hashes as asterisks, so that one account's cache
    would answer another's.
    """

    def compute_key(
        self,
        task_ctx: TaskRunContext,
        inputs: dict[str, Any],
        flow_parameters: dict[str, Any],
        **kwargs: Any,
    ) -> str | None:
        """The run, the base URL, the site and the query, as one hash."""
        run = RUN_ID.compute_key(task_ctx, inputs, flow_parameters, **kwargs)
        credentials, query = inputs["credentials"], inputs["query"]
        return hash_objects(run, credentials.base_url, credentials.site_id, query.to_wire())


async def _had_no_effect(
    task: Task[Any, Any],  # noqa: ARG001
    run: TaskRun,  # noqa: ARG001
    state: State[Any],
) -> bool:
    """Whether a failed submit may be sent again: only when it surely made no job."""
    error = await state.aresult(raise_on_failure=False)
    return isinstance(error, RequestError) and error.safe_to_resend


@task(
    task_run_name=run_name("submit", "query"),
    cache_policy=_OneJobPerRun(),
    persist_result=True,
    result_serializer="json",
    retry_condition_fn=_had_no_effect,
)
async def submit_sessions_job(credentials: AnyWixCredentials, query: SessionsQuery) -> SessionsJob:
    """Start a job for a query. A retry of the same flow run gets the same job back.

    Safe to give ``retries``: a submit that may have made a job is not repeated by Prefect.

    Args:
        credentials: who asks, and for which site.
        query: one time period and one session filter.

    Returns:
        The job's handle: small, JSON, safe to persist and to hand to another flow run.

    Raises:
        RequestError: see the tree in `prefect_wix.errors`.
    """
    log = get_run_logger()
    async with credentials.get_client() as client:
        job = await submit_job(client, query, log=log)
    log.info("Submitted job %s: %s", job.job_id, query)
    return job


@task(task_run_name=run_name("wait for", "job"), cache_policy=NO_CACHE)
async def wait_for_sessions_job(
    credentials: AnyWixCredentials, job: SessionsJob, timeout_seconds: float = TIMEOUT_SECONDS
) -> SessionsJob:
    """Return when a job is finished. Its ids are for `fetch_session_ids`.

    A job that ends as ERROR, or that Wix has forgotten, is asked once more; so go on with the
    handle that comes back, which is then another one.

    Args:
        credentials: who asks; of the site that the job was submitted for.
        job: from `submit_sessions_job`, of this run or another.
        timeout_seconds: when to give up; the task run ends as TimedOut then.

    Raises:
        JobFailedError: the job ended as ERROR, and so did its resubmission.
        UnknownJobError: Wix does not know the job, nor its resubmission.
        JobTimeoutError: the deadline passed.
    """
    _check_site(credentials, job)
    async with credentials.get_client() as client:
        # Only the status is wanted, so the page may be as small as can be.
        client.page_limit = 1
        patience = Patience(timeout_seconds=timeout_seconds)
        log = get_run_logger()
        async with Listing(client, job.query, job=job, patience=patience, log=log) as listing:
            result, page = await listing.first_page()
    total = "unknown" if page.total is None else page.total
    log.info("Job %s is finished; total %s.", result.job.job_id, total)
    return result.job


@task(task_run_name=run_name("fetch", "job"), cache_policy=NO_CACHE)
async def fetch_session_ids(
    credentials: AnyWixCredentials, job: SessionsJob, timeout_seconds: float = TIMEOUT_SECONDS
) -> list[str]:
    """The session ids of a job, complete and without repeats; waits where it still runs.

    For results that fit in memory. `collect_sessions` and `load_sessions_partitions` write any
    number of ids to where they belong.

    Args:
        credentials: who asks; of the site that the job was submitted for.
        job: from `submit_sessions_job`, of this run or another.
        timeout_seconds: when to give up.

    Raises:
        ListingError: the listing is not complete; see the tree in `prefect_wix.errors`.
    """
    _check_site(credentials, job)
    patience = Patience(timeout_seconds=timeout_seconds)
    async with (
        credentials.get_client() as client,
        Listing(client, job.query, job=job, patience=patience, log=get_run_logger()) as listing,
    ):
        return [session_id async for batch in listing for session_id in batch]


class SessionsListing(BaseModel):
    """What a listing came to and where its ids are."""

    summary: ListingSummary
    output: Path | None = None
    session_ids: list[str] | None = None
    """The ids, where no output was asked for."""


@task(task_run_name=run_name("collect", "job"), cache_policy=NO_CACHE)
async def collect_sessions(
    credentials: AnyWixCredentials,
    job: SessionsJob,
    output: Path | None = None,
    timeout_seconds: float = TIMEOUT_SECONDS,
) -> SessionsListing:
    """Wait for a job, drain it, verify it, and write it to a file or hand it back.

    Args:
        credentials: who asks; of the site that the job was submitted for.
        job: from `submit_sessions_job`. One that fails is submitted once more; and where that fails
            too, its days are listed one by one, see `prefect_wix.halving`.
        output: a .csv, .jsonl, .ndjson or .parquet file; without it the ids are returned.
        timeout_seconds: when to give up the job, and after as long again its days.

    Raises:
        DaysFailedError: days can't be listed, not even by themselves, and nothing was written.
        ListingError: the listing is not complete, and nothing was written.
        OutputError: the file can't be written.
    """
    _check_site(credentials, job)
    if output is not None:
        check_output(output)
    patience = Patience(timeout_seconds=timeout_seconds)
    async with (
        credentials.get_client() as client,
        drained(client, job, patience=patience, log=get_run_logger()) as (summary, spool),
    ):
        if output is None:
            ids = [session_id for batch in spool.batches() for session_id in batch]
            return SessionsListing(summary=summary, session_ids=ids)
        await asyncio.to_thread(write_session_ids, spool, output)
        return SessionsListing(summary=summary, output=output)


@task(cache_policy=NO_CACHE)
async def find_site_timezone(credentials: AnyWixCredentials) -> str:
    """The IANA zone that the site counts its days in.

    Raises:
        WixError: the site has not set one.
        ValueError: what it has set is no zone that is known here.
    """
    async with credentials.get_client() as client:
        zone = await client.get_site_timezone()
    if zone is None:
        raise WixError(
            f"Site {credentials.site_id} has no time zone in its Wix settings. Set one there, or "
            "give the flow a timezone such as Europe/Berlin."
        )
    check_timezone(zone)
    return zone


@task(task_run_name=run_name("plan", "window"), cache_policy=NO_CACHE)
async def plan_sessions_load(
    warehouse: SessionsWarehouse,
    site_id: str,
    window: Window,
    segments: list[Segment],
    policy: RefreshPolicy,
    *,
    catch_up: bool,
    requests_per_minute: int,
) -> tuple[Plan, Estimate]:
    """Compare what is wanted with what is landed, and estimate what loading the rest will take.

    Creates the tables where they are missing.

    Args:
        warehouse: what is landed there.
        site_id: whose sessions.
        window: the days that are wanted.
        segments: the segments that are wanted.
        policy: how much to ask again.
        catch_up: whether gaps and stale days before the window are taken up too.
        requests_per_minute: the site's rate limit, for the estimate.

    Raises:
        WarehouseError: see the tree in `prefect_wix.errors`.
    """
    landing_place = warehouse.get_warehouse()
    await landing_place.prepare()
    receipts = await landing_place.receipts(site_id, _days_to_learn_from(window, policy))
    before = Window(window.start - CATCH_UP, window.start, window.timezone)
    asks = await landing_place.history(site_id, before) if catch_up else []
    plan = make_plan(
        partitions_of(site_id, window, segments),
        receipts,
        policy,
        earlier=earlier_partitions(site_id, window, segments, [ask.partition for ask in asks]),
    )
    return plan, estimate_load([*plan.to_ask], receipts, requests_per_minute=requests_per_minute)


def _days_to_learn_from(window: Window, policy: RefreshPolicy) -> Window:
    """The window, the days before it that a load may take up, and the newest days."""
    recent = last_complete_days(1, before=policy.now, timezone=window.timezone)
    start = min(window.start, recent.start) - CATCH_UP
    return Window(start, max(window.end, recent.end), window.timezone)


@task(cache_policy=NO_CACHE)
async def load_sessions_partitions(
    credentials: AnyWixCredentials,
    warehouse: SessionsWarehouse,
    partitions: list[Partition],
    options: LoadOptions,
) -> list[Outcome]:
    """Load many partitions, several at once; one that fails does not stop the others.

    Shows its progress as an artifact. Safe to retry, and to kill: what has landed stays landed,
    and jobs that run are waited for by whoever loads the same partitions next.

    Returns:
        What became of each; look for those that failed.
    """
    log = get_run_logger()
    async with credentials.get_client() as client, LoadProgress(len(partitions), log) as progress:
        return await load_partitions(
            client,
            warehouse.get_warehouse(),
            partitions,
            options,
            on_progress=progress.tell,
            log=log,
        )


@task(cache_policy=NO_CACHE)
async def measure_lateness(
    warehouse: SessionsWarehouse, site_id: str, window: Window
) -> list[Lateness]:
    """What asking the same days again has brought, by the days' age.

    Args:
        warehouse: whose ledger to read.
        site_id: whose days.
        window: which days.
    """
    asks = await warehouse.get_warehouse().history(site_id, window)
    return lateness_curve(asks)


@task(
    task_run_name=run_name("mark recorded", "session_id"),
    cache_policy=NO_CACHE,
    retry_condition_fn=_had_no_effect,
)
async def mark_session_as_recorded(credentials: AnyWixCredentials, session_id: str) -> None:
    """Tell Wix that a recording of a session exists.

    Raises:
        RequestError: see the tree in `prefect_wix.errors`. After a `LostReplyError` the mark may
            have been made.
    """
    async with credentials.get_client() as client:
        await client.mark_session_as_recorded(session_id)


@task(cache_policy=NO_CACHE, retry_condition_fn=_had_no_effect)
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
        SourceError: the ids can't be read.
        WarehouseError: see the tree in `prefect_wix.errors`.
    """
    ledger = await _open_ledger(warehouse, site_id, action, retry_unknown=retry_unknown)
    with Spool() as spool:
        await source.read(spool, ledger.warehouse)
        return await plan_marks(ledger, spool)


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
        SourceError: the ids can't be read.
        WarehouseError: see the tree in `prefect_wix.errors`.
    """
    log = get_run_logger()
    ledger = await _open_ledger(warehouse, credentials.site_id, action, retry_unknown=retry_unknown)
    with Spool() as spool:
        await source.read(spool, ledger.warehouse)
        async with credentials.get_client() as client, MarkProgress(log) as progress:
            return await mark_sessions(
                client,
                ledger,
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
    return await (await _open_ledger(warehouse, site_id, action)).unmarked(most)


async def _open_ledger(
    warehouse: SessionsWarehouse, site_id: str, action: MarkAction, *, retry_unknown: bool = False
) -> MarkLedger:
    place = sql_warehouse(warehouse.get_warehouse(), what_for="Marks")
    await place.prepare()
    return MarkLedger(
        place, site_id, action, retry_unknown=retry_unknown, run_id=prefect.runtime.flow_run.id
    )


def _check_site(credentials: AnyWixCredentials, job: SessionsJob) -> None:
    if credentials.site_id != job.site_id:
        raise WixError(
            f"Job {job.job_id} is of site {job.site_id}, but the credentials are of site "
            f"{credentials.site_id}. Use the credentials that the job was submitted with."
        )
