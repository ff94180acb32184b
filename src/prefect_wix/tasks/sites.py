"""One run for each site of an account: started as a deployment's run, looked at when it has ended.

Prefect is the engine that spreads the runs over workers; nothing here queues or schedules. A run is
handed blocks by reference and never a key.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import prefect.runtime
from prefect import task
from prefect.artifacts import acreate_table_artifact
from prefect.blocks.core import Block
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    ArtifactFilterKey,
)
from prefect.client.schemas.objects import State
from prefect.client.schemas.sorting import ArtifactSort
from prefect.deployments import arun_deployment
from prefect.exceptions import ObjectNotFound
from prefect.utilities.urls import url_for

from prefect_wix.blocks.credentials import WixAccountCredentials
from prefect_wix.client.models import Site
from prefect_wix.client.sites import list_sites
from prefect_wix.errors import WixError

__all__ = [
    "SiteRun",
    "check_deployment",
    "list_account_sites",
    "read_site_run",
    "reference_to",
    "run_for_site",
    "save_counts",
    "site_run_name",
]


@dataclass(frozen=True)
class SiteRun:
    """What became of the load of one site."""

    site: Site
    state: str
    """The state of its run, as Prefect calls it."""
    completed: bool
    """Whether all of it landed."""
    run: str
    """The run's address in the UI, or its id where there is no UI; empty where none was begun."""
    sessions: int = 0
    """Sessions in the partitions that landed, or that are as they were."""
    failed_partitions: int = 0
    reason: str = ""
    """Why it is not complete, in words."""


COUNTS_KEY = "wix-site-load"
POLL_SECONDS = 5.0


@task(cache_policy=NO_CACHE)
async def list_account_sites(account: WixAccountCredentials) -> list[Site]:
    """Every site of the account.

    Raises:
        RequestError: see the tree in `prefect_wix.errors`.
    """
    async with account.get_client() as client:
        return await list_sites(client)


def reference_to(block: Block) -> dict[str, Any]:
    """A parameter that names a stored block, so that a run is handed no secret.

    Raises:
        WixError: the block is not stored, so there is nothing to name.
    """
    stored = block._block_document_id  # noqa: SLF001  # Prefect has no public name for it
    if stored is None:
        raise WixError(
            f"The {type(block).__name__} block is not stored on the server, so a worker can't be "
            "told of it without its secret. Save it first, with `python -m blocks`."
        )
    return {"$ref": {"block_document_id": str(stored)}}


async def check_deployment(name: str) -> None:
    """Refuse a deployment that is not there, before any site is begun.

    Raises:
        WixError: the server has none of that name.
    """
    try:
        async with get_client() as client:
            await client.read_deployment_by_name(name)
    except ObjectNotFound:
        raise WixError(
            f"The server has no deployment {name!r}. Make it with `prefect deploy --all "
            "--prefect-file deployments/prefect.yaml`, or leave the deployment out to load the "
            "sites in this run's own process."
        ) from None


async def run_for_site(
    deployment: str, site: Site, parameters: Mapping[str, Any], timeout_seconds: float
) -> tuple[UUID, State[Any] | None]:
    """The run of a deployment for one site: begun, or found, and waited for.

    A flow run that is retried finds the runs that it began before. It waits for those that go on,
    takes those that succeeded for done, and gives a site that failed one more run for each retry.

    Args:
        deployment: which, as flow name/deployment name.
        site: which site; it is also the run's name.
        parameters: what the run is given; plain values and references.
        timeout_seconds: how long to wait for it to end.

    Returns:
        The run's id, and the state that it is in.
    """
    this = prefect.runtime.flow_run
    for attempt in range(1, (this.run_count or 1) + 1):
        run = await arun_deployment(
            deployment,
            parameters=dict(parameters),
            flow_run_name=site_run_name(site),
            idempotency_key=f"{this.id}/{site.id}/{attempt}",
            timeout=timeout_seconds,
            poll_interval=POLL_SECONDS,
        )
        if not _has_failed(run.state):
            break
    return run.id, run.state


def site_run_name(site: Site) -> str:
    """The name of a site's run."""
    return f"load {site.name or site.id}"


def _has_failed(state: State[Any] | None) -> bool:
    return state is not None and state.is_final() and not state.is_completed()


async def save_counts(counts: Mapping[str, Any], description: str) -> None:
    """Leave a site's counts with its run, for people and for `read_site_run`."""
    await acreate_table_artifact([dict(counts)], key=COUNTS_KEY, description=description)


async def read_site_run(site: Site, run_id: UUID | None, state: State[Any] | None) -> SiteRun:
    """What became of a site, from its run's state and the counts that it left."""
    counts = {} if run_id is None else await _read_counts(run_id)
    completed = state is not None and state.is_completed()
    return SiteRun(
        site=site,
        state="Unknown" if state is None else state.name or state.type.value,
        completed=completed,
        run="" if run_id is None else url_for("flow-run", obj_id=run_id) or str(run_id),
        sessions=counts.get("sessions", 0),
        failed_partitions=counts.get("failed", 0),
        reason="" if completed else _reason(state),
    )


def _reason(state: State[Any] | None) -> str:
    if state is None or not state.is_final():
        return "It had not ended when the wait for it was over. It may still load."
    return state.message or "Its run says no more; see its log."


async def _read_counts(run_id: UUID) -> Mapping[str, Any]:
    async with get_client() as client:
        found = await client.read_artifacts(
            artifact_filter=ArtifactFilter(
                key=ArtifactFilterKey(any_=[COUNTS_KEY]),
                flow_run_id=ArtifactFilterFlowRunId(any_=[run_id]),
            ),
            sort=ArtifactSort.CREATED_DESC,
            limit=1,
        )
    rows = json.loads(str(found[0].data)) if found else [{}]
    return dict(rows[0])
