"""Publishing writes the difference only, and the change log replays to every version."""

from __future__ import annotations

import asyncio
import random
import re
from contextlib import aclosing, contextmanager, nullcontext, suppress
from dataclasses import astuple, replace
from datetime import timedelta
from itertools import count

import pytest

from prefect_wix.errors import WarehouseAccessError, WarehouseUnsupportedError
from prefect_wix.load import session_changes
from prefect_wix.load.session_changes import read_session_changes
from prefect_wix.planning.partitions import JobState
from prefect_wix.warehouse import postgres
from prefect_wix.warehouse.factory import open_warehouse
from prefect_wix.warehouse.transactions import DIFFERENCE
from tests.object_stores import STORES
from tests.options import repeated
from tests.warehouses import MOBILE, ROOT, ParquetBench, a_record, intended, land, on_day

SQL = ["duckdb", "postgres"]
FILES = ["parquet", "memory"]
DATABASES, OBJECT_STORES = (
    [pytest.param(one, marks=pytest.mark.emulators) for one in emulated]
    for emulated in (("snowflake", "bigquery"), STORES)
)


@pytest.fixture(params=[*SQL, *FILES, *DATABASES, *OBJECT_STORES])
def bench(request, make_bench):
    return make_bench(request.param)


@pytest.fixture(params=[*SQL, *DATABASES])
def sql_bench(request, make_bench):
    return make_bench(request.param)


@pytest.fixture(params=[*SQL, *FILES])
def read_bench(request, make_bench):
    """One that `read_session_changes` reads."""
    return make_bench(request.param)


@contextmanager
def crashing(warehouse, *, writes):
    """A process that dies after it has written some files; a database rolls back."""
    put, numbers = warehouse._store.put, count()

    def put_or_die(path, draft, version):
        if next(numbers) == writes:
            raise OSError("killed")
        return put(path, draft, version)

    warehouse._store.put = put_or_die
    with suppress(WarehouseAccessError):
        yield warehouse


@pytest.mark.parametrize("seed", range(repeated(2, soak=30)))
async def test_any_sequence_of_answers_can_be_replayed(bench, seed):
    """Additions, removals, returns, empty and equal answers and crashes, in two partitions."""
    rng, warehouse = random.Random(seed), await bench.ready()
    partitions = [MOBILE, on_day(1)]
    history = {partition: [set()] for partition in partitions}
    for hours in range(1, 9):
        partition = rng.choice(partitions)
        versions = history[partition]
        ids = {one for one in "abcdef" if rng.random() < rng.choice([0, 0.5, 0.9])}
        ids = rng.choice([ids, ids, versions[-1]])
        record = await intended(warehouse, a_record(partition, hours=hours))
        before = await bench.rows(partition)
        is_killed = isinstance(bench, ParquetBench) and rng.random() < 0.3
        with (
            crashing(bench.open(), writes=rng.randrange(4))
            if is_killed
            else nullcontext(warehouse) as loader
        ):
            await land(loader, sorted(ids), partition, record=record)
        after, receipt = await bench.rows(partition), await bench.receipt(partition)
        if receipt is not None and receipt.version == len(versions):
            versions.append(ids)
        assert (receipt.version if receipt else 0) == len(versions) - 1
        assert after.keys() == versions[-1]
        assert is_killed or versions[-1] == ids
        for one in after:
            new = receipt and (record.job_id, receipt.landed_at, receipt.version)
            assert after[one] == before.get(one, new)
        assert set(await bench.check(partition)) == versions[-1]
        for version, content in enumerate(versions):
            assert await bench.replayed(partition, until=version) == content


async def test_an_equal_answer_writes_no_row_and_no_version(bench):
    warehouse = await bench.ready()
    await land(warehouse, ["a", "b"])
    before = await bench.rows()
    assert (await land(warehouse, ["a", "b"], hours=1)).state is JobState.UNCHANGED
    assert await bench.rows() == before
    assert (await bench.receipt()).version == 1


async def test_rows_that_stay_are_not_touched(make_bench):
    """Of 1,000 rows, 10 are replaced: PostgreSQL moves no other row."""
    bench = make_bench("postgres")
    warehouse, ids = await bench.ready(), [f"id-{number:04}" for number in range(1000)]
    await land(warehouse, ids)
    before = set(await bench.version())
    await land(warehouse, [*ids[10:], *(f"new-{number}" for number in range(10))], hours=1)
    assert len(before & set(await bench.version())) == 990


async def test_no_id_is_compared_with_each_other_one(make_bench, monkeypatch):
    """New tables have no statistics: nested loops over a million IDs took over four minutes."""
    bench, plans, execute = make_bench("postgres"), [], postgres._execute

    async def explain(connection, seconds, statement):
        if DIFFERENCE in statement.sql:
            text = replace(statement, sql=f"EXPLAIN {statement.sql}")
            plans.append([row[0] for row in await execute(connection, seconds, text)])
        return await execute(connection, seconds, statement)

    warehouse, ids = await bench.ready(), [f"id-{number:05}" for number in range(20_000)]
    await land(warehouse, ids)
    monkeypatch.setattr(postgres, "_execute", explain)
    await land(warehouse, [*ids[10:], "new"], hours=1)
    assert len(plans) == 4
    assert not [line for plan in plans for line in plan if "Nested Loop" in line]


@pytest.mark.parametrize("engine", ["duckdb", "parquet"])
async def test_rows_that_were_doubled_by_hand_are_written_again(make_bench, engine):
    """A listing of the same IDs, and one that lacks one of them."""
    bench = make_bench(engine)
    warehouse = await bench.ready()
    await land(warehouse, ["a", "b"])
    for hours, ids in enumerate((["a", "b"], ["b"]), start=1):
        await bench.double()
        await land(warehouse, ids, hours=hours)
        assert sorted(await bench.ids()) == ids
        assert (await bench.receipt()).version == 1 + hours


async def test_versions_go_on_after_a_receipt_was_deleted(sql_bench):
    bench, warehouse = sql_bench, await sql_bench.ready()
    await land(warehouse, ["a", "b"])
    await land(warehouse, ["a"], hours=1)
    await bench.sql(f"DELETE FROM {bench.name('wix_session_receipts')} WHERE true")
    await land(warehouse, ["a", "c"], hours=2)
    assert (await bench.receipt()).version == 3
    assert sorted(await bench.check()) == ["a", "c"]
    assert await bench.replayed(until=2) == {"a"}


async def test_rows_from_before_versions_were_counted_are_filled_from_their_receipt(sql_bench):
    """The migration rewrites no row. A view shows them as version 1."""
    bench, warehouse = sql_bench, await sql_bench.ready()
    await land(warehouse, ["a", "b"])
    landed_at = (await bench.receipt()).landed_at
    ids, receipts = bench.name("wix_session_ids"), bench.name("wix_session_receipts")
    await bench.sql(f"UPDATE {ids} SET first_landed_at = NULL, added_version = NULL WHERE true")
    await bench.sql(f"UPDATE {receipts} SET version = NULL WHERE true")
    assert await bench.replayed(until=1) == {"a", "b"}
    await land(warehouse, ["b", "c"], hours=1)
    assert (await bench.rows())["b"][1:] == (landed_at, 1)
    assert (await bench.receipt()).version == 2
    assert await bench.replayed(until=1) == {"a", "b"}
    assert sorted(await bench.check()) == ["b", "c"]


async def test_a_database_of_version_6_is_migrated(make_bench):
    for engine in ("duckdb", "postgres"):
        bench = make_bench(engine)
        warehouse = await bench.ready()
        await land(warehouse, ["a", "b"])
        for view in ("wix_landed_sessions", "wix_session_changes"):
            await bench.sql(f"DROP VIEW {bench.name(view)}")
        await bench.sql(f"DROP TABLE {bench.name('wix_session_removals')}")
        for column in ("first_landed_at", "added_version"):
            await bench.sql(f"ALTER TABLE {bench.name('wix_session_ids')} DROP COLUMN {column}")
        await bench.sql(f"ALTER TABLE {bench.name('wix_session_receipts')} DROP COLUMN version")
        await bench.sql(f"UPDATE {bench.name('wix_session_schema')} SET version = 6")
        warehouse = await bench.ready()
        await land(warehouse, ["b", "c"], hours=1)
        assert sorted(await bench.check()) == ["b", "c"]
        assert await bench.replayed(until=1) == {"a", "b"}


# -- reading ---------------------------------------------------------------------------------------


class Consumer:
    """Keeps a copy of the landed sessions. It crashes after some batches, before it stores."""

    def __init__(self, warehouse, rng=None):
        self.warehouse, self.rng, self.token, self.copy, self.keys = warehouse, rng, None, {}, set()

    async def read(self, **filters):
        reader = read_session_changes(self.warehouse, since=self.token, **filters)
        async with aclosing(reader):
            async for batch in reader:
                for one in batch.changes:
                    self.keys.add(one.idempotency_key)
                    partition = self.copy.setdefault((one.session_date, one.segment), set())
                    (partition.add if one.change == "added" else partition.discard)(one.session_id)
                if self.rng is not None and self.rng.random() < 0.3:
                    return
                self.token = batch.token


@pytest.fixture
def small_batches(monkeypatch):
    monkeypatch.setattr(session_changes, "BATCH_SIZE", 2)


async def test_a_consumer_that_crashes_ends_with_the_landed_sessions(read_bench, small_batches):
    """Two loaders publish meanwhile, into two partitions."""
    bench, rng = read_bench, random.Random(7)
    warehouse = await bench.ready()
    consumer, partitions = Consumer(warehouse, rng), [MOBILE, on_day(1)]

    async def publish():
        for _ in range(repeated(10, soak=100)):
            ids = [one for one in "abcdefgh" if rng.random() < 0.5]
            await land(warehouse, ids, rng.choice(partitions), hours=rng.random())

    loaders = asyncio.gather(publish(), publish())
    while not loaders.done():
        await consumer.read()
    await loaders
    consumer.rng = None
    await consumer.read()
    for partition in partitions:
        copy = consumer.copy.get((partition.day, partition.segment), set())
        assert copy == set(await bench.check(partition))


async def test_a_change_comes_once_in_batches(read_bench, small_batches):
    """Also if the last batch of a partition is full."""
    warehouse = await read_bench.ready()
    consumer = Consumer(warehouse)
    await consumer.read()
    assert consumer.token is None
    await land(warehouse, ["a", "b", "c", "d", "e", "f"])
    await consumer.read()
    await land(warehouse, ["b", "c", "d", "e", "f", "g"], hours=1)
    await consumer.read()
    assert len(consumer.keys) == 6 + 2
    consumer.keys.clear()
    await land(warehouse, ["g"], on_day(1))
    await consumer.read(segment="another")
    await consumer.read(site_id=MOBILE.site_id, segment=MOBILE.segment)
    assert len(consumer.keys) == 1
    for expected in (2 * session_changes.BATCH_SIZE, 0):
        consumer.keys.clear()
        await land(warehouse, ["g", "h", "i", "j", "k"], on_day(1), hours=1)
        await consumer.read()
        assert len(consumer.keys) == expected


async def test_the_documented_query_of_a_parquet_folder_is_the_change_log(make_bench):
    """Without the removals of a publish that was killed before it replaced the partition."""
    bench = make_bench("parquet")
    warehouse = await bench.ready()
    await land(warehouse, ["a", "b"])
    with crashing(bench.open(), writes=1) as killed:
        await land(killed, ["a"], record=a_record(hours=1))
    for hours, ids in enumerate((["b", "c"], [], ["a"]), start=2):
        await land(warehouse, ids, hours=hours)
    assert len([*bench.folder.glob("wix_session_removals/*/*/*")]) == 3
    [query] = re.findall(
        r"```sql\n(WITH .*?)```", (ROOT / "docs/incremental.md").read_text(), re.DOTALL
    )
    rows = bench.sql(query.replace("lake/", f"{bench.folder}/"))
    read = [batch async for batch in read_session_changes(warehouse)]
    assert sorted(rows) == sorted(astuple(one) for batch in read for one in batch.changes)
    assert len(rows) == 3 + 2 * 2


async def test_a_token_of_ten_years_is_short(make_bench):
    """It fits into a Prefect variable, which holds 5,000 characters."""
    versions = {
        ("site", MOBILE.day + timedelta(day), "all"): 1 + day % 3 for day in range(3650) if day % 7
    }
    token = session_changes._make_token(versions)
    assert len(token) < 1000
    assert session_changes._parse_token(token) == versions


@pytest.mark.parametrize("token", ["", "2024-01-01", "é", "eJyLBQAAXgBe"])
async def test_a_wrong_token_is_refused(make_bench, token):
    with pytest.raises(ValueError, match=r"^The token is not one of read_session_changes"):
        await anext(read_session_changes(make_bench("duckdb").open(), since=token or " "))


async def test_other_engines_name_the_view():
    with pytest.raises(WarehouseUnsupportedError, match="Session changes need a duckdb"):
        await anext(read_session_changes(open_warehouse("bigquery://project/dataset")))
