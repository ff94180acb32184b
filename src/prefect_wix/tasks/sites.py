"""The load of many sites: start runs of a deployment for groups of sites, and read their results.

Prefect distributes the runs over workers; nothing here queues or schedules. Blocks are passed to a
run by reference, never as keys.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid5

import prefect.runtime
from prefect import task
from prefect.blocks.core import Block
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    ArtifactFilterKey,
)
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import ArtifactSort
from prefect.deployments import arun_deployment
from prefect.exceptions import ObjectNotFound
from prefect.utilities.urls import url_for

from prefect_wix.blocks.credentials import WixAccountCredentials
from prefect_wix.client.models import Site
from prefect_wix.client.sites import list_sites
from prefect_wix.errors import WixError
from prefect_wix.tasks.run_names import run_name, sites_run_name


@dataclass(frozen=True)
class SiteRun:
    """The result of the load of one site."""

    site: Site
    state: str
    """The name of the run's state in Prefect."""
    run: str
    """The URL of the run in the UI, or its ID; empty if no run was started, or without a UI."""
    reason: str = ""
    """The message of the run's state: what was loaded, or why the run failed."""

    @property
    def completed(self) -> bool:
        """Whether no partition failed."""
        return self.state == "Completed"


POLL_SECONDS = 5.0
RESULT_KEY = "wix-sites-load"
"""The artifact key of the table of a run's sites."""


@task(task_run_name=run_name("list the sites"), cache_policy=NO_CACHE)
async def list_account_sites(account: WixAccountCredentials) -> list[Site]:
    """All sites of the account.

    Raises:
        RequestError: see the tree in `prefect_wix.errors`.
    """
    async with account.get_client() as client:
        return await list_sites(client)


def reference_to(block: Block) -> dict[str, Any]:
    """A flow parameter that refers to a stored block, so that no secret is passed to a run.

    Raises:
        WixError: the block is not stored.
    """
    stored = block._block_document_id  # noqa: SLF001  # Prefect has no public attribute
    if stored is None:
        raise WixError(
            f"The {type(block).__name__} block is not stored on the server, so it cannot be passed "
            "to a worker without its secret; no run was started. Save it with `prefect-wix setup`."
        )
    return {"$ref": {"block_document_id": str(stored)}}


async def check_deployment(name: str) -> None:
    """Check that a deployment exists, before any run is started.

    Raises:
        WixError: the server has no deployment of that name.
    """
    try:
        async with get_client() as client:
            await client.read_deployment_by_name(name)
    except ObjectNotFound:
        raise WixError(
            f"The server has no deployment {name!r}; no run was started. Create it with "
            "`prefect-wix deploy`, or omit the parameter "
            "deployment to load the sites in this process."
        ) from None


async def run_for_sites(
    deployment: str, parameters: Mapping[str, Any], timeout_seconds: float, sites: list[Site]
) -> list[SiteRun]:
    """Start a run of a deployment for some sites, or find the one already started, and wait for it.

    A retried flow run finds the runs that it started before: it waits for the active ones, and
    starts one new run for the failed sites of each other one.

    Args:
        deployment: the name as flow name/deployment name.
        parameters: the parameters of every run: plain values and block references.
        timeout_seconds: how long to wait for the run to end.
        sites: the sites of the run.

    Returns:
        The result of each site, from the table of the run. Without a table, for example of a run
        that crashed, each site has the state of the run.
    """
    this, results, left = prefect.runtime.flow_run, dict[str, SiteRun](), sites
    group = uuid5(UUID(this.id), " ".join(site.id for site in sites))
    for attempt in range(1, (this.run_count or 1) + 1):
        ids = [site.id for site in left]
        run = await arun_deployment(
            deployment,
            parameters={**parameters, "sites": ids},
            flow_run_name=sites_run_name(parameters["load"], ids),
            idempotency_key=f"{group}/{attempt}",
            timeout=timeout_seconds,
            poll_interval=POLL_SECONDS,
        )
        rows = await _read_rows(run.id)
        results |= {site.id: _read_site_run(site, run, rows.get(site.id)) for site in left}
        left = [site for site in left if not results[site.id].completed]
        if not left or run.state is None or not run.state.is_final():
            break
    return [*results.values()]


async def _read_rows(run_id: UUID) -> dict[str, dict[str, str]]:
    """The rows of the table that a run of load-sites shows at its end, by site ID."""
    async with get_client() as client:
        found = await client.read_artifacts(
            artifact_filter=ArtifactFilter(
                key=ArtifactFilterKey(any_=[RESULT_KEY]),
                flow_run_id=ArtifactFilterFlowRunId(any_=[run_id]),
            ),
            sort=ArtifactSort.CREATED_DESC,
            limit=1,
        )
    return {row["site"]: row for one in found for row in json.loads(str(one.data))}


def _read_site_run(site: Site, run: FlowRun, row: Mapping[str, str] | None) -> SiteRun:
    state, url = run.state, url_for(run) or str(run.id)
    if row:
        # A table has no column that is empty in every row.
        return SiteRun(site, row["state"], url, row.get("result", ""))
    if state is None or not state.is_final():
        reason = "The run did not end within the timeout; it may still load."
    else:
        reason = state.message or "The run gave no reason; see its log."
    return SiteRun(site, state.name or state.type.value if state else "Unknown", url, reason)
