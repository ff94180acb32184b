"""Load the sites of an account, in this process or in runs on workers, several sites in each."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Annotated, cast

import prefect.runtime
from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from pydantic import BaseModel, ConfigDict, Field

from prefect_wix import SessionsWarehouse, WixAccountCredentials
from prefect_wix.blocks.shared_limit import add_missing_limit
from prefect_wix.client.models import LocalDay, Site, SiteId
from prefect_wix.errors import SitesError
from prefect_wix.flows.endings import completed, fails_in_one_line
from prefect_wix.flows.load_sessions import load_sessions
from prefect_wix.planning.estimate import counted
from prefect_wix.planning.plan import Refresh, WhenTooBig
from prefect_wix.planning.segments import DEVICES
from prefect_wix.tasks.artifacts import show_table
from prefect_wix.tasks.forms import SegmentKeys, Timezone
from prefect_wix.tasks.reports import describe_sites, site_rows
from prefect_wix.tasks.run_names import run_name, sites_run_name
from prefect_wix.tasks.schedule import scheduled_time
from prefect_wix.tasks.sites import (
    RESULT_KEY,
    SiteRun,
    check_deployment,
    list_account_sites,
    reference_to,
    run_for_sites,
)

SITES_NAMED = 20
"""The maximum number of failed sites that the error names; the table has all."""

AtLeastOne = Annotated[int, Field(ge=1)]
RunSites = Callable[[list[Site]], Awaitable[list[SiteRun]]]
"""Loads some sites and returns their results."""


class SiteLoad(BaseModel):
    """The days and segments to load of a site, with the meaning of load_sessions's parameters."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    start_date: LocalDay = Field(
        None,
        title="Start date",
        description="The first local day. Set it together with the end date, or set days instead.",
    )
    end_date: LocalDay = Field(
        None,
        title="End date (not included)",
        description="The day after the last one; it is not included.",
    )
    days: int | None = Field(
        7,
        ge=1,
        title="Days",
        description="Without dates, the last N complete local days, and missing days before them.",
    )
    lookback_days: int = Field(
        3,
        ge=0,
        title="Lookback days",
        description="For how many days after its end a day may receive late sessions.",
    )
    segments: SegmentKeys = Field(
        [segment.key for segment in DEVICES],
        title="Segments",
        description="Session filters by key, such as device_type=MOBILE.",
    )
    refresh: Refresh = Field(
        Refresh.STALE,
        description="What to load again: nothing (missing), what may have changed (stale), or all.",
    )
    timezone: Timezone = Field(
        None,
        title="Time zone",
        description="The IANA time zone of all sites' days. Default is each site's time zone.",
    )
    confirm: bool = Field(
        default=False,
        title="Confirm",
        description="Load a site even if its estimated requests exceed 5,000.",
    )
    when_too_big: WhenTooBig = Field(
        WhenTooBig.PARTIAL,
        title="When too big",
        description="Without confirm, above 5,000 requests: load the most urgent partitions "
        "up to them and leave the others for the next run (partial), or submit nothing (refuse).",
    )


def _name() -> str:
    run = prefect.runtime.flow_run.parameters
    return sites_run_name(dict(run["load"]), run["sites"])


@flow(name="load-sites", flow_run_name=_name)
@fails_in_one_line
async def load_sites(
    account: WixAccountCredentials,
    warehouse: SessionsWarehouse,
    load: SiteLoad = SiteLoad(),  # noqa: B008
    sites: Annotated[list[SiteId], Field(min_length=1)] | None = None,
    sites_in_flight: AtLeastOne = 10,
    deployment: str | None = None,
    sites_per_run: AtLeastOne = 10,
    runs_in_flight: AtLeastOne = 10,
    run_timeout_seconds: Annotated[float, Field(gt=0)] = 21_600.0,
) -> list[SiteRun]:
    """Load many sites; a failed site does not stop the others, and the error names it.

    Args:
        account: The block with the account's API key.
        warehouse: The warehouse block to load into. Workers need a warehouse that supports several
            writers, such as PostgreSQL.
        load: The days and segments to load of each site.
        sites: Site IDs. Default is all sites that Wix lists for the account; headless ones are not.
        sites_in_flight: Without a deployment, the maximum number of sites to load at once.
        deployment: A deployment of load-sites, such as load-sites/some-sites, whose runs load the
            sites on workers. Without it this process loads them.
        sites_per_run: With a deployment, the number of sites of each of its runs, which loads ten
            at once.
        runs_in_flight: With a deployment, the maximum number of its runs that load, or wait for a
            worker, at once.
        run_timeout_seconds: With a deployment, how long to wait for one of its runs. After it the
            sites of the run count as failed, and the run continues.
    """
    selected = await _find_sites(account, sites)

    async def load_here(sites: list[Site]) -> list[SiteRun]:
        return [await load_site(account, warehouse, load, site) for site in sites]

    as_of = await scheduled_time()
    get_run_logger().info("Loading %s as of %s", counted(len(selected), "site"), as_of)
    if deployment is None:
        runs = await _load_each([[site] for site in selected], load_here, sites_in_flight)
    else:
        await check_deployment(deployment)
        shared = {
            "account": reference_to(account),
            "warehouse": reference_to(warehouse),
            "load": load.model_dump(mode="json"),
            "deployment": None,
        }
        on_workers = partial(run_for_sites, deployment, shared, run_timeout_seconds)
        starts = range(0, len(selected), sites_per_run)
        groups = [selected[start : start + sites_per_run] for start in starts]
        runs = await _load_each(groups, on_workers, runs_in_flight)
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


@task(task_run_name=run_name("load", "site"), cache_policy=NO_CACHE)
async def load_site(
    account: WixAccountCredentials, warehouse: SessionsWarehouse, load: SiteLoad, site: Site
) -> SiteRun:
    """Load one site. A task run, since a flow run costs the Prefect server 14 requests more."""
    credentials = account.for_site(site.id)
    await add_missing_limit(credentials.site_id, credentials.requests_per_minute)
    state = cast("State", await load_sessions.fn(credentials, warehouse, **dict(load)))
    await state.aresult()
    return SiteRun(site, state.name or "", run="", reason=state.message or "")


async def _load_each(groups: list[list[Site]], run_sites: RunSites, at_once: int) -> list[SiteRun]:
    slots, log, ended = asyncio.Semaphore(at_once), get_run_logger(), itertools.count(1)
    total = counted(sum(map(len, groups)), "site")

    async def load(sites: list[Site]) -> list[SiteRun]:
        async with slots:
            try:
                runs = await run_sites(sites)
            except Exception as error:  # noqa: BLE001  # the other sites must be loaded
                runs = [SiteRun(site, "Failed", run="", reason=str(error)) for site in sites]
        for run in runs:
            log.info("%d of %s: %s: %s, %s", next(ended), total, run.site, run.state, run.reason)
        return runs

    return [*itertools.chain(*await asyncio.gather(*map(load, groups)))]


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
