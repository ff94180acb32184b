"""PostgreSQL by asyncpg, a dependency of Prefect: a connection and a transaction per operation.

IDs are copied into a temporary table of the transaction. An advisory lock of the transaction
serializes the writes to one site and segment. The warehouse's clock is the server's. The statements
are in `transactions`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import datetime
from typing import Any, TypeVar

from pydantic import SecretStr

from prefect_wix.errors import (
    WarehouseAccessError,
    WarehouseBusyError,
    WarehouseError,
    WarehouseSchemaError,
    import_extra,
)
from prefect_wix.planning.partitions import JobRecord, Partition, Receipt
from prefect_wix.planning.windows import Window
from prefect_wix.spool.id_spool import Spool
from prefect_wix.spool.shield import shield
from prefect_wix.warehouse.interface import Claim, PublishResult, VerifiedListing, driver_text
from prefect_wix.warehouse.schema import SESSIONS, Rows, Statement, Steps, drive_async
from prefect_wix.warehouse.transactions import STAGED, SessionTransactions

T = TypeVar("T")

BUSY_TIMEOUT_SECONDS = 60.0
_CONNECT_TIMEOUT_SECONDS = 30.0
_CLOSE_TIMEOUT_SECONDS = 5.0
_NO_LOCK = Statement("SELECT NULL, clock_timestamp()")


class PostgresWarehouse:
    """Sessions in a PostgreSQL database.

    Args:
        url: ``postgresql://user:password@host:port/database``, with libpq's options such as
            ``?sslmode=require``; percent-encoded and unambiguous, as `factory` makes it.
        place: the URL without login and options, for messages.
        schema: the schema of the tables; created if it does not exist.
        busy_timeout_seconds: how long to wait for a lock that another session holds.
    """

    def __init__(
        self,
        url: SecretStr,
        *,
        place: str,
        schema: str = "public",
        busy_timeout_seconds: float = BUSY_TIMEOUT_SECONDS,
    ) -> None:
        self._asyncpg = import_extra("asyncpg", extra="postgres", what_for="A postgresql:// URL")
        self._url = url
        self._place = place
        self._busy_timeout = busy_timeout_seconds
        self._tables = SessionTransactions(schema, keys=True, counts_updates=True)

    async def prepare(self) -> None:
        """See `Warehouse.prepare`."""
        # Concurrent CREATE TABLE IF NOT EXISTS statements fail without a lock.
        await self._run(lambda _: self._tables.prepare(SESSIONS), lock=self._lock())

    async def receipts(self, site_id: str, window: Window) -> list[Receipt]:
        """See `Warehouse.receipts`."""
        return await self._run(lambda _: self._tables.read_receipts(site_id, window))

    async def job_records(self, site_id: str, window: Window) -> list[JobRecord]:
        """See `Warehouse.job_records`."""
        return await self._run(lambda _: self._tables.read_job_records(site_id, window))

    async def claim(self, record: JobRecord, *, adopt_since: datetime) -> Claim:
        """See `Warehouse.claim`."""
        return await self._run(
            lambda at: self._tables.claim(record, adopt_since, at),
            lock=self._lock(record.partition),
        )

    async def save_record(self, record: JobRecord) -> None:
        """See `Warehouse.save_record`."""
        lock = self._lock(record.partition)
        await self._run(lambda _: self._tables.save_record(record), lock=lock)

    async def publish(self, listing: VerifiedListing) -> PublishResult:
        """See `Warehouse.publish`."""
        return await self._run(
            lambda at: self._tables.publish(listing, at),
            lock=self._lock(listing.record.partition),
            spool=listing.spool,
        )

    async def transact(self, work: Callable[[SessionTransactions], Steps[T]]) -> T:
        """See `SqlWarehouse.transact`."""
        return await self._run(lambda _: work(self._tables), lock=self._lock())

    async def read(self, work: Callable[[SessionTransactions], Steps[T]]) -> T:
        """See `SqlWarehouse.read`."""
        return await self._run(lambda _: work(self._tables), read_only=True)

    def _lock(self, partition: Partition | None = None) -> Statement:
        """Lock a site and segment, or the schema, until the transaction ends; then read the clock.

        Without it, two loads that replace a partition at once double it or one fails: at READ
        COMMITTED, a DELETE does not see rows inserted after it began.
        """
        scope = (partition.site_id, partition.segment) if partition else ()
        key = "|".join((self._tables.name("wix_session_ids"), *scope))
        locked = "pg_advisory_xact_lock(hashtextextended($1, 0))"
        # Not now(): that is when the transaction began, before it waited.
        return Statement(f"SELECT {locked}, clock_timestamp()", (key,))

    async def _run(
        self,
        begin: Callable[[datetime], Steps[T]],
        *,
        lock: Statement = _NO_LOCK,
        spool: Spool | None = None,
        read_only: bool = False,
    ) -> T:
        return await shield(self._transact(begin, lock, spool, read_only=read_only))

    async def _transact(
        self,
        begin: Callable[[datetime], Steps[T]],
        lock: Statement,
        spool: Spool | None,
        *,
        read_only: bool,
    ) -> T:
        with self._errors():
            async with self._transaction(read_only=read_only) as connection:
                if spool is not None:
                    await _stage(connection, spool)
                [(_, at)] = await _execute(connection, lock)
                return await drive_async(begin(at), lambda one: _execute(connection, one))

    @asynccontextmanager
    async def _transaction(self, *, read_only: bool) -> AsyncIterator[Any]:
        connection = await self._connect()
        try:
            transaction = connection.transaction(isolation="read_committed", readonly=read_only)
            await transaction.start()
            milliseconds = max(1, round(self._busy_timeout * 1000))
            await connection.execute(f"SET LOCAL lock_timeout = {milliseconds}")
            yield connection
            # Closing the connection rolls back what is not committed, such as the large objects
            # that PostgreSQL 15 creates in a READ ONLY transaction.
            if not read_only:
                await transaction.commit()
        finally:
            await _close(connection)

    async def _connect(self) -> Any:
        pg = self._asyncpg
        url = self._url.get_secret_value()
        try:
            # No cache of prepared statements: each runs once, and connection poolers drop them.
            return await pg.connect(url, timeout=_CONNECT_TIMEOUT_SECONDS, statement_cache_size=0)
        except (
            *(pg.InvalidAuthorizationSpecificationError, pg.InvalidCatalogNameError),
            *(pg.InsufficientPrivilegeError, pg.InsufficientResourcesError),
            *(pg.OperatorInterventionError, pg.PostgresConnectionError, OSError),
        ):
            raise
        except Exception as error:  # noqa: BLE001 - it may quote a setting of the URL
            kind = type(error).__name__
        raise WarehouseAccessError(
            f"PostgreSQL or its driver rejects the connection to {self._place} ({kind}). Nothing "
            "was changed. Correct the settings after the ? of the warehouse URL, then run again."
        )

    @contextmanager
    def _errors(self) -> Iterator[None]:
        pg = self._asyncpg
        try:
            yield
        except (pg.LockNotAvailableError, pg.DeadlockDetectedError) as error:
            raise self._busy_error(error) from error
        except (
            *(pg.InvalidAuthorizationSpecificationError, pg.InsufficientPrivilegeError),
            *(pg.InvalidCatalogNameError, pg.ReadOnlySQLTransactionError),
            *(pg.InsufficientResourcesError, pg.OperatorInterventionError),
            *(pg.PostgresConnectionError, pg.InterfaceError, OSError),
        ) as error:
            raise self._access_error(error) from error
        except pg.DependentObjectsStillExistError as error:
            raise WarehouseSchemaError(
                f"Views in {self._place} read wix_landed_sessions, which this version changes. "
                "Nothing was changed. Drop them, run the load, and create them again. "
                f"Cause: {driver_text(error)}"
            ) from error
        except (
            *(pg.SyntaxOrAccessError, pg.DataError, pg.IntegrityConstraintViolationError),
        ) as error:
            raise self._schema_error(error) from error
        except pg.PostgresError as error:
            raise WarehouseError(
                f"PostgreSQL failed at {self._place}. Nothing was changed. "
                f"Cause: {driver_text(error)}"
            ) from error

    def _busy_error(self, error: Exception) -> WarehouseBusyError:
        return WarehouseBusyError(
            f"Another session held a lock in {self._place} for all of {self._busy_timeout:g} s. "
            "Nothing was changed. Find it in pg_stat_activity, then run again. "
            f"Cause: {driver_text(error)}"
        )

    def _access_error(self, error: Exception) -> WarehouseAccessError:
        if isinstance(error, self._asyncpg.InvalidAuthorizationSpecificationError):
            return WarehouseAccessError(
                f"PostgreSQL rejected the login at {self._place}: {driver_text(error)}. Nothing "
                "was changed. Correct user and password in the warehouse URL, then run again."
            )
        return WarehouseAccessError(
            f"{self._place} can't be reached or written: {driver_text(error)}. No "
            "partition was left incomplete. Check the host, the database, the rights of the user "
            "and the free space, then run again."
        )

    def _schema_error(self, error: Exception) -> WarehouseSchemaError:
        return WarehouseSchemaError(
            f"The tables in {self._place} are not the ones this version writes. Nothing was "
            f"changed. Restore the tables, or use another schema. Cause: {driver_text(error)}"
        )


async def _execute(connection: Any, statement: Statement) -> Rows:
    if statement.sql.startswith("UPDATE"):
        status = await connection.execute(statement.sql, *statement.values)
        return [(int(status.rpartition(" ")[2]),)]
    rows: Rows = await connection.fetch(statement.sql, *statement.values)
    return rows


async def _stage(connection: Any, spool: Spool) -> None:
    await connection.execute(f"CREATE TEMP TABLE {STAGED} (session_id TEXT) ON COMMIT DROP")
    batches = spool.batches()
    while batch := await asyncio.to_thread(next, batches, None):
        await connection.copy_records_to_table(
            STAGED, records=[(session_id,) for session_id in batch], columns=["session_id"]
        )


async def _close(connection: Any) -> None:
    """Close the connection; terminate it if the server does not respond within 5 s."""
    try:
        with suppress(Exception):
            await connection.close(timeout=_CLOSE_TIMEOUT_SECONDS)
    finally:
        connection.terminate()
