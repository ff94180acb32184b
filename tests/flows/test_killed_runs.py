"""A flow run that is killed with SIGKILL and retried."""

from __future__ import annotations

import asyncio
import os
import signal
import sys

from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, PREFECT_LOCAL_STORAGE_PATH
from prefect.states import AwaitingRetry, Pending

from prefect_wix import SessionsQuery
from prefect_wix.flows.list_sessions import list_sessions
from prefect_wix.sandbox import Fault
from tests.processes import ROOT


async def test_a_retry_of_a_killed_run_adopts_its_job(shop, credentials, tmp_path):
    """The retry polls the job of the first attempt and submits nothing."""
    await credentials.asave("killed-run", overwrite=True)
    shop.faults = [Fault("job_never_finishes")]
    async with get_client() as client:
        flow_run = await client.create_flow_run(list_sessions, state=Pending())
        first = await start(flow_run.id, tmp_path / "out.csv")
        while shop.count("result") == 0:
            assert first.returncode is None
            await asyncio.sleep(0.1)
        os.kill(first.pid, signal.SIGKILL)
        await first.wait()
        shop.faults = []
        await client.set_flow_run_state(flow_run.id, AwaitingRetry(), force=True)
        second = await start(flow_run.id, tmp_path / "out.csv")
        assert await asyncio.wait_for(second.wait(), 60) == 0
        assert (await client.read_flow_run(flow_run.id)).state.is_completed()
    assert len(shop.submits) == 1
    ids = (tmp_path / "out.csv").read_text().splitlines()[1:]
    query = SessionsQuery(start_date="2024-03-01", end_date="2024-03-04", device_type="ALL")
    assert set(ids) == shop.answer(query.to_wire())


async def start(flow_run_id, output):
    """Execute the flow run in another process, with the same Prefect server."""
    environment = {
        **os.environ,
        "PREFECT_API_URL": str(PREFECT_API_URL.value()),
        "PREFECT_LOCAL_STORAGE_PATH": str(PREFECT_LOCAL_STORAGE_PATH.value()),
    }
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.flows.killed_run", str(flow_run_id), str(output),
        cwd=ROOT, env=environment,
    )  # fmt: skip
