"""Erased session IDs are in no table, and a forgotten day is not loaded again by itself."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from datetime import date, timedelta

import pytest

from prefect_wix.cli.forget import erase
from prefect_wix.client.models import MarkAction, MarkOutcome, MarkState
from prefect_wix.errors import WarehouseUnsupportedError
from prefect_wix.load.mark_records import MarkRecords
from prefect_wix.load.session_changes import read_session_changes
from prefect_wix.planning.partitions import FORGOTTEN, JobState
from prefect_wix.planning.plan import Reason, Refresh, RefreshPolicy, make_plan
from prefect_wix.planning.windows import Window
from prefect_wix.profiles.profiling import profile_window
from prefect_wix.profiles.schema import _PROFILES as PROFILES
from prefect_wix.spool.id_spool import Spool
from prefect_wix.warehouse.schema import SESSIONS
from prefect_wix.warehouse.transactions import SqlWarehouse
from tests.warehouses import MOBILE, ZONE, a_listing, a_record, intended, land, on_day

EMULATED = [pytest.param(one, marks=pytest.mark.emulators) for one in ("snowflake", "bigquery")]
ALL_DEVICES = replace(MOBILE, segment="device_type=ALL")
SITE_SESSIONS = replace(MOBILE, segment="conversion_funnel=+SITE_SESSIONS")
OTHER_SITE = replace(MOBILE, site_id="site-2")
KEPT = on_day(9)


@pytest.fixture(params=["duckdb", "postgres", *EMULATED])
def bench(request, make_bench):
    return make_bench(request.param)


async def forget(warehouse, *, site=None, before=date.max, ids=None):
    """The number of rows by table, after a dry run that counts the same."""
    with ExitStack() as stack:
        spool = stack.enter_context(Spool()) if ids else None
        if spool is not None:
            spool.add(ids)
        would = await erase(warehouse, site, before, spool, yes=False)
        counts = await erase(warehouse, site, before, spool, yes=True)
    assert counts == would
    return {table: rows for table, rows in counts.items() if rows}


async def texts_of(bench, tables):
    """All values in the tables as one text."""
    return str([await bench.sql(f"SELECT * FROM {bench.name(one.name)}") for one in tables])


async def test_a_forgotten_day_has_no_ids_and_is_not_loaded_again(bench):
    """But for refresh=all; also if its job was running, or the day may have late sessions."""
    warehouse = await bench.ready()
    running = await intended(warehouse, a_record(hours=2))
    for partition in (MOBILE, KEPT, OTHER_SITE):
        await land(warehouse, ["a", "b"], partition)
        await land(warehouse, ["b", "c"], partition, hours=1)
    counts = await forget(warehouse, before=KEPT.day)
    rows = {"wix_session_ids": 4, "wix_session_removals": 2, "wix_session_receipts": 2}
    assert counts == rows
    for partition in (MOBILE, OTHER_SITE):
        assert (await bench.ids(partition), await bench.changes(partition)) == ([], [])
    assert sorted(await bench.check(KEPT)) == ["b", "c"]

    receipts = await warehouse.receipts("site-1", Window(MOBILE.day, KEPT.day, ZONE))
    assert [(one.digest, one.version, one.sessions) for one in receipts] == [(FORGOTTEN, 2, 2)]
    at = MOBILE.ends_at + timedelta(hours=30)
    for refresh in Refresh:
        policy = RefreshPolicy(refresh, timedelta(days=3), as_of=at, now=at)
        reasons = {MOBILE: Reason.REFRESH} if refresh is Refresh.ALL else {}
        assert make_plan([MOBILE], receipts, policy).to_load == reasons
    assert (await land(warehouse, ["a"], record=running)).state is JobState.SUPERSEDED
    assert await bench.ids() == []


async def test_a_consumer_goes_on_after_a_forgotten_day_is_loaded_again(make_bench):
    """The erased sessions are in no change, and versions go on."""
    bench = make_bench("duckdb")
    warehouse = await bench.ready()
    await land(warehouse, ["a", "b"])
    batches = [one async for one in read_session_changes(warehouse)]
    await forget(warehouse, site="site-1")
    assert [one async for one in read_session_changes(warehouse)] == []
    later = (await bench.receipt()).submitted_at + timedelta(seconds=1)
    with a_listing(["b", "c"], record=replace(a_record(), submitted_at=later)) as listing:
        # As by a load with refresh=all.
        assert (await warehouse.publish(listing)).version == 2
    [batch] = [one async for one in read_session_changes(warehouse, since=batches[-1].token)]
    assert [(one.session_id, one.version) for one in batch.changes] == [("b", 2), ("c", 2)]


async def test_an_erased_id_is_in_no_table(bench):
    """Not even in the examples of a certificate. Counts and other IDs stay."""
    warehouse, window = await bench.ready(), Window(MOBILE.day, KEPT.day, ZONE)
    await land(warehouse, ["erased-1", "erased-2", "b"])
    await land(warehouse, ["erased-1", "b"], hours=1)
    await land(warehouse, ["b"], ALL_DEVICES)
    for partition in (SITE_SESSIONS, OTHER_SITE):
        await land(warehouse, ["erased-1", "b"], partition)
    tables, expected = SESSIONS.tables, {"wix_session_ids": 3, "wix_session_removals": 1}
    if isinstance(warehouse, SqlWarehouse):
        tables += PROFILES.tables
        await profile_window(warehouse, "site-1", window, {})
        marks = MarkRecords(warehouse, "site-1", MarkAction.RECORDED)
        marked = MarkOutcome(session_ids=("erased-1", "erased-3", "b"), state=MarkState.DONE)
        await marks.record([marked])
        expected |= {"wix_session_marks": 2, "wix_sessions": 1, "wix_completeness": 1}
    assert "erased" in await texts_of(bench, tables)
    counts = await forget(warehouse, ids=["erased-1", "erased-2", "erased-3", "unknown"])
    assert counts == expected
    assert "erased" not in await texts_of(bench, tables)
    assert (await bench.ids(), await bench.ids(OTHER_SITE)) == (["b"], ["b"])
    assert (await bench.receipt()).sessions == 2
    assert (await land(warehouse, ["b"], hours=2)).state is JobState.LANDED
    assert await bench.check() == ["b"]


async def test_marks_and_profiles_of_a_forgotten_day_go_with_it(make_bench):
    """A mark of a session that is not landed is as old as it was noted."""
    for engine in ("duckdb", "postgres"):
        bench = make_bench(engine)
        warehouse, window = await bench.ready(), Window(MOBILE.day, KEPT.day + timedelta(1), ZONE)
        await land(warehouse, ["old"])
        await land(warehouse, ["new"], KEPT)
        await profile_window(warehouse, "site-1", window, {})
        marks = MarkRecords(warehouse, "site-1", MarkAction.RECORDED)
        ids = ("old", "new", "noted before", "noted today")
        await marks.record([MarkOutcome(session_ids=ids, state=MarkState.DONE)])
        table = bench.name("wix_session_marks")
        before = "session_id = 'noted before'"
        await bench.sql(f"UPDATE {table} SET noted_at = '2026-03-08 12:00:00+00' WHERE {before}")
        counts = await forget(warehouse, site="site-1", before=KEPT.day)
        assert counts["wix_session_marks"] == 2
        assert counts["wix_sessions"] == 1
        left = await bench.sql(f"SELECT session_id FROM {table} ORDER BY 1")
        assert left == [("new",), ("noted today",)]
        assert (await forget(warehouse, site="site-1"))["wix_session_marks"] == 2
        assert await forget(warehouse) == {}


async def test_one_site_is_forgotten(make_bench):
    bench = make_bench("duckdb")
    warehouse = await bench.ready()
    await land(warehouse, ["a"])
    await land(warehouse, ["a"], OTHER_SITE)
    await forget(warehouse, site="site-1")
    assert (await bench.ids(), await bench.check(OTHER_SITE)) == ([], ["a"])


async def test_a_parquet_folder_says_what_to_delete(make_bench):
    warehouse = await make_bench("parquet").ready()
    with pytest.raises(WarehouseUnsupportedError, match="Delete the files of the days instead"):
        await erase(warehouse, "site-1", date.max, None, yes=True)
