"""This project as a contestant with Prefect: the flow, against a Prefect server of its own.

The server is up before the clock starts, and shares the machine. The flow run is the first of its
process, as it is for a worker; so what Prefect does once in a process is in the figure.
"""

from __future__ import annotations

import asyncio
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory

from prefect.settings import PREFECT_LOCAL_STORAGE_PATH, temporary_settings
from prefect.testing.utilities import prefect_test_harness

from benchmarks.contest import Task, tell, told_task
from benchmarks.ours import SEGMENT, HastyClock
from flows.load_sessions import load_sessions
from prefect_wix import SessionsWarehouse, WixCredentials
from prefect_wix.client.auth import ApiKeyAuth
from prefect_wix.client.client import WixClient

CLOCK = HastyClock()


class HastyCredentials(WixCredentials):
    """Credentials whose client waits for nothing between requests."""

    def get_client(self) -> WixClient:
        """See `WixCredentials.get_client`."""
        return WixClient(
            ApiKeyAuth(self.api_key.get_secret_value(), self.site_id),
            base_url=self.base_url,
            requests_per_minute=self.requests_per_minute,
            clock=CLOCK,
        )


async def load_all(task: Task) -> int:
    """Land every day by the flow. Returns how many sessions the warehouse holds then."""
    kind = HastyCredentials if task.no_waiting else WixCredentials
    outcomes = await load_sessions(
        kind(
            api_key=task.api_key,
            site_id=task.site_id,
            base_url=task.base_url,
            requests_per_minute=task.requests_per_minute,
        ),
        SessionsWarehouse(url=task.warehouse),
        start_date=date.fromisoformat(task.days[0][0]),
        end_date=date.fromisoformat(task.days[-1][1]),
        segments=[SEGMENT],
        timezone=task.timezone,
        jobs_in_flight=task.slots,
    )
    return sum(outcome.sessions for outcome in outcomes)


if __name__ == "__main__":
    the_task = told_task()
    with (
        TemporaryDirectory() as folder,
        temporary_settings({PREFECT_LOCAL_STORAGE_PATH: Path(folder)}),
        prefect_test_harness(server_startup_timeout=60),
    ):
        tell(lambda: asyncio.run(load_all(the_task)))
