"""One connection to a DuckDB file: open during a load, and others get at the file all the same."""

from __future__ import annotations

import asyncio
import sys
import threading
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import duckdb
import pytest

from prefect_wix.errors import WarehouseBusyError, WarehouseError, WarehouseSchemaError
from prefect_wix.planning.partitions import JobRecord, JobState
from prefect_wix.planning.windows import Window
from prefect_wix.warehouse import connection
from prefect_wix.warehouse.connection import kept_open
from prefect_wix.warehouse.factory import open_warehouse
from prefect_wix.warehouse.schema import Statement
from prefect_wix.warehouse.transactions import STAGED
from tests.warehouses import (
    MOBILE,
    NOON,
    ROOT,
    a_job,
    a_record,
    an_answer,
    another_process,
    ids_of,
    land,
    on_day,
)

WEEK = Window(on_day(1).day, on_day(8).day, MOBILE.timezone)
LOOK = "import duckdb, sys; duckdb.connect(sys.argv[1], read_only=True)"


@pytest.fixture
def bench(make_bench):
    return make_bench("duckdb")


@pytest.fixture
async def warehouse(bench):
    return await bench.ready()


async def is_free(bench):
    """Whether another process can open the file."""
    command = [sys.executable, "-c", LOOK, str(bench.file)]
    quiet = {"stdout": asyncio.subprocess.DEVNULL, "stderr": asyncio.subprocess.DEVNULL}
    process = await asyncio.create_subprocess_exec(*command, **quiet)
    return await process.wait() == 0


async def verbs_without_a_pause(warehouse):
    hours = 0
    while True:
        hours += 1
        await land(warehouse, [str(hours)], on_day(1), hours=hours)


async def notes_without_a_pause(warehouse):
    hours = 0
    while True:
        hours += 1
        await warehouse.save_record(a_record(on_day(1), hours=hours))
        await asyncio.sleep(0)


async def ended(process):
    _, errors = await asyncio.to_thread(process.communicate, timeout=60)
    assert process.returncode == 0, errors


async def test_between_the_verbs_of_a_load_the_file_stays_open(bench, warehouse, never_idle):
    """That is what makes many small jobs cheap."""
    async with kept_open(warehouse):
        assert await is_free(bench)
        await land(warehouse, ["a"])
        assert not await is_free(bench)
        await land(bench.open(), ["b"], hours=1)
        assert not await is_free(bench)


async def test_without_a_load_the_file_is_free_after_each_verb(bench, warehouse):
    """Whoever opens it next, in this process or another, meets nobody."""
    await land(warehouse, ["a"])
    assert await is_free(bench)


async def test_when_a_load_ends_the_file_is_free(bench, warehouse):
    """Also for this process, with settings of its own."""
    async with kept_open(warehouse):
        await land(warehouse, ["a"])
    duckdb.connect(str(bench.file), read_only=True).close()
    assert await is_free(bench)


async def test_a_load_that_fails_or_is_cancelled_leaves_the_file_free(bench, warehouse):
    """However its block is left."""
    with suppress(ZeroDivisionError):
        async with kept_open(warehouse):
            await land(warehouse, ["a"])
            raise ZeroDivisionError
    assert await is_free(bench)
    with suppress(TimeoutError):
        async with asyncio.timeout(0.5), kept_open(warehouse):
            await verbs_without_a_pause(warehouse)
    assert await is_free(bench)


async def test_a_load_that_waits_for_wix_lets_others_at_the_file(bench, warehouse):
    """It is opened again by the verb that needs it."""
    async with kept_open(warehouse):
        await land(warehouse, ["a"], on_day(8))
        await ended(another_process(bench, (9, "x", 20)))
        await land(warehouse, ["b"], on_day(8), hours=1)
    assert await bench.check(on_day(8)) == ["b"]
    assert len(await bench.check(on_day(9))) == 20


async def test_a_load_that_only_takes_notes_is_not_idle(warehouse, monkeypatch):
    """To open the file anew takes far longer than a note."""
    monkeypatch.setattr(connection, "IDLE_SECONDS", 1.0)
    connect, opened = duckdb.connect, []
    monkeypatch.setattr(
        duckdb, "connect", lambda *given, **how: opened.append(given) or connect(*given, **how)
    )
    async with kept_open(warehouse):
        with suppress(TimeoutError):
            async with asyncio.timeout(2.5 * connection.IDLE_SECONDS):
                await notes_without_a_pause(warehouse)
    assert len(opened) == 1


@pytest.mark.parametrize("work", [verbs_without_a_pause, notes_without_a_pause])
async def test_a_load_that_never_pauses_lets_others_at_the_file(
    bench, warehouse, monkeypatch, work
):
    """Now and then it takes a break that is long enough for whoever waits."""
    monkeypatch.setattr(connection, "LONGEST_SECONDS", 0.3)
    async with kept_open(warehouse):
        busy = asyncio.create_task(work(warehouse))
        await ended(another_process(bench, (9, "x", 20)))
        assert not busy.done()
        busy.cancel()
        await asyncio.wait([busy])
    assert sorted(await bench.check(on_day(9))) == sorted(ids_of("x", 20))


async def test_two_loads_of_one_process_share_the_file(bench, warehouse, never_idle):
    """It stays open until the last of them has ended; neither waits for the other."""
    other = bench.open()
    async with kept_open(warehouse):
        async with kept_open(other):
            await asyncio.gather(
                *(
                    land(one, ["a"], on_day(day))
                    for day in range(1, 9)
                    for one in (warehouse, other)
                )
            )
        await land(warehouse, ["b"], on_day(9))
        assert not await is_free(bench)
    assert await is_free(bench)
    assert await bench.check(on_day(9)) == ["b"]


async def test_a_file_that_was_taken_away_is_not_written_to(bench, warehouse, never_idle):
    """The next verb opens what is there now."""
    async with kept_open(warehouse):
        await land(warehouse, ["a"])
        bench.file.rename(bench.file.with_name("kept.duckdb"))
        with pytest.raises(WarehouseSchemaError):
            await warehouse.save_record(a_record())
        with pytest.raises(WarehouseSchemaError):
            await land(warehouse, ["b"], hours=1)
        await warehouse.prepare()
        await land(warehouse, ["c"], hours=2)
        assert bench.file.exists()
    assert await bench.check() == ["c"]


async def test_an_error_does_not_outlive_its_verb(bench, warehouse, never_idle):
    """What it had begun is undone, and the next verb finds a sound database."""

    def half_done(tables):
        yield Statement(f"DELETE FROM {tables.name('wix_session_ids')}")
        yield Statement("SELECT * FROM nowhere")

    async with kept_open(warehouse):
        await land(warehouse, ["a"])
        with pytest.raises(WarehouseError):
            await warehouse.transact(half_done)
        assert await is_free(bench)
        assert (await land(warehouse, ["a", "b"], hours=1)).kept == 1
    assert sorted(await bench.check()) == ["a", "b"]


def memory_limit(_tables):
    rows = yield Statement("SELECT current_setting('memory_limit')")
    return rows[0][0]


@pytest.mark.parametrize(
    ("query", "limit"), [("", "488.2 MiB"), ("?memory_limit=1GB", "953.6 MiB")]
)
async def test_memory_has_a_limit_unless_the_url_sets_one(bench, query, limit):
    """DuckDB's own would be most of the machine."""
    assert await open_warehouse(bench.url + query).transact(memory_limit) == limit


async def test_other_settings_are_met_by_opening_anew(bench, warehouse):
    """Two loads may be told different ones for the same file."""
    other = open_warehouse(f"{bench.url}?memory_limit=1GB")
    async with kept_open(warehouse), kept_open(other):
        for _ in range(2):
            assert await warehouse.transact(memory_limit) == "488.2 MiB"
            assert await other.transact(memory_limit) == "953.6 MiB"


async def test_a_notebook_may_look_into_the_file_during_a_load(bench, warehouse, never_idle):
    """In one process DuckDB opens a file with one set of settings, and a notebook brings none."""
    async with kept_open(warehouse):
        await land(warehouse, ["a"])
        assert await bench.ids() == ["a"]
        await land(warehouse, ["a", "b"], hours=1)


async def test_a_notebook_that_has_the_file_open_keeps_its_memory(bench, warehouse):
    """The limit is that of the file in this process, and not ours to lower then."""
    limit = "SELECT current_setting('memory_limit')"
    with duckdb.connect(str(bench.file)) as notebook:
        before = notebook.execute(limit).fetchall()
        await land(warehouse, ["a"])
        assert notebook.execute(limit).fetchall() == before != [("488.2 MiB",)]


async def test_a_warehouse_that_is_no_file_is_as_it_was(make_bench):
    """There is nothing to keep open."""
    warehouse = await make_bench("parquet").ready()
    async with kept_open(warehouse):
        assert (await land(warehouse, ["a"])).sessions == 1


# -- one at a time -------------------------------------------------------------------------------


class PartitionContents:
    """A transaction that has begun and does not end before it is released."""

    def __init__(self):
        self._has_begun, self._may_end = threading.Event(), threading.Event()

    def __call__(self, _tables):
        rows = yield Statement("SELECT 1")
        self._has_begun.set()
        assert self._may_end.wait(30)
        return rows

    async def begun(self):
        assert await asyncio.to_thread(self._has_begun.wait, 30)

    def release(self):
        self._may_end.set()


@pytest.fixture
def held():
    held = PartitionContents()
    yield held
    held.release()


async def test_a_transaction_waits_for_the_one_before_until_its_timeout(bench, warehouse, held):
    """Of this process: the file is held by itself."""
    first = asyncio.create_task(warehouse.transact(held))
    await held.begun()
    patient = asyncio.create_task(land(warehouse, ["a"]))
    with pytest.raises(WarehouseBusyError, match=r"of this process .* for all of 0\.1 s"):
        await land(bench.open(busy_timeout_seconds=0.1), ["b"])
    assert not patient.done()
    held.release()
    await first
    assert (await patient).sessions == 1
    assert await bench.check() == ["a"]


async def test_a_cancelled_call_ends_when_its_transaction_has_ended(warehouse, held):
    task = asyncio.create_task(warehouse.transact(held))
    await held.begun()
    task.cancel()
    await asyncio.wait([task], timeout=0.1)
    assert not task.done()
    held.release()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_an_answer_that_waited_does_not_replace_a_newer_one(bench, warehouse, held):
    """Which one is newer is decided after the wait: the other job may be submitted during it."""

    def land_newer(tables):
        yield from held(tables)
        newer = a_record().submitted(a_job().model_copy(update={"submitted_at": datetime.now(UTC)}))
        with an_answer(["new"], record=newer) as answer:
            yield Statement(f"CREATE TEMP TABLE {STAGED} AS SELECT 'new' AS session_id")
            yield from tables.publish(answer, datetime.now(UTC))

    first = asyncio.create_task(warehouse.transact(land_newer))
    await held.begun()
    waiting = asyncio.create_task(land(warehouse, ["old"]))
    await asyncio.sleep(0.1)
    held.release()
    await first
    assert (await waiting).state is JobState.SUPERSEDED
    assert await bench.check() == ["new"]


async def load_asks(warehouse, intents):
    """What a load does with its warehouse: every third ask fails, the others land."""

    async def one(intent):
        claim = await warehouse.claim(intent, adopt_since=NOON)
        assert (claim.adopted, claim.orphans) == (False, 0)
        submitted = intent.submitted(a_job(intent.partition, job_id=intent.record_id))
        await warehouse.save_record(submitted)
        if _fails(intent):
            await warehouse.save_record(submitted.ended(JobState.FAILED, at=NOON))
            await warehouse.job_records(MOBILE.site_id, WEEK)
        else:
            await land(warehouse, [intent.record_id], record=submitted)

    async with kept_open(warehouse):
        await asyncio.gather(*map(one, intents))


def _fails(intent):
    return intent.partition.day.day % 3 == 0


async def test_loads_in_several_threads_lose_and_double_nothing(bench, warehouse, monkeypatch):
    """Each has an event loop of its own, and they close the file every few transactions."""
    monkeypatch.setattr(connection, "LONGEST_SECONDS", 0.1)
    monkeypatch.setattr(connection, "BREAK_SECONDS", 0.001)
    days = [MOBILE.day + timedelta(days=n) for n in range(60)]
    intents = [JobRecord.intend(replace(MOBILE, day=day), at=NOON, run_id=None) for day in days]
    shares = [intents[n::3] for n in range(3)]
    loads = [load_asks(bench.open(), share) for share in shares]
    await asyncio.gather(*(asyncio.to_thread(asyncio.run, load) for load in loads))
    ended = [(one.record_id, "failed" if _fails(one) else "landed") for one in intents]
    records = await bench.sql(
        "SELECT record_id, state FROM wix.wix_session_jobs ORDER BY session_date"
    )
    assert records == ended
    ids = await bench.sql("SELECT session_id FROM wix.wix_session_ids ORDER BY session_date")
    assert ids == [(record_id,) for record_id, state in ended if state == "landed"]


async def test_a_link_to_the_file_is_the_same_database(bench, warehouse, tmp_path):
    """Else DuckDB refused to open it twice in one process, with other settings."""
    link = tmp_path / "elsewhere" / "link.duckdb"
    link.parent.mkdir()
    link.symlink_to(bench.file)
    by_link = open_warehouse(f"duckdb:///{link}?memory_limit=1GB", schema="wix")
    record = a_record()
    async with kept_open(warehouse), kept_open(by_link):
        await warehouse.save_record(record)
        assert await by_link.job_records(MOBILE.site_id, MOBILE.window) == [record]
        await warehouse.save_record(record)


# -- what is committed ---------------------------------------------------------------------------

KILLED = """
import asyncio, os, sys
from prefect_wix.planning.partitions import JobRecord
from prefect_wix.warehouse import open_warehouse
from prefect_wix.warehouse.connection import kept_open
from tests.warehouses import NOON, a_job, on_day

async def main():
    warehouse = open_warehouse(sys.argv[1], schema="wix")
    async with kept_open(warehouse):
        for day in (1, 2):
            record = JobRecord.intend(on_day(day), at=NOON, run_id=None)
            await warehouse.claim(record, adopt_since=NOON)
            if day == 1:
                await warehouse.save_record(record.submitted(a_job(on_day(day), job_id="job-1")))
        os._exit(9)

asyncio.run(main())
"""


async def test_what_a_killed_process_has_recorded_is_there_for_the_next(bench, warehouse):
    """Each call is committed when it returns, also while the connection stays open."""
    command = [sys.executable, "-c", KILLED, bench.url]
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT)
    assert await process.wait() == 9
    intent = JobRecord.intend(on_day(1), at=NOON, run_id=None)
    adopted = await warehouse.claim(intent, adopt_since=NOON - timedelta(hours=1))
    assert (adopted.record.job_id, adopted.adopted) == ("job-1", True)
    intent = JobRecord.intend(on_day(2), at=NOON, run_id=None)
    assert (await warehouse.claim(intent, adopt_since=NOON)).orphans == 1
    states = await bench.sql("SELECT state FROM wix.wix_session_jobs ORDER BY session_date, state")
    assert states == [("submitted",), ("intended",), ("orphaned",)]


async def test_a_journal_of_an_earlier_version_is_refused_and_not_dropped(bench):
    """It has jobs that the tables do not know: they would be submitted again without a word."""
    journal = bench.file.with_name("sessions.duckdb.wix.asks")
    journal.write_text('{"record_id": "1"}\n')
    with pytest.raises(WarehouseSchemaError, match="delete the file"):
        await bench.ready()
    assert journal.exists()
    assert not bench.file.exists()


async def test_motherduck_is_a_database_and_no_file(tmp_path, monkeypatch):
    """Nothing is named after its token. A DuckDB file stands in for it here."""
    connect = duckdb.connect
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(duckdb, "connect", lambda *_, **__: connect(str(tmp_path / "cloud")))
    warehouse = open_warehouse(f"md:shop?motherduck_token={'x' * 300}")
    await warehouse.prepare()
    async with kept_open(warehouse):
        intent = JobRecord.intend(MOBILE, at=NOON, run_id=None)
        await warehouse.claim(intent, adopt_since=NOON)
        await warehouse.save_record(intent.submitted(a_job()))
        landed = await land(warehouse, ["a"], record=intent.submitted(a_job()))
        [record] = await warehouse.job_records(MOBILE.site_id, MOBILE.window)
    assert (landed.state, record.state) == (JobState.LANDED, JobState.LANDED)
    assert [*tmp_path.iterdir()] == [tmp_path / "cloud"]
