"""PostgreSQL by asyncpg, a dependency of Prefect: a connection and a transaction per operation.

A transaction whose connection is lost is repeated; one that gets no response fails.

IDs are copied into a temporary table of the transaction. An advisory lock of the transaction
serializes the writes to one site and segment. The warehouse's clock is the server's. The statements
are in `transactions`.
"""

from __future__ import annotations

import asyncio
import logging
import re
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from functools import partial
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

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
    DIFFERENCE,
    STAGED,
    Begin,
    Lock,
    SessionTransactions,
    SqlWarehouse,
)

T = TypeVar("T")

_CONNECT_TIMEOUT_SECONDS = 15.0
_CLOSE_TIMEOUT_SECONDS = 5.0
_MOST_CONNECTIONS = 3
"""Concurrent connections: a server or a role may allow few."""
_COMMAND_SECONDS = 120.0
"""How long a small transaction, a batch of IDs, a wait for a lock or a commit takes at most."""
_STATEMENT_SECONDS = 1800.0
"""How long a statement that may write or read all IDs of a partition takes at most."""
_BEGIN = (
    "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL lock_timeout = {:.0f};"
    "SET LOCAL idle_in_transaction_session_timeout = {:.0f}; SET LOCAL statement_timeout = {:.0f};"
    "SET LOCAL tcp_keepalives_idle = 30; SET LOCAL tcp_keepalives_interval = 10"
)
"""Begins a transaction. Its limits are in milliseconds. By them and by keepalive the server ends
what a dead client leaves open. Keepalive also keeps a firewall from closing a busy connection."""
# https://www.postgresql.org/docs/current/errcodes-appendix.html
_TRANSIENT = ("08", "25006", "25P03", "53300", "57P01", "57P02", "57P03")
_NO_ACCESS = ("08", "25006", "25P03", "28", "3D", "42501", "53", "57")
_REJECTED = re.compile(
    "authentication failed|unsupported startup parameter|does not exist|rejected SSL upgrade"
)
"""What PgBouncer says about a login, with the SQL state of a server that is away; and asyncpg about
a server without TLS."""
_SILENT = "no response in time"
_LOG = logging.getLogger(__name__)
_RETRY_SECONDS = 0.5
"""The wait before a transaction on a lost connection is repeated."""


class PostgresWarehouse(SqlWarehouse):
    """Sessions in a PostgreSQL database.

    Args:
        url: ``postgresql://user:password@host:port/database``, with libpq's options such as
            ``?sslmode=require``; percent-encoded and unambiguous, as `factory` makes it.
        place: the URL without login and options, for messages.
        schema: the schema of the tables; created if it does not exist.
        system_roots: verify the server's certificate by the authorities that this machine trusts.
    """

    def __init__(
        self, url: SecretStr, *, place: str, schema: str = "public", system_roots: bool = False
    ) -> None:
        self._asyncpg = import_extra("asyncpg", extra="postgres", what_for="A postgresql:// URL")
        self._url = url
        self._place = place
        self._system_roots = system_roots
        self._busy_timeout = BUSY_TIMEOUT_SECONDS
        self._tables = SessionTransactions(schema, keys=True)
        self._lost_at: float | None = None
        """When the first connection was lost since a transaction succeeded."""
        self._slots = WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore]()

    async def read(self, work: Callable[[SessionTransactions], Steps[T]]) -> T:
        """See `SqlWarehouse.read`."""

        def read_only(tables: SessionTransactions, _: datetime) -> Steps[T]:
            yield Statement("SET TRANSACTION READ ONLY")
            value = yield from work(tables)
            # PostgreSQL 15 creates large objects also in a READ ONLY transaction.
            yield Statement("ROLLBACK")
            return value

        return await shield(self._transact(read_only, None, None))

    async def transact(self, work: Callable[[SessionTransactions], Steps[T]]) -> T:
        """See `SqlWarehouse.transact`. It is not repeated: a claim would find its own IDs."""
        return await shield(self._transact(lambda tables, _: work(tables), (), None))

    async def run(self, begin: Begin[T], lock: Lock = None, spool: Spool | None = None) -> T:
        """Run a transaction, and again while connections are lost, but not after a cancellation.

        A repeated publish or claim is decided again from what is stored, also if the lost commit
        took effect.
        All transactions wait together, for the busy timeout since the first loss.
        """
        lost_at = None
        while True:
            try:
                return await shield(self._transact(begin, lock, spool))
            except WarehouseAccessError as error:
                if not self._is_transient(error.__cause__):
                    raise
                now = time.monotonic()
                if self._lost_at is None:
                    _LOG.warning("%s Trying again for up to %g s.", error, self._busy_timeout)
                lost_at, self._lost_at = lost_at or now, self._lost_at or now
                if now >= min(lost_at, self._lost_at) + self._busy_timeout:
                    raise
            await asyncio.sleep(_RETRY_SECONDS)

    def _is_transient(self, error: BaseException | None) -> bool:
        """Whether a connection was lost or refused, which may pass."""
        lost = self._asyncpg.InterfaceError, ConnectionError, socket.gaierror
        # asyncio has no other class for a host none of whose addresses responds.
        is_lost = isinstance(error, lost) or type(error) is OSError
        return not _is_rejected(error) and (is_lost or _state(error).startswith(_TRANSIENT))

    async def _transact(self, begin: Begin[T], lock: Lock, spool: Spool | None) -> T:
        pg, loop = self._asyncpg, asyncio.get_running_loop()
        slots = self._slots.setdefault(loop, asyncio.Semaphore(_MOST_CONNECTIONS))
        # A claim and a job record are small transactions.
        seconds = _COMMAND_SECONDS if lock and spool is None else _STATEMENT_SECONDS
        try:
            async with slots, self._transaction() as connection:
                if spool is not None:
                    await _stage(connection, spool)
                [(_, at)] = await _execute(connection, _COMMAND_SECONDS, self._lock(lock))
                steps = begin(self._tables, at)
                return await drive_async(steps, partial(_execute, connection, seconds))
        except (pg.PostgresError, pg.InterfaceError, OSError) as error:
            # What fails without any IDs does not depend on the partition.
            raise self._translated(error, certain=spool is None) from error

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
    async def _transaction(self) -> AsyncIterator[Any]:
        connection = await self._connect()
        try:
            limits = (self._busy_timeout, _COMMAND_SECONDS, _STATEMENT_SECONDS)
            await connection.execute(_BEGIN.format(*(max(1, 1000 * one) for one in limits)))
            yield connection
            await connection.execute("COMMIT")
            self._lost_at = None
        finally:
            # This rolls back what is not committed. asyncpg drops a connection that does not close.
            with suppress(Exception):
                await asyncio.wait_for(connection.close(), _CLOSE_TIMEOUT_SECONDS)

    async def _connect(self) -> Any:
        url = self._url.get_secret_value()
        timeouts = {"timeout": _CONNECT_TIMEOUT_SECONDS, "command_timeout": _COMMAND_SECONDS}
        # asyncpg would look for a file with this name, or, without an sslmode, verify nothing.
        tls = {"ssl": ssl.create_default_context()} if self._system_roots else {}
        try:
            # No cache of prepared statements: each runs once, and connection poolers drop them.
            return await self._asyncpg.connect(url, **timeouts, **tls, statement_cache_size=0)
        except TimeoutError:
            raise ConnectionError(_SILENT) from None
        except self._asyncpg.TargetServerAttributeNotMatched:
            raise ConnectionError("no host has the target_session_attrs of the URL") from None
        except Exception as error:
            # Any other may quote a setting of the URL.
            if isinstance(error, OSError) or _state(error).startswith(_NO_ACCESS):
                raise
            kind = type(error).__name__
        raise WarehouseAccessError(
            f"PostgreSQL or its driver rejects the connection to {self._place} ({kind}). Nothing "
            "was changed. Correct the settings after the ? of the warehouse URL, then run again; "
            "sslmode=verify-full needs sslrootcert, a file or system."
        )

    def _refusal(self, error: Exception) -> str | None:
        """The sentence about what refuses every transaction; None if it is something else."""
        if _is_rejected(error):
            what = "PostgreSQL rejected the login"
            advice = "Correct user, password, database and settings"
        elif isinstance(error, self._asyncpg.InsufficientPrivilegeError):
            what = "PostgreSQL denied the user a right"
            advice = "GRANT it, set a schema that the user owns in the block, or correct the user"
        elif isinstance(error, ssl.SSLError):
            what = "TLS failed"
            advice = "Correct the host name or sslrootcert (the authority's file, or system)"
        else:
            return None
        cause = getattr(error, "verify_message", driver_text(error))
        return (
            f"{what} at {self._place}: {cause}. Nothing was changed. {advice} in the warehouse "
            "URL, then run again."
        )

    def _translated(self, error: Exception, *, certain: bool) -> WarehouseError:
        pg, place, cause = self._asyncpg, self._place, f"Cause: {driver_text(error)}"
        if isinstance(error, pg.LockNotAvailableError | pg.DeadlockDetectedError):
            return WarehouseBusyError(
                f"Another session held a lock in {place} for all of {self._busy_timeout:g} s. "
                f"Nothing was changed. Find it in pg_stat_activity, then run again. {cause}"
            )
        if refusal := self._refusal(error):
            return WarehouseAccessError(refusal)
        if isinstance(error, OSError | pg.InterfaceError) or _state(error).startswith(_NO_ACCESS):
            return WarehouseAccessError(
                f"{place} can't be reached or written: {driver_text(str(error) or _SILENT)}. No "
                "partition was left incomplete. Check the host, the files that the URL names and "
                "the free space, then run again.",
                affects_all=certain and not isinstance(error, pg.QueryCanceledError),
            )
        if isinstance(error, pg.DependentObjectsStillExistError):
            return WarehouseSchemaError(
                f"Views in {place} read wix_landed_sessions, which this version changes. Nothing "
                f"was changed. Drop them, run the load, and create them again. {cause}"
            )
        if isinstance(error, pg.SyntaxOrAccessError):
            return WarehouseSchemaError(
                f"The tables in {place} are not the ones this version writes. Nothing was "
                f"changed. Restore the tables, or use another schema. {cause}"
            )
        return WarehouseError(f"PostgreSQL failed at {place}. Nothing was changed. {cause}")


def _state(error: BaseException | None) -> str:
    """The SQL state of PostgreSQL's error; empty without one."""
    return str(getattr(error, "sqlstate", ""))


def _is_rejected(error: BaseException | None) -> bool:
    """Whether user, password, database or a setting of the URL is wrong."""
    state = _state(error)
    return state.startswith(("28", "3D")) or (
        state in {"", "08P01"} and bool(_REJECTED.search(str(error)))
    )


async def _execute(connection: Any, seconds: float, statement: Statement) -> Rows:
    rows: Rows = await connection.fetch(statement.sql, *statement.values, timeout=seconds)
    return rows


async def _stage(connection: Any, spool: Spool) -> None:
    # Without statistics PostgreSQL expects a row, and compares each ID with each in nested loops.
    await connection.execute(
        f"CREATE TEMP TABLE {STAGED} (session_id TEXT) ON COMMIT DROP;"
        f"CREATE TEMP TABLE {DIFFERENCE} (session_id TEXT, is_new BOOLEAN) ON COMMIT DROP;"
        "SET LOCAL enable_nestloop = off"
    )
    batches = spool.batches()
    while batch := await asyncio.to_thread(next, batches, None):
        await connection.copy_records_to_table(
            STAGED, records=[(session_id,) for session_id in batch], columns=["session_id"]
        )
