"""The hourly deployment over a whole local day, on the sandbox over HTTP, with a virtual clock."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest

from prefect_wix.blocks.credentials import WixCredentials
from prefect_wix.blocks.warehouse import SessionsWarehouse
from prefect_wix.client.auth import ApiKeyAuth
from prefect_wix.client.client import WixClient
from prefect_wix.deployments.definitions import DEPLOYMENTS
from prefect_wix.jobs import listing, polling
from prefect_wix.jobs.poll_policy import PollPolicy
from prefect_wix.load import partition_load
from prefect_wix.load.loader import load_partitions
from prefect_wix.load.partition_load import LoadOptions
from prefect_wix.planning.partitions import JobState
from prefect_wix.planning.plan import Refresh, RefreshPolicy
from prefect_wix.planning.segments import parse_segments
from prefect_wix.planning.windows import ONE_DAY, choose_window, day_begins
from prefect_wix.sandbox import World, running
from prefect_wix.tasks.loads import plan_sessions_load
from prefect_wix.warehouse import duckdb
from tests.e2e.loader import nothing

ZONE = "Europe/Berlin"
SEGMENT = "device_type=MOBILE"
HOUR = timedelta(hours=1)
(HOURLY,) = (one for one in DEPLOYMENTS if one.name == "hourly-today")


class Clock(datetime):
    """The clock of the load, of the warehouse and of the sandbox."""

    at: datetime

    @classmethod
    def now(cls, tz=UTC):
        return cls.at.astimezone(tz)


@pytest.fixture
def clock(monkeypatch):
    for module in (partition_load, listing, polling, duckdb):
        monkeypatch.setattr(module, "datetime", Clock)
    return Clock


@pytest.mark.parametrize(("day", "hours"), [(date(2024, 3, 31), 23), (date(2024, 10, 27), 25)])
async def test_each_session_of_an_hourly_day_lands_once(day, hours, clock, make_bench):
    """Each run sends the requests that its estimate says; the first one after midnight settles."""
    bench, begins = make_bench("duckdb"), day_begins(day, ZONE)
    world = World.generate(sessions=900, start=day - ONE_DAY, days=3, timezone=ZONE)
    with running(world, now=clock.now) as shop:
        loaded = [await run_hourly(shop, bench, clock, begins + n * HOUR) for n in range(hours + 3)]
    expected = sorted(one.id for one in world.sessions() if on(one, day))
    assert await landed(bench, "wix_session_ids", day) == expected
    assert await landed(bench, "wix_session_changes", day) == expected
    jobs = [(one.day, n) for n, partitions in enumerate(loaded) for one in partitions]
    assert [n for one, n in jobs if one == day] == [*range(hours + 1)]
    assert [n for one, n in jobs if one == day - ONE_DAY] == [0]


async def run_hourly(shop, bench, clock, at):
    """The partitions that the run of an hour loads, as `load_sessions` plans them."""
    clock.at, before = at, shop.count()
    block = WixCredentials(api_key=shop.api_key, site_id=shop.site_id, base_url=shop.url)
    days, refresh = HOURLY.parameters["days"], Refresh(HOURLY.parameters["refresh"])
    window = choose_window(None, None, days, before=at, timezone=ZONE, include_today=True)
    plan, estimate = await plan_sessions_load.fn(
        block,
        SessionsWarehouse(url=bench.url, schema=bench.schema),
        window,
        parse_segments([SEGMENT]),
        RefreshPolicy(refresh, timedelta(3), as_of=at, now=at),
        catch_up=True,
    )
    auth = ApiKeyAuth(shop.api_key, shop.site_id)
    async with WixClient(auth, base_url=shop.url) as client:
        warehouse, partitions = bench.open(), [*plan.to_load]
        options = LoadOptions(at, poll_policy=PollPolicy(first_wait_seconds=0.02))
        results = await load_partitions(client, warehouse, partitions, options, on_progress=nothing)
    assert {one.state for one in results} <= {JobState.LANDED, JobState.UNCHANGED}
    assert shop.count() - before == estimate.requests.expected
    return partitions


def on(session, day):
    begins, ends = day_begins(day, ZONE), day_begins(day + ONE_DAY, ZONE)
    return begins <= session.arrival < ends and session.device == "MOBILE"


async def landed(bench, table, day):
    """The IDs of a day, sorted."""
    where = f"WHERE session_date = '{day}' ORDER BY 1"
    rows = await bench.sql(f"SELECT session_id FROM {bench.name(table)} {where}")
    return [session_id for (session_id,) in rows]
