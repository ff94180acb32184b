"""A PostgreSQL that stops responding, behind a connection that stays open, ends no run late."""

from __future__ import annotations

import asyncio
import time

import pytest

from prefect_wix.errors import WarehouseAccessError
from prefect_wix.spool import shield
from prefect_wix.warehouse import postgres
from prefect_wix.warehouse.factory import open_warehouse
from prefect_wix.warehouse.schema import Statement
from tests.warehouses import QUOTED, a_record, land

MOMENTS = {
    "connect": b"",
    "begin": b"BEGIN",
    "copy": b"id-in-the-copy",
    "statement": b"INSERT INTO",
    "commit": b"COMMIT\0",
}
SHORT = (
    *("_CONNECT_TIMEOUT_SECONDS", "_CLOSE_TIMEOUT_SECONDS", "_RETRY_SECONDS"),
    *("_COMMAND_SECONDS", "_STATEMENT_SECONDS"),
)
IDS = ["a", "id-in-the-copy"]


class Proxy:
    """A TCP proxy that forwards nothing more once the client has sent ``silent_at``."""

    def __init__(self, port):
        self._port = port
        self.silent_at, self.is_silent = None, asyncio.Event()

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._forward, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_):
        self._server.close()
        self.heal()

    def heal(self):
        self.silent_at = None
        self.is_silent.clear()

    async def _forward(self, reader, writer):
        up = await asyncio.open_connection("127.0.0.1", self._port)
        pumps = [self._pump(reader, up[1]), self._pump(up[0], writer)]
        try:
            await asyncio.gather(*pumps)
        except ConnectionError:
            pass
        finally:
            writer.close()
            up[1].close()

    async def _pump(self, reader, writer):
        while data := await reader.read(1 << 16):
            if self.silent_at is not None and self.silent_at in data:
                self.is_silent.set()
            if not self.is_silent.is_set():
                writer.write(data)
                await writer.drain()
        writer.close()


@pytest.fixture
async def silenced(make_bench, monkeypatch):
    """A bench, its warehouse behind a proxy, and the proxy. All timeouts are short."""
    for name in SHORT:
        monkeypatch.setattr(postgres, name, 0.3)
    bench = make_bench("postgres")
    await bench.ready()
    async with Proxy(bench.server.port) as proxy:
        url = f"postgresql://postgres:{QUOTED}@127.0.0.1:{proxy.port}/postgres"
        warehouse = open_warehouse(url, schema=bench.schema)
        warehouse._busy_timeout = 0.3
        yield bench, warehouse, proxy


@pytest.mark.parametrize("moment", MOMENTS)
async def test_a_silent_database_fails_the_partition_within_its_timeouts(silenced, moment):
    """The message says so, and the next load lands."""
    bench, warehouse, proxy = silenced
    proxy.silent_at = MOMENTS[moment]
    with pytest.raises(WarehouseAccessError, match="no response in time"):
        async with asyncio.timeout(5):
            await land(warehouse, IDS, record=a_record())
    proxy.heal()
    await land(warehouse, IDS)
    assert sorted(await bench.check()) == IDS


async def test_a_silent_end_of_a_connection_does_not_fail_its_transaction(silenced):
    bench, warehouse, proxy = silenced
    proxy.silent_at = b"X\0\0\0\x04"  # Terminate
    async with asyncio.timeout(5):
        await land(warehouse, IDS, record=a_record())
    assert proxy.is_silent.is_set()
    assert sorted(await bench.check()) == IDS


@pytest.mark.parametrize("moment", MOMENTS)
async def test_a_cancelled_run_ends_although_its_database_is_silent(silenced, moment, monkeypatch):
    """Within the shield's bound, however often it is cancelled, and it begins no new attempt."""
    _, warehouse, proxy = silenced
    monkeypatch.setattr(shield, "SHIELD_SECONDS", 0.3)
    for name in ("_CONNECT_TIMEOUT_SECONDS", "_COMMAND_SECONDS", "_STATEMENT_SECONDS"):
        monkeypatch.setattr(postgres, name, 60)
    warehouse._busy_timeout = 60
    proxy.silent_at = MOMENTS[moment]
    task = asyncio.create_task(land(warehouse, IDS, record=a_record()))
    await proxy.is_silent.wait()
    began = time.monotonic()
    task.cancel()
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert 0.25 < time.monotonic() - began < 3


async def test_a_cancelled_run_begins_no_new_attempt(silenced):
    """The connection is lost after the cancellation."""
    _, warehouse, _ = silenced
    warehouse._busy_timeout = 60
    attempts = []

    async def lose(*args, **options):
        attempts.append(args)
        await asyncio.sleep(0.1)
        raise WarehouseAccessError("lost") from ConnectionResetError("lost")

    warehouse._transact = lose
    task = asyncio.create_task(warehouse.save_record(a_record()))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(attempts) == 1


async def test_the_server_ends_what_a_dead_client_leaves_open(silenced):
    """Each transaction has limits of its own, which a connection pooler keeps to it."""
    _, warehouse, _ = silenced
    names = "statement_timeout", "idle_in_transaction_session_timeout", "tcp_keepalives_idle"

    def settings(_):
        return (
            yield Statement("SELECT " + ", ".join(f"current_setting('{one}')" for one in names))
        )

    [row] = await warehouse.transact(settings)
    assert tuple(row) == ("300ms", "300ms", "30")
