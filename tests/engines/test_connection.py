"""One connection to a DuckDB file: open during a load, with breaks for other processes."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from itertools import count

import duckdb
import pytest

from prefect_wix.errors import WarehouseBusyError, WarehouseError, WarehouseSchemaError
from prefect_wix.planning.partitions import JobRecord, JobState
from prefect_wix.planning.windows import Window
from prefect_wix.spool import shield
from prefect_wix.warehouse import duckdb_connection as connection
from prefect_wix.warehouse.factory import open_warehouse
from prefect_wix.warehouse.interface import kept_open
from prefect_wix.warehouse.schema import Statement
from tests.options import repeated
from tests.warehouses import (
    MOBILE,
    NOON,
    ROOT,
    a_job,
    a_record,
    another_process,
    ids_of,
    intended,
    land,
    on_day,
    store,
)

WEEK = Window(on_day(1).day, on_day(8).day, MOBILE.timezone)
READ = "import duckdb, sys; duckdb.connect(sys.argv[1], read_only=True)"

SAVE = """
import asyncio, sys
from prefect_wix.warehouse.factory import open_warehouse
from tests.warehouses import a_record, intended

async def main():
    for _ in range(int(sys.argv[3])):
        await intended(open_warehouse(sys.argv[1], schema=sys.argv[2]), a_record())

asyncio.run(main())
"""


@pytest.fixture
def bench(make_bench):
    return make_bench("duckdb")


@pytest.fixture
async def warehouse(bench):
    return await bench.ready()


async def is_free(bench):
    """Whether another process can open the file."""
    command = [sys.executable, "-c", READ, str(bench.file)]
    quiet = {"stdout": asyncio.subprocess.DEVNULL, "stderr": asyncio.subprocess.DEVNULL}
    process = await asyncio.create_subprocess_exec(*command, **quiet)
    return await process.wait() == 0


async def publish_without_a_pause(warehouse):
    hours = 0
    while True:
        hours += 1
        await land(warehouse, [str(hours)], on_day(1), hours=hours)


async def save_records_without_a_pause(warehouse):
    hours = 0
    while True:
        hours += 1
        await store(warehouse, a_record(on_day(1), hours=hours))
        await asyncio.sleep(0)


async def finish(process):
    _, errors = await asyncio.to_thread(process.communicate, timeout=60)
    assert process.returncode == 0, errors


async def test_the_file_stays_open_between_the_operations_of_a_load(bench, warehouse, never_idle):
    """Opening the file for each operation would cost about 30 ms."""
    async with kept_open(warehouse):
        assert await is_free(bench)
        await land(warehouse, ["a"])
        assert not await is_free(bench)
        await land(bench.open(), ["b"], hours=1)
        assert not await is_free(bench)


async def test_without_a_load_the_file_is_closed_after_each_operation(bench, warehouse):
    """Another process can open it."""
    await land(warehouse, ["a"])
    assert await is_free(bench)


async def test_the_file_is_closed_when_a_load_ends(bench, warehouse):
    """This process can open it with other settings, and so can another process."""
    async with kept_open(warehouse):
        await land(warehouse, ["a"])
    duckdb.connect(str(bench.file), read_only=True).close()
    assert await is_free(bench)


async def test_the_file_is_closed_when_a_load_fails_or_is_cancelled(bench, warehouse):
    """The connection is closed however the block is left."""
    with suppress(ZeroDivisionError):
        async with kept_open(warehouse):
            await land(warehouse, ["a"])
            raise ZeroDivisionError
    assert await is_free(bench)
    with suppress(TimeoutError):
        async with asyncio.timeout(0.5), kept_open(warehouse):
            await publish_without_a_pause(warehouse)
    assert await is_free(bench)


async def test_other_processes_open_the_file_while_a_load_waits_for_wix(bench, warehouse):
    """An idle connection is closed, and the next operation opens the file again."""
    async with kept_open(warehouse):
        await land(warehouse, ["a"], on_day(8))
        await finish(another_process(bench, (9, "x", 20)))
        await land(warehouse, ["b"], on_day(8), hours=1)
    assert await bench.check(on_day(8)) == ["b"]
    assert len(await bench.check(on_day(9))) == 20


async def test_a_load_that_only_saves_job_records_is_not_idle(warehouse, monkeypatch):
    """Opening the file again takes far longer than saving a job record."""
    monkeypatch.setattr(connection, "IDLE_SECONDS", 1.0)
    connect, opened = duckdb.connect, []
    monkeypatch.setattr(
        duckdb, "connect", lambda *given, **how: opened.append(given) or connect(*given, **how)
    )
    async with kept_open(warehouse):
        with suppress(TimeoutError):
            async with asyncio.timeout(2.5 * connection.IDLE_SECONDS):
                await save_records_without_a_pause(warehouse)
    assert len(opened) == 1


@pytest.mark.parametrize("work", [publish_without_a_pause, save_records_without_a_pause])
async def test_other_processes_open_the_file_during_a_load_without_a_pause(
    bench, warehouse, monkeypatch, work
):
    """The connection is closed every few seconds, long enough for a process that waits."""
    monkeypatch.setattr(connection, "LONGEST_SECONDS", 0.3)
    async with kept_open(warehouse):
        busy = asyncio.create_task(work(warehouse))
        await finish(another_process(bench, (9, "x", 20)))
        assert not busy.done()
        busy.cancel()
        await asyncio.wait([busy])
    assert sorted(await bench.check(on_day(9))) == sorted(ids_of("x", 20))


async def test_a_file_that_changes_while_it_is_opened_is_opened_again(
    bench, warehouse, monkeypatch
):
    """DuckDB 2.0 reads the header before it locks the file: a commit in between would be lost."""
    record = await intended(warehouse, a_record())
    connect, opened = duckdb.connect, []

    def connect_late(*args, **kwargs):
        if not opened:
            another_process(bench, (9, "x", 20)).communicate()
        opened.append(connect(*args, **kwargs))
        return opened[-1]

    monkeypatch.setattr(duckdb, "connect", connect_late)
    await land(warehouse, ["a"], record=record)
    assert len(opened) == 2
    assert (await bench.check(), len(await bench.check(on_day(9)))) == (["a"], 20)


async def test_a_file_that_always_changes_is_given_up(bench, monkeypatch):
    """The error says that nothing was changed."""
    await bench.ready()
    numbers = count()
    monkeypatch.setattr(
        "prefect_wix.warehouse.duckdb.last_change", lambda _: [(next(numbers), 0, 0)]
    )
    with pytest.raises(WarehouseBusyError, match="changed each of the 20 times"):
        await land(bench.open(), ["a"])
    monkeypatch.undo()
    assert await bench.check() == []


async def test_a_new_file_is_no_change_of_another_process(bench):
    """Also where it takes longer to create than a locked file is waited for."""
    await bench.open(busy_timeout_seconds=0).prepare()


async def test_no_transaction_of_many_processes_is_lost(bench, warehouse):
    """Each process opens the file for each of its job records."""
    processes, records = repeated((3, 5), soak=(8, 100))
    command = [sys.executable, "-c", SAVE, bench.url, bench.schema, str(records)]
    started = [await asyncio.create_subprocess_exec(*command, cwd=ROOT) for _ in range(processes)]
    assert [await one.wait() for one in started] == [0] * processes
    saved = await warehouse.job_records(MOBILE.site_id, MOBILE.window)
    assert len(saved) == processes * records


async def test_two_loads_of_one_process_share_the_file(bench, warehouse, never_idle):
    """It stays open until the last of them has ended."""
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


async def test_a_file_that_was_moved_is_not_written_to(bench, warehouse, never_idle):
    """The next operation opens the file that is at the path now."""
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


async def test_an_error_does_not_affect_the_next_operation(bench, warehouse, never_idle):
    """The failed transaction is rolled back and the connection is closed."""

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
    """DuckDB's default is 80 % of the machine."""
    assert await open_warehouse(bench.url + query).transact(memory_limit) == limit


async def test_other_settings_open_the_file_again(bench, warehouse):
    """Two loads may use different settings for the same file."""
    other = open_warehouse(f"{bench.url}?memory_limit=1GB")
    async with kept_open(warehouse), kept_open(other):
        for _ in range(2):
            assert await warehouse.transact(memory_limit) == "488.2 MiB"
            assert await other.transact(memory_limit) == "953.6 MiB"


async def test_a_notebook_may_read_the_file_during_a_load(bench, warehouse, never_idle):
    """DuckDB allows one set of settings per file and process, and a notebook has none."""
    async with kept_open(warehouse):
        await land(warehouse, ["a"])
        assert await bench.ids() == ["a"]
        await land(warehouse, ["a", "b"], hours=1)


async def test_a_load_uses_one_thread_unless_the_url_sets_more(bench, warehouse):
    """Small transactions are faster on one thread; queries outside of a load use all of them."""

    def threads(_tables):
        rows = yield Statement("SELECT current_setting('threads')")
        return rows[0][0]

    outside = await warehouse.transact(threads)
    assert outside == os.cpu_count()
    async with kept_open(warehouse):
        assert await warehouse.transact(threads) == 1
        other = open_warehouse(f"{bench.url}?threads=3", schema="wix")
        assert await other.transact(threads) == 3
    assert await warehouse.transact(threads) == outside


async def test_a_notebook_that_has_the_file_open_keeps_its_memory_limit(bench, warehouse):
    """The limit applies to the file in the whole process, so a load must not lower it."""
    limit = "SELECT current_setting('memory_limit')"
    with duckdb.connect(str(bench.file)) as notebook:
        before = notebook.execute(limit).fetchall()
        await land(warehouse, ["a"])
        assert notebook.execute(limit).fetchall() == before != [("488.2 MiB",)]


async def test_kept_open_accepts_a_warehouse_without_a_connection(make_bench):
    """A Parquet warehouse has nothing to keep open."""
    warehouse = await make_bench("parquet").ready()
    async with kept_open(warehouse):
        assert (await land(warehouse, ["a"])).sessions == 1


# -- one at a time -------------------------------------------------------------------------------


class BlockedTransaction:
    """A transaction that ends only after `release`."""

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
def blocked():
    blocked = BlockedTransaction()
    yield blocked
    blocked.release()


async def test_a_transaction_waits_for_another_until_its_timeout(bench, warehouse, blocked):
    """Transactions of one process run one at a time."""
    first = asyncio.create_task(warehouse.transact(blocked))
    await blocked.begun()
    waiting = asyncio.create_task(land(warehouse, ["a"]))
    with pytest.raises(WarehouseBusyError, match=r"of this process .* for all of 0\.1 s"):
        await land(bench.open(busy_timeout_seconds=0.1), ["b"])
    assert not waiting.done()
    blocked.release()
    await first
    assert (await waiting).sessions == 1
    assert await bench.check() == ["a"]


async def test_a_cancelled_call_ends_when_its_transaction_has_ended(warehouse, blocked):
    task = asyncio.create_task(warehouse.transact(blocked))
    await blocked.begun()
    task.cancel()
    await asyncio.wait([task], timeout=0.1)
    assert not task.done()
    blocked.release()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_load_ends_although_its_transaction_does_not(
    bench, warehouse, blocked, monkeypatch
):
    """The thread of the transaction goes on, and closes the file at its end."""
    monkeypatch.setattr(shield, "SHIELD_SECONDS", 0.1)
    monkeypatch.setattr(connection, "LONGEST_SECONDS", 0.1)
    async with asyncio.timeout(5):
        async with kept_open(warehouse):
            task = asyncio.create_task(warehouse.transact(blocked))
            await blocked.begun()
            task.cancel()
            await asyncio.wait([task])
        assert task.cancelled()
    blocked.release()
    await land(warehouse, ["a"])
    assert await bench.check() == ["a"]


async def load(warehouse, intents):
    """The operations of a load in which every third job fails and the others land."""

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
    """Each thread has an event loop, and they close the file every few transactions."""
    monkeypatch.setattr(connection, "LONGEST_SECONDS", 0.1)
    monkeypatch.setattr(connection, "BREAK_SECONDS", 0.001)
    days = [MOBILE.day + timedelta(days=n) for n in range(60)]
    intents = [JobRecord.intend(replace(MOBILE, day=day), at=NOON, run_id=None) for day in days]
    shares = [intents[n::3] for n in range(3)]
    loads = [load(bench.open(), share) for share in shares]
    await asyncio.gather(*(asyncio.to_thread(asyncio.run, one) for one in loads))
    ended = [(one.record_id, "failed" if _fails(one) else "landed") for one in intents]
    records = await bench.sql(
        "SELECT record_id, state FROM wix.wix_session_jobs ORDER BY session_date"
    )
    assert records == ended
    ids = await bench.sql("SELECT session_id FROM wix.wix_session_ids ORDER BY session_date")
    assert ids == [(record_id,) for record_id, state in ended if state == "landed"]


async def test_a_link_to_the_file_is_the_same_database(bench, warehouse, tmp_path):
    """DuckDB refuses to open a file twice in one process with different settings."""
    link = tmp_path / "elsewhere" / "link.duckdb"
    link.parent.mkdir()
    link.symlink_to(bench.file)
    by_link = open_warehouse(f"duckdb:///{link}?memory_limit=1GB", schema="wix")
    record = a_record()
    async with kept_open(warehouse), kept_open(by_link):
        await store(warehouse, record)
        assert await by_link.job_records(MOBILE.site_id, MOBILE.window) == [record]
        await warehouse.save_record(record)


# -- commits -------------------------------------------------------------------------------------

KILLED = """
import asyncio, os, sys
from prefect_wix.planning.partitions import JobRecord
from prefect_wix.warehouse import open_warehouse
from prefect_wix.warehouse.interface import kept_open
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


async def test_the_records_of_a_killed_process_are_committed(bench, warehouse):
    """Each operation is committed when it returns, even while the connection stays open."""
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


async def test_a_journal_of_an_earlier_version_is_refused_and_kept(bench):
    """Its jobs are not in the tables, and would be submitted a second time."""
    journal = bench.file.with_name("sessions.duckdb.wix.asks")
    journal.write_text('{"record_id": "1"}\n')
    with pytest.raises(WarehouseSchemaError, match="delete the file"):
        await bench.ready()
    assert journal.exists()
    assert await bench.sql("SELECT table_name FROM information_schema.tables") == []
