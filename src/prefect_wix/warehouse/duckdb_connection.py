"""The one connection that this process has to a DuckDB database, and the staging of session IDs.

DuckDB takes about 30 ms to open and close a file, and only one process at a time can open it. The
connection is open for one transaction; during a load it stays open between transactions, and closes
for a moment every few seconds and whenever it is idle, so that other processes can open the file.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from prefect_wix.errors import WarehouseBusyError
from prefect_wix.spool.id_spool import BATCH_SIZE, Spool
from prefect_wix.warehouse.schema import Rows, Statement
from prefect_wix.warehouse.transactions import STAGED

MEMORY_LIMIT = "512MB"
"""Enough for a day of ten million IDs; DuckDB spills the rest to disk. Its default is 80 % of the
machine's memory."""
IDLE_SECONDS = 0.2
"""A connection that was not used for this long is closed."""
LONGEST_SECONDS = 5.0
"""How long a connection stays open without a break."""
BREAK_SECONDS = 0.1
"""How long a break is: a process that waits for the file tries twice in this time."""


class SharedConnection:
    """The connection of this process to one database, which runs one transaction at a time.

    DuckDB would run several at once and fail those that conflict.
    """

    def __init__(self, database: str) -> None:
        self._database = database
        self._lock = threading.Lock()
        self.loads: set[object] = set()
        """The loads that keep it open between transactions."""
        self._connection: Any | None = None
        self._opened_with: object = None
        self._parsed: dict[str, Any] = {}
        self._opened_at = self._used_at = 0.0

    @contextmanager
    def transaction(
        self, connect: Callable[[], Any], *, settings: object, timeout: float
    ) -> Iterator[Any]:
        """A cursor in a transaction, which is committed when the block ends.

        An error rolls it back. The cursor's temporary tables are dropped in any case.

        Args:
            connect: opens the database.
            settings: what it is opened with; a connection with other settings is closed first.
            timeout: how many seconds to wait for the other transactions of this process.

        Raises:
            WarehouseBusyError: they took longer.
        """
        if not self._lock.acquire(timeout=timeout):
            raise WarehouseBusyError(
                f"Other transactions of this process used {self._database.partition('?')[0]} for "
                f"all of {timeout:g} s. Nothing was written by this one. Run it again."
            )
        try:
            # Closing the cursor rolls back what is not committed.
            with closing(self._open(connect, settings).cursor()) as cursor:
                cursor.begin()
                yield cursor
                cursor.commit()
        except BaseException:
            # A failed commit must not leave state for the next transaction.
            self._close()
            raise
        else:
            self._used_at = time.monotonic()
            if not self.loads:
                self._close()
        finally:
            self._lock.release()

    def _open(self, connect: Callable[[], Any], settings: object) -> Any:
        if self._connection is not None and time.monotonic() - self._opened_at > LONGEST_SECONDS:
            self._close()
            time.sleep(BREAK_SECONDS)
        if self._opened_with != (settings, _identity(self._database)):
            self._close()
            self._connection = connect()
            self._opened_with = settings, _identity(self._database)
            self._opened_at = time.monotonic()
        return self._connection

    def execute(self, cursor: Any, statement: Statement) -> Rows:
        """Execute a statement, which stays parsed while the connection is open.

        A load runs the same few statements for each job: parsing took 0.4 ms per transaction.
        """
        if statement.sql not in self._parsed:
            [self._parsed[statement.sql]] = cursor.extract_statements(statement.sql)
        rows: Rows = cursor.execute(self._parsed[statement.sql], statement.values).fetchall()
        return rows

    def _close(self) -> None:
        self._parsed.clear()
        connection, self._connection, self._opened_with = self._connection, None, None
        if connection is not None:
            connection.close()

    @asynccontextmanager
    async def kept_open(self) -> AsyncIterator[None]:
        """Keep it open between transactions; closed when the last such block is left."""
        load = object()
        self.loads.add(load)
        idle_check = asyncio.create_task(self._close_when_idle())
        try:
            yield
        finally:
            self.loads.discard(load)
            idle_check.cancel()
            # A transaction that takes longer, or never ends, is not waited for.
            end = asyncio.create_task(asyncio.to_thread(self._close_if_unused))
            await asyncio.wait([end], timeout=LONGEST_SECONDS)

    async def _close_when_idle(self) -> None:
        while True:
            await asyncio.sleep(IDLE_SECONDS / 2)
            await asyncio.to_thread(self._close_if_unused)

    def _close_if_unused(self) -> None:
        with self._lock:
            if not self.loads or time.monotonic() - self._used_at > IDLE_SECONDS:
                self._close()


@cache
def shared_connection(database: str) -> SharedConnection:
    """The one connection of this process to a database, which is named by its real path."""
    return SharedConnection(database)


def _identity(database: str) -> tuple[int, int] | None:
    """Device and inode, which differ when another file was put in the place of this one."""
    try:
        status = Path(database).stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def last_change(database: str) -> list[tuple[int, int, int] | None]:
    """Inode, size and time of the last write of the file and of its write-ahead log."""
    found: list[tuple[int, int, int] | None] = []
    for path in (database, f"{database}.wal"):
        try:
            # Not opened: a process that closes a file loses its lock of it.
            status = Path(path).stat()
        except OSError:
            found.append(None)
        else:
            found.append((status.st_ino, status.st_size, status.st_mtime_ns))
    return found


def stage(connection: Any, spool: Spool) -> None:
    """Stage the spool's IDs, in order, as the temporary table `STAGED`.

    A large spool stays in its file: `STAGED` is a view that reads it for each statement, which
    takes no memory.
    """
    if len(spool) <= BATCH_SIZE:
        ids = [session_id for batch in spool.batches() for session_id in batch]
        query = "SELECT unnest(CAST($1 AS VARCHAR[])) AS session_id"
        connection.execute(f"CREATE TEMP TABLE {STAGED} AS {query}", (ids,))
    else:
        connection.execute(f"CREATE TEMP VIEW {STAGED} AS {spool.query_of_lines()}")
