"""The verbs of a flow that profiles sessions: compute, compare with Wix's counts, sum up.

What they do is in `profiles`, which knows no Prefect.
"""

from __future__ import annotations

from datetime import date

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from prefect_wix.blocks.credentials import AnyWixCredentials
from prefect_wix.blocks.warehouse import SessionsWarehouse
from prefect_wix.errors import PermissionDeniedError, RequestError
from prefect_wix.planning.windows import ONE_DAY, Window
from prefect_wix.profiles.profiling import keep_counts, profile_window, summarize
from prefect_wix.profiles.summary import ProfileSummary
from prefect_wix.tasks.artifacts import run_name

__all__ = ["compute_session_profiles", "reconcile_session_counts", "summarize_session_profiles"]

DAYS_COUNTED = 62
"""For so many days Wix keeps its counts of sessions; there is no use in asking for more."""


@task(task_run_name=run_name("profile", "window"), cache_policy=NO_CACHE)
async def compute_session_profiles(
    warehouse: SessionsWarehouse, site_id: str, window: Window, flows: dict[str, str]
) -> list[date]:
    """Bring the profiles and certificates of a window up to date, where receipts changed.

    Args:
        warehouse: what is landed there; DuckDB or PostgreSQL.
        site_id: whose sessions.
        window: which local days.
        flows: names for navigation flows, with their segment keys.

    Returns:
        The days that were computed anew.

    Raises:
        WarehouseError: see the tree in `prefect_wix.errors`.
    """
    place = warehouse.get_warehouse()
    await place.prepare()
    return await profile_window(place, site_id, window, flows)


@task(task_run_name=run_name("reconcile", "window"), cache_policy=NO_CACHE)
async def reconcile_session_counts(
    credentials: AnyWixCredentials, warehouse: SessionsWarehouse, window: Window
) -> int:
    """Keep Wix's own counts of sessions beside what is landed.

    For information: that Wix does not tell them is said in the log and fails nothing.

    Args:
        credentials: who asks, and of which site.
        warehouse: where to keep the counts.
        window: which local days; of more than 62 the last ones are asked for.

    Returns:
        Of how many days Wix told its count.
    """
    counts = await _count(credentials, window)
    await keep_counts(warehouse.get_warehouse(), credentials.site_id, window.timezone, counts)
    return len(counts)


async def _count(credentials: AnyWixCredentials, window: Window) -> dict[date, int]:
    start = max(window.start, window.end - DAYS_COUNTED * ONE_DAY)
    try:
        async with credentials.get_client() as client:
            return await client.get_total_sessions(start, window.end, window.timezone)
    except PermissionDeniedError:
        get_run_logger().warning(
            "Not reconciled: the credentials may not read Wix's site analytics, which is another "
            "permission than that for sessions. Grant it to see landed sessions beside Wix's count."
        )
    except RequestError as error:
        get_run_logger().warning("Not reconciled with Wix's own count of sessions: %s", error)
    return {}


@task(task_run_name=run_name("sum up", "window"), cache_policy=NO_CACHE)
async def summarize_session_profiles(
    warehouse: SessionsWarehouse, site_id: str, window: Window, flows: dict[str, str]
) -> ProfileSummary:
    """What is known of a window that was profiled.

    Args:
        warehouse: where the profiles are.
        site_id: whose sessions.
        window: which local days.
        flows: the names of navigation flows.
    """
    return await summarize(warehouse.get_warehouse(), site_id, window, flows)
