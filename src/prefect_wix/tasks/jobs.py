"""Tasks for one job: submit it, wait for it, fetch its session IDs. One task run per operation.

`submit_sessions_job`, `wait_for_sessions_job` and `fetch_session_ids` are for flows that hand a job
from run to run. `collect_sessions` and `load_sessions_partitions` (`prefect_wix.tasks.loads`) poll
and read all pages in one task run, so the poll that finds the job finished is also page one.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE, RUN_ID, CachePolicy
from prefect.client.schemas.objects import State, TaskRun
from prefect.context import TaskRunContext
from prefect.tasks import Task
from prefect.utilities.hashing import hash_objects
from pydantic import BaseModel

from prefect_wix.blocks.credentials import AnyWixCredentials
from prefect_wix.client.client import WixClient
from prefect_wix.client.models import SessionsJob, SessionsQuery
from prefect_wix.errors import RequestError, WixError
from prefect_wix.jobs.listing import Listing, ListingSummary, submit_job
from prefect_wix.jobs.poll_policy import PollPolicy
from prefect_wix.jobs.split_window import complete_listing
from prefect_wix.jobs.writers import check_output, write_session_ids
from prefect_wix.tasks.run_names import run_name

TIMEOUT_SECONDS = 3600.0


def _site_and_query(context: TaskRunContext, inputs: dict[str, Any]) -> str | None:  # noqa: ARG001
    """A hash of the base URL, the site ID and the query: all secrets hash alike."""
    credentials, query = inputs["credentials"], inputs["query"]
    return hash_objects(credentials.base_url, credentials.site_id, query.to_wire())


async def had_no_effect(
    task: Task[Any, Any],  # noqa: ARG001
    run: TaskRun,  # noqa: ARG001
    state: State[Any],
) -> bool:
    """Whether a failed request can be retried: only if it certainly had no effect at Wix."""
    error = await state.aresult(raise_on_failure=False)
    return isinstance(error, RequestError) and error.safe_to_resend


@task(
    task_run_name=run_name("submit", "query"),
    # A retried flow run gets the job that it submitted for the same site and query.
    cache_policy=RUN_ID + CachePolicy.from_cache_key_fn(_site_and_query),
    persist_result=True,
    result_serializer="json",
    retry_condition_fn=had_no_effect,
)
async def submit_sessions_job(credentials: AnyWixCredentials, query: SessionsQuery) -> SessionsJob:
    """Submit a query. A retry of the same flow run returns the same job.

    ``retries`` are safe: Prefect does not repeat a submit that may have created a job.

    Args:
        credentials: the credentials block of the site.
        query: one time period and one session filter.

    Returns:
        The handle of the job: small, serializable as JSON, and valid in other flow runs.

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
    """Wait until a job is finished. `fetch_session_ids` returns its session IDs.

    A job that ends with the status ERROR, or that Wix no longer knows, is resubmitted once. The
    returned handle is then that of the new job; use it from there on.

    Args:
        credentials: the credentials block of the site that the job was submitted for.
        job: from `submit_sessions_job`, of this run or another.
        timeout_seconds: the deadline; after it the task run ends as TimedOut.

    Returns:
        The handle of the finished job.

    Raises:
        JobFailedError: the job and its resubmission ended with the status ERROR.
        UnknownJobError: Wix knows neither the job nor its resubmission.
        JobTimeoutError: the deadline passed.
    """
    async with _open_client(credentials, job) as client:
        # Only the status is needed, so fetch the smallest page.
        client.page_limit = 1
        policy, log = PollPolicy(timeout_seconds=timeout_seconds), get_run_logger()
        async with Listing(client, job.query, job=job, poll_policy=policy, log=log) as listing:
            result, page = await listing.poll_until_finished()
    total = "unknown" if page.total is None else page.total
    log.info("Job %s finished; total %s.", result.job.job_id, total)
    return result.job


@task(task_run_name=run_name("fetch", "job"), cache_policy=NO_CACHE)
async def fetch_session_ids(
    credentials: AnyWixCredentials, job: SessionsJob, timeout_seconds: float = TIMEOUT_SECONDS
) -> list[str]:
    """The session IDs of a job, complete and without duplicates. Waits if the job still runs.

    For results that fit in memory. `collect_sessions` and `load_sessions_partitions` write any
    number of IDs to a file or a warehouse.

    Args:
        credentials: the credentials block of the site that the job was submitted for.
        job: from `submit_sessions_job`, of this run or another.
        timeout_seconds: the deadline for the job and its pages.

    Raises:
        ListingError: the listing is incomplete; see the tree in `prefect_wix.errors`.
    """
    policy, log = PollPolicy(timeout_seconds=timeout_seconds), get_run_logger()
    async with (
        _open_client(credentials, job) as client,
        Listing(client, job.query, job=job, poll_policy=policy, log=log) as listing,
    ):
        return [session_id async for batch in listing for session_id in batch]


class SessionsListing(BaseModel):
    """The summary of a listing, with its session IDs or the file that holds them."""

    summary: ListingSummary
    output: Path | None = None
    session_ids: list[str] | None = None
    """The IDs, if no output file was given."""


@task(task_run_name=run_name("collect", "job"), cache_policy=NO_CACHE)
async def collect_sessions(
    credentials: AnyWixCredentials,
    job: SessionsJob,
    output: Path | None = None,
    timeout_seconds: float = TIMEOUT_SECONDS,
) -> SessionsListing:
    """Wait for a job, read all pages, verify the listing, and write it to a file or return it.

    Args:
        credentials: the credentials block of the site that the job was submitted for.
        job: from `submit_sessions_job`. A failed job is resubmitted once; if that fails too, its
            days are listed one by one, see `prefect_wix.jobs.split_window`.
        output: a .csv, .jsonl, .ndjson or .parquet file; without it the IDs are returned.
        timeout_seconds: the deadline of the job; its days get the same time again.

    Raises:
        DaysFailedError: some days failed when listed one by one; nothing was written.
        ListingError: the listing is incomplete; nothing was written.
        OutputError: the file cannot be written.
    """
    if output is not None:
        output = check_output(output)
    policy, log = PollPolicy(timeout_seconds=timeout_seconds), get_run_logger()
    async with (
        _open_client(credentials, job) as client,
        complete_listing(client, job, poll_policy=policy, log=log) as (summary, spool),
    ):
        if output is None:
            ids = [session_id for batch in spool.batches() for session_id in batch]
            return SessionsListing(summary=summary, session_ids=ids)
        await asyncio.to_thread(write_session_ids, spool, output)
        return SessionsListing(summary=summary, output=output)


def _open_client(credentials: AnyWixCredentials, job: SessionsJob) -> WixClient:
    if credentials.site_id != job.site_id:
        raise WixError(
            f"Job {job.job_id} belongs to site {job.site_id}, but the credentials are of site "
            f"{credentials.site_id}; nothing was sent. Use the credentials of the job's site."
        )
    return credentials.get_client()
