"""When a run was due: what a scheduled load counts its days from, however late it starts."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

import prefect.runtime
from prefect.client.orchestration import get_client

__all__ = ["scheduled_time"]


async def scheduled_time() -> datetime:
    """When the flow run was scheduled for; for a subflow, when the run at the root of it was.

    It stays the same when the run is retried.
    """
    run_id, root_id = prefect.runtime.flow_run.id, prefect.runtime.flow_run.root_flow_run_id
    if root_id in (None, run_id):
        return prefect.runtime.flow_run.scheduled_start_time or datetime.now(UTC)
    async with get_client() as client:
        root = await client.read_flow_run(UUID(str(root_id)))
    return root.expected_start_time or datetime.now(UTC)
