"""A daily pipeline: load the segments of the purchase funnel, profile the sessions, run dbt."""

from __future__ import annotations

import shutil
from pathlib import Path

from build_funnel import build_funnel
from prefect import flow, get_run_logger

from prefect_wix import SessionsWarehouse, WixCredentials
from prefect_wix.flows.load_sessions import load_sessions
from prefect_wix.flows.profile_sessions import profile_sessions
from prefect_wix.planning.plan import WhenTooBig
from prefect_wix.planning.segments import PROFILED


@flow(name="daily-funnel")
async def daily_funnel(
    credentials: WixCredentials,
    warehouse: SessionsWarehouse,
    days: int = 3,
    dbt: str | None = None,
) -> int:
    """Load and profile the last days, then build the dbt model of the funnel.

    Args:
        credentials: The Wix credentials block of the site.
        warehouse: The warehouse block; the dbt project expects a DuckDB file.
        days: How many complete local days to load.
        dbt: The dbt program. Without one the model is not built.

    Returns:
        The number of profiled sessions.
    """
    await load_sessions(
        credentials,
        warehouse,
        days=days,
        segments=[segment.key for segment in PROFILED],
        # A schedule is not stopped by a big gap: the next runs load the rest of it.
        when_too_big=WhenTooBig.PARTIAL,
    )
    summary = await profile_sessions(credentials, warehouse, days=days)
    program = dbt or shutil.which("dbt")
    if program is None:
        get_run_logger().warning("dbt is not installed: the model was not built.")
    else:
        await build_funnel(_database(warehouse), Path(program))
    return summary.sessions


def _database(warehouse: SessionsWarehouse) -> Path:
    return Path(warehouse.url.get_secret_value().removeprefix("duckdb:///"))
