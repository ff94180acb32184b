"""PostgreSQL by asyncpg, which Prefect brings: one connection and one transaction for each verb.

Ids are copied into a temporary table that goes with the transaction. Two loads of one site and
segment take turns by an advisory lock that also goes with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import UTC, datetime
from typing import Any, TypeVar
from urllib.parse import urlsplit

from prefect_wix.errors import (
    WarehouseAccessError,
    WarehouseBusyError,
    WarehouseError,
    WarehouseSchemaError,
)
from prefect_wix.extras import import_extra
from prefect_wix.planning.partitions import JobRecord, Partition, Receipt
from prefect_wix.planning.windows import Window
from prefect_wix.spool.id_spool import Spool
from prefect_wix.spool.shield import shield
from prefect_wix.warehouse.interface import Claim, PublishResult, VerifiedListing
from prefect_wix.warehouse.schema import SESSIONS, Rows, Statement, Steps, drive_async
from prefect_wix.warehouse.transactions import STAGED, Tables

__all__ = ["PostgresWarehouse", "place_of"]

T = TypeVar("T")

BUSY_TIMEOUT_SECONDS = 60.0
_CONNECT_TIMEOUT_SECONDS = 30.0
_CLOSE_TIMEOUT_SECONDS = 5.0


class PostgresWarehouse:
    """Sessions in a PostgreSQL database.

    Args:
        url: ``postgresql://user:password@host:port/database``, with libpq's options such as
            ``?sslmode=require``.
        schema: the schema of the tables; made if it is not there.
        busy_timeout_seconds: how long to wait for a lock that another session holds.

    Raises:
        ValueError: the URL can't be read.
    """

    def __init__(
        self,
        url: str,
        *,
        schema: str = "public",
        busy_timeout_seconds: float = BUSY_TIMEOUT_SECONDS,
    ) -> None:
        self._asyncpg = import_extra("asyncpg", extra="postgres", what_for="A postgresql:// URL")
        self._place = place_of(url)
        self._url = "postgresql" + url[url.index("://") :]
        self._busy_timeout = busy_timeout_seconds
        self._tables = Tables(schema, keys=True)

    async def prepare(self) -> None:
        """See `Warehouse.prepare`."""
        # CREATE TABLE IF NOT EXISTS fails when two sessions run it at once.
        await self._run(self._tables.prepare(SESSIONS), lock=self._lock())

    async def receipts(self, site_id: str, window: Window) -> list[Receipt]:
        """See `Warehouse.receipts`."""
        return await self._run(self._tables.read_receipts(site_id, window))

    async def job_records(self, site_id: str, window: Window) -> list[JobRecord]:
        """See `Warehouse.job_records`."""
        return await self._run(self._tables.read_job_records(site_id, window))

    async def claim(self, record: JobRecord, *, adopt_since: datetime) -> Claim:
        """See `Warehouse.claim`."""
        steps = self._tables.claim(record, adopt_since)
        return await self._run(steps, lock=self._lock(record.partition))

    async def save_record(self, record: JobRecord) -> None:
        """See `Warehouse.save_record`."""
        await self._run(self._tables.save_record(record), lock=self._lock(record.partition))

    async def publish(self, answer: VerifiedListing) -> PublishResult:
        """See `Warehouse.publish`."""
        steps = self._tables.publish(answer, datetime.now(UTC))
        lock = self._lock(answer.record.partition)
        return await self._run(steps, lock=lock, spool=answer.spool)

    async def transact(self, work: Callable[[Tables], Steps[T]]) -> T:
        """See `SqlWarehouse.transact`."""
        return await self._run(work(self._tables), lock=self._lock())

    def _lock(self, partition: Partition | None = None) -> Statement:
        """Nothing else of the site and segment, or of the schema, until the transaction ends.

        Without it two loads that replace a partition at once leave it doubled, or one fails: at
        READ COMMITTED a DELETE does not see rows that came after it began.
        """
        of = (partition.site_id, partition.segment) if partition else ()
        key = "|".join((self._tables.name("wix_session_ids"), *of))
        return Statement("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", (key,))

    async def _run(
        self, steps: Steps[T], *, lock: Statement | None = None, spool: Spool | None = None
    ) -> T:
        return await shield(self._transact(steps, lock, spool))

    async def _transact(self, steps: Steps[T], lock: Statement | None, spool: Spool | None) -> T:
        with self._errors():
            async with self._transaction() as connection:
                if spool is not None:
                    await _stage(connection, spool)
                if lock is not None:
                    await _execute(connection, lock)
                return await drive_async(steps, lambda one: _execute(connection, one))

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[Any]:
        # No cache of prepared statements: each is used once, and poolers can't keep them.
        connection = await self._asyncpg.connect(
            self._url, timeout=_CONNECT_TIMEOUT_SECONDS, statement_cache_size=0
        )
        try:
            async with connection.transaction(isolation="read_committed"):
                milliseconds = max(1, round(self._busy_timeout * 1000))
                await connection.execute(f"SET LOCAL lock_timeout = {milliseconds}")
                yield connection
        finally:
            await _close(connection)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        pg = self._asyncpg
        try:
            yield
        except (pg.LockNotAvailableError, pg.DeadlockDetectedError) as error:
            raise self._busy(error) from error
        except (
            *(pg.InvalidAuthorizationSpecificationError, pg.InsufficientPrivilegeError),
            *(pg.InvalidCatalogNameError, pg.ReadOnlySQLTransactionError),
            *(pg.InsufficientResourcesError, pg.OperatorInterventionError),
            *(pg.PostgresConnectionError, pg.InterfaceError, OSError),
        ) as error:
            raise self._no_access(error) from error
        except (
            *(pg.SyntaxOrAccessError, pg.DataError, pg.IntegrityConstraintViolationError),
        ) as error:
            raise self._not_ours(error) from error
        except pg.PostgresError as error:
            raise WarehouseError(
                f"PostgreSQL failed on {self._place}, which holds what it held before: {error}"
            ) from error

    def _busy(self, error: Exception) -> WarehouseBusyError:
        return WarehouseBusyError(
            f"Another session held a lock in {self._place} for all of {self._busy_timeout:g} s. "
            f"See pg_stat_activity for it, and run again. PostgreSQL says: {error}"
        )

    def _no_access(self, error: Exception) -> WarehouseAccessError:
        return WarehouseAccessError(
            f"{self._place} can't be reached or written; it holds what it held before. Check the "
            "host, the password, the rights of the user and the free space. "
            f"PostgreSQL says: {str(error) or type(error).__name__}"
        )

    def _not_ours(self, error: Exception) -> WarehouseSchemaError:
        return WarehouseSchemaError(
            f"The tables in {self._place} are not the ones this version writes; nothing was "
            f"written. PostgreSQL says: {error}"
        )


async def _execute(connection: Any, statement: Statement) -> Rows:
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
    """Say goodbye. What was committed stays so, even if the server does not hear it."""
    try:
        with suppress(Exception):
            await connection.close(timeout=_CLOSE_TIMEOUT_SECONDS)
    finally:
        connection.terminate()


def place_of(url: str) -> str:
    """A database's URL without what is secret in it, for messages.

    Raises:
        ValueError: it is not clear what of it is secret.
    """
    parts = urlsplit(url)
    if "@" in f"{parts.path}{parts.query}{parts.fragment}":
        # Then what reads as a host may be the first half of a password.
        raise ValueError(
            "The URL can't be read. Write @ : / ? # % in its user and password percent-encoded: "
            "%40 %3A %2F %3F %23 %25."
        )
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
