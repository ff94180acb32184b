"""Writers race for one partition, and their clocks are wrong: the newest result stays."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest

from prefect_wix.planning.partitions import JobState
from tests import object_stores
from tests.e2e import racer
from tests.options import repeated
from tests.processes import ROOT
from tests.warehouses import MOBILE, on_day

STORES = [pytest.param(one, marks=pytest.mark.emulators) for one in object_stores.STORES]
EMULATED = [pytest.param(one, marks=pytest.mark.emulators) for one in ("snowflake", "bigquery")]
ENGINES = ("duckdb", "postgres", "parquet", *EMULATED, *STORES)
ROUNDS = repeated(1, soak=20)
MINUTES = 60
CLOCKS = [(-10, 10), (10, -10), *repeated([], soak=[(-10, 0), (10, 0)])]
"""By how many minutes the clocks of two workers are wrong."""


@pytest.fixture(params=ENGINES)
def bench(request, make_bench):
    return make_bench(request.param)


@pytest.mark.parametrize(("first", "second"), CLOCKS)
async def test_the_job_submitted_last_wins_however_wrong_clocks_are(
    bench, first, second, monkeypatch
):
    """A worker submits a job, another one submits and publishes, and then the first publishes.

    Their clocks are ahead or behind by minutes.
    """
    warehouse = await bench.ready()
    async with racer.Wix(jobs=2) as slow, racer.Wix(jobs=1) as quick:
        racer.set_worker_clock(first * MINUTES, monkeypatch.setattr)
        waiting = asyncio.create_task(racer.load(slow, warehouse, MOBILE))
        while not slow.submits:
            await asyncio.sleep(0.01)
        racer.set_worker_clock(second * MINUTES, monkeypatch.setattr)
        assert (await racer.load(quick, warehouse, MOBILE)).state is JobState.LANDED
        await check_newest(bench, MOBILE, quick.submits)
        racer.set_worker_clock(first * MINUTES, monkeypatch.setattr)
        slow.finished.set()
        assert (await waiting).state is JobState.SUPERSEDED
        await check_newest(bench, MOBILE, quick.submits)
        assert (await racer.load(slow, warehouse, MOBILE)).state is JobState.LANDED
        await check_newest(bench, MOBILE, slow.submits)


@pytest.mark.parametrize("bench", ["duckdb", "postgres", "parquet", *STORES], indirect=True)
async def test_the_newest_of_many_racing_jobs_stays(bench):
    """Three processes load one partition twelve times each, with delays and wrong clocks."""
    await bench.ready()
    async with (
        worker(bench, wrong_by=-10 * MINUTES) as behind,
        worker(bench, wrong_by=0) as right,
        worker(bench, wrong_by=10 * MINUTES) as ahead,
    ):
        for number in range(ROUNDS):
            partition = on_day(1 + number % 31)
            landed = await asyncio.gather(*(race(one, partition) for one in (behind, right, ahead)))
            assert [one["failed"] for one in landed] == [[], [], []]
            submits = {job: times for one in landed for job, times in one["submits"].items()}
            assert len(submits) == 3 * racer.LANDINGS
            # The order of jobs that were submitted within the time of one query may be wrong.
            late = max(one["late"] for one in landed)
            await check_newest(bench, partition, submits, tolerance=late)


@asynccontextmanager
async def worker(bench, *, wrong_by):
    command = ["-m", "tests.e2e.racer", bench.url, bench.schema or "", str(wrong_by)]
    pipes = {"stdin": asyncio.subprocess.PIPE, "stdout": asyncio.subprocess.PIPE}
    process = await asyncio.create_subprocess_exec(sys.executable, *command, cwd=ROOT, **pipes)
    try:
        yield process
    finally:
        process.kill()
        await process.wait()


async def race(worker, partition):
    worker.stdin.write(f"{partition.day.day}\n".encode())
    return json.loads(await asyncio.wait_for(worker.stdout.readline(), 120))


async def check_newest(bench, partition, submits, *, tolerance=0.0):
    """The newest job's IDs are there, and the receipt has its submit time and no other.

    Args:
        submits: by job, when its submit began and ended in seconds of `time.monotonic`.
        tolerance: how many seconds apart two submits may be whose order is unknown.
    """
    ids, receipt = await bench.check(partition), await bench.receipt(partition)
    assert {session_id.partition(" ")[0] for session_id in ids} == {receipt.job_id}
    _, ended = submits[receipt.job_id]
    newer = [job for job, (began, _) in submits.items() if began - tolerance > ended]
    assert newer == [], tolerance
    assert tolerance < MINUTES, "the clocks must be wrong by more than that"
    assert receipt.confirmed_at == receipt.submitted_at
    submitted = datetime.now(UTC) - timedelta(seconds=time.monotonic() - ended)
    assert abs(receipt.submitted_at - submitted) < timedelta(minutes=1)
