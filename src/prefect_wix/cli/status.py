"""The command that shows which days of a site are landed, and what is missing."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from prefect_wix.blocks.documents import Settings, find_block, find_server, read_settings
from prefect_wix.deployments.definitions import CREDENTIALS, WAREHOUSE
from prefect_wix.errors import DeploymentError
from prefect_wix.load.site_calendar import LoadCalendar, read_calendar
from prefect_wix.planning.estimate import counted
from prefect_wix.planning.partitions import JobRecord, JobState
from prefect_wix.planning.plan import Refresh, RefreshPolicy

LOOKBACK = timedelta(days=3)
"""For how long after its end a day may receive late sessions: as in the daily load."""


def status(
    *,
    site: str | None = None,
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> None:
    """Show the last 30 days of a site by segment: landed, stale, missing, failed or running.

    Reads the warehouse, whose tables it creates or migrates, and sends no request to Wix. The site
    and the warehouse are those of the blocks on the Prefect server or, where none is saved, of the
    environment and .env.

    Args:
        site: The site ID; without it, the site of the credentials.
        as_json: Print JSON, for scripts.
    """
    calendar, details = asyncio.run(read_status(read_settings(Path.cwd()), site))
    lines = [f"Site {details['site']}, {calendar.window}", "", str(calendar), ""]
    for name, noun in (("running", "running job"), ("possible_orphans", "possible orphan job")):
        if jobs := details[name]:
            lines.append(f"{counted(len(jobs), noun)} at Wix, the last one for {_line(jobs[-1])}")
    if error := details["last_error"]:
        lines.append(f"Last error: {_line(error)}")
    if not calendar.states:
        lines[1:] = [
            "Nothing is loaded yet. Run `prefect deployment run load-sessions/daily-load --watch`."
        ]
    print(json.dumps(details, indent=2) if as_json else "\n".join(lines))  # noqa: T201


async def read_status(
    settings: Settings, site: str | None = None
) -> tuple[LoadCalendar, dict[str, Any]]:
    """The calendar of a site, and the status as JSON."""
    server, now = None, datetime.now(UTC)
    with suppress(DeploymentError):
        server = await find_server()
    warehouse = (await find_block(WAREHOUSE, settings, server))[0].get_warehouse()
    site_id = site or (await find_block(CREDENTIALS, settings, server))[0].site_id
    await warehouse.prepare()
    policy = RefreshPolicy(Refresh.STALE, LOOKBACK, as_of=now, now=now)
    calendar, records = await read_calendar(warehouse, site_id, policy)
    running = [one for one in records if calendar.is_running(one)]
    orphans = [one for one in records if one.state in {JobState.INTENDED, JobState.ORPHANED}]
    errors = sorted((one for one in records if one.reason), key=lambda one: one.ended_at or now)
    return calendar, {
        "site": site_id,
        "timezone": calendar.window.timezone,
        "days": {
            segment: {str(day): state for day, state in states.items()}
            for segment, states in calendar.states.items()
        },
        "running": [*map(_details, running)],
        "possible_orphans": [*map(_details, orphans)],
        "last_error": _details(errors[-1]) if errors else None,
    }


def _details(record: JobRecord) -> dict[str, str | None]:
    return {
        "day": str(record.partition.day),
        "segment": record.partition.segment,
        "intended_at": f"{record.intended_at:%F %T} UTC",
        "job": record.job_id,
        "reason": record.reason,
    }


def _line(details: dict[str, str | None]) -> str:
    return ", ".join(filter(None, details.values()))
