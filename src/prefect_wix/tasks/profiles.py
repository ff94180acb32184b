"""Prefect tasks that compute session profiles, store Wix's counts and read the summary.

The computation is in `profiles`.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import date

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from prefect_wix.blocks.credentials import AnyWixCredentials
from prefect_wix.blocks.warehouse import SessionsWarehouse
from prefect_wix.errors import PermissionDeniedError, RequestError
from prefect_wix.planning.windows import ONE_DAY, Window
from prefect_wix.profiles.profiling import profile_window, store_counts, summarize
from prefect_wix.profiles.summary import ProfileSummary
from prefect_wix.tasks.run_names import run_name
from prefect_wix.tasks.schedule import local_today

OLDEST_COUNT = 61 * ONE_DAY
"""How far before today a request for session counts can start; Wix rejects an older start."""


@task(task_run_name=run_name("profile", "window"), cache_policy=NO_CACHE)
async def compute_session_profiles(
    warehouse: SessionsWarehouse, site_id: str, window: Window, flows: dict[str, str]
) -> list[date]:
    """Recompute the profiles and certificates of the days whose receipts changed.

    Args:
        warehouse: the warehouse of the landed sessions; DuckDB or PostgreSQL.
        site_id: the Wix site.
        window: local days.
        flows: flow name -> segment key of a navigation flow.

    Returns:
        The recomputed days, oldest first.

    Raises:
        WarehouseError: see the tree in `prefect_wix.errors`.
    """
    database = warehouse.get_warehouse()
    await database.prepare()
    return await profile_window(database, site_id, window, flows)


@task(task_run_name=run_name("reconcile", "window"), cache_policy=NO_CACHE)
async def reconcile_session_counts(
    credentials: AnyWixCredentials, warehouse: SessionsWarehouse, window: Window
) -> int:
    """Store Wix's own session counts, to compare them with the landed sessions.

    The comparison is informational: a failed request is logged as a warning.

    Args:
        credentials: the credentials of the site.
        warehouse: the warehouse that stores the counts.
        window: local days; days more than 61 days before today are not requested.

    Returns:
        The number of days for which Wix returned a count.
    """
    counts: dict[date, int] = {}
    start = max(window.start, local_today(window.timezone) - OLDEST_COUNT)
    if start >= window.end:
        get_run_logger().info("Reconciliation skipped: Wix has no counts of days before %s.", start)
        return 0
    try:
        async with credentials.get_client() as client:
            counts = await client.get_total_sessions(start, window.end, window.timezone)
    except PermissionDeniedError:
        get_run_logger().warning(
            "Reconciliation skipped: the credentials lack the permission to read site analytics, "
            "which is separate from the one for sessions. Grant it to compare with Wix's counts."
        )
    except RequestError as error:
        get_run_logger().warning("Reconciliation skipped: %s", error)
    await store_counts(warehouse.get_warehouse(), credentials.site_id, window.timezone, counts)
    return len(counts)


@task(task_run_name=run_name("find the name of the site"), cache_policy=NO_CACHE)
async def find_site_name(credentials: AnyWixCredentials) -> str:
    """The site's display name; empty if Wix has none, or does not return it."""
    with suppress(RequestError):
        async with credentials.get_client() as client:
            return await client.get_site_name()
    return ""


@task(task_run_name=run_name("summarize", "window"), cache_policy=NO_CACHE)
async def summarize_session_profiles(
    warehouse: SessionsWarehouse, site_id: str, window: Window, flows: dict[str, str]
) -> ProfileSummary:
    """Read the summary of a profiled window.

    Args:
        warehouse: the warehouse of the profiles.
        site_id: the Wix site.
        window: local days.
        flows: flow name -> segment key of a navigation flow.
    """
    return await summarize(warehouse.get_warehouse(), site_id, window, flows)
