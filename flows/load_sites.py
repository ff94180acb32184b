"""Every site of an account into the warehouse, each by a run of its own, spread over workers."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable
from typing import Annotated, Any
from uuid import UUID

from prefect import flow, get_run_logger
from prefect.client.schemas.objects import State
from pydantic import Field

from flows.load_site import SiteLoad, load_site
from prefect_wix import SessionsWarehouse, WixAccountCredentials
from prefect_wix.client.models import Site
from prefect_wix.errors import SitesError
from prefect_wix.tasks.artifacts import show_table
from prefect_wix.tasks.reports import describe_site, describe_sites, site_rows
from prefect_wix.tasks.sites import (
    SiteRun,
    check_deployment,
    list_account_sites,
    read_site_run,
    reference_to,
    run_for_site,
    site_run_name,
)

RESULT_KEY = "wix-sites-load"
SITES_NAMED = 20
"""Failed sites that the error spells out; the table has them all."""

Begin = Callable[[Site], Awaitable[tuple[UUID | None, State | None]]]
"""Begins a site's run and waits for its end: its id, and the state it is in."""


@flow(name="load-sites")
async def load_sites(
    account: WixAccountCredentials,
    warehouse: SessionsWarehouse,
    load: SiteLoad = SiteLoad(),  # noqa: B008
    sites: Annotated[list[str], Field(min_length=1)] | None = None,
    deployment: str | None = None,
    sites_in_flight: Annotated[int, Field(ge=1)] = 10,
    site_timeout_seconds: Annotated[float, Field(gt=0)] = 21_600.0,
) -> list[SiteRun]:
    """Load many sites; one that fails does not hold the others, and is named in the end.

    Args:
        account: The block with the account's key.
        warehouse: The warehouse block that all sites are loaded into. Workers need one that many
            processes may write to, such as PostgreSQL.
        load: Which days and segments of each site.
        sites: Site ids. Left out, all sites of the account.
        deployment: The deployment of load-site whose runs load the sites, such as
            load-site/of-account. Left out, they are loaded by this run's own process.
        sites_in_flight: How many sites may be loaded, or wait for a worker, at once.
        site_timeout_seconds: How long to wait for one site's run on the workers. What takes longer
            counts as failed here and goes on there.
    """
    wanted = await _find_sites(account, sites)
    get_run_logger().info("%d sites to load.", len(wanted))
    if deployment is None:
        begin = _start_here(account, warehouse, load)
    else:
        await check_deployment(deployment)
        given = {
            "account": reference_to(account),
            "warehouse": reference_to(warehouse),
            "load": load.model_dump(mode="json"),
        }
        begin = _start_on_workers(deployment, given, site_timeout_seconds)
    runs = await _load_each(wanted, begin, sites_in_flight)
    level = logging.INFO if all(run.completed for run in runs) else logging.WARNING
    await show_table(describe_sites(runs), site_rows(runs), key=RESULT_KEY, level=level)
    _fail_where_sites_failed(runs)
    return runs


async def _find_sites(account: WixAccountCredentials, ids: list[str] | None) -> list[Site]:
    if ids is None:
        sites = await list_account_sites(account)
    else:
        sites = [Site(id=site_id) for site_id in dict.fromkeys(ids)]
    if not sites:
        raise ValueError("No sites: the account has none.")
    return sites


def _start_here(
    account: WixAccountCredentials, warehouse: SessionsWarehouse, load: SiteLoad
) -> Begin:
    async def begin(site: Site) -> tuple[UUID | None, State | None]:
        # Not a string: Prefect would format it, and a name that its owner chose could then read
        # the parameters, with the key among them.
        one = load_site.with_options(flow_run_name=lambda: site_run_name(site))
        state = await one(account, warehouse, site.id, load, return_state=True)
        return state.state_details.flow_run_id, state

    return begin


def _start_on_workers(deployment: str, given: dict[str, Any], timeout_seconds: float) -> Begin:
    async def begin(site: Site) -> tuple[UUID | None, State | None]:
        parameters = {**given, "site_id": site.id}
        return await run_for_site(deployment, site, parameters, timeout_seconds)

    return begin


async def _load_each(sites: list[Site], begin: Begin, at_once: int) -> list[SiteRun]:
    slots, log, ended = asyncio.Semaphore(at_once), get_run_logger(), itertools.count(1)

    async def load(site: Site) -> SiteRun:
        async with slots:
            run = await _load_one(site, begin)
        log.info("%d of %d sites: %s", next(ended), len(sites), describe_site(run))
        return run

    return await asyncio.gather(*map(load, sites))


async def _load_one(site: Site, begin: Begin) -> SiteRun:
    try:
        return await read_site_run(site, *await begin(site))
    except Exception as error:  # noqa: BLE001  # whatever befalls one site must not hold the others
        return SiteRun(site, state="Not known", completed=False, run="", reason=str(error))


def _fail_where_sites_failed(runs: list[SiteRun]) -> None:
    failed = [run for run in runs if not run.completed]
    if failed:
        named = ", ".join(str(run.site) for run in failed[:SITES_NAMED])
        more = f" and {len(failed) - SITES_NAMED} more" if len(failed) > SITES_NAMED else ""
        raise SitesError(
            f"{len(failed)} of {len(runs)} sites were not loaded whole: {named}{more}. See the "
            f"artifact {RESULT_KEY}. A rerun takes up what is missing. The first: "
            f"{failed[0].reason}",
            failures={run.site.id: run.reason for run in failed},
        )
