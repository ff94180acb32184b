"""The scheduled time of a run, from which a load counts its days even if the run starts late.

Also today, for what Wix counts from the present.
"""

from __future__ import annotations

from datetime import UTC, date, datetime
from uuid import UUID
from zoneinfo import ZoneInfo

import prefect.runtime
from prefect.client.orchestration import get_client

_times: dict[str, datetime] = {}


async def scheduled_time() -> datetime:
    """The scheduled time of the flow run; for a subflow, that of its root run.

    A retry of the run gets the same time. The server is read once in a run, not for every site.
    """
    run_id = prefect.runtime.flow_run.id
    if run_id is None:
        return datetime.now(UTC)
    if run_id not in _times:
        _times[run_id] = await _read_scheduled_time(run_id)
    return _times[run_id]


async def _read_scheduled_time(run_id: str) -> datetime:
    root_id = prefect.runtime.flow_run.root_flow_run_id
    if root_id in (None, run_id):
        return prefect.runtime.flow_run.scheduled_start_time or datetime.now(UTC)
    async with get_client() as client:
        root = await client.read_flow_run(UUID(str(root_id)))
    return root.expected_start_time or datetime.now(UTC)


def local_today(timezone: str) -> date:
    """The local day of this moment, not of the scheduled time."""
    return datetime.now(ZoneInfo(timezone)).date()
