"""A flow in its own process: submit, wait for and fetch one job, each in a task.

Used by test_shared_rate_limit: ``python -m tests.e2e.three_tasks``. Prints the seconds that the
three tasks took.
"""

from __future__ import annotations

import asyncio
import sys
import time

from prefect import flow

from prefect_wix import WixCredentials
from prefect_wix.client.models import DeviceType, Period, SessionsQuery
from prefect_wix.tasks.jobs import fetch_session_ids, submit_sessions_job, wait_for_sessions_job

QUERY = SessionsQuery(period=Period.TODAY, device_type=DeviceType.ALL, timezone="UTC")


@flow
async def list_today() -> float:
    credentials = await WixCredentials.aload("wix")
    started_at = time.monotonic()
    job = await submit_sessions_job(credentials, QUERY)
    job = await wait_for_sessions_job(credentials, job)
    await fetch_session_ids(credentials, job)
    return time.monotonic() - started_at


if __name__ == "__main__":
    sys.stdout.write(str(asyncio.run(list_today())))
