"""One suite for all warehouses: every test runs on each real engine that it applies to."""

from __future__ import annotations

import asyncio
import pickle
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import tracemalloc
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import pytest

from prefect_wix.errors import (
    MissingExtraError,
    WarehouseAccessError,
    WarehouseBusyError,
    WarehouseError,
    WarehouseSchemaError,
)
from prefect_wix.planning.partitions import JobRecord, JobState
from prefect_wix.planning.segments import Segment
from prefect_wix.planning.windows import Window
from prefect_wix.warehouse.decisions import decide_publish
from prefect_wix.warehouse.factory import open_warehouse
from prefect_wix.warehouse.interface import PublishResult
from prefect_wix.warehouse.schema import SESSIONS, Statement
from tests.object_stores import STORES
from tests.options import repeated
from tests.warehouses import (
    MOBILE,
    NOON,
    PASSWORD,
    QUOTED,
    ZONE,
    DuckDBBench,
    ParquetBench,
    PostgresBench,
    a_job,
    a_listing,
    a_record,
    another_process,
    digest_of,
    ids_of,
    land,
    on_day,
    store,
)

EMULATED = [pytest.param(one, marks=pytest.mark.emulators) for one in ("snowflake", "bigquery")]
EMULATED_STORES = [pytest.param(one, marks=pytest.mark.emulators) for one in STORES]
ENGINES = ["duckdb", "postgres", "parquet", *EMULATED, *EMULATED_STORES]


@pytest.fixture(params=ENGINES)
def bench(request, make_bench):
    return make_bench(request.param)


@pytest.fixture(params=["duckdb", "postgres", *EMULATED])
def sql_bench(request, make_bench):
    return make_bench(request.param)


@pytest.fixture
async def warehouse(bench):
    return await bench.ready()


# -- publishing ----------------------------------------------------------------------------------


async def test_a_listing_lands_with_its_receipt(bench, warehouse):
    """The partition contains exactly the listed IDs, and the receipt describes them."""
    record = a_record()
    with a_listing(["b", "a", "c"], record=record, duplicates=4) as listing:
        assert await warehouse.publish(listing) == PublishResult(JobState.LANDED, 3, 3, 0, 0)
    assert sorted(await bench.check()) == ["a", "b", "c"]
    receipt = await bench.receipt()
    assert receipt.digest == digest_of(["a", "b", "c"])
    assert (receipt.job_id, receipt.run_id, receipt.duplicates) == (record.job_id, "run-1", 4)
    assert receipt.submitted_at == receipt.confirmed_at == NOON
    assert receipt.landed_at.utcoffset() == timedelta(0)
    assert datetime.now(UTC) - receipt.landed_at < timedelta(minutes=1)


async def test_a_later_listing_replaces_an_earlier_one(bench, warehouse):
    """Added and removed IDs are counted in the result and in the receipt."""
    await land(warehouse, ["a", "b", "c", "d"])
    landed = await land(warehouse, ["c", "d", "e"], hours=1)
    assert landed == PublishResult(JobState.LANDED, 3, added=1, removed=2, kept=2)
    assert sorted(await bench.check()) == ["c", "d", "e"]
    receipt = await bench.receipt()
    assert (receipt.added, receipt.removed, receipt.kept) == (1, 2, 2)


async def test_an_empty_listing_empties_the_partition(bench, warehouse):
    """A day whose sessions are gone has a receipt of no sessions."""
    await land(warehouse, ["a", "b"])
    landed = await land(warehouse, [], hours=1)
    assert landed == PublishResult(JobState.LANDED, 0, added=0, removed=2, kept=0)
    assert await bench.check() == []
    assert (await bench.receipt()).sessions == 0


async def test_an_empty_first_listing_has_a_receipt(bench, warehouse):
    """A day without sessions is not a gap."""
    assert (await land(warehouse, [])).state is JobState.LANDED
    assert (await bench.receipt()).digest == digest_of([])


async def test_the_same_listing_again_writes_no_session(bench, warehouse):
    """A rerun confirms the partition and leaves every row unchanged."""
    await land(warehouse, ["a", "b"])
    before = await bench.version()
    landed = await land(warehouse, ["b", "a"], hours=5)
    assert landed == PublishResult(JobState.UNCHANGED, 2, added=0, removed=0, kept=2)
    assert await bench.version() == before
    receipt = await bench.receipt()
    assert receipt.submitted_at == NOON
    assert receipt.confirmed_at == NOON + timedelta(hours=5)


async def test_a_late_listing_does_not_replace_a_newer_one(bench, warehouse):
    """The job that was submitted last wins, in whichever order the jobs are read."""
    await land(warehouse, ["new"], hours=2)
    before = await bench.version()
    assert await land(warehouse, ["old", "older"], hours=1) == PublishResult(
        JobState.SUPERSEDED, 1, added=0, removed=0, kept=1
    )
    assert await bench.check() == ["new"]
    assert await bench.version() == before


async def test_a_listing_older_than_the_last_confirmation_is_superseded(bench, warehouse):
    """The receipt's last confirmation counts, not only the job that wrote the rows."""
    await land(warehouse, ["a"], hours=1)
    await land(warehouse, ["a"], hours=3)
    assert (await land(warehouse, ["b"], hours=2)).state is JobState.SUPERSEDED


async def test_the_newest_job_wins_in_any_zone(bench, warehouse):
    """A site that moves to another zone replaces its day, and an older job does not undo that."""
    moved = replace(MOBILE, timezone="America/New_York")
    await land(warehouse, ["a"])
    assert (await land(warehouse, ["a"], moved, hours=2)).state is JobState.LANDED
    assert (await land(warehouse, ["b"], hours=1)).state is JobState.SUPERSEDED
    assert (await bench.receipt(moved)).sessions == 1
    assert await bench.receipt() is None


def submitted_in(seconds, partition=MOBILE):
    """The record of a job with a submit time this far from now."""
    at = datetime.now(UTC) + timedelta(seconds=seconds)
    return a_record().submitted(a_job(partition).model_copy(update={"submitted_at": at}))


async def test_a_receipt_from_the_future_neither_stays_nor_blocks(bench, warehouse):
    """A clock was 10 minutes ahead once. The next listing replaces its receipt completely."""
    await land(warehouse, ["ahead"], record=submitted_in(600))
    await land(warehouse, ["ahead"], record=submitted_in(900))
    correct = submitted_in(-60)
    assert (await land(warehouse, ["a"], record=correct)).state is JobState.LANDED
    receipt = await bench.receipt()
    assert (receipt.job_id, receipt.confirmed_at) == (correct.job_id, correct.submitted_at)
    assert (await land(warehouse, ["old"], record=submitted_in(-90))).state is JobState.SUPERSEDED
    assert (await land(warehouse, ["b"], record=submitted_in(-30))).state is JobState.LANDED
    assert await bench.check() == ["b"]


async def test_a_receipt_from_the_future_is_not_confirmed(bench, warehouse):
    """The same IDs land again, so that the receipt has a submit time that is true."""
    await land(warehouse, ["a"], record=submitted_in(600))
    correct = submitted_in(-60)
    assert await land(warehouse, ["a"], record=correct) == PublishResult(
        JobState.LANDED, 1, added=0, removed=0, kept=1
    )
    receipt = await bench.receipt()
    assert receipt.submitted_at == receipt.confirmed_at == correct.submitted_at


@pytest.mark.parametrize("state", [JobState.LANDED, JobState.UNCHANGED])
async def test_a_job_that_ended_before_the_receipt_confirms_other_content(bench, warehouse, state):
    """Only an equal result that was published after the receipt confirms it."""
    before = datetime.now(UTC)
    await land(warehouse, ["a"])
    await store(warehouse, a_record(hours=5).ended(state, at=before))
    receipt = await bench.receipt()
    assert receipt.submitted_at == receipt.confirmed_at == NOON
    assert (await land(warehouse, ["b"], hours=1)).state is JobState.LANDED


@pytest.mark.parametrize("count", [2, 1500])
@pytest.mark.parametrize("table", ["wix_session_ids", "wix_session_receipts"])
async def test_a_partition_that_lost_its_ids_or_its_receipt_is_not_doubled(sql_bench, table, count):
    """After its IDs or its receipt were deleted by hand, the next listing replaces the rest.

    DuckDB stages few IDs in a table and many as a view of a file.
    """
    warehouse = await sql_bench.ready()
    await land(warehouse, ids_of("old", count))
    await sql_bench.sql(f"DELETE FROM {sql_bench.name(table)}")
    await land(warehouse, ids_of("new", count), hours=1)
    assert sorted(await sql_bench.check()) == sorted(ids_of("new", count))
    assert len(await sql_bench.sql(f"SELECT * FROM {sql_bench.name('wix_session_receipts')}")) == 1


async def test_a_partition_altered_by_hand_is_replaced(bench, warehouse):
    """IDs are compared and not only counted."""
    await land(warehouse, ["a", "b"])
    await bench.alter("b", "forged")
    landed = await land(warehouse, ["a", "b"], hours=1)
    assert landed == PublishResult(JobState.LANDED, 2, added=1, removed=1, kept=1)
    assert sorted(await bench.check()) == ["a", "b"]


ODD = [
    *("it's", '"quoted"', "com,ma", "back\\slash", "\\N", "NULL", "semi;colon", "%s $1 ?"),
    *(" leading", "trailing ", "-- x", "é", "e\u0301", "日本語", "🛒", "{'a': 1}", "0", "1e5"),
]


async def test_odd_ids_are_read_back_unchanged(bench, warehouse):
    """An ID is text with any content."""
    assert (await land(warehouse, ODD)).sessions == len(ODD)
    assert sorted(await bench.check()) == sorted(ODD)
    assert (await land(warehouse, ODD, hours=1)).state is JobState.UNCHANGED


ODD_FLOWS = [("/{It's}", "", "__DROP__"), ("/a", "../b"), ("/a/../b",), ("/é🛒",) * 30]
ODD_PARTITIONS = [
    *(replace(MOBILE, segment=Segment(page_interactions=flow).key) for flow in ODD_FLOWS),
    *(replace(MOBILE, site_id=site) for site in ("0123", "123", "a/b", "a%2Fb", "..", "A b")),
]


async def test_odd_segments_and_sites_are_separate_partitions(bench, warehouse):
    """No quote, slash or length of a site or segment leads to another partition."""
    for number, partition in enumerate(ODD_PARTITIONS):
        await land(warehouse, [f"id-{number}"], partition)
    for number, partition in enumerate(ODD_PARTITIONS):
        assert await bench.check(partition) == [f"id-{number}"]


async def test_only_the_published_partition_changes(bench, warehouse):
    """Other sites, days and segments keep their sessions."""
    desktop = replace(MOBILE, segment="device_type=DESKTOP")
    elsewhere = replace(MOBILE, site_id="site-2")
    for partition in (MOBILE, on_day(9), desktop, elsewhere):
        await land(warehouse, ["a", "b"], partition)
    await land(warehouse, [], hours=1)
    for partition in (on_day(9), desktop, elsewhere):
        assert sorted(await bench.check(partition)) == ["a", "b"]


async def test_receipts_are_those_of_the_window(bench, warehouse):
    """Receipts of one site, from the start of the window to before its end."""
    for day in (7, 8, 9, 10):
        await land(warehouse, [str(day)], on_day(day))
    await land(warehouse, ["x"], replace(MOBILE, site_id="site-2"))
    window = Window(on_day(8).day, on_day(10).day, ZONE)
    receipts = await warehouse.receipts("site-1", window)
    assert [receipt.partition for receipt in receipts] == [on_day(8), on_day(9)]


async def test_job_records_are_all_those_of_the_window(warehouse):
    """They are sorted by intent, oldest first, with the counts of each, and include failed jobs."""
    await land(warehouse, ["a"])
    await land(warehouse, ["a", "b"], hours=1)
    await land(warehouse, ["a", "b"], hours=2)
    await land(warehouse, ["late"], hours=1.5)
    await land(warehouse, ["c"], on_day(9))
    await store(warehouse, a_record(hours=3).ended(JobState.FAILED, at=NOON))
    history = await warehouse.job_records("site-1", Window(MOBILE.day, on_day(9).day, ZONE))
    assert [(record.state, record.sessions, record.added) for record in history] == [
        (JobState.LANDED, 1, 1),
        (JobState.LANDED, 2, 1),
        (JobState.SUPERSEDED, 2, 0),
        (JobState.UNCHANGED, 2, 0),
        (JobState.FAILED, None, None),
    ]


@pytest.mark.parametrize("publishes_again", [False, True])
async def test_a_job_whose_file_was_written_is_closed_by_the_next_claim(tmp_path, publishes_again):
    """After a kill between the file and its job record; also if another run had adopted the job."""
    bench = ParquetBench(tmp_path)
    warehouse, record = await bench.ready(), a_record()
    await land(warehouse, ["a", "b"], record=record)
    shutil.rmtree(bench.folder / "wix_session_jobs")
    await warehouse.save_record(record)
    if publishes_again:
        assert (await land(warehouse, ["a", "b"], record=record)).state is JobState.UNCHANGED
    again = JobRecord.intend(MOBILE, at=NOON + timedelta(hours=1), run_id=None)
    claim = await warehouse.claim(again, adopt_since=NOON - timedelta(hours=1))
    assert (claim.adopted, claim.orphans) == (False, 0)
    history = await warehouse.job_records("site-1", Window(MOBILE.day, on_day(9).day, ZONE))
    assert (history[0].state, history[0].sessions, history[0].added) == (JobState.LANDED, 2, 2)


async def test_many_ids_are_never_all_in_memory(warehouse):
    """IDs stream from the spool; a list of 100,000 would take over 10 MB."""
    with a_listing(f"3f2a7c1e-0000-4000-8000-{n:012d}" for n in range(100_000)) as listing:
        tracemalloc.start()
        try:
            assert (await warehouse.publish(listing)).sessions == 100_000
            assert tracemalloc.get_traced_memory()[1] < 4_000_000
        finally:
            tracemalloc.stop()


# -- job records ---------------------------------------------------------------------------------


async def test_a_first_claim_permits_a_submit(warehouse):
    """The claim returns the intent, and counts no orphan."""
    intent = JobRecord.intend(MOBILE, at=NOON, run_id=None)
    claim = await warehouse.claim(intent, adopt_since=NOON)
    assert (claim.record, claim.adopted, claim.orphans) == (intent, False, 0)


async def test_the_latest_running_job_is_adopted(warehouse):
    """The claim returns the record of the job that another run submitted last."""
    for hours in (1, 3, 2):
        await store(warehouse, a_record(hours=hours))
    claim = await warehouse.claim(
        JobRecord.intend(MOBILE, at=NOON, run_id="run-2"), adopt_since=NOON
    )
    assert claim.adopted
    assert claim.record.submitted_at == NOON + timedelta(hours=3)
    assert claim.record.run_id == "run-1"
    assert claim.record.job.query == MOBILE.query


async def test_a_claim_carries_the_clock_of_the_warehouse(warehouse):
    """It is read in the transaction, and continues after it."""
    before = datetime.now(UTC)
    claim = await warehouse.claim(JobRecord.intend(MOBILE, at=NOON, run_id=None), adopt_since=NOON)
    assert before <= claim.at <= claim.now() <= datetime.now(UTC)
    first = claim.now()
    await asyncio.sleep(0.1)
    assert timedelta(seconds=0.1) <= claim.now() - first < timedelta(seconds=5)


@pytest.mark.parametrize(
    "record",
    [
        pytest.param(a_record(hours=-1), id="too old"),
        pytest.param(a_record(hours=24 * 365 * 100), id="of the future"),
        pytest.param(a_record(on_day(9)), id="of another day"),
        pytest.param(a_record(replace(MOBILE, timezone="UTC")), id="of another zone"),
        pytest.param(replace(a_record(), base_url="http://127.0.0.1:80"), id="of another place"),
        pytest.param(a_record().ended(JobState.FAILED, at=NOON), id="failed"),
        pytest.param(a_record().ended(JobState.LANDED, at=NOON), id="landed"),
    ],
)
async def test_other_jobs_are_not_adopted(warehouse, record):
    """A job that is too old, ended or of another partition is not adopted."""
    await store(warehouse, record)
    claim = await warehouse.claim(JobRecord.intend(MOBILE, at=NOON, run_id=None), adopt_since=NOON)
    assert (claim.adopted, claim.orphans) == (False, 0)


async def test_an_intent_without_a_job_may_be_an_orphan(warehouse):
    """It is counted once, by the claim that closes it."""
    first, second, third = (
        JobRecord.intend(MOBILE, at=NOON + timedelta(hours=n), run_id=None) for n in range(3)
    )
    await warehouse.claim(first, adopt_since=NOON)
    assert (await warehouse.claim(second, adopt_since=NOON)).orphans == 1
    await warehouse.save_record(second.ended(JobState.FAILED, at=NOON, reason="it's \\ failed"))
    assert (await warehouse.claim(third, adopt_since=NOON)).orphans == 0


async def test_an_intent_of_another_base_url_stays(warehouse):
    """It left no job at this one, so this claim neither counts nor closes it."""
    here, there = (
        JobRecord.intend(MOBILE, at=NOON, run_id=None, base_url=url)
        for url in ("https://www.wixapis.com", "http://127.0.0.1:8077")
    )
    await warehouse.claim(there, adopt_since=NOON)
    assert (await warehouse.claim(here, adopt_since=NOON)).orphans == 0
    states = [one.state for one in await warehouse.job_records(MOBILE.site_id, MOBILE.window)]
    assert states == [JobState.INTENDED, JobState.INTENDED]


async def test_a_landed_job_is_not_adopted(bench, warehouse):
    """Publishing closes the record of the job."""
    record = a_record()
    await store(warehouse, record)
    await land(warehouse, ["a"], record=record)
    claim = await warehouse.claim(JobRecord.intend(MOBILE, at=NOON, run_id=None), adopt_since=NOON)
    assert not claim.adopted


async def test_publishing_leaves_other_open_records_to_the_next_claim(bench, warehouse):
    """A load claims the partition before it publishes, and the claim closes open records."""
    await store(warehouse, JobRecord.intend(MOBILE, at=NOON, run_id=None))
    await land(warehouse, ["a"], hours=1)
    claim = await warehouse.claim(JobRecord.intend(MOBILE, at=NOON, run_id=None), adopt_since=NOON)
    assert claim.orphans == 1


async def test_a_repeated_claim_does_not_count_its_own_intent_as_an_orphan(warehouse):
    """A commit may succeed although it reports an error."""
    record = JobRecord.intend(MOBILE, at=NOON, run_id=None)
    for _ in range(2):
        assert (await warehouse.claim(record, adopt_since=NOON)).orphans == 0
    assert await warehouse.job_records(MOBILE.site_id, MOBILE.window) == [record]


async def test_a_claim_is_repeated_after_its_intent_was_closed_as_an_orphan(warehouse):
    """Its commit reported an error, and another load claimed the partition before the repeat."""
    first, other = (JobRecord.intend(MOBILE, at=NOON, run_id=run) for run in ("run-1", "run-2"))
    for record in (first, other, first):
        await warehouse.claim(record, adopt_since=NOON)
    records = await warehouse.job_records(MOBILE.site_id, MOBILE.window)
    states = {one.record_id: one.state for one in records}
    assert len(records) == 2
    assert states == {first.record_id: JobState.INTENDED, other.record_id: JobState.ORPHANED}


async def test_a_job_is_recorded_after_its_intent_was_closed_as_an_orphan(warehouse):
    """Another load claimed the partition during the submit."""
    record, other = a_record(), JobRecord.intend(MOBILE, at=NOON + timedelta(hours=1), run_id=None)
    intent = replace(record, state=JobState.INTENDED, job_id=None, submitted_at=None)
    await warehouse.claim(intent, adopt_since=NOON)
    assert (await warehouse.claim(other, adopt_since=NOON)).orphans == 1
    await warehouse.save_record(record)
    assert await warehouse.job_records(MOBILE.site_id, MOBILE.window) == [record, other]


async def test_a_job_that_is_recorded_twice_has_one_record(warehouse):
    """Two loads may wait for one job, and one may fail after the other has published it."""
    record = a_record()
    await store(warehouse, record)
    await land(warehouse, ["a"], record=record)
    for late in (record, record.ended(JobState.FAILED, at=NOON)):
        await warehouse.save_record(late)
        [stored] = await warehouse.job_records(MOBILE.site_id, MOBILE.window)
        assert (stored.record_id, stored.state) == (record.record_id, JobState.LANDED)


async def test_concurrent_claims_are_serialized(bench, warehouse):
    """Each claim sees the intents of those before it."""
    intents = [JobRecord.intend(MOBILE, at=NOON, run_id=str(n)) for n in range(6)]
    claims = await asyncio.gather(
        *(warehouse.claim(intent, adopt_since=NOON) for intent in intents)
    )
    assert sorted(claim.orphans for claim in claims) == [0, 1, 1, 1, 1, 1]


# -- the schema ----------------------------------------------------------------------------------


async def test_preparing_twice_changes_nothing(bench, warehouse):
    """Every run prepares the warehouse."""
    await land(warehouse, ["a"])
    before = await bench.version()
    await bench.open().prepare()
    assert await bench.version() == before


async def test_concurrent_preparing_is_safe(bench):
    """Several flows may start with a new warehouse at once."""
    await asyncio.gather(*(bench.open().prepare() for _ in range(8)))
    await land(bench.open(), ["a"])
    assert await bench.check() == ["a"]


async def test_a_newer_schema_is_refused(bench, warehouse):
    """An older version does not write to the tables of a newer one."""
    await bench.set_version(99)
    with pytest.raises(WarehouseSchemaError, match="version 99, made by a newer"):
        await warehouse.prepare()


async def test_publishing_unprepared_names_the_tables(sql_bench):
    """Publishing does not create tables."""
    with pytest.raises(WarehouseSchemaError, match="not the ones this version writes"):
        await land(sql_bench.open(), ["a"])


async def test_a_missing_column_is_refused(sql_bench):
    """The error names the altered table and the missing column."""
    bench, warehouse = sql_bench, await sql_bench.ready()
    await bench.sql(f"ALTER TABLE {bench.name('wix_session_receipts')} DROP COLUMN digest")
    with pytest.raises(WarehouseSchemaError, match=r"wix_session_receipts.* lacks digest"):
        await warehouse.prepare()
    with pytest.raises(WarehouseSchemaError):
        await land(warehouse, ["a"])


async def test_a_foreign_table_of_the_same_name_is_refused(sql_bench):
    """A table that another program created is not written to."""
    bench = sql_bench
    await bench.sql(f"CREATE SCHEMA {bench.schema}")
    await bench.sql(f"CREATE TABLE {bench.name('wix_session_ids')} (mine INTEGER)")
    with pytest.raises(WarehouseSchemaError):
        await bench.open().prepare()


async def test_the_view_shows_landed_sessions(sql_bench):
    """Analysts read one view: IDs with day, time zone and landing time."""
    bench, warehouse = sql_bench, await sql_bench.ready()
    await land(warehouse, ["a"])
    rows = await bench.sql(f"SELECT session_id, timezone FROM {bench.name('wix_landed_sessions')}")
    assert rows == [("a", ZONE)]


async def test_a_visit_over_midnight_is_distinguished_from_days_apart(sql_bench):
    """An ID on consecutive days is one visit over midnight; on other days it is suspicious."""
    bench, warehouse = sql_bench, await sql_bench.ready()
    for day, ids in {7: ["once", "night", "apart"], 8: ["night"], 9: ["apart"]}.items():
        await land(warehouse, ids, on_day(day))
    view = bench.name("wix_sessions_on_two_days")
    rows = await bench.sql(f"SELECT session_id, days, kind FROM {view} ORDER BY session_id")
    assert rows == [("apart", 2, "days apart"), ("night", 2, "over midnight")]


def use_next_version(monkeypatch, *statements):
    """Add one version with these statements to what `prepare` migrates to."""

    def migrate(schema):
        for text in statements:
            yield Statement(text.format(jobs=schema.name("wix_session_jobs")))

    number = SESSIONS.version + 1
    migrations = {**SESSIONS.migrations, number: migrate}
    newer = replace(SESSIONS, version=number, migrations=migrations)
    monkeypatch.setattr("prefect_wix.warehouse.transactions.SESSIONS", newer)


async def test_an_older_schema_is_migrated_with_its_rows(sql_bench, monkeypatch):
    """`prepare` migrates to the next version, and this version then refuses to write."""
    bench, warehouse = sql_bench, await sql_bench.ready()
    await land(warehouse, ["a", "b"])
    alter = "ALTER TABLE {jobs} ADD COLUMN attempts BIGINT", "UPDATE {jobs} SET attempts = 7"
    with monkeypatch.context() as newer:
        use_next_version(newer, *alter)
        await warehouse.prepare()
        await warehouse.prepare()
    assert await bench.sql(f"SELECT attempts FROM {bench.name('wix_session_jobs')}") == [(7,)]
    versions = await bench.sql(f"SELECT version FROM {bench.name('wix_session_schema')}")
    assert sorted(versions) == [(SESSIONS.version,), (SESSIONS.version + 1,)]
    assert sorted(await bench.check()) == ["a", "b"]
    with pytest.raises(WarehouseSchemaError, match="Upgrade prefect-wix"):
        await warehouse.prepare()


async def test_a_migration_that_fails_leaves_the_old_schema(sql_bench, monkeypatch):
    """A migration is one transaction."""
    bench, warehouse = sql_bench, await sql_bench.ready()
    await land(warehouse, ["a"])
    broken = "ALTER TABLE {jobs} ADD COLUMN attempts BIGINT", "UPDATE {jobs} SET nothing = 1"
    with monkeypatch.context() as newer:
        use_next_version(newer, *broken)
        with pytest.raises(WarehouseError):
            await warehouse.prepare()
    await warehouse.prepare()
    assert await bench.check() == ["a"]
    with pytest.raises(Exception, match="attempts"):
        await bench.sql(f"SELECT attempts FROM {bench.name('wix_session_jobs')}")


# -- locks, cancellation and kills ---------------------------------------------------------------


async def test_a_lock_is_waited_for_until_the_timeout(bench, warehouse):
    """A lock of another process delays a publish, and fails it only at the timeout."""
    async with bench.locked():
        waiting = asyncio.create_task(land(bench.open(), ["a"]))
        with pytest.raises(WarehouseBusyError, match=r"for all of 0\.3 s"):
            await land(bench.open(busy_timeout_seconds=0.3), ["b"])
        assert not waiting.done()
    assert (await waiting).sessions == 1
    assert await bench.check() == ["a"]


async def test_a_listing_that_waited_does_not_replace_a_newer_one(sql_bench, monkeypatch):
    """The decision comes after the wait, because the newer job may be submitted during it."""
    warehouse = await sql_bench.ready()
    holds_lock, waits = threading.Event(), threading.Event()

    def decide_late(listing, *contents):
        if not holds_lock.is_set():
            holds_lock.set()
            assert waits.wait(30)
            object.__setattr__(listing, "record", submitted_in(0))
        return decide_publish(listing, *contents)

    monkeypatch.setattr("prefect_wix.warehouse.transactions.decide_publish", decide_late)
    newer = asyncio.to_thread(asyncio.run, land(sql_bench.open(), ["new"]))
    first = asyncio.create_task(newer)
    await asyncio.to_thread(holds_lock.wait, 30)
    waiting = asyncio.create_task(land(warehouse, ["old"], record=submitted_in(-0.01)))
    await asyncio.sleep(0.3)
    waits.set()
    assert (await first).state is JobState.LANDED
    assert (await waiting).state is JobState.SUPERSEDED
    assert await sql_bench.check() == ["new"]


async def test_a_claim_that_waited_has_the_time_after_its_wait(postgres):
    """PostgreSQL evaluates the clock after the lock, though both are in one statement."""
    warehouse = await postgres.ready()
    holder = await asyncpg.connect(f"postgresql://{postgres.server.address}/postgres")
    intent = JobRecord.intend(MOBILE, at=NOON, run_id=None)
    async with holder.transaction():
        lock = warehouse._lock((MOBILE.site_id, MOBILE.segment))
        await holder.execute(lock.sql, *lock.values)
        waiting = asyncio.create_task(warehouse.claim(intent, adopt_since=NOON))
        await asyncio.sleep(0.3)
        released = datetime.now(UTC)
    assert (await waiting).at >= released
    await holder.close()


async def test_a_cancelled_publish_is_complete_or_has_no_effect(bench, warehouse):
    """The old or the new version is there, and the next publish succeeds."""
    old, new = ids_of("old", 3000), ids_of("new", 3000)
    for number in range(6):
        await land(warehouse, old, hours=2 * number)
        task = asyncio.create_task(land(warehouse, new, hours=2 * number + 1))
        await asyncio.sleep(random.uniform(0, 0.06))
        task.cancel()
        await asyncio.wait([task])
        assert sorted(await bench.check()) in (sorted(old), sorted(new))


async def finish(*processes):
    for process in processes:
        output, errors = await asyncio.to_thread(process.communicate)
        assert process.returncode == 0, output + errors


async def test_processes_that_publish_the_same_partition_are_serialized(bench, warehouse):
    """No session is doubled."""
    rounds = repeated(4, soak=40)
    await finish(*(another_process(bench, (8, tag, 200), rounds=rounds) for tag in ("x", "y", "z")))
    assert len(await bench.check(on_day(8))) == 200


async def test_processes_that_publish_different_partitions_do_not_mix(bench, warehouse):
    """Each partition contains the sessions of its own process only."""
    days, rounds = {8: "x", 9: "y", 10: "z"}, repeated(3, soak=40)
    await finish(
        *(another_process(bench, (day, tag, 200), rounds=rounds) for day, tag in days.items())
    )
    for day, tag in days.items():
        assert sorted(await bench.check(on_day(day))) == sorted(ids_of(tag, 200))


@pytest.mark.parametrize("seed", range(repeated(2, soak=20)))
async def test_a_kill_at_any_moment_leaves_the_old_or_the_new_version(bench, warehouse, seed):
    """The receipt matches the rows, and the next publish succeeds."""
    process = another_process(bench, (8, "x", 5000), (8, "y", 4000), rounds=1000)
    await asyncio.to_thread(process.stdout.readline)
    await asyncio.sleep(random.Random(seed).uniform(0, 0.5))
    process.send_signal(signal.SIGKILL)
    await asyncio.to_thread(process.communicate)
    ids = sorted(await bench.check(on_day(8)))
    assert ids in ([], sorted(ids_of("x", 5000)), sorted(ids_of("y", 4000)))
    assert (await land(bench.open(), ["next"], on_day(8), hours=9999)).sessions == 1
    assert await bench.check(on_day(8)) == ["next"]


# -- full and read-only disks --------------------------------------------------------------------


@pytest.fixture
def small_disk():
    """A disk of 3 MB; skips the test if this user may not mount one."""
    folder = Path(tempfile.mkdtemp(prefix="wix-disk-"))
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "none", str(folder)]
    mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    # The PostgreSQL server runs as another user.
    folder.chmod(0o755)
    if mounted:
        yield folder
        subprocess.run(["umount", "-l", str(folder)], check=True)
    folder.rmdir()
    if not mounted:
        pytest.skip("this user may not mount a small disk")


def differing(count):
    """IDs that compression does not shrink."""
    numbers = random.Random(7)
    return [f"{numbers.getrandbits(256):064x}" for _ in range(count)]


async def assert_full(bench):
    warehouse = await bench.ready()
    await land(warehouse, ["a", "b"])
    with pytest.raises(WarehouseAccessError, match="free space") as caught:
        await land(warehouse, differing(60_000), hours=1)
    assert "space" in str(caught.value.__cause__)
    assert sorted(await bench.check()) == ["a", "b"]


@pytest.mark.parametrize("make", [DuckDBBench, ParquetBench])
async def test_a_full_disk_leaves_the_old_version(make, small_disk):
    """The error mentions the free space, and the next listing that fits is published."""
    bench = make(small_disk)
    await assert_full(bench)
    assert (await land(bench.open(), ["c"], hours=2)).state is JobState.LANDED
    assert await bench.check() == ["c"]


@pytest.mark.parametrize("make", [DuckDBBench, ParquetBench])
async def test_a_disk_that_is_read_only_is_an_access_error(make, small_disk):
    """The warehouse can be read, and a write fails."""
    bench = make(small_disk)
    await land(await bench.ready(), ["a"])
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)  # noqa: ASYNC221
    with pytest.raises(WarehouseAccessError, match=r"(?i)read-only"):
        await land(bench.open(), ["b"])


@pytest.mark.parametrize("scheme", ["duckdb", "parquet"])
async def test_an_impossible_path_is_an_access_error(scheme, tmp_path):
    """The path has a file in place of a folder."""
    (tmp_path / "file").write_text("")
    warehouse = open_warehouse(f"{scheme}:///{tmp_path}/file/sessions")
    with pytest.raises(WarehouseAccessError, match="can't be"):
        await warehouse.prepare()


async def test_a_folder_as_a_database_is_an_access_error(tmp_path):
    """DuckDB opens files only."""
    with pytest.raises(WarehouseAccessError, match="directory"):
        await open_warehouse(f"duckdb:///{tmp_path}").prepare()


async def test_a_file_that_is_no_partition_is_refused(tmp_path):
    """The error says what to do, and the file is not changed."""
    bench = ParquetBench(tmp_path)
    warehouse = await bench.ready()
    await land(warehouse, ["a"])
    [file] = bench.folder.glob("wix_session_ids/*/*/*.parquet")
    file.write_text("not by us")
    with pytest.raises(WarehouseSchemaError, match="Move it away"):
        await land(warehouse, ["b"])
    assert file.read_text() == "not by us"


# -- URLs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "schema", "message"),
    [
        ("mysql://me:hush@host/db", None, "Unsupported warehouse URL"),
        ("me:hush@host", None, "Unsupported warehouse URL"),
        ("", None, "Unsupported warehouse URL"),
        ("duckdb://host/file", None, "has a path and no host"),
        ("duckdb:///", None, "has a path and no host"),
        ("parquet://folder", None, "has a path and no host"),
        ("parquet:///folder", "wix", "files have no schema"),
        ("postgresql://me:hush@host/db", "a b", "must be letters"),
    ],
)
def test_an_invalid_url_or_schema_is_explained(url, schema, message):
    """The error says what to write, and contains no password."""
    with pytest.raises(ValueError, match=message) as caught:
        open_warehouse(url, schema=schema)
    assert "hush" not in full_text(caught.value)


@pytest.mark.parametrize(
    ("url", "module", "extra"),
    [
        ("duckdb:///x", "duckdb", "duckdb"),
        ("parquet:///x", "duckdb", "duckdb"),
        ("snowflake://me@account/db", "snowflake.connector", "snowflake"),
        ("bigquery://project/wix", "google.cloud.bigquery", "bigquery"),
        ("s3://bucket", "obstore.store", "s3"),
        ("gs://bucket", "obstore.store", "gs"),
        ("abfs://bucket", "obstore.store", "abfs"),
    ],
)
def test_a_missing_package_is_named_with_its_command(url, module, extra, monkeypatch):
    """The error has the command that installs it."""
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=rf"pip install 'prefect-wix\[{extra}\]'"):
        open_warehouse(url)


# -- PostgreSQL alone ----------------------------------------------------------------------------


@pytest.fixture
async def postgres(postgres_server):
    bench = PostgresBench(postgres_server)
    yield bench
    await bench.close()


def full_text(error):
    """The texts of an error and of all its causes."""
    texts = []
    while error is not None:
        texts += [str(error), repr(error)]
        error = error.__cause__ or error.__context__
    return "\n".join(texts)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (QUOTED, "wrong%20secret"),
        ("/postgres", "/nowhere"),
        ("127.0.0.1", "no-such-host.invalid"),
        ("postgres:", "unknown-user:"),
    ],
)
async def test_a_rejected_connection_is_explained_without_the_password(postgres, old, new):
    """A wrong password, database, host or user is an access error without the password."""
    warehouse = open_warehouse(postgres.url.replace(old, new, 1))
    warehouse._busy_timeout = 1  # a name that does not resolve is tried again
    with pytest.raises(WarehouseAccessError, match=r"rejected|can't be reached") as caught:
        await warehouse.prepare()
    for secret in (PASSWORD, QUOTED, "wrong secret", "wrong%20secret"):
        assert secret not in full_text(caught.value)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


async def test_an_unreachable_server_is_named():
    """The error has the address and not the password."""
    warehouse = open_warehouse("postgresql://me:hush@127.0.0.1:1/db")
    warehouse._busy_timeout = 0.1
    with pytest.raises(WarehouseAccessError, match=r"postgresql://127\.0\.0\.1:1/db") as caught:
        await warehouse.prepare()
    assert "hush" not in full_text(caught.value)


async def test_a_read_only_database_is_an_access_error(postgres):
    """The warehouse can be read, and a write fails."""
    await postgres.ready()
    warehouse = open_warehouse(
        postgres.url + "?default_transaction_read_only=on", schema=postgres.schema
    )
    warehouse._busy_timeout = 1  # a server that takes over is read-only for a moment
    await warehouse.prepare()
    with pytest.raises(WarehouseAccessError, match="read-only transaction"):
        await land(warehouse, ["a"])


async def test_a_role_without_rights_is_an_access_error(postgres):
    """A role that may only read can prepare existing tables, and a write fails."""
    await postgres.ready()
    role = f"reader_{postgres.schema}"
    await postgres.sql(f"CREATE ROLE {role} LOGIN PASSWORD 'r'")
    await postgres.sql(f"GRANT USAGE ON SCHEMA {postgres.schema} TO {role}")
    await postgres.sql(f"GRANT SELECT ON ALL TABLES IN SCHEMA {postgres.schema} TO {role}")
    url = postgres.url.replace(f"postgres:{QUOTED}", f"{role}:r")
    warehouse = open_warehouse(url, schema=postgres.schema)
    await warehouse.prepare()
    with pytest.raises(WarehouseAccessError, match="permission denied"):
        await land(warehouse, ["a"])
    await postgres.sql(f"DROP OWNED BY {role}")
    await postgres.sql(f"DROP ROLE {role}")


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+asyncpg"])
async def test_every_common_scheme_of_postgresql_is_accepted(postgres, scheme):
    """Heroku, libpq and SQLAlchemy use different schemes."""
    url = postgres.url.replace("postgresql", scheme, 1)
    await open_warehouse(url, schema=postgres.schema).prepare()


async def test_a_full_disk_at_the_server_is_an_access_error(postgres, small_disk):
    """The error includes PostgreSQL's message, and the partition is unchanged."""
    space = f"space_{postgres.schema}"
    shutil.chown(small_disk, postgres.server.user)
    await postgres.sql(f"CREATE TABLESPACE {space} LOCATION '{small_disk}'")
    postgres.url += f"?default_tablespace={space}"
    await assert_full(postgres)
    await postgres.close()
    await postgres.sql(f"DROP TABLESPACE {space}")
