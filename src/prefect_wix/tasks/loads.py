"""Tasks that plan a load, load partitions and measure late arrivals."""

from __future__ import annotations

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from prefect_wix.blocks.credentials import AnyWixCredentials
from prefect_wix.blocks.warehouse import SessionsWarehouse
from prefect_wix.client.models import (
    check_timezone,
)
from prefect_wix.errors import WixError
from prefect_wix.load.loader import load_partitions
from prefect_wix.load.partition_load import LoadOptions, PartitionResult
from prefect_wix.planning.estimate import Estimate, estimate_load
from prefect_wix.planning.late_arrivals import LateArrivals, late_arrivals_by_age
from prefect_wix.planning.partitions import Partition
from prefect_wix.planning.plan import (
    CATCH_UP,
    Plan,
    RefreshPolicy,
    earlier_partitions,
    make_plan,
    partitions_of,
)
from prefect_wix.planning.segments import Segment
from prefect_wix.planning.windows import Window, last_complete_days
from prefect_wix.tasks.artifacts import run_name
from prefect_wix.tasks.progress import LoadProgress

__all__ = [
    "find_site_timezone",
    "load_sessions_partitions",
    "measure_late_arrivals",
    "plan_sessions_load",
]


@task(cache_policy=NO_CACHE)
async def find_site_timezone(credentials: AnyWixCredentials) -> str:
    """The IANA zone that the site counts its days in.

    Raises:
        WixError: the site has not set one.
        ValueError: what it has set is no zone that is known here.
    """
    async with credentials.get_client() as client:
        zone = await client.get_site_timezone()
    if zone is None:
        raise WixError(
            f"Site {credentials.site_id} has no time zone in its Wix settings. Set one there, or "
            "give the flow a timezone such as Europe/Berlin."
        )
    check_timezone(zone)
    return zone


@task(task_run_name=run_name("plan", "window"), cache_policy=NO_CACHE)
async def plan_sessions_load(
    warehouse: SessionsWarehouse,
    site_id: str,
    window: Window,
    segments: list[Segment],
    policy: RefreshPolicy,
    *,
    catch_up: bool,
    requests_per_minute: int,
) -> tuple[Plan, Estimate]:
    """Compare what is wanted with what is landed, and estimate what loading the rest will take.

    Creates the tables where they are missing.

    Args:
        warehouse: what is landed there.
        site_id: whose sessions.
        window: the days that are wanted.
        segments: the segments that are wanted.
        policy: how much to ask again.
        catch_up: whether gaps and stale days before the window are taken up too.
        requests_per_minute: the site's rate limit, for the estimate.

    Raises:
        WarehouseError: see the tree in `prefect_wix.errors`.
    """
    landing_place = warehouse.get_warehouse()
    await landing_place.prepare()
    receipts = await landing_place.receipts(site_id, _days_to_learn_from(window, policy))
    before = Window(window.start - CATCH_UP, window.start, window.timezone)
    records = await landing_place.job_records(site_id, before) if catch_up else []
    plan = make_plan(
        partitions_of(site_id, window, segments),
        receipts,
        policy,
        earlier=earlier_partitions(
            site_id, window, segments, [record.partition for record in records]
        ),
    )
    return plan, estimate_load([*plan.to_load], receipts, requests_per_minute=requests_per_minute)


def _days_to_learn_from(window: Window, policy: RefreshPolicy) -> Window:
    """The window, the days before it that a load may take up, and the newest days."""
    recent = last_complete_days(1, before=policy.now, timezone=window.timezone)
    start = min(window.start, recent.start) - CATCH_UP
    return Window(start, max(window.end, recent.end), window.timezone)


@task(cache_policy=NO_CACHE)
async def load_sessions_partitions(
    credentials: AnyWixCredentials,
    warehouse: SessionsWarehouse,
    partitions: list[Partition],
    options: LoadOptions,
) -> list[PartitionResult]:
    """Load many partitions, several at once; one that fails does not stop the others.

    Shows its progress as an artifact. Safe to retry, and to kill: what has landed stays landed,
    and jobs that run are waited for by whoever loads the same partitions next.

    Returns:
        What became of each; look for those that failed.
    """
    log = get_run_logger()
    async with credentials.get_client() as client, LoadProgress(len(partitions), log) as progress:
        return await load_partitions(
            client,
            warehouse.get_warehouse(),
            partitions,
            options,
            on_progress=progress.tell,
            log=log,
        )


@task(cache_policy=NO_CACHE)
async def measure_late_arrivals(
    warehouse: SessionsWarehouse, site_id: str, window: Window
) -> list[LateArrivals]:
    """What asking the same days again has brought, by the days' age.

    Args:
        warehouse: whose ledger to read.
        site_id: whose days.
        window: which days.
    """
    records = await warehouse.get_warehouse().job_records(site_id, window)
    return late_arrivals_by_age(records)
