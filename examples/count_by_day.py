"""A flow downstream of a load: it counts the days that the event of the load names.

`python examples/count_by_day.py` serves it, and each event `wix.sessions.landed` starts a run.
"""

from __future__ import annotations

from datetime import date

import duckdb
from prefect import flow, get_run_logger
from prefect.events import DeploymentEventTrigger

AFTER_LOAD = DeploymentEventTrigger(
    expect={"wix.sessions.landed"},
    parameters={
        name: f"{{{{ event.payload.{name} }}}}" for name in ("site_id", "start_date", "end_date")
    },
)


@flow(name="count-by-day")
def count_by_day(
    site_id: str, start_date: date, end_date: date, database: str = "sessions.duckdb"
) -> int:
    """Replace the counts of a range of days in the table sessions_by_day.

    Args:
        site_id: The site.
        start_date: The first local day.
        end_date: The day after the last one.
        database: The DuckDB file of the warehouse.

    Returns:
        The number of rows written.
    """
    days = "site_id = ? AND session_date >= ? AND session_date < ?"
    values = [site_id, start_date, end_date]
    with duckdb.connect(database) as connection:
        connection.execute(
            "CREATE TABLE IF NOT EXISTS sessions_by_day "
            "(site_id TEXT, session_date DATE, segment TEXT, sessions BIGINT)"
        )
        connection.begin()
        connection.execute(f"DELETE FROM sessions_by_day WHERE {days}", values)
        connection.execute(
            "INSERT INTO sessions_by_day SELECT site_id, session_date, segment, count(*) "
            f"FROM wix_landed_sessions WHERE {days} GROUP BY ALL",
            values,
        )
        connection.commit()
        rows = connection.execute(f"SELECT count(*) FROM sessions_by_day WHERE {days}", values)
        (written,) = rows.fetchone() or (0,)
    get_run_logger().info("Counted %s rows from %s to %s", written, start_date, end_date)
    return int(written)


if __name__ == "__main__":
    count_by_day.serve(name="after-load", triggers=[AFTER_LOAD])
