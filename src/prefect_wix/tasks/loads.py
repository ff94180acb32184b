"""Tasks that plan a load, load partitions and measure late arrivals.

The load itself, without Prefect, is in `prefect_wix.load`.
"""

from __future__ import annotations

from collections.abc import Sequence

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from prefect_wix.blocks.credentials import AnyWixCredentials
from prefect_wix.blocks.warehouse import SessionsWarehouse
from prefect_wix.client.models import check_timezone
from prefect_wix.errors import LoadError, WixError
from prefect_wix.load.loader import load_partitions
from prefect_wix.load.partition_load import LoadOptions, PartitionResult
from prefect_wix.planning.estimate import Estimate, counted, estimate_load, limit_requests
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
from prefect_wix.tasks.progress import LOAD_KEY, Progress
from prefect_wix.tasks.reports import failures_of, loading_progress
from prefect_wix.tasks.run_names import run_name


@task(task_run_name=run_name("find the time zone"), cache_policy=NO_CACHE)
async def find_site_timezone(credentials: AnyWixCredentials) -> str:
    """The IANA time zone from the site's Wix settings.

    Raises:
        WixError: the site has no time zone.
        ValueError: the site's time zone is not an IANA time zone known on this machine.
    """
    async with credentials.get_client() as client:
        zone = await client.get_site_timezone()
    if zone is None:
        raise WixError(
            f"Site {credentials.site_id} has no time zone in its Wix settings; nothing was "
            "submitted. Set one in Wix, or set the parameter timezone, such as Europe/Berlin."
        )
    return check_timezone(zone)


@task(task_run_name=run_name("plan", "window"), cache_policy=NO_CACHE)
async def plan_sessions_load(
    credentials: AnyWixCredentials,
    warehouse: SessionsWarehouse,
    window: Window,
    segments: list[Segment],
    policy: RefreshPolicy,
    *,
    catch_up: bool,
    max_requests: int | None = None,
) -> tuple[Plan, Estimate]:
    """Plan which partitions to load, from the receipts, and estimate the cost of loading them.

    Creates or migrates the tables.

    Args:
        credentials: the block of the site, for its ID and its rate limit; sends no request to Wix.
        warehouse: the block of the warehouse that holds the receipts.
        window: the local days to load.
        segments: the segments to load.
        policy: which loaded partitions to load again.
        catch_up: whether to include gaps and stale days before the window, up to `CATCH_UP`.
        max_requests: the limit on the expected requests, above which partitions are postponed;
            None for no limit.

    Raises:
        WarehouseError: see the tree in `prefect_wix.errors`.
    """
    engine, site_id = warehouse.get_warehouse(), credentials.site_id
    await engine.prepare()
    # The most recent days too, since the estimate is made from their sizes.
    recent = last_complete_days(1, before=policy.now, timezone=window.timezone)
    start = min(window.start, recent.start) - CATCH_UP
    read = Window(start, max(window.end, recent.end), window.timezone)
    receipts = await engine.receipts(site_id, read)
    before = Window(window.start - CATCH_UP, window.start, window.timezone)
    records = await engine.job_records(site_id, before) if catch_up else []
    known = [*(one.partition for one in records), *(one.partition for one in receipts)]
    plan = make_plan(
        partitions_of(site_id, window, segments),
        receipts,
        policy,
        earlier=earlier_partitions(site_id, window, segments, known) if catch_up else (),
    )
    if max_requests is not None:
        plan = limit_requests(plan, receipts, max_requests)
    rate = credentials.requests_per_minute
    return plan, estimate_load([*plan.to_load], receipts, requests_per_minute=rate)


@task(task_run_name=run_name("load partitions:", "partitions"), cache_policy=NO_CACHE)
async def load_sessions_partitions(
    credentials: AnyWixCredentials,
    warehouse: SessionsWarehouse,
    partitions: list[Partition],
    options: LoadOptions,
) -> list[PartitionResult]:
    """Load partitions concurrently; a failed partition does not stop the others.

    Updates a progress artifact. Safe to retry and to kill: landed partitions stay landed, and the
    next load of the same partitions adopts the running jobs.

    Returns:
        One result per partition, including the failed ones.

    Raises:
        LoadError: every partition failed; ``outcomes`` has the results.
    """
    log = get_run_logger()
    ended: list[PartitionResult] = []
    at_wix: set[Partition] = set()

    async def on_progress(result: PartitionResult) -> None:
        ended.append(result)

    def describe() -> tuple[float, str]:
        running = at_wix.difference(result.partition for result in ended)
        requests = credentials.requests_per_minute * (1 - client.rate_limiter.utilization())
        return loading_progress(ended, len(partitions), len(running), round(requests))

    async with credentials.get_client() as client, Progress(LOAD_KEY, log, describe):
        engine = warehouse.get_warehouse()
        results = await load_partitions(
            client, engine, partitions, options, on_progress=on_progress, at_wix=at_wix, log=log
        )
    if len(failures_of(results)) == len(results):
        raise_if_failed(results)
    return results


def raise_if_failed(results: Sequence[PartitionResult]) -> None:
    """Raise a `LoadError` that begins with the first failure, if there is one."""
    failures = failures_of(results)
    if not failures:
        return
    count = f"{len(failures):,} of {counted(len(results), 'partition')} failed"
    if len(failures) == len(results):
        count = f"No partition landed ({len(failures):,} failed)"
    raise LoadError(
        f"{next(iter(failures.values()))} {count}; failed partitions keep their previous rows. "
        "Run the load again to retry them.",
        failures=failures,
        outcomes=tuple(results),
    )


@task(task_run_name=run_name("measure late arrivals of", "window"), cache_policy=NO_CACHE)
async def measure_late_arrivals(
    warehouse: SessionsWarehouse, site_id: str, window: Window
) -> list[LateArrivals]:
    """The sessions that reloads of the same days added and removed, by the age of the day.

    Args:
        warehouse: the block of the warehouse that holds the job records.
        site_id: the site.
        window: the local days.
    """
    records = await warehouse.get_warehouse().job_records(site_id, window)
    return late_arrivals_by_age(records)
