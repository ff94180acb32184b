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

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE, RUN_ID, CachePolicy
from prefect.client.schemas.objects import State, TaskRun
from prefect.context import TaskRunContext
from prefect.tasks import Task
from prefect.utilities.hashing import hash_objects
from pydantic import BaseModel

from prefect_wix.blocks.credentials import AnyWixCredentials
from prefect_wix.client.models import (
    SessionsJob,
    SessionsQuery,
)
from prefect_wix.errors import RequestError, WixError
from prefect_wix.jobs.listing import Listing, ListingSummary, submit_job
from prefect_wix.jobs.poll_policy import PollPolicy
from prefect_wix.jobs.split_window import complete_listing
from prefect_wix.jobs.writers import check_output, write_session_ids
from prefect_wix.tasks.artifacts import run_name

__all__ = [
    "SessionsListing",
    "collect_sessions",
    "fetch_session_ids",
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


async def had_no_effect(
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
    retry_condition_fn=had_no_effect,
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
        poll_policy = PollPolicy(timeout_seconds=timeout_seconds)
        log = get_run_logger()
        async with Listing(client, job.query, job=job, poll_policy=poll_policy, log=log) as listing:
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
    poll_policy = PollPolicy(timeout_seconds=timeout_seconds)
    async with (
        credentials.get_client() as client,
        Listing(
            client, job.query, job=job, poll_policy=poll_policy, log=get_run_logger()
        ) as listing,
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
            too, its days are listed one by one, see `prefect_wix.jobs.split_window`.
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
    poll_policy = PollPolicy(timeout_seconds=timeout_seconds)
    async with (
        credentials.get_client() as client,
        complete_listing(client, job, poll_policy=poll_policy, log=get_run_logger()) as (
            summary,
            spool,
        ),
    ):
        if output is None:
            ids = [session_id for batch in spool.batches() for session_id in batch]
            return SessionsListing(summary=summary, session_ids=ids)
        await asyncio.to_thread(write_session_ids, spool, output)
        return SessionsListing(summary=summary, output=output)


def _check_site(credentials: AnyWixCredentials, job: SessionsJob) -> None:
    if credentials.site_id != job.site_id:
        raise WixError(
            f"Job {job.job_id} is of site {job.site_id}, but the credentials are of site "
            f"{credentials.site_id}. Use the credentials that the job was submitted with."
        )
