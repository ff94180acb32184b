"""Session profiles: what is computed from bare ids is what is true of every session."""

from __future__ import annotations

import asyncio
import tempfile
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefect_wix.errors import WarehouseUnsupportedError
from prefect_wix.models import FunnelStep, SessionsJob
from prefect_wix.partitions import Ask, Partition
from prefect_wix.profiles import profiling
from prefect_wix.profiles.profiling import keep_counts, profile_window, summarize
from prefect_wix.profiles.summary import FunnelStepCount, RelationState
from prefect_wix.sandbox import Rules, Session, World
from prefect_wix.sandbox.answers import answer
from prefect_wix.windows import ONE_DAY, Window
from tests.warehouses import DuckDBBench, an_answer

SITE = "site-1"
NOW = datetime(2030, 1, 1, tzinfo=UTC)
DEVICES = ("DESKTOP", "MOBILE", "TABLET")
STEPS = tuple(FunnelStep)
ALL = "device_type=ALL"
REACHED = {step: f"conversion_funnel=+{step}" for step in STEPS}
NINE = (*(f"device_type={device}" for device in DEVICES), ALL, *REACHED.values())
HELD, BROKEN, NOT_TESTABLE = RelationState
DAY = date(2024, 3, 8)
WEEK = Window(DAY, DAY + 7 * ONE_DAY, "Asia/Jerusalem")
ONE = Window(DAY, DAY + ONE_DAY, "UTC")
TWO = Window(DAY, DAY + 2 * ONE_DAY, "UTC")


# -- worlds and warehouses -----------------------------------------------------------------------


async def land(warehouse, ids, partition, *, asked_at=NOW):
    """Land ids as the answer to a job."""
    query, site = partition.query, partition.site_id
    job_id = f"job {partition} {asked_at}"
    job = SessionsJob(job_id=job_id, query=query, site_id=site, submitted_at=asked_at)
    ask = Ask.intend(partition, at=asked_at, run_id=None).submitted(job)
    with an_answer(ids, partition, ask=ask) as ready:
        return await warehouse.publish(ready)


async def land_world(warehouse, world, window, segments=NINE, *, rules=None, site=SITE):
    """Land what Wix lists for each day and segment of a world."""
    for day in window.days():
        for key in segments:
            partition = Partition(site, day, key, window.timezone)
            body = partition.query.to_wire()
            places = answer(world, body, now=NOW, rules=rules or Rules())
            await land(warehouse, [world.ids[place] for place in places], partition)


async def land_days(warehouse, days, *, asked_at=NOW):
    """Land ``{day: {segment: ids}}``, where a day is a number of days after `DAY`."""
    for number, segments in days.items():
        for key, ids in segments.items():
            partition = Partition(SITE, DAY + number * ONE_DAY, key, "UTC")
            await land(warehouse, ids, partition, asked_at=asked_at)


async def profiles(bench, columns="session_date, session_id, device, deepest_step", site=SITE):
    table = bench.name("wix_sessions")
    return sorted(await bench.sql(f"SELECT {columns} FROM {table} WHERE site_id = '{site}'"))


def truth(world, window):
    """Day, id, device and deepest step of every session that arrives in the window."""
    zone = ZoneInfo(window.timezone)
    rows = [
        (one.arrival.astimezone(zone).date(), one.id, one.device, one.depth)
        for one in world.sessions()
    ]
    return sorted((row for row in rows if window.start <= row[0] < window.end), key=str)


async def states(warehouse, window=ONE, flows=None):
    """Relation -> its state on each day, in order."""
    found = {}
    for row in (await summarize(warehouse, SITE, window, flows or {})).certificate:
        found.setdefault(row.relation, []).append(row.state)
    return found


@pytest.fixture(params=["duckdb", "postgres"])
def bench(request, make_bench):
    return make_bench(request.param)


@pytest.fixture
async def warehouse(bench):
    return await bench.ready()


# -- reconstructed = true ------------------------------------------------------------------------

WORLDS = {
    "seed": st.integers(0, 2**31),
    "sessions": st.integers(0, 400),
    "days": st.integers(1, 3),
    "start": st.dates(date(2020, 1, 1), date(2028, 1, 1)),
    "timezone": st.sampled_from(["UTC", "Asia/Jerusalem", "America/Sao_Paulo", "Asia/Kolkata"]),
    "without_device": st.sampled_from([0.0, 0.25]),
}


@settings(max_examples=20, deadline=None)
@given(world=st.fixed_dictionaries(WORLDS))
def test_profiles_are_true_of_every_session_of_many_worlds(world):
    """Row by row, device and deepest step are those of the session, and nothing is broken."""
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(check_world(DuckDBBench(Path(folder)), **world))


async def test_profiles_are_true_in_postgres_too(make_bench):
    """The same, for a few worlds side by side in one PostgreSQL."""
    bench = make_bench("postgres")
    for seed in range(4):
        await check_world(
            bench,
            site=f"site-{seed}",
            seed=seed,
            sessions=200 * seed,
            days=2,
            start=date(2024, 3, 28 + seed % 2),
            timezone="Asia/Jerusalem",
            without_device=0.25 * (seed % 2),
        )


async def check_world(bench, *, days, start, timezone, without_device, site=SITE, **drawn):
    world = World.generate(
        days=days, start=start, timezone=timezone, without_device=without_device, **drawn
    )
    window = Window(start, start + days * ONE_DAY, timezone)
    warehouse = await bench.ready()
    await land_world(warehouse, world, window, site=site)
    assert await profile_window(warehouse, site, window, {}) == list(window.days())
    assert sorted(await profiles(bench, site=site), key=str) == truth(world, window)
    summary = await summarize(warehouse, site, window, {})
    broken = {row.relation for row in summary.broken}
    unknown = any(one.device is None for one in world.sessions())
    assert broken == ({"devices_make_all"} if unknown else set())
    assert {one.kind for one in summary.kinds} <= {"regular", "no_device"}
