"""List the sessions of one query: the IDs are written to a file or returned to the caller.

Loading sessions into a warehouse is in `prefect_wix.flows.load_sessions`.
"""

from __future__ import annotations

from typing import Annotated

from prefect import flow, get_run_logger
from pydantic import Field

from prefect_wix import SessionsQuery, WixAppCredentials, WixCredentials
from prefect_wix.jobs.writers import check_output
from prefect_wix.planning.estimate import counted
from prefect_wix.tasks.artifacts import show_markdown
from prefect_wix.tasks.forms import ListingFile
from prefect_wix.tasks.jobs import SessionsListing, collect_sessions, submit_sessions_job
from prefect_wix.tasks.reports import describe_listing

ARTIFACT_KEY = "wix-sessions-listing"


@flow(name="list-sessions")
async def list_sessions(
    credentials: WixCredentials | WixAppCredentials,
    query: SessionsQuery,
    output: ListingFile | None = None,
    timeout_seconds: Annotated[float, Field(gt=0)] = 3600.0,
) -> SessionsListing:
    """List the sessions that match one query. An incomplete listing fails the run.

    Args:
        credentials: The Wix credentials block of the site.
        query: One time period and one session filter.
        output: A .csv, .jsonl, .ndjson or .parquet file to write. Without it the IDs are returned.
        timeout_seconds: How long the job may take. If it fails, its days are listed one by one,
            which may take the same time again.
    """
    if output is not None:
        output = check_output(output)
    get_run_logger().info("Listing sessions of site %s: %s", credentials.site_id, query)
    job = await submit_sessions_job(credentials, query)
    listing = await collect_sessions(credentials, job, output, timeout_seconds)
    where = f"`{listing.output}`" if listing.output else "returned to the caller"
    await show_markdown(
        f"{counted(listing.summary.sessions, 'session')}: {query}",
        describe_listing(listing.summary, where=where),
        key=ARTIFACT_KEY,
    )
    return listing
