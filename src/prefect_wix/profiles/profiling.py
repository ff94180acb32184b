"""Computes the profiles of a window and reads their summary. Prefect tasks call these functions.

The transactions are in `steps` and `reading`; the tables are in `schema`.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime
from functools import partial

from prefect_wix.planning.windows import ONE_DAY, Window
from prefect_wix.profiles.days import Flows, check_flows
from prefect_wix.profiles.reading import Reading
from prefect_wix.profiles.schema import COUNTS, prepare_profiles
from prefect_wix.profiles.steps import Profiling
from prefect_wix.profiles.summary import ProfileSummary
from prefect_wix.warehouse.interface import Warehouse
from prefect_wix.warehouse.schema import Statement, Steps
from prefect_wix.warehouse.transactions import SessionTransactions, SqlWarehouse, sql_warehouse

DAYS_AT_ONCE = 31
"""Most days of one transaction: a transaction locks loads out of a DuckDB file."""


async def profile_window(
    warehouse: Warehouse, site_id: str, window: Window, flows: Flows
) -> list[date]:
    """Bring ``wix_sessions``, ``wix_session_flows`` and ``wix_completeness`` up to date.

    Args:
        warehouse: prepared; DuckDB or PostgreSQL.
        site_id: the Wix site.
        window: local days. Partitions of other time zones are left out.
        flows: flow name -> segment key of a navigation flow.

    Returns:
        The recomputed days: those whose input changed since the last profile, or without one.

    Raises:
        WarehouseUnsupportedError: the warehouse is neither DuckDB nor PostgreSQL.
        WarehouseError: see the tree in `prefect_wix.errors`.
        ValueError: a flow is not a navigation flow.
    """
    check_flows(flows)
    database = await _prepared(warehouse)
    computed: list[date] = []
    for start in [*window.days()][::DAYS_AT_ONCE]:
        end = min(start + DAYS_AT_ONCE * ONE_DAY, window.end)
        chunk = Window(start, end, window.timezone)
        work = partial(_profile, site_id=site_id, window=chunk, flows=flows)
        computed += await database.transact(work)
    return computed


async def store_counts(
    warehouse: Warehouse, site_id: str, timezone: str, counts: Mapping[date, int]
) -> None:
    """Store Wix's session counts; they replace earlier counts of the same days.

    Args:
        warehouse: prepared; DuckDB or PostgreSQL.
        site_id: the Wix site.
        timezone: the IANA time zone of the days.
        counts: local day -> sessions.
    """
    database = await _prepared(warehouse)
    now = datetime.now(UTC)

    def replace_counts(tables: SessionTransactions) -> Steps[None]:
        for day in counts:
            yield Statement(
                f"DELETE FROM {tables.name('wix_session_counts')} "
                "WHERE site_id = $1 AND session_date = $2 AND timezone = $3",
                (site_id, day, timezone),
            )
        rows = [(site_id, day, timezone, counted, now) for day, counted in counts.items()]
        yield tables.insert(COUNTS, rows)

    if counts:
        await database.transact(replace_counts)


async def summarize(
    warehouse: Warehouse, site_id: str, window: Window, flows: Flows
) -> ProfileSummary:
    """Read the summary of a profiled window; the arguments are those of `profile_window`."""
    database = await _prepared(warehouse)
    return await database.transact(lambda tables: Reading(tables, site_id, window, flows).summary())


async def _prepared(warehouse: Warehouse) -> SqlWarehouse:
    database = sql_warehouse(warehouse, what_for="Session profiles")
    await prepare_profiles(database)
    return database


def _profile(
    tables: SessionTransactions, *, site_id: str, window: Window, flows: Flows
) -> Steps[list[date]]:
    return Profiling(tables, site_id, window, flows, datetime.now(UTC)).compute()
