"""Profiling the days of a window, and reading back what was found: what a flow calls."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime
from functools import partial
from typing import Any

from prefect_wix.planning.windows import ONE_DAY, Window
from prefect_wix.profiles.days import Flows, check_flows
from prefect_wix.profiles.reading import Reading
from prefect_wix.profiles.schema import COUNTS, prepare_profiles
from prefect_wix.profiles.steps import Profiling
from prefect_wix.profiles.summary import ProfileSummary
from prefect_wix.warehouse.interface import Warehouse
from prefect_wix.warehouse.schema import Statement, Steps
from prefect_wix.warehouse.transactions import SqlWarehouse, Tables, sql_warehouse

__all__ = ["keep_counts", "profile_window", "summarize"]

DAYS_AT_ONCE = 31
"""Days that are profiled in one transaction, which keeps loads out of a DuckDB file."""
_WHAT_FOR = "Profiles of sessions"


async def profile_window(
    warehouse: Warehouse, site_id: str, window: Window, flows: Flows
) -> list[date]:
    """Bring ``wix_sessions``, ``wix_session_flows`` and ``wix_completeness`` up to date.

    Args:
        warehouse: prepared; DuckDB or PostgreSQL.
        site_id: whose sessions.
        window: which local days. What is landed as a day of another zone is left out.
        flows: names for navigation flows, with their segment keys.

    Returns:
        The days whose rows were computed anew: those that were computed from other receipts
        before, or never.

    Raises:
        WarehouseUnsupportedError: this kind of warehouse can't be profiled.
        WarehouseError: see the tree in `prefect_wix.errors`.
        ValueError: a flow is no navigation flow.
    """
    check_flows(flows)
    place = await _prepared(warehouse)
    computed: list[date] = []
    for part in _parts(window):
        work = partial(_profile, site_id=site_id, window=part, flows=flows)
        computed += await place.transact(work)
    return computed


async def keep_counts(
    warehouse: Warehouse, site_id: str, timezone: str, counts: Mapping[date, int]
) -> None:
    """Keep Wix's own counts of sessions by day, in place of those of the same days.

    Args:
        warehouse: prepared; DuckDB or PostgreSQL.
        site_id: whose sessions were counted.
        timezone: the IANA zone that the days were counted in.
        counts: local day -> sessions.
    """
    place = await _prepared(warehouse)
    now = datetime.now(UTC)
    rows = [(site_id, day, timezone, counted, now) for day, counted in counts.items()]
    if rows:
        await place.transact(partial(_keep, rows=rows))


async def summarize(
    warehouse: Warehouse, site_id: str, window: Window, flows: Flows
) -> ProfileSummary:
    """What is known of a profiled window; the arguments are those of `profile_window`."""
    place = await _prepared(warehouse)
    return await place.transact(lambda tables: Reading(tables, site_id, window, flows).steps())


async def _prepared(warehouse: Warehouse) -> SqlWarehouse:
    place = sql_warehouse(warehouse, what_for=_WHAT_FOR)
    await prepare_profiles(place)
    return place


def _parts(window: Window) -> Iterator[Window]:
    start = window.start
    while start < window.end:
        end = min(start + DAYS_AT_ONCE * ONE_DAY, window.end)
        yield Window(start, end, window.timezone)
        start = end


def _profile(tables: Tables, *, site_id: str, window: Window, flows: Flows) -> Steps[list[date]]:
    return Profiling(tables, site_id, window, flows, datetime.now(UTC)).steps()


def _keep(tables: Tables, *, rows: list[tuple[Any, ...]]) -> Steps[None]:
    for site_id, day, timezone, *_ in rows:
        yield Statement(
            f"DELETE FROM {tables.name('wix_session_counts')} "
            "WHERE site_id = $1 AND session_date = $2 AND timezone = $3",
            (site_id, day, timezone),
        )
    yield tables.insert(COUNTS, rows)
