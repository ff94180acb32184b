"""Migration of a first-edition database with data to this version."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from prefect_wix.errors import WarehouseSchemaError
from prefect_wix.planning.partitions import UNCONFIRMED, JobRecord, JobState, Partition
from prefect_wix.planning.plan import Reason, Refresh, RefreshPolicy, make_plan
from prefect_wix.planning.windows import Window
from prefect_wix.profiles.profiling import profile_window, summarize
from prefect_wix.warehouse.schema import SESSIONS
from tests.warehouses import MOBILE, NOON, ZONE, a_record, land, store

FIRST_EDITION = Path(__file__).parents[1] / "first_edition"
"""Data of the first edition: loads, a late session, a confirmation, a derived segment, marks and
profiles.

`rows.sql` is for the tables of either database.
"""
ALL = Partition("site-1", MOBILE.day, "device_type=ALL", ZONE)
WINDOW = Window(date(2026, 3, 1), date(2026, 3, 10), ZONE)
SCHEMA = "first_edition"


@pytest.fixture(params=["duckdb", "postgres"])
async def bench(request, make_bench):
    """A warehouse with the rows of the first edition."""
    bench = make_bench(request.param)
    database = "duckdb" if request.param == "duckdb" else "postgres"
    scripts = (f"tables_{database}.sql", "rows.sql")
    text = "".join((FIRST_EDITION / script).read_text() for script in scripts)
    for statement in text.replace(f'"{SCHEMA}"', f'"{bench.schema}"').split(";\n"):
        if statement.strip():
            await bench.sql(statement)
    return bench


async def migrate(bench):
    warehouse = bench.open()
    await warehouse.prepare()
    await warehouse.prepare()
    return warehouse


async def test_receipts_and_ids_are_kept(bench):
    """No row is lost or doubled, and counts move to their new columns."""
    warehouse = await migrate(bench)
    by_partition = {one.partition: one for one in await warehouse.receipts("site-1", WINDOW)}
    mobile = by_partition[MOBILE]
    assert (mobile.sessions, mobile.added, mobile.removed, mobile.kept) == (3, 1, 1, 2)
    assert mobile.duplicates == 0
    assert (mobile.job_id, mobile.submitted_at) == ("job-late", NOON + timedelta(hours=1))
    assert mobile.confirmed_at == NOON + timedelta(hours=2)
    assert len(by_partition) == 3
    assert sorted(await bench.check(MOBILE)) == ["m-1", "m-2", "m-4"]
    assert sorted(await bench.check(ALL)) == ["d-1", "m-1", "m-2", "m-4"]


async def test_job_records_are_kept_without_the_derived_ones(bench):
    """A derived segment had no job. Where an open job runs is unknown, so it is not adopted."""
    warehouse = await migrate(bench)
    records = await warehouse.job_records("site-1", WINDOW)
    assert "derived" not in {one.record_id for one in records}
    assert len(records) == 6
    failed = next(one for one in records if one.record_id == "failed")
    assert (failed.state, failed.reason) == (JobState.FAILED, "it failed")
    late = next(one for one in records if one.record_id == "late")
    assert (late.state, late.added, late.removed) == (JobState.LANDED, 1, 1)
    timed = [one.finished_seconds for one in records if one.finished_seconds is not None]
    assert timed == [2.0, 2.0]
    running = next(one for one in records if one.record_id == "open")
    assert (running.state, running.job_id) == (JobState.SUBMITTED, "job-open")
    url = "https://www.wixapis.com"
    intent = JobRecord.intend(running.partition, at=NOON, run_id=None, base_url=url)
    claim = await warehouse.claim(intent, adopt_since=NOON)
    assert (claim.adopted, claim.orphans, claim.record) == (False, 0, intent)
    assert intent in await warehouse.job_records("site-1", WINDOW)


@pytest.mark.parametrize("engine", ["duckdb", "postgres"])
async def test_a_table_without_base_urls_gets_the_column(engine, make_bench):
    """Version 5 had none. Its job records are kept."""
    bench = make_bench(engine)
    warehouse, record = await bench.ready(), a_record()
    await store(warehouse, record)
    await bench.sql(f"ALTER TABLE {bench.name('wix_session_jobs')} DROP COLUMN base_url")
    await bench.sql(f"UPDATE {bench.name('wix_session_schema')} SET version = 5")
    warehouse = await migrate(bench)
    assert await warehouse.job_records("site-1", WINDOW) == [record]
    versions = await bench.sql(f"SELECT max(version) FROM {bench.name('wix_session_schema')}")
    assert versions == [(SESSIONS.version,)]


async def test_a_derived_partition_is_loaded_again(bench):
    """No job listed it, so it is planned as stale, and a job with the same IDs lands."""
    warehouse = await migrate(bench)
    receipts = await warehouse.receipts("site-1", WINDOW)
    derived = next(one for one in receipts if one.partition == ALL)
    assert derived.submitted_at == derived.confirmed_at == UNCONFIRMED
    # A job had listed it before it was derived: that confirms other IDs.
    await store(warehouse, a_record(ALL, hours=-9).ended(JobState.LANDED, at=NOON))
    receipts = await warehouse.receipts("site-1", WINDOW)
    now = datetime(2026, 6, 1, tzinfo=UTC)
    for refresh in Refresh:
        policy = RefreshPolicy(refresh, timedelta(0), as_of=NOON, now=now)
        assert make_plan([ALL], receipts, policy).to_load == {ALL: Reason.STALE}
    ids = ["d-1", "m-1", "m-2", "m-4"]
    assert (await land(warehouse, ids, ALL, hours=9)).state is JobState.LANDED
    receipts = await warehouse.receipts("site-1", WINDOW)
    policy = RefreshPolicy(Refresh.STALE, timedelta(0), as_of=NOON, now=now)
    assert make_plan([ALL], receipts, policy).to_load == {}
    assert (await land(warehouse, ids, ALL, hours=10)).state is JobState.UNCHANGED


async def test_an_older_prefect_wix_refuses_a_newer_version(bench):
    """A worker that was not upgraded changes nothing."""
    warehouse = await migrate(bench)
    before = await bench.version()
    newer = bench.open()
    await bench.set_version(99)
    with pytest.raises(WarehouseSchemaError, match=r"made by a newer prefect-wix.*Upgrade"):
        await newer.prepare()
    assert await bench.version() == before
    assert len(await warehouse.receipts("site-1", WINDOW)) == 3


@pytest.mark.parametrize("bench", ["duckdb", "postgres"], indirect=True)
async def test_profiles_and_marks_are_kept(bench):
    """Unchanged days are not computed again, and relations keep their descriptions."""
    warehouse = await migrate(bench)
    window = Window(date(2026, 3, 7), date(2026, 3, 9), ZONE)
    await profile_window(warehouse, "site-1", window, {})
    summary = await summarize(warehouse, "site-1", window, {})
    assert summary.sessions == 5
    assert {row.description for row in summary.certificate} >= {"every day of the window is landed"}
    marks = await bench.sql(f"SELECT session_id, state FROM {bench.name('wix_session_marks')}")
    assert sorted(marks) == [("m-1", "done"), ("m-2", "unknown")]


@pytest.mark.parametrize("bench", ["postgres"], indirect=True)
async def test_a_view_of_the_user_is_named_before_anything_is_changed(bench):
    """PostgreSQL drops no view that another view reads."""
    view, source = bench.name("shop"), bench.name("wix_landed_sessions")
    await bench.sql(f"CREATE VIEW {view} AS SELECT session_id FROM {source}")
    with pytest.raises(WarehouseSchemaError, match=r"(?s)Drop them, run the load.*shop"):
        await bench.open().prepare()
    assert len(await bench.sql(f"SELECT ask_id FROM {bench.name('wix_session_asks')}")) == 7
    await bench.sql(f"DROP VIEW {view}")
    await migrate(bench)


@pytest.mark.parametrize("bench", ["duckdb", "postgres"], indirect=True)
async def test_a_failed_migration_leaves_the_first_edition(bench):
    """A migration is one transaction."""
    await bench.sql(f"CREATE TABLE {bench.name('wix_session_jobs')} (taken BIGINT)")
    with pytest.raises(WarehouseSchemaError):
        await bench.open().prepare()
    await bench.sql(f"DROP TABLE {bench.name('wix_session_jobs')}")
    records = await bench.sql(f"SELECT ask_id FROM {bench.name('wix_session_asks')}")
    assert len(records) == 7
    assert len(await (await migrate(bench)).job_records("site-1", WINDOW)) == 6
