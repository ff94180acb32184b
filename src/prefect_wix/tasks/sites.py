"""The load of many sites: start a run of a deployment for each site, and read its result.

Prefect distributes the runs over workers; nothing here queues or schedules. Blocks are passed to a
run by reference, never as keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import prefect.runtime
from prefect import task
from prefect.blocks.core import Block
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.deployments import arun_deployment
from prefect.exceptions import ObjectNotFound
from prefect.utilities.urls import url_for

from prefect_wix.blocks.credentials import WixAccountCredentials
from prefect_wix.client.models import Site
from prefect_wix.client.sites import list_sites
from prefect_wix.errors import WixError
from prefect_wix.tasks.run_names import run_name, site_run_name


@dataclass(frozen=True)
class SiteRun:
    """The result of the load of one site."""

    site: Site
    state: str
    """The name of the run's state in Prefect."""
    completed: bool
    """Whether no partition failed."""
    run: str
    """The URL of the run in the UI, or its ID without a UI; empty if no run was started."""
    reason: str = ""
    """The message of the run's state: what was loaded, or why the run failed."""


POLL_SECONDS = 5.0


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


async def run_for_site(
    deployment: str, parameters: Mapping[str, Any], timeout_seconds: float, site: Site
) -> tuple[UUID, State[Any] | None]:
    """Start a run of a deployment for one site, or find the one already started, and wait for it.

    A retried flow run finds the runs that it started before: it waits for the active ones, keeps
    the completed ones, and starts one new run for each failed site.

    Args:
        deployment: the name as flow name/deployment name.
        parameters: the parameters of every run: plain values and block references.
        timeout_seconds: how long to wait for the run to end.
        site: the site; the run is named after it.

    Returns:
        The run's ID and its last known state.
    """
    this = prefect.runtime.flow_run
    for attempt in range(1, (this.run_count or 1) + 1):
        run = await arun_deployment(
            deployment,
            parameters={**parameters, "site_id": site.id},
            flow_run_name=site_run_name(site, parameters["load"]),
            idempotency_key=f"{this.id}/{site.id}/{attempt}",
            timeout=timeout_seconds,
            poll_interval=POLL_SECONDS,
        )
        if run.state is None or not run.state.is_final() or run.state.is_completed():
            break
    return run.id, run.state


def read_site_run(site: Site, run_id: UUID | None, state: State[Any] | None) -> SiteRun:
    """The result of a site's load, from the state of its run."""
    completed = state is not None and state.is_completed()
    if state is None or not state.is_final():
        reason = "The run did not end within the timeout; it may still load."
    else:
        reason = state.message or "The run gave no reason; see its log."
    return SiteRun(
        site=site,
        state="Unknown" if state is None else state.name or state.type.value,
        completed=completed,
        run="" if run_id is None else url_for("flow-run", obj_id=run_id) or str(run_id),
        reason=reason,
    )
