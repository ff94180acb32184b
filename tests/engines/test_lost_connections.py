"""A write whose PostgreSQL connection was lost is repeated, and is never doubled or lost."""

from __future__ import annotations

import socket
import time
from contextlib import asynccontextmanager
from datetime import timedelta

import asyncpg
import pytest

from prefect_wix.errors import WarehouseAccessError
from prefect_wix.planning.partitions import JobRecord, JobState
from prefect_wix.planning.windows import Window
from prefect_wix.warehouse import postgres
from prefect_wix.warehouse.factory import open_warehouse
from prefect_wix.warehouse.schema import Statement
from tests.warehouses import MOBILE, NOON, a_record, intended, land

LOST = [
    *(asyncpg.TooManyConnectionsError, asyncpg.AdminShutdownError, asyncpg.CannotConnectNowError),
    *(asyncpg.ConnectionDoesNotExistError, ConnectionRefusedError, ConnectionResetError),
    # Between two batches of IDs; of a host with several addresses; of a name that changes.
    *(asyncpg.InterfaceError, OSError, socket.gaierror),
    *(asyncpg.IdleInTransactionSessionTimeoutError, asyncpg.ConnectionRejectionError),
]
WEEK = Window(MOBILE.day, MOBILE.day + timedelta(7), MOBILE.timezone)
OPERATIONS = {
    "prepare": lambda warehouse: warehouse.prepare(),
    "receipts": lambda warehouse: warehouse.receipts(MOBILE.site_id, WEEK),
    "job records": lambda warehouse: warehouse.job_records(MOBILE.site_id, WEEK),
    "save": lambda warehouse: warehouse.save_record(a_record()),
}
NOT_REPEATED = {
    "query": lambda warehouse: warehouse.read(select_one),
    "marks and profiles": lambda warehouse: warehouse.transact(select_one),
}


def select_one(_):
    return (yield Statement("SELECT 1"))


@pytest.fixture
async def lossy(make_bench, monkeypatch):
    """A bench, its warehouse, and a function that sets what each next transaction ends with."""
    monkeypatch.setattr(postgres, "_RETRY_SECONDS", 0.01)
    bench = make_bench("postgres")
    warehouse = await bench.ready()
    transaction = warehouse._transaction

    def lose(*errors, committed):
        left = list(errors)

        @asynccontextmanager
        async def losing(**options):
            if left and not committed:
                raise left.pop()
            async with transaction(**options) as connection:
                yield connection
            if left:
                raise left.pop()

        monkeypatch.setattr(warehouse, "_transaction", losing)
        return left

    return bench, warehouse, lose


@pytest.mark.parametrize("committed", [False, True], ids=["before", "after_the_commit"])
@pytest.mark.parametrize("error", LOST)
async def test_a_partition_is_published_once_whenever_its_connection_is_lost(
    lossy, error, committed
):
    bench, warehouse, lose = lossy
    record = await intended(warehouse, a_record())
    left = lose(error("lost"), error("lost"), committed=committed)
    await land(warehouse, ["a", "b"], record=record)
    assert not left
    assert sorted(await bench.check()) == ["a", "b"]
    [stored] = await warehouse.job_records(MOBILE.site_id, WEEK)
    assert (stored.state, stored.added) == (JobState.LANDED, 2)


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
async def test_every_operation_of_a_load_survives_a_lost_connection(lossy, operation):
    _, warehouse, lose = lossy
    left = lose(ConnectionResetError("lost"), committed=False)
    await operation(warehouse)
    assert not left


@pytest.mark.parametrize("operation", NOT_REPEATED.values(), ids=NOT_REPEATED)
async def test_an_operation_with_effects_outside_is_not_repeated(lossy, operation):
    """A second claim would find its own IDs sent, and a second query keep IDs of the first."""
    _, warehouse, lose = lossy
    lose(ConnectionResetError("lost"), committed=True)
    with pytest.raises(WarehouseAccessError):
        await operation(warehouse)


async def test_a_claim_whose_commit_was_lost_is_granted_without_an_orphan(lossy):
    _, warehouse, lose = lossy
    lose(ConnectionResetError("lost"), committed=True)
    intent = JobRecord.intend(MOBILE, at=NOON, run_id="run-1")
    claim = await warehouse.claim(intent, adopt_since=NOON)
    assert (claim.adopted, claim.orphans) == (False, 0)


async def test_a_cluster_without_a_writable_host_is_waited_for(lossy):
    """In a failover the driver finds standbys only; here a standby is wanted, and none comes."""
    bench, _, _ = lossy
    url = f"postgresql://{bench.server.address}/postgres?target_session_attrs=standby"
    warehouse = open_warehouse(url, schema=bench.schema)
    warehouse._busy_timeout = 0.1
    began = time.monotonic()
    with pytest.raises(WarehouseAccessError, match="target_session_attrs"):
        await warehouse.prepare()
    assert time.monotonic() - began > 0.1


async def test_a_backend_that_is_terminated_in_mid_transaction_is_replaced(lossy, monkeypatch):
    bench, warehouse, _ = lossy
    stage, terminated = postgres._stage, []

    async def terminate_once(connection, spool):
        await stage(connection, spool)
        if not terminated:
            terminated.append(True)
            await connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")

    monkeypatch.setattr(postgres, "_stage", terminate_once)
    await land(warehouse, ["a"])
    assert terminated
    assert await bench.check() == ["a"]


@pytest.mark.parametrize(
    "error", [asyncpg.InvalidPasswordError, asyncpg.InsufficientPrivilegeError]
)
async def test_what_does_not_pass_by_itself_is_not_repeated(lossy, error):
    _, warehouse, lose = lossy
    left = lose(error("no"), error("no"), committed=False)
    with pytest.raises(WarehouseAccessError):
        await land(warehouse, ["a"])
    assert len(left) == 1


async def test_a_lost_connection_is_waited_for_within_the_busy_timeout(lossy):
    _, warehouse, lose = lossy
    warehouse._busy_timeout = 0.1
    left = lose(*[ConnectionRefusedError("down")] * 1000, committed=False)
    with pytest.raises(WarehouseAccessError, match="down"):
        await land(warehouse, ["a"])
    assert 1 < 1000 - len(left) < 1000
