"""prefect-wix with Prefect as a candidate: the flow, against a Prefect server on this machine.

The flow run is the first of its process, as on a worker, so the figures include what Prefect does
once per process.
"""

from __future__ import annotations

import asyncio
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory

from prefect.settings import PREFECT_LOCAL_STORAGE_PATH, temporary_settings

from benchmarks.ours import SEGMENT, SkippingClock
from benchmarks.task import Task, measure_work, task_from_arguments
from prefect_wix import SessionsWarehouse, WixCredentials
from prefect_wix.client.auth import ApiKeyAuth
from prefect_wix.client.client import WixClient
from prefect_wix.flows.load_sessions import load_sessions

CLOCK = SkippingClock()


class SkippingCredentials(WixCredentials):
    """Credentials whose client skips the waits between requests."""

    def get_client(self) -> WixClient:
        """See `WixCredentials.get_client`."""
        return WixClient(
            ApiKeyAuth(self.api_key.get_secret_value(), self.site_id),
            base_url=self.base_url,
            requests_per_minute=self.requests_per_minute,
            clock=CLOCK,
        )


async def load_all(task: Task) -> int:
    """Load every day by the flow. Returns the number of sessions that the warehouse contains."""
    kind = SkippingCredentials if task.no_waiting else WixCredentials
    results = await load_sessions(
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
    return sum(result.sessions for result in results)


if __name__ == "__main__":
    from prefect.testing.utilities import prefect_test_harness

    the_task = task_from_arguments()
    with (
        TemporaryDirectory() as folder,
        temporary_settings({PREFECT_LOCAL_STORAGE_PATH: Path(folder)}),
        prefect_test_harness(server_startup_timeout=60),
    ):
        measure_work(lambda: asyncio.run(load_all(the_task)))
