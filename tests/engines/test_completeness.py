"""The certificate detects wrong listings that pass verification, without false alarms.

Partitions are loaded from the sandbox over HTTP, with its faults.
"""

from __future__ import annotations

from datetime import UTC, date, datetime
from itertools import pairwise

import pytest

from prefect_wix.client.auth import ApiKeyAuth
from prefect_wix.client.client import WixClient
from prefect_wix.client.models import FunnelStep
from prefect_wix.jobs.poll_policy import PollPolicy
from prefect_wix.load.loader import load_partitions
from prefect_wix.load.partition_load import LoadOptions
from prefect_wix.planning.partitions import JobState, Partition
from prefect_wix.planning.segments import Segment
from prefect_wix.planning.windows import ONE_DAY, Window
from prefect_wix.profiles.profiling import profile_window, summarize
from prefect_wix.sandbox import Fault, World, running
from prefect_wix.warehouse.factory import open_warehouse
from tests.options import repeated

START = date(2024, 3, 1)
STEPS = tuple(FunnelStep)
SEGMENTS = (
    *(f"device_type={device}" for device in ("DESKTOP", "MOBILE", "TABLET", "ALL")),
    *(Segment(funnel_include=step).key for step in STEPS),
    *(Segment(funnel_include=outer, funnel_exclude=inner).key for outer, inner in pairwise(STEPS)),
)
"""With the exclusions, each segment is part of a relation that is an equation."""
FAULTY = (1, 5, 12, 3, 6, 8, 10)[: repeated(3, soak=7)]
WINDOW = Window(START, START + len(FAULTY) * ONE_DAY, "UTC")
WORLD = World.generate(sessions=400, days=len(FAULTY), start=START, timezone="UTC")
QUICK = PollPolicy(first_wait_seconds=0.001)


async def load(sandbox, warehouse, window=WINDOW, segments=SEGMENTS):
    """Load each day and segment, one job at a time."""
    auth = ApiKeyAuth(sandbox.api_key, sandbox.site_id)
    partitions = [
        Partition(sandbox.site_id, day, key, "UTC") for day in window.days() for key in segments
    ]
    async with WixClient(auth, base_url=sandbox.url, requests_per_minute=100_000) as client:
        options = LoadOptions(datetime.now(UTC), jobs_in_flight=1, poll_policy=QUICK)
        results = await load_partitions(
            client, warehouse, partitions, options, on_progress=ignore_progress
        )
    assert JobState.FAILED not in {result.state for result in results}


async def ignore_progress(result):
    """Accept the progress and do nothing."""


async def broken_days(sandbox, warehouse, window=WINDOW):
    """The days with a broken relation."""
    await profile_window(warehouse, sandbox.site_id, window, {})
    summary = await summarize(warehouse, sandbox.site_id, window, {})
    return sorted({row.day for row in summary.broken})


@pytest.fixture
async def warehouse(tmp_path):
    warehouse = open_warehouse(f"duckdb:///{tmp_path}/sessions.duckdb")
    await warehouse.prepare()
    return warehouse


UNDETECTED = {
    "one ID is lost": {"kind": "growing_result", "until": 1, "step": 0},
    "the result is another job's": {"kind": "swapped_job"},
}


@pytest.mark.parametrize("fault", UNDETECTED.values(), ids=UNDETECTED)
async def test_a_wrong_listing_with_a_matching_total_breaks_a_relation(warehouse, fault):
    """One segment per day is wrong, and the certificate is broken on every day."""
    faults = [
        Fault(**fault, times=1, after=day * len(SEGMENTS) + segment)
        for day, segment in enumerate(FAULTY)
    ]
    with running(WORLD, faults=faults) as sandbox:
        await load(sandbox, warehouse)
        assert await broken_days(sandbox, warehouse) == list(WINDOW.days())


async def test_a_stale_result_breaks_a_relation(warehouse):
    """A day is loaded at noon and after its end; one segment gets its noon result again."""
    noon = datetime(2024, 3, 1, 12, tzinfo=UTC)
    now = noon
    window = Window(START, START + ONE_DAY, "UTC")
    with running(WORLD, now=lambda: now) as sandbox:
        await load(sandbox, warehouse, window)
        now = noon + 2 * ONE_DAY
        sandbox.faults = [Fault("stale_result", times=1, after=1)]
        await load(sandbox, warehouse, window)
        assert await broken_days(sandbox, warehouse, window) == [START]
        sandbox.faults = []
        await load(sandbox, warehouse, window)
        assert await broken_days(sandbox, warehouse, window) == []


@pytest.mark.parametrize("kind", ["repeats", "lossy_repeats", "small_pages"])
async def test_faults_that_the_listing_corrects_break_no_relation(warehouse, kind):
    """Repeated IDs and lost IDs are corrected before the partition is published."""
    window = Window(START, START + 2 * ONE_DAY, "UTC")
    with running(WORLD, faults=[Fault("small_pages", size=50), Fault(kind)]) as sandbox:
        await load(sandbox, warehouse, window)
        assert await broken_days(sandbox, warehouse, window) == []
        summary = await summarize(warehouse, sandbox.site_id, window, {})
        assert {row.state for row in summary.certificate} == {"held"}
