"""PostgreSQL by asyncpg, a dependency of Prefect: a connection and a transaction per operation.

IDs are copied into a temporary table of the transaction. An advisory lock of the transaction
serializes the writes to one site and segment. The warehouse's clock is the server's. The statements
are in `transactions`.
"""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, TypeVar

from pydantic import SecretStr

from prefect_wix.errors import (
    WarehouseAccessError,
    WarehouseBusyError,
    WarehouseError,
    WarehouseSchemaError,
    import_extra,
)
from prefect_wix.spool.id_spool import Spool
from prefect_wix.spool.shield import shield
from prefect_wix.warehouse.interface import BUSY_TIMEOUT_SECONDS, driver_text
from prefect_wix.warehouse.schema import Rows, Statement, Steps, drive_async
from prefect_wix.warehouse.transactions import (
    STAGED,
    Begin,
    Lock,
    SessionTransactions,
    SqlWarehouse,
)

T = TypeVar("T")

_CONNECT_TIMEOUT_SECONDS = 30.0
_CLOSE_TIMEOUT_SECONDS = 5.0
_COMMAND_SECONDS = 120.0
"""How long a small transaction, a batch of IDs, a wait for a lock or a commit takes at most."""
_STATEMENT_SECONDS = 1800.0
"""How long a statement that may write or read all IDs of a partition takes at most."""
_KEEPALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 60_000}
"""A machine that is gone is noticed within a minute. Options of Linux; others may lack one."""
_LIMITS = (
    "SET LOCAL lock_timeout = {:.0f}; SET LOCAL idle_in_transaction_session_timeout = {:.0f};"
    "SET LOCAL statement_timeout = {:.0f};"
    "SET LOCAL tcp_keepalives_idle = 30; SET LOCAL tcp_keepalives_interval = 10"
)
"""Limits of a transaction, in milliseconds. The server ends what a dead client leaves open."""
_SILENT = "no response in time"
_RETRY_SECONDS = 0.5
"""Mean wait before a transaction on a lost connection is repeated."""


class PostgresWarehouse(SqlWarehouse):
    """Sessions in a PostgreSQL database.

    Args:
        url: ``postgresql://user:password@host:port/database``, with libpq's options such as
            ``?sslmode=require``; percent-encoded and unambiguous, as `factory` makes it.
        place: the URL without login and options, for messages.
        schema: the schema of the tables; created if it does not exist.
    """

    def __init__(self, url: SecretStr, *, place: str, schema: str = "public") -> None:
        self._asyncpg = import_extra("asyncpg", extra="postgres", what_for="A postgresql:// URL")
        self._url = url
        self._place = place
        self._busy_timeout = BUSY_TIMEOUT_SECONDS
        self._command_timeout = _COMMAND_SECONDS
        self._statement_timeout = _STATEMENT_SECONDS
        self._tables = SessionTransactions(schema, keys=True)
        pg = self._asyncpg
        self._access_errors: tuple[type[Exception], ...] = (
            *(pg.InvalidAuthorizationSpecificationError, pg.InvalidCatalogNameError),
            *(pg.InsufficientPrivilegeError, pg.ReadOnlySQLTransactionError),
            *(pg.InsufficientResourcesError, pg.OperatorInterventionError),
            *(pg.PostgresConnectionError, OSError),
        )
        self._transient_errors: tuple[type[Exception], ...] = (
            *(pg.TooManyConnectionsError, pg.AdminShutdownError, pg.CrashShutdownError),
            *(pg.CannotConnectNowError, pg.ConnectionDoesNotExistError),
            *(pg.ConnectionFailureError, ConnectionError),
        )

    async def read(self, work: Callable[[SessionTransactions], Steps[T]]) -> T:
        """See `SqlWarehouse.read`."""
        return await self._run(lambda tables, _: work(tables), read_only=True)

    async def _run(
        self,
        begin: Begin[T],
        lock: Lock = None,
        spool: Spool | None = None,
        *,
        read_only: bool = False,
    ) -> T:
        """Run a transaction, and the write of a partition again while its connection is lost.

        Such a write is decided again from what is stored, also if the lost commit took effect. It
        is repeated within the busy timeout, and not after a cancellation.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._busy_timeout
        while True:
            try:
                return await shield(self._transact(begin, lock, spool, read_only=read_only))
            except WarehouseAccessError as error:
                transient = isinstance(error.__cause__, self._transient_errors)
                if not (lock and transient and loop.time() < deadline):
                    raise
            await asyncio.sleep(_RETRY_SECONDS * random.uniform(0.5, 1.5))  # noqa: S311

    async def _transact(
        self, begin: Begin[T], lock: Lock, spool: Spool | None, *, read_only: bool
    ) -> T:
        pg = self._asyncpg
        # A claim and a job record are small transactions.
        seconds = self._command_timeout if lock and spool is None else self._statement_timeout
        try:
            async with self._transaction(read_only=read_only) as connection:
                if spool is not None:
                    await _stage(connection, spool)
                [(_, at)] = await _execute(connection, self._command_timeout, self._lock(lock))
                steps = begin(self._tables, at)
                return await drive_async(steps, partial(_execute, connection, seconds))
        except (pg.PostgresError, pg.InterfaceError, OSError) as error:
            raise self._translated(error) from error

    def _lock(self, lock: Lock) -> Statement:
        """Take the lock until the transaction ends, and then read the clock.

        Without it, two loads that replace a partition at once double it or one fails: at READ
        COMMITTED, a DELETE does not see rows inserted after it began.
        """
        # Not now(): that is when the transaction began, before it waited.
        if lock is None:
            return Statement("SELECT NULL, clock_timestamp()")
        key = "|".join((self._tables.name("wix_session_ids"), *lock))
        locked = "pg_advisory_xact_lock(hashtextextended($1, 0))"
        return Statement(f"SELECT {locked}, clock_timestamp()", (key,))

    @asynccontextmanager
    async def _transaction(self, *, read_only: bool) -> AsyncIterator[Any]:
        connection = await self._connect()
        try:
            transaction = connection.transaction(isolation="read_committed", readonly=read_only)
            await transaction.start()
            limits = (self._busy_timeout, self._command_timeout, self._statement_timeout)
            await connection.execute(_LIMITS.format(*(max(1, 1000 * one) for one in limits)))
            yield connection
            # Closing the connection rolls back what is not committed, such as the large objects
            # that PostgreSQL 15 creates in a READ ONLY transaction.
            if not read_only:
                await transaction.commit()
        finally:
            # Without a response within the timeout, asyncpg drops the connection.
            with suppress(Exception):
                await asyncio.wait_for(connection.close(), _CLOSE_TIMEOUT_SECONDS)

    async def _connect(self) -> Any:
        url = self._url.get_secret_value()
        try:
            # No cache of prepared statements: each runs once, and connection poolers drop them.
            connection = await self._asyncpg.connect(
                url,
                timeout=_CONNECT_TIMEOUT_SECONDS,
                command_timeout=self._command_timeout,
                statement_cache_size=0,
            )
        except self._access_errors:
            raise
        except Exception as error:  # noqa: BLE001 - it may quote a setting of the URL
            kind = type(error).__name__
        else:
            _keep_alive(connection)
            return connection
        raise WarehouseAccessError(
            f"PostgreSQL or its driver rejects the connection to {self._place} ({kind}). Nothing "
            "was changed. Correct the settings after the ? of the warehouse URL, then run again."
        )

    def _translated(self, error: Exception) -> WarehouseError:
        pg, place, cause = self._asyncpg, self._place, f"Cause: {driver_text(error)}"
        if isinstance(error, pg.LockNotAvailableError | pg.DeadlockDetectedError):
            return WarehouseBusyError(
                f"Another session held a lock in {place} for all of {self._busy_timeout:g} s. "
                f"Nothing was changed. Find it in pg_stat_activity, then run again. {cause}"
            )
        if isinstance(error, pg.InvalidAuthorizationSpecificationError):
            return WarehouseAccessError(
                f"PostgreSQL rejected the login at {place}: {driver_text(error)}. Nothing was "
                "changed. Correct user and password in the warehouse URL, then run again."
            )
        if isinstance(error, (*self._access_errors, pg.InterfaceError)):
            return WarehouseAccessError(
                f"{place} can't be reached or written: {driver_text(str(error) or _SILENT)}. No "
                "partition was left incomplete. Check the host, the database, the rights of the "
                "user and the free space, then run again."
            )
        if isinstance(error, pg.DependentObjectsStillExistError):
            return WarehouseSchemaError(
                f"Views in {place} read wix_landed_sessions, which this version changes. Nothing "
                f"was changed. Drop them, run the load, and create them again. {cause}"
            )
        if isinstance(
            error, pg.SyntaxOrAccessError | pg.DataError | pg.IntegrityConstraintViolationError
        ):
            return WarehouseSchemaError(
                f"The tables in {place} are not the ones this version writes. Nothing was "
                f"changed. Restore the tables, or use another schema. {cause}"
            )
        return WarehouseError(f"PostgreSQL failed at {place}. Nothing was changed. {cause}")


def _keep_alive(connection: Any) -> None:
    # A Unix socket has no such options, and asyncpg no way to set them.
    with suppress(OSError, AttributeError):
        own = connection._transport.get_extra_info("socket")  # noqa: SLF001
        own.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEPALIVE.items():
            own.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


async def _execute(connection: Any, seconds: float, statement: Statement) -> Rows:
    rows: Rows = await connection.fetch(statement.sql, *statement.values, timeout=seconds)
    return rows


async def _stage(connection: Any, spool: Spool) -> None:
    await connection.execute(f"CREATE TEMP TABLE {STAGED} (session_id TEXT) ON COMMIT DROP")
    batches = spool.batches()
    while batch := await asyncio.to_thread(next, batches, None):
        await connection.copy_records_to_table(
            STAGED, records=[(session_id,) for session_id in batch], columns=["session_id"]
        )
