"""The tables of session profiles, and the function that creates or migrates them.

The tables of landed sessions are in `warehouse.schema`.
"""

from __future__ import annotations

from prefect_wix.warehouse.schema import Statement, Steps, Table, TableSet
from prefect_wix.warehouse.transactions import SessionTransactions, SqlWarehouse

PROFILED_SESSIONS = Table(
    "wix_sessions",
    "site_id, session_date DATE, timezone, session_id, device, deepest_step, dropped_before, kind, "
    "continued BOOLEAN, first_seen_at TIMESTAMPTZ, last_seen_at TIMESTAMPTZ",
    key="site_id, session_date, session_id",
)
"""One row per site, local day and session."""
FLOWS = Table(
    "wix_session_flows",
    "site_id, session_date DATE, session_id, flow",
    key="site_id, session_date, flow, session_id",
)
"""One row per site, local day, navigation flow and session that followed it."""
PROFILED_DAYS = Table(
    "wix_session_profiles",
    "site_id, session_date DATE, timezone, fingerprint, segments BIGINT, sessions BIGINT, "
    "computed_at TIMESTAMPTZ",
    key="site_id, session_date",
)
"""One row per site and profiled day: the fingerprint of its input, and its totals."""
COMPLETENESS = Table(
    "wix_completeness",
    "site_id, session_date DATE, timezone, relation, description, state, sessions BIGINT, "
    "exceptions BIGINT, examples, missing, computed_at TIMESTAMPTZ",
    key="site_id, session_date, relation",
)
"""One row per site, local day and relation between segments."""
COUNTS = Table(
    "wix_session_counts",
    "site_id, session_date DATE, timezone, counted BIGINT, counted_at TIMESTAMPTZ",
    key="site_id, session_date, timezone",
)
"""Wix's own session counts, requested for the last 61 days and today."""
_RECONCILIATION = (
    "SELECT site_id, session_date, timezone, landed, counted, ratio, ratio - avg(ratio) OVER ("
    "PARTITION BY site_id, timezone ORDER BY session_date "
    "ROWS BETWEEN 7 PRECEDING AND 1 PRECEDING) AS trend, counted_at FROM ("
    "SELECT c.site_id, c.session_date, c.timezone, p.sessions AS landed, c.counted, "
    "p.sessions * 1.0 / NULLIF(c.counted, 0) AS ratio, c.counted_at FROM {wix_session_counts} c "
    "JOIN {wix_session_profiles} p ON p.site_id = c.site_id AND p.session_date = c.session_date "
    "AND p.timezone = c.timezone) reconciled"
)
"""Profiled sessions and Wix's count, by day.

``trend`` is the ratio minus the mean ratio of the seven counted days before.
"""
_PROFILES = TableSet(
    versions="wix_profile_schema",
    version=1,
    tables=(PROFILED_SESSIONS, FLOWS, PROFILED_DAYS, COMPLETENESS, COUNTS),
    views={"wix_reconciliation": _RECONCILIATION},
)


async def prepare_profiles(warehouse: SqlWarehouse) -> None:
    """Create the profile tables, or migrate and check them.

    Raises:
        WarehouseSchemaError: a newer version created them, or their columns were altered.
    """
    await warehouse.transact(_prepare)


def _prepare(tables: SessionTransactions) -> Steps[None]:
    columns = yield from tables.columns()
    # The first edition created these tables without a version, and named the column `says`.
    if "says" in columns.get(COMPLETENESS.name, ()):
        name = tables.name(COMPLETENESS.name)
        yield Statement(f"ALTER TABLE {name} RENAME COLUMN says TO description")
    yield from tables.prepare(_PROFILES)
