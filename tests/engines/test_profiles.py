"""Session profiles and certificates, computed in a warehouse from landed session IDs."""

from __future__ import annotations

import asyncio
import tempfile
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import asyncpg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefect_wix.client.models import FunnelStep, SessionsJob
from prefect_wix.errors import WarehouseUnsupportedError
from prefect_wix.planning.partitions import UNCONFIRMED, JobRecord, Partition
from prefect_wix.planning.windows import ONE_DAY, Window
from prefect_wix.profiles import profiling
from prefect_wix.profiles.profiling import profile_window, store_counts, summarize
from prefect_wix.profiles.schema import prepare_profiles
from prefect_wix.profiles.steps import Profiling
from prefect_wix.profiles.summary import RelationState
from prefect_wix.sandbox import Rules, Session, World
from prefect_wix.sandbox.query import find_sessions
from prefect_wix.warehouse.factory import open_warehouse
from prefect_wix.warehouse.interface import kept_open
from prefect_wix.warehouse.schema import drive_async
from prefect_wix.warehouse.transactions import SessionTransactions
from tests.options import repeated
from tests.warehouses import DuckDBBench, a_listing, intended

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


async def land(warehouse, ids, partition, *, submitted_at=NOW):
    """Publish IDs as the listing of a job."""
    query, site = partition.query, partition.site_id
    job_id = f"job {partition} {submitted_at}"
    job = SessionsJob(job_id=job_id, query=query, site_id=site, submitted_at=submitted_at)
    record = JobRecord.intend(partition, at=submitted_at, run_id=None).submitted(job)
    with a_listing(ids, partition, record=await intended(warehouse, record)) as listing:
        return await warehouse.publish(listing)


async def land_world(warehouse, world, window, segments=NINE, *, rules=None, site=SITE):
    """Land the IDs that Wix lists for each day and segment of a world."""
    async with kept_open(warehouse):
        for day in window.days():
            for key in segments:
                partition = Partition(site, day, key, window.timezone)
                body = partition.query.to_wire()
                places = find_sessions(world, body, now=NOW, rules=rules or Rules())
                await land(warehouse, [world.ids[place] for place in places], partition)


async def land_days(warehouse, days, *, submitted_at=NOW):
    """Land ``{day: {segment: ids}}``; a day is a number of days after `DAY`."""
    async with kept_open(warehouse):
        for number, segments in days.items():
            for key, ids in segments.items():
                partition = Partition(SITE, DAY + number * ONE_DAY, key, "UTC")
                await land(warehouse, ids, partition, submitted_at=submitted_at)


async def read_profiles(bench, columns="session_date, session_id, device, deepest_step", site=SITE):
    table = bench.name("wix_sessions")
    return sorted(await bench.sql(f"SELECT {columns} FROM {table} WHERE site_id = '{site}'"))


def truth(world, window):
    """Day, ID, device and deepest step of every session that arrives in the window."""
    zone = ZoneInfo(window.timezone)
    rows = [
        (one.arrival.astimezone(zone).date(), one.id, one.device, one.depth)
        for one in world.sessions()
    ]
    return sorted((row for row in rows if window.start <= row[0] < window.end), key=str)


async def states(warehouse, window=ONE, flows=None):
    """Relation -> its state on each day, oldest first."""
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


# -- attributes ----------------------------------------------------------------------------------

WORLDS = {
    "seed": st.integers(0, 2**31),
    "sessions": st.integers(0, 400),
    "days": st.integers(1, 3),
    "start": st.dates(date(2020, 1, 1), date(2028, 1, 1)),
    "timezone": st.sampled_from(["UTC", "Asia/Jerusalem", "America/Sao_Paulo", "Asia/Kolkata"]),
    "without_device": st.sampled_from([0.0, 0.25]),
}


@settings(max_examples=repeated(4, soak=60), deadline=None)
@given(world=st.fixed_dictionaries(WORLDS))
def test_device_and_deepest_step_are_right_for_every_session_of_many_worlds(world):
    """Each row has the session's device and deepest step, and no relation is broken."""
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(check_world(DuckDBBench(Path(folder)), **world))


async def test_device_and_deepest_step_are_right_in_postgres(make_bench):
    """The same holds for several sites in one PostgreSQL database."""
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
    assert sorted(await read_profiles(bench, site=site), key=str) == truth(world, window)
    summary = await summarize(warehouse, site, window, {})
    broken = {row.relation for row in summary.broken}
    unknown = any(one.device is None for one in world.sessions())
    assert broken == ({"devices_make_all"} if unknown else set())
    assert summary.kinds.keys() <= {"regular", "no_device"}


# -- irregular sessions --------------------------------------------------------------------------

IRREGULAR = {
    "two devices": (["MOBILE", "TABLET", "ALL"], [0], (None, STEPS[0], "two_devices")),
    "no device": (["ALL"], [0, 1], (None, STEPS[1], "no_device")),
    "outside all": (["MOBILE"], [0], ("MOBILE", STEPS[0], "outside_all")),
    "outside the funnel": (["MOBILE", "ALL"], [], ("MOBILE", STEPS[0], "outside_all")),
    "a step left out": (["MOBILE", "ALL"], [0, 1, 4], ("MOBILE", STEPS[4], "broken_funnel")),
    "as expected": (["DESKTOP", "ALL"], [0, 1, 2], ("DESKTOP", STEPS[2], "regular")),
}


async def test_every_irregular_session_has_a_row_with_its_kind(bench, warehouse):
    """The kind names the irregularity; an ambiguous device is NULL."""
    segments = {key: [] for key in NINE}
    for name, (devices, steps, _) in IRREGULAR.items():
        for key in (
            *(f"device_type={one}" for one in devices),
            *(REACHED[STEPS[n]] for n in steps),
        ):
            segments[key].append(name)
    await land_days(warehouse, {0: segments})
    await profile_window(warehouse, SITE, ONE, {})
    rows = await read_profiles(bench, "session_id, device, deepest_step, kind")
    assert rows == sorted((name, *row) for name, (_, _, row) in IRREGULAR.items())


async def test_a_visit_over_midnight_has_a_row_on_both_days(bench, warehouse):
    """The second row is marked as continued, and the relation days_tile holds."""
    night = datetime(2024, 3, 8, 23, 55, tzinfo=UTC)
    world = World(
        [
            Session(id="night", arrival=night, end=night + timedelta(hours=1)),
            Session(id="day", arrival=night - timedelta(hours=9), end=night - timedelta(hours=8)),
        ]
    )
    await land_world(warehouse, world, TWO, rules=Rules(midnight="both"))
    await profile_window(warehouse, SITE, TWO, {})
    assert await read_profiles(bench, "session_date, session_id, kind, continued") == [
        (DAY, "day", "regular", False),
        (DAY, "night", "on_two_days", False),
        (DAY + ONE_DAY, "night", "on_two_days", True),
    ]
    summary = await summarize(warehouse, SITE, TWO, {})
    tiles = [row for row in summary.certificate if row.relation == "days_tile"]
    assert [(row.state, row.exceptions, row.examples) for row in tiles] == 2 * [
        (HELD, 1, ("night",))
    ]


async def test_attributes_without_landed_segments_are_null(bench, warehouse):
    """With two steps and one device landed, a profile has only what these segments prove."""
    steps = (FunnelStep.VIEWED_PRODUCT, FunnelStep.REACHED_CHECKOUT)
    ids = {ALL: ["a", "b", "c"], "device_type=MOBILE": ["a", "c"]}
    funnel = {REACHED[steps[0]]: ["b", "c"], REACHED[steps[1]]: ["c"]}
    await land_days(warehouse, {0: ids | funnel})
    await profile_window(warehouse, SITE, ONE, {})
    assert await read_profiles(bench, "session_id, device, deepest_step, dropped_before, kind") == [
        ("a", "MOBILE", "SITE_SESSIONS", "VIEWED_PRODUCT", "regular"),
        ("b", None, "VIEWED_PRODUCT", "REACHED_CHECKOUT", "regular"),
        ("c", "MOBILE", "REACHED_CHECKOUT", None, "regular"),
    ]


async def test_an_exclusion_gives_the_step_before_which_a_session_dropped(bench, warehouse):
    """One segment gives both the step that was reached and the step that was not."""
    key = "conversion_funnel=+VIEWED_PRODUCT-ADDED_TO_CART"
    await land_days(warehouse, {0: {key: ["a"]}})
    await profile_window(warehouse, SITE, ONE, {})
    rows = await read_profiles(bench, "device, deepest_step, dropped_before")
    assert rows == [(None, "VIEWED_PRODUCT", "ADDED_TO_CART")]


async def test_a_profile_has_the_times_of_its_first_and_last_job(bench, warehouse):
    """first_seen_at and last_seen_at are the submit times of the jobs that listed the session."""
    later = NOW + timedelta(hours=5)
    await land_days(warehouse, {0: {ALL: ["a", "b"]}})
    await land_days(warehouse, {0: {"device_type=MOBILE": ["a"]}}, submitted_at=later)
    await profile_window(warehouse, SITE, ONE, {})
    rows = await read_profiles(bench, "session_id, first_seen_at, last_seen_at")
    assert rows == [("a", NOW, later), ("b", NOW, NOW)]


# -- flows ---------------------------------------------------------------------------------------

LEFT, STAYED = "navigation_flow=/{Homepage}>__DROP__", "navigation_flow=/{Homepage}>*"


async def test_flows_are_stored_under_their_names(bench, warehouse):
    """A flow without a name is stored under its key; a new name makes the day stale."""
    table = bench.name("wix_session_flows")
    await land_days(warehouse, {0: {ALL: ["a", "b", "c"], LEFT: ["a"], STAYED: ["b", "c"]}})
    names = {"left": LEFT, "never_landed": "navigation_flow=/shop"}
    assert await profile_window(warehouse, SITE, ONE, names) == [DAY]
    rows = await bench.sql(f"SELECT session_id, flow FROM {table} ORDER BY 1")
    assert rows == [("a", "left"), ("b", STAYED), ("c", STAYED)]
    summary = await summarize(warehouse, SITE, ONE, names)
    assert [(one.flow, one.sessions, one.days) for one in summary.flows] == [
        ("left", 1, 1),
        (STAYED, 2, 1),
    ]
    assert await profile_window(warehouse, SITE, ONE, names) == []
    assert await profile_window(warehouse, SITE, ONE, {**names, "stayed": STAYED}) == [DAY]
    rows = await bench.sql(f"SELECT session_id, flow FROM {table} ORDER BY 1")
    assert rows == [("a", "left"), ("b", "stayed"), ("c", "stayed")]


async def test_a_flow_that_is_not_a_navigation_flow_is_rejected(warehouse):
    """The error names the flow and its key."""
    with pytest.raises(ValueError, match="flow 'mobile' is 'device_type=MOBILE', which is not"):
        await profile_window(warehouse, SITE, ONE, {"mobile": "device_type=MOBILE"})


# -- stale days ----------------------------------------------------------------------------------


async def computed_at(bench):
    table = bench.name("wix_session_profiles")
    return dict(await bench.sql(f"SELECT session_date, computed_at FROM {table}"))


async def test_only_changed_days_and_their_neighbours_are_recomputed(bench, warehouse, monkeypatch):
    """All other days keep their rows."""
    monkeypatch.setattr(profiling, "DAYS_AT_ONCE", 3)
    days = {n: {ALL: [f"{n}-a", f"{n}-b"]} for n in range(7)}
    window = Window(DAY, DAY + 7 * ONE_DAY, "UTC")
    await land_days(warehouse, days)
    assert len(await profile_window(warehouse, SITE, window, {})) == 7
    before = await computed_at(bench)
    assert await profile_window(warehouse, SITE, window, {}) == []
    await land_days(warehouse, {2: {ALL: ["2-a", "2-c"]}}, submitted_at=NOW + ONE_DAY)
    changed = [DAY + n * ONE_DAY for n in (1, 2, 3)]
    assert await profile_window(warehouse, SITE, window, {}) == changed
    after = await computed_at(bench)
    assert [day for day in sorted(after) if after[day] != before[day]] == changed
    ids = [session_id for day, session_id, *_ in await read_profiles(bench) if day == changed[1]]
    assert ids == ["2-a", "2-c"]


async def test_a_later_job_with_the_same_ids_recomputes_nothing(warehouse):
    """The later job confirms the receipt, and the fingerprint of the day stays the same."""
    # A receipt from the future would be replaced.
    submitted_at = datetime(2025, 1, 1, tzinfo=UTC)
    await land_days(warehouse, {0: {ALL: ["a"]}}, submitted_at=submitted_at)
    await profile_window(warehouse, SITE, ONE, {})
    await land_days(warehouse, {0: {ALL: ["a"]}}, submitted_at=submitted_at + ONE_DAY)
    assert await profile_window(warehouse, SITE, ONE, {}) == []


async def test_deleting_a_segment_removes_its_part_of_the_profiles(bench, warehouse):
    """Its sessions, its device and its evidence are removed; so is a whole day."""
    await land_days(warehouse, {0: {ALL: ["a", "b"], "device_type=MOBILE": ["a", "x"]}})
    await profile_window(warehouse, SITE, ONE, {})
    await remove(bench, "segment = 'device_type=MOBILE'")
    assert await profile_window(warehouse, SITE, ONE, {}) == [DAY]
    assert await read_profiles(bench, "session_id, device") == [("a", None), ("b", None)]
    await remove(bench, "TRUE")
    assert await profile_window(warehouse, SITE, ONE, {}) == [DAY]
    assert await read_profiles(bench) == []
    assert (await states(warehouse))["days_tile"] == [BROKEN]


async def remove(bench, where):
    for table in ("wix_session_ids", "wix_session_receipts"):
        await bench.sql(f"DELETE FROM {bench.name(table)} WHERE {where}")


async def test_a_day_that_changes_during_the_computation_stays_stale(make_bench):
    """Its old rows stay, and the next profile recomputes it."""
    bench = make_bench("postgres")
    warehouse = await bench.ready()
    await prepare_profiles(warehouse)
    await land_days(warehouse, {0: {ALL: ["a"]}, 4: {ALL: ["x"]}})
    window = Window(DAY, DAY + 5 * ONE_DAY, "UTC")
    concurrent_loads = [{0: {ALL: ["b", "c"]}}]

    async def execute(statement):
        rows = await connection.fetch(statement.sql, *statement.values)
        if statement.sql.startswith("INSERT INTO wix_listed") and concurrent_loads:
            await land_days(warehouse, concurrent_loads.pop(), submitted_at=NOW + ONE_DAY)
        return rows

    connection = await asyncpg.connect(bench.url)
    async with connection.transaction():
        steps = Profiling(
            SessionTransactions(bench.schema, keys=True), SITE, window, {}, NOW
        ).compute()
        computed = await drive_async(steps, execute)
    await connection.close()
    assert computed == [DAY + n * ONE_DAY for n in (2, 3, 4)]
    assert await read_profiles(bench, "session_id") == [("x",)]
    assert await profile_window(warehouse, SITE, window, {}) == [DAY, DAY + ONE_DAY]
    assert await read_profiles(bench, "session_id") == [("b",), ("c",), ("x",)]


async def test_profiles_of_one_site_do_not_change_another_site(bench, warehouse):
    """Rows are computed, deleted and read per site."""
    other = Partition("site-2", DAY, ALL, "UTC")
    await land(warehouse, ["a"], other)
    await land_days(warehouse, {0: {ALL: ["a", "b"]}})
    for site in ("site-2", SITE, "site-2"):
        await profile_window(warehouse, site, ONE, {})
    assert len(await read_profiles(bench, site="site-2")) == 1
    assert len(await read_profiles(bench)) == 2


# -- the certificate -----------------------------------------------------------------------------


async def test_a_relation_without_its_segments_is_not_testable(warehouse):
    """The certificate names the missing segments."""
    await land_days(warehouse, {0: {ALL: ["a"], "device_type=MOBILE": ["a"]}})
    await profile_window(warehouse, SITE, ONE, {})
    summary = await summarize(warehouse, SITE, ONE, {})
    missing = {row.relation: row.missing for row in summary.certificate}
    assert missing["devices_make_all"] == ("device_type=DESKTOP", "device_type=TABLET")
    assert missing["site_sessions_are_all"] == ("conversion_funnel=+SITE_SESSIONS",)
    assert summary.states == {HELD: 1, NOT_TESTABLE: 6}


async def test_a_broken_relation_has_counts_and_examples(warehouse):
    """The row has the number of compared and contradicting IDs, and five examples."""
    outer, inner = REACHED[STEPS[1]], REACHED[STEPS[2]]
    strays = [f"stray-{n}" for n in range(7)]
    await land_days(warehouse, {0: {outer: ["a", "b"], inner: ["a", *strays]}, 1: {outer: ["c"]}})
    await profile_window(warehouse, SITE, TWO, {})
    (row,) = (await summarize(warehouse, SITE, TWO, {})).broken
    assert (row.day, row.description) == (DAY, "ADDED_TO_CART within VIEWED_PRODUCT")
    assert (row.sessions, row.exceptions, row.examples) == (9, 7, tuple(strays[:5]))


EXCLUSIONS = {
    "conversion_funnel=+VIEWED_PRODUCT-ADDED_TO_CART": ("VIEWED_PRODUCT", ["b"]),
    "conversion_funnel=-ADDED_TO_CART": ("SITE_SESSIONS", ["b", "c"]),
}


@pytest.mark.parametrize("key", EXCLUSIONS)
async def test_an_exclusion_is_the_difference_of_two_inclusions(warehouse, key):
    """The relation is held if the IDs agree, and broken if the exclusion lacks one ID."""
    funnel = {
        "SITE_SESSIONS": ["a", "b", "c"],
        "VIEWED_PRODUCT": ["a", "b"],
        "ADDED_TO_CART": ["a"],
    }
    _, rest = EXCLUSIONS[key]
    landed = {REACHED[step]: ids for step, ids in funnel.items()}
    await land_days(warehouse, {0: {**landed, key: rest}, 1: {**landed, key: rest[1:]}})
    await profile_window(warehouse, SITE, TWO, {})
    assert (await states(warehouse, TWO))[key] == [HELD, BROKEN]


async def test_a_job_submitted_before_the_end_of_the_day_is_no_evidence(warehouse):
    """A job submitted after the end of the day confirms the receipt and makes it evidence."""
    outer, inner = REACHED[STEPS[0]], REACHED[STEPS[1]]
    noon = datetime(2024, 3, 8, 12, tzinfo=UTC)
    await land_days(warehouse, {0: {outer: ["a"], inner: ["a"]}}, submitted_at=noon)
    await profile_window(warehouse, SITE, ONE, {})
    name = "viewed_product_within_site_sessions"
    assert (await states(warehouse))[name] == [NOT_TESTABLE]
    await land_days(warehouse, {0: {outer: ["a"], inner: ["a"]}})
    assert await profile_window(warehouse, SITE, ONE, {}) == [DAY]
    assert (await states(warehouse))[name] == [HELD]


async def test_a_partition_that_no_job_listed_is_no_evidence(bench, warehouse):
    """The first edition derived some segments from the relations that are tested here."""
    partition = Partition(SITE, DAY, "device_type=TABLET", "UTC")
    devices = {"device_type=DESKTOP": ["a"], "device_type=MOBILE": ["b"], ALL: ["a", "b", "c"]}
    await land_days(warehouse, {0: devices})
    await land(warehouse, ["c"], partition, submitted_at=UNCONFIRMED)
    await profile_window(warehouse, SITE, ONE, {})
    assert (await states(warehouse))["devices_make_all"] == [NOT_TESTABLE]
    await land(warehouse, ["c"], partition, submitted_at=NOW + timedelta(hours=1))
    await profile_window(warehouse, SITE, ONE, {})
    assert (await states(warehouse))["devices_make_all"] == [HELD]


async def test_a_partition_of_another_time_zone_is_ignored(bench, warehouse):
    """It gives no rows and no evidence, and the certificate names its time zone."""
    await land(warehouse, ["a"], Partition(SITE, DAY, ALL, "Asia/Tokyo"))
    await land_days(warehouse, {0: {REACHED[STEPS[0]]: ["b"]}})
    await profile_window(warehouse, SITE, ONE, {})
    assert await read_profiles(bench, "session_id") == [("b",)]
    rows = {row.relation: row for row in (await summarize(warehouse, SITE, ONE, {})).certificate}
    missing = rows["site_sessions_are_all"].missing
    assert missing == ("device_type=ALL (landed as a day of Asia/Tokyo)",)


async def test_a_day_without_receipts_breaks_days_tile(warehouse):
    """A landed day without sessions is no gap."""
    await land_days(warehouse, {0: {ALL: ["a"]}, 2: {ALL: []}})
    window = Window(DAY, DAY + 3 * ONE_DAY, "UTC")
    await profile_window(warehouse, SITE, window, {})
    assert (await states(warehouse, window))["days_tile"] == [HELD, BROKEN, HELD]


# -- reconciliation ------------------------------------------------------------------------------


async def test_reconciliation_compares_landed_sessions_with_counts(warehouse):
    """It has the ratio of each day and its trend; a later count replaces an earlier one."""
    window = Window(DAY, DAY + 3 * ONE_DAY, "UTC")
    await land_days(warehouse, {0: {ALL: ["a", "b"]}, 1: {ALL: ["c"]}, 2: {ALL: []}})
    await profile_window(warehouse, SITE, window, {})
    await store_counts(warehouse, SITE, "UTC", {DAY: 99})
    counts = {DAY: 2, DAY + ONE_DAY: 2, DAY + 2 * ONE_DAY: 0}
    await store_counts(warehouse, SITE, "UTC", counts)
    await store_counts(warehouse, SITE, "UTC", {})
    rows = (await summarize(warehouse, SITE, window, {})).reconciliation
    assert [(row.landed, row.counted, row.ratio, row.trend) for row in rows] == [
        (2, 2, 1.0, None),
        (1, 2, 0.5, -0.5),
        (0, 0, None, None),
    ]


# -- the summary ---------------------------------------------------------------------------------


async def test_the_summary_agrees_with_the_rows(warehouse):
    """Funnel, devices by day and kinds count the sessions of the window only."""
    world = World.generate(sessions=300, days=3, start=DAY, timezone="UTC")
    await land_world(warehouse, world, Window(DAY, DAY + 3 * ONE_DAY, "UTC"))
    await profile_window(warehouse, SITE, Window(DAY, DAY + 3 * ONE_DAY, "UTC"), {})
    summary = await summarize(warehouse, SITE, TWO, {})
    rows = truth(world, TWO)
    assert summary.sessions == len(rows) == sum(summary.kinds.values())
    assert [*summary.funnel.items()] == [
        (step, sum(STEPS.index(row[3]) >= at for row in rows)) for at, step in enumerate(STEPS)
    ]
    counted = {(one.day, one.device): one.sessions for one in summary.devices}
    pairs = {(row[0], row[2]) for row in rows}
    assert counted == {pair: sum((row[0], row[2]) == pair for row in rows) for pair in pairs}


# -- unsupported warehouses ----------------------------------------------------------------------


@pytest.mark.parametrize("url", ["parquet:///folder", "snowflake://me@a/db", "bigquery://p/wix"])
async def test_other_warehouses_are_not_supported(url):
    """The error names the supported warehouses."""
    with pytest.raises(WarehouseUnsupportedError, match="need a duckdb:// or postgresql://"):
        await profile_window(open_warehouse(url), SITE, ONE, {})
