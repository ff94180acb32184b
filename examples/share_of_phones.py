"""DuckDB's relational API on the landed sessions: the share of phones by weekday."""

from __future__ import annotations

import sys

import duckdb


def share_of_phones(connection: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyRelation:
    """The sessions and the percentage of phones by weekday, 0 for Sunday."""
    landed = connection.table("wix_landed_sessions").filter("segment LIKE 'device_type=%'")
    return landed.aggregate(
        "dayofweek(session_date) AS weekday, count(*) AS sessions, "
        "round(100.0 * count(*) FILTER (segment = 'device_type=MOBILE') / count(*), 1) AS phones"
    ).order("weekday")


if __name__ == "__main__":
    with duckdb.connect(sys.argv[1], read_only=True) as connection:
        share_of_phones(connection).show()
