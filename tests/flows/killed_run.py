"""One flow run in a process of its own, which test_killed_runs kills."""

from __future__ import annotations

import asyncio
import sys
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.flow_engine import run_flow

from prefect_wix import SessionsQuery, WixCredentials
from prefect_wix.flows.list_sessions import list_sessions


async def main(flow_run_id, output):
    async with get_client() as client:
        flow_run = await client.read_flow_run(UUID(flow_run_id))
    parameters = {
        "credentials": await WixCredentials.aload("killed-run"),
        "query": SessionsQuery(start_date="2024-03-01", end_date="2024-03-04", device_type="ALL"),
        "output": output,
    }
    await run_flow(list_sessions, flow_run=flow_run, parameters=parameters)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
