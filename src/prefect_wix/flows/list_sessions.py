"""List the sessions of one query: the IDs are written to a file or returned to the caller.

Loading sessions into a warehouse is in `prefect_wix.flows.load_sessions`.
"""

from __future__ import annotations

from typing import Annotated, Any

from prefect import flow, get_run_logger
from pydantic import Field

from prefect_wix import SessionsQuery, WixAppCredentials, WixCredentials
from prefect_wix.flows.endings import completed, fails_in_one_line
from prefect_wix.jobs.writers import check_output
from prefect_wix.planning.estimate import counted
from prefect_wix.tasks.artifacts import show_markdown
from prefect_wix.tasks.forms import ListingFile
from prefect_wix.tasks.jobs import SessionsListing, collect_sessions, submit_sessions_job
from prefect_wix.tasks.reports import describe_listing
from prefect_wix.tasks.run_names import flow_run_name

ARTIFACT_KEY = "wix-sessions-listing"
LAST_WEEK = SessionsQuery.model_validate({"period": "LAST_7_DAYS", "device_type": "ALL"})


@flow(name="list-sessions", flow_run_name=flow_run_name("list sessions of"))
@fails_in_one_line
async def list_sessions(
    credentials: WixCredentials | WixAppCredentials,
    query: SessionsQuery = LAST_WEEK,
    output: ListingFile = None,
    timeout_seconds: Annotated[float, Field(gt=0)] = 3600.0,
    wix_query: dict[str, Any] | None = None,
) -> SessionsListing:
    """List the sessions that match one query. An incomplete listing fails the run.

    Args:
        credentials: The Wix credentials block of the site.
        query: One time period and one session filter.
        output: A .csv, .jsonl, .ndjson or .parquet file to write. Without it the IDs are returned.
        timeout_seconds: How long the job may take. If it fails, its days are listed one by one,
            which may take the same time again.
        wix_query: The JSON body that Wix documents for List Sessions Async. It replaces the query.
    """
    if wix_query is not None:
        query = SessionsQuery.from_wire(wix_query)
    if output is not None:
        output = check_output(output)
    get_run_logger().info("Listing sessions of site %s: %s", credentials.site_id, query)
    job = await submit_sessions_job(credentials, query)
    listing = await collect_sessions(credentials, job, output, timeout_seconds)
    where = f"`{listing.output}`" if listing.output else "returned to the caller"
    sentence = f"{counted(listing.summary.sessions, 'session')}: {query}"
    markdown = describe_listing(listing.summary, where=where)
    await show_markdown(sentence, markdown, key=ARTIFACT_KEY)
    return completed(listing, sentence)
