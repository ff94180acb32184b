"""What the listing can't see, the segments of a day say of each other; and no more than is true.

Everything is asked over HTTP from the sandbox and landed, with what the sandbox got wrong.
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

START = date(2024, 3, 1)
STEPS = tuple(FunnelStep)
SEGMENTS = (
    *(f"device_type={device}" for device in ("DESKTOP", "MOBILE", "TABLET", "ALL")),
    *(Segment(funnel_include=step).key for step in STEPS),
    *(Segment(funnel_include=outer, funnel_exclude=inner).key for outer, inner in pairwise(STEPS)),
)
"""With the exclusions each segment is bound to others by an equation."""
STRUCK = (1, 3, 5, 6, 8, 10, 12)
WINDOW = Window(START, START + len(STRUCK) * ONE_DAY, "UTC")
WORLD = World.generate(sessions=2_500, days=len(STRUCK), start=START, timezone="UTC")
QUICK = PollPolicy(first_wait_seconds=0.001)


async def load(sandbox, warehouse, window=WINDOW, segments=SEGMENTS):
    """Ask for each day and segment, one after the other, and land the answers."""
    auth = ApiKeyAuth(sandbox.api_key, sandbox.site_id)
    partitions = [
        Partition(sandbox.site_id, day, key, "UTC") for day in window.days() for key in segments
    ]
    async with WixClient(auth, base_url=sandbox.url, requests_per_minute=100_000) as client:
        options = LoadOptions(datetime.now(UTC), jobs_in_flight=1, poll_policy=QUICK)
        outcomes = await load_partitions(
            client, warehouse, partitions, options, on_progress=nothing
        )
    assert JobState.FAILED not in {one.state for one in outcomes}


async def nothing(outcome):
    """Nobody watches."""


async def broken_days(sandbox, warehouse, window=WINDOW):
    """The days on which a relation is broken."""
    await profile_window(warehouse, sandbox.site_id, window, {})
    summary = await summarize(warehouse, sandbox.site_id, window, {})
    return sorted({row.day for row in summary.broken})


@pytest.fixture
async def warehouse(tmp_path):
    warehouse = open_warehouse(f"duckdb:///{tmp_path}/sessions.duckdb")
    await warehouse.prepare()
    return warehouse


SILENT = {
    "one id is lost": {"kind": "growing_result", "until": 1, "step": 0},
    "the answer is another job's": {"kind": "swapped_job"},
}


@pytest.mark.parametrize("fault", SILENT.values(), ids=SILENT)
async def test_what_goes_wrong_in_silence_breaks_a_relation(warehouse, fault):
    """One segment a day is wrong, and its total agrees: every such day is found out."""
    faults = [
        Fault(**fault, times=1, after=day * len(SEGMENTS) + struck)
        for day, struck in enumerate(STRUCK)
    ]
    with running(WORLD, faults=faults) as sandbox:
        await load(sandbox, warehouse)
        assert await broken_days(sandbox, warehouse) == list(WINDOW.days())


async def test_an_answer_from_a_stale_cache_breaks_a_relation(warehouse):
    """A day is asked at noon and again when it is over; one segment gets what it was at noon."""
    noon = datetime(2024, 3, 1, 12, tzinfo=UTC)
    hour = noon
    window = Window(START, START + ONE_DAY, "UTC")
    with running(WORLD, now=lambda: hour) as sandbox:
        await load(sandbox, warehouse, window)
        hour = noon + 2 * ONE_DAY
        sandbox.faults = [Fault("stale_result", times=1, after=1)]
        await load(sandbox, warehouse, window)
        assert await broken_days(sandbox, warehouse, window) == [START]
        sandbox.faults = []
        await load(sandbox, warehouse, window)
        assert await broken_days(sandbox, warehouse, window) == []


@pytest.mark.parametrize("kind", ["repeats", "lossy_repeats", "small_pages"])
async def test_what_the_listing_mends_gives_no_alarm(warehouse, kind):
    """Repeated ids and pages that lose some are put right before they land."""
    window = Window(START, START + 2 * ONE_DAY, "UTC")
    with running(WORLD, faults=[Fault("small_pages", size=50), Fault(kind)]) as sandbox:
        await load(sandbox, warehouse, window)
        assert await broken_days(sandbox, warehouse, window) == []
        summary = await summarize(warehouse, sandbox.site_id, window, {})
        assert {row.state for row in summary.certificate} == {"held"}
