"""Read the calendar of a site from its warehouse.

How the calendar follows from receipts and job records is in `prefect_wix.planning.load_calendar`.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from prefect_wix.load.partition_load import ADOPT_MAX_AGE
from prefect_wix.planning.load_calendar import LoadCalendar, calendar_window, make_calendar
from prefect_wix.planning.partitions import JobRecord
from prefect_wix.planning.plan import RefreshPolicy
from prefect_wix.planning.windows import ONE_DAY, Window
from prefect_wix.warehouse.interface import Warehouse

_CLOCK_MARGIN = timedelta(minutes=5)
"""How far the warehouse's clock may run ahead: what just landed is not from the future."""


async def read_calendar(
    warehouse: Warehouse, site_id: str, policy: RefreshPolicy, *, timezone: str | None = None
) -> tuple[LoadCalendar, list[JobRecord]]:
    """The calendar of a site, and the job records of its days, oldest intent first.

    Args:
        warehouse: the prepared warehouse.
        site_id: the site.
        policy: which landed partitions are loaded again, and the current time.
        timezone: the time zone of the days; that of the newest known day if left out.
    """
    # A day more at each end, for the days of every time zone.
    days = calendar_window(policy.now, "UTC")
    days = Window(days.start - ONE_DAY, days.end + ONE_DAY, days.timezone)
    receipts = await warehouse.receipts(site_id, days)
    records = await warehouse.job_records(site_id, days)
    known = [*(one.partition for one in receipts), *(one.partition for one in records)]
    newest = max(known, key=lambda one: one.day, default=None)
    calendar = make_calendar(
        site_id,
        calendar_window(policy.now, timezone or (newest.timezone if newest else "UTC")),
        receipts,
        records,
        replace(policy, now=policy.now + _CLOCK_MARGIN),
        running_since=policy.now - ADOPT_MAX_AGE,
    )
    return calendar, records
