"""A load keeps its DuckDB file open while its verbs follow each other, and nobody suffers by it."""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress

import duckdb
import pytest

from prefect_wix.errors import (
    SpoolError,
    WarehouseBusyError,
    WarehouseError,
    WarehouseSchemaError,
)
from prefect_wix.partitions import AskState
from prefect_wix.warehouse import batches, leases, open_warehouse
from prefect_wix.warehouse.database import Database
from prefect_wix.warehouse.leases import kept_open
from prefect_wix.warehouse.steps import Statement
from tests.warehouses import an_answer, an_ask, another_process, ids_of, land, on_day

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
        await warehouse.record(an_ask(on_day(1), hours=hours))
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
    monkeypatch.setattr(leases, "IDLE_SECONDS", 1.0)
    connect, opened = duckdb.connect, []
    monkeypatch.setattr(
        duckdb, "connect", lambda *given, **how: opened.append(given) or connect(*given, **how)
    )
    async with kept_open(warehouse):
        with suppress(TimeoutError):
            async with asyncio.timeout(2.5 * leases.IDLE_SECONDS):
                await notes_without_a_pause(warehouse)
    assert len(opened) == 1


@pytest.mark.parametrize("work", [verbs_without_a_pause, notes_without_a_pause])
async def test_a_load_that_never_pauses_lets_others_at_the_file(
    bench, warehouse, monkeypatch, work
):
    """Now and then it takes a break that is long enough for whoever waits."""
    monkeypatch.setattr(leases, "LONGEST_SECONDS", 0.3)
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
            await warehouse.record(an_ask())
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
        assert (await land(warehouse, ["a", "b"], hours=1)).stayed == 1
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
    with duckdb.connect(str(bench.file)) as connection:
        before = connection.execute(limit).fetchall()
        await land(warehouse, ["a"])
        assert connection.execute(limit).fetchall() == before != [("488.2 MiB",)]


async def test_a_warehouse_that_is_no_file_is_as_it_was(make_bench):
    """There is nothing to keep open."""
    warehouse = await make_bench("parquet").ready()
    async with kept_open(warehouse):
        assert (await land(warehouse, ["a"])).sessions == 1


async def land_together(*answers, warehouse):
    """Land answers that come at the same moment, so that they share a transaction."""
    landings = [warehouse.publish(answer) for answer in answers]
    return await asyncio.gather(*landings, return_exceptions=True)


async def test_an_answer_that_can_not_land_takes_no_other_along(bench, warehouse):
    """Its ids are gone: an error of a kind that no warehouse has."""
    with an_answer(["a"], on_day(1)) as good, an_answer(["b"], on_day(2)) as bad:
        bad.spool.close()
        landed, error = await land_together(good, bad, warehouse=warehouse)
    assert (landed.state, type(error)) == (AskState.LANDED, SpoolError)
    assert await bench.check(on_day(1)) == ["a"]
    assert await bench.check(on_day(2)) == []


async def test_a_transaction_that_fails_is_no_fault_of_those_who_share_it(
    bench, warehouse, monkeypatch
):
    """It is undone, and each lands in one of its own."""
    sizes = []

    def fail(tables, answers, at, new):
        sizes.append(len(answers))
        yield from batches.land_first(tables, answers, at, new)
        raise WarehouseError("no luck")

    monkeypatch.setattr("prefect_wix.warehouse.database.land_first", fail)
    with an_answer(["a"], on_day(1)) as one, an_answer(["b"], on_day(2)) as other:
        landed = await land_together(one, other, warehouse=warehouse)
    assert [one.added for one in landed] == [1, 1]
    assert sizes == [2]
    assert await bench.check(on_day(1)) == ["a"]


async def test_a_busy_file_is_waited_for_once_and_not_by_each(warehouse, monkeypatch):
    sizes = []

    def busy(database, tables, answers, at):
        sizes.append(len(answers))
        raise WarehouseBusyError("somebody has it open")

    monkeypatch.setattr(Database, "land_first", busy)
    with an_answer(["a"], on_day(1)) as one, an_answer(["b"], on_day(2)) as other:
        errors = await land_together(one, other, warehouse=warehouse)
    assert [type(error) for error in errors] == 2 * [WarehouseBusyError]
    assert sizes == [2]
