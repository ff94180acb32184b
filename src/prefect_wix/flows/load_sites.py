"""Load the sites of an account, each in a run of its own, in this process or on workers."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Annotated
from uuid import UUID

from prefect import flow, get_run_logger
from prefect.client.schemas.objects import State
from pydantic import Field

from prefect_wix import SessionsWarehouse, WixAccountCredentials
from prefect_wix.client.models import Site, SiteId
from prefect_wix.errors import SitesError
from prefect_wix.flows.endings import completed, fails_in_one_line
from prefect_wix.flows.load_site import SiteLoad, load_site
from prefect_wix.planning.estimate import counted
from prefect_wix.tasks.artifacts import show_table
from prefect_wix.tasks.reports import describe_sites, site_rows
from prefect_wix.tasks.run_names import site_run_name
from prefect_wix.tasks.sites import (
    SiteRun,
    check_deployment,
    list_account_sites,
    read_site_run,
    reference_to,
    run_for_site,
)

RESULT_KEY = "wix-sites-load"
SITES_NAMED = 20
"""The maximum number of failed sites that the error names; the table has all."""

RunSite = Callable[[Site], Awaitable[tuple[UUID | None, State | None]]]
"""Starts a site's run and waits for its end; returns the run's ID and state."""


@flow(name="load-sites", flow_run_name=lambda: "load the sites of an account")
@fails_in_one_line
async def load_sites(
    account: WixAccountCredentials,
    warehouse: SessionsWarehouse,
    load: SiteLoad = SiteLoad(),  # noqa: B008
    sites: Annotated[list[SiteId], Field(min_length=1)] | None = None,
    deployment: str | None = None,
    sites_in_flight: Annotated[int, Field(ge=1)] = 10,
    site_timeout_seconds: Annotated[float, Field(gt=0)] = 21_600.0,
) -> list[SiteRun]:
    """Load many sites; a failed site does not stop the others, and the error names it.

    Args:
        account: The block with the account's API key.
        warehouse: The warehouse block to load into. Workers need a warehouse that supports several
            writers, such as PostgreSQL.
        load: The days and segments to load of each site.
        sites: Site IDs. Default is all sites that Wix lists for the account; headless ones are not.
        deployment: The deployment of load-site that loads the sites, such as load-site/one-site.
            Without it the sites are loaded in this process.
        sites_in_flight: The maximum number of sites that are loaded, or wait for a worker, at once.
        site_timeout_seconds: How long to wait for one site's run on the workers. After it the site
            counts as failed, and its run continues.
    """
    selected = await _find_sites(account, sites)
    get_run_logger().info("Loading %s", counted(len(selected), "site"))
    run_site: RunSite
    if deployment is None:
        run_site = partial(_run_in_process, account, warehouse, load)
    else:
        await check_deployment(deployment)
        shared = {
            "account": reference_to(account),
            "warehouse": reference_to(warehouse),
            "load": load.model_dump(mode="json"),
        }
        run_site = partial(run_for_site, deployment, shared, site_timeout_seconds)
    runs = await _load_each(selected, run_site, sites_in_flight)
    await show_table(describe_sites(runs), site_rows(runs), key=RESULT_KEY)
    _raise_if_failed(runs)
    return completed(runs, describe_sites(runs))


async def _find_sites(account: WixAccountCredentials, ids: list[str] | None) -> list[Site]:
    if ids is None:
        sites = await list_account_sites(account)
    else:
        sites = [Site(id=site_id) for site_id in dict.fromkeys(ids)]
    if not sites:
        raise ValueError("The account has no sites; nothing was loaded.")
    return sites


async def _run_in_process(
    account: WixAccountCredentials, warehouse: SessionsWarehouse, load: SiteLoad, site: Site
) -> tuple[UUID | None, State | None]:
    # Not a string: Prefect formats it with the parameters, so a site name could read the key.
    named_flow = load_site.with_options(flow_run_name=lambda: site_run_name(site, dict(load)))
    state = await named_flow(account, warehouse, site.id, load, return_state=True)
    return state.state_details.flow_run_id, state


async def _load_each(sites: list[Site], run_site: RunSite, sites_in_flight: int) -> list[SiteRun]:
    slots, log, ended = asyncio.Semaphore(sites_in_flight), get_run_logger(), itertools.count(1)

    async def load(site: Site) -> SiteRun:
        async with slots:
            try:
                run = read_site_run(site, *await run_site(site))
            except Exception as error:  # noqa: BLE001  # the other sites must be loaded
                run = SiteRun(site, state="Unknown", completed=False, run="", reason=str(error))
        count, total = next(ended), counted(len(sites), "site")
        log.info("%d of %s: %s: %s, %s", count, total, site, run.state, run.reason)
        return run

    return await asyncio.gather(*map(load, sites))


def _raise_if_failed(runs: list[SiteRun]) -> None:
    failed = [run for run in runs if not run.completed]
    if failed:
        named = ", ".join(str(run.site) for run in failed[:SITES_NAMED])
        more = f" and {len(failed) - SITES_NAMED} more" if len(failed) > SITES_NAMED else ""
        raise SitesError(
            f"{failed[0].reason} {len(failed):,} of {counted(len(runs), 'site')} failed: "
            f"{named}{more}. See the artifact {RESULT_KEY}. Run it again to load the missing "
            "partitions.",
            failures={run.site.id: run.reason for run in failed},
        )
