"""A failure of one partition stops no other; an outage is waited for once, by all together."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, date, datetime

import duckdb
import pytest

from prefect_wix.client.auth import ApiKeyAuth
from prefect_wix.client.client import WixClient
from prefect_wix.errors import WarehouseAccessError
from prefect_wix.jobs.poll_policy import PollPolicy
from prefect_wix.load.loader import load_partitions
from prefect_wix.load.partition_load import LoadOptions
from prefect_wix.planning.partitions import JobState, Partition
from prefect_wix.planning.windows import Window
from prefect_wix.warehouse import duckdb as duckdb_engine
from prefect_wix.warehouse import postgres
from prefect_wix.warehouse.factory import open_warehouse
from tests.warehouses import (
    MOBILE,
    PostgresBench,
    PostgresServer,
    a_record,
    land,
    on_day,
    postgres_programs,
)

ZONE = "Asia/Jerusalem"
DAYS = [date(2024, 3, day) for day in range(1, 7)]
QUICK = PollPolicy(timeout_seconds=30, first_wait_seconds=0.01, longest_wait_seconds=0.1)


@pytest.fixture
async def client(shop):
    auth = ApiKeyAuth(shop.api_key, shop.site_id)
    async with WixClient(auth, base_url=shop.url, requests_per_minute=100_000) as client:
        yield client


def partition(client, day):
    return Partition(client.site_id, day, "device_type=ALL", ZONE)


async def load(client, warehouse, *, on_progress=None):
    async def nothing(_):
        pass

    return await load_partitions(
        client,
        warehouse,
        [partition(client, day) for day in DAYS],
        LoadOptions(datetime.now(UTC), 6, QUICK),
        on_progress=on_progress or nothing,
    )


async def no_row_of_the_second_day(bench, client, monkeypatch):
    table = bench.name("wix_session_ids")
    await bench.sql(f"ALTER TABLE {table} ADD CHECK (session_date <> '{DAYS[1]}')")


async def a_cancelled_claim_of_the_second_day(bench, client, monkeypatch):
    table = bench.name("wix_session_jobs")
    await bench.sql(
        f"CREATE FUNCTION {table}_cancel() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'canceling statement' USING ERRCODE = '57014'; END $$"
    )
    await bench.sql(
        f"CREATE TRIGGER cancelled BEFORE INSERT ON {table} FOR EACH ROW "
        f"WHEN (NEW.session_date = '{DAYS[1]}') EXECUTE FUNCTION {table}_cancel()"
    )


async def no_space_for_the_second_day(bench, client, monkeypatch):
    stage, calls = duckdb_engine.stage, []

    def fail_once(cursor, spool):
        calls.append(spool)
        if len(calls) == 2:
            raise duckdb.IOException("Could not write file: No space left on device")
        stage(cursor, spool)

    monkeypatch.setattr(duckdb_engine, "stage", fail_once)


async def a_broken_file_of_the_second_day(bench, client, monkeypatch):
    await land(bench.open(), ["a"], partition(client, DAYS[1]))
    [file] = bench.folder.glob("wix_session_ids/*/*/*.parquet")
    file.write_text("not by us")


@pytest.mark.parametrize(
    ("engine", "spoil"),
    [
        ("postgres", no_row_of_the_second_day),
        ("postgres", a_cancelled_claim_of_the_second_day),
        ("duckdb", no_space_for_the_second_day),
        ("parquet", a_broken_file_of_the_second_day),
    ],
)
async def test_a_failure_of_one_partition_leaves_the_others(
    make_bench, client, monkeypatch, engine, spoil
):
    bench = make_bench(engine)
    warehouse = await bench.ready()
    await spoil(bench, client, monkeypatch)
    results = await load(client, warehouse)
    states = [one.state for one in results]
    assert (states.count(JobState.LANDED), states.count(JobState.FAILED)) == (5, 1)


async def test_tables_that_are_gone_stop_the_load(make_bench, shop, client):
    """No job is submitted for the others."""
    bench = make_bench("postgres")
    warehouse = await bench.ready()
    await bench.sql(f"DROP TABLE {bench.name('wix_session_ids')} CASCADE")
    results = await load(client, warehouse)
    assert {one.state for one in results} == {JobState.FAILED}
    await bench.sql(f"DROP TABLE {bench.name('wix_session_jobs')} CASCADE")
    shop.reset_counts()
    results = await load(client, warehouse)
    assert {one.state for one in results} == {JobState.FAILED}
    assert shop.count() == 0


async def test_an_outage_is_waited_for_once(client, shop, monkeypatch):
    """Six partitions fail after one busy timeout, and nothing is submitted."""
    monkeypatch.setattr(postgres, "_RETRY_SECONDS", 0.05)
    warehouse = open_warehouse("postgresql://me@127.0.0.1:1/db")
    warehouse._busy_timeout = 0.5
    began = time.monotonic()
    results = await load(client, warehouse)
    assert {one.state for one in results} == {JobState.FAILED}
    assert 0.5 <= time.monotonic() - began < 1
    assert shop.count() == 0
    # Nor does a job that Wix finishes later in the outage wait again.
    began = time.monotonic()
    for _ in range(3):
        with pytest.raises(WarehouseAccessError):
            await land(warehouse, ["a"])
    assert time.monotonic() - began < 0.5


async def test_a_role_that_can_only_read_writes_no_record_of_a_landed_job(make_bench):
    """`prefect-wix check` writes the last record again, to find such a role."""
    bench = make_bench("postgres")
    await land(await bench.ready(), ["a"])
    role = f"r_{bench.schema}"
    await bench.sql(f"CREATE ROLE {role} LOGIN PASSWORD 'reader'")
    await bench.sql(f"GRANT USAGE ON SCHEMA {bench.schema} TO {role}")
    await bench.sql(f"GRANT SELECT ON ALL TABLES IN SCHEMA {bench.schema} TO {role}")
    url = f"postgresql://{role}:reader@127.0.0.1:{bench.server.port}/postgres"
    warehouse = open_warehouse(url, schema=bench.schema)
    try:
        [record] = await warehouse.job_records(MOBILE.site_id, MOBILE.window)
        with pytest.raises(WarehouseAccessError, match="permission denied"):
            await warehouse.save_record(record)
    finally:
        await bench.close()
        await bench.sql(f"DROP ROLE {role}")


async def test_a_role_with_three_connections_loads_24_partitions_at_once(make_bench):
    """Nor does any operation try to open a fourth."""
    bench = make_bench("postgres")
    await bench.ready()
    role = f"r_{bench.schema}"
    await bench.sql(f"CREATE ROLE {role} LOGIN PASSWORD 'three' CONNECTION LIMIT 3")
    await bench.sql(f"GRANT ALL ON SCHEMA {bench.schema} TO {role}")
    await bench.sql(f"GRANT ALL ON ALL TABLES IN SCHEMA {bench.schema} TO {role}")
    port = bench.server.port
    url = f"postgresql://{role}:three@127.0.0.1:{port}/postgres"
    warehouse = open_warehouse(url, schema=bench.schema)
    warehouse._busy_timeout = 5
    week = Window(date(2026, 3, 1), date(2026, 3, 25), ZONE)
    opened, connect = [], warehouse._connect

    async def counted():
        opened.append(await connect())
        return opened[-1]

    warehouse._connect = counted
    try:
        await asyncio.gather(
            *(land(warehouse, [f"id-{day}"], record=a_record(on_day(day))) for day in range(1, 25)),
            *(warehouse.receipts("site-1", week) for _ in range(24)),
        )
    finally:
        ids = [await bench.ids(on_day(day)) for day in range(1, 25)]
        await bench.close()
        await bench.sql(f"DROP ROLE {role}")
    assert ids == [[f"id-{day}"] for day in range(1, 25)]
    assert len(opened) == 48


async def test_a_failover_in_a_load_loses_and_doubles_nothing(client, caplog):
    """The server crashes when the first partition has landed, and is back after 2 s.

    One line says what the load waits for.
    """
    server = PostgresServer(postgres_programs())
    server.start()
    try:
        bench = PostgresBench(server)
        warehouse = await bench.ready()
        failovers = []

        async def fail_over(_):
            if not failovers:
                failovers.append(asyncio.create_task(asyncio.to_thread(server.fail_over, 2)))

        results = await load(client, warehouse, on_progress=fail_over)
        await failovers[0]
        assert caplog.text.count("Trying again for up to 60 s.") == 1
        assert {one.state for one in results} == {JobState.LANDED}
        for one in results:
            assert len(await bench.check(one.partition)) == one.sessions > 0
    finally:
        server.stop()
