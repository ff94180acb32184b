"""DuckDB: a file on this machine (or MotherDuck), the embedded default.

Verbs that come at the same time share a transaction, on a connection that a lease gives out. A file
that another process holds is waited for until a deadline.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from prefect_wix.errors import (
    WarehouseAccessError,
    WarehouseBusyError,
    WarehouseError,
    WarehouseSchemaError,
)
from prefect_wix.extras import import_extra
from prefect_wix.finish import finish_in_thread
from prefect_wix.partitions import Ask, Receipt
from prefect_wix.warehouse.batches import Claiming, Recording, keep_ledger, land_all
from prefect_wix.warehouse.interface import Answer, Claim, Landed
from prefect_wix.warehouse.leases import lease_of
from prefect_wix.warehouse.staging import stage, stage_rows
from prefect_wix.warehouse.steps import Rows, Statement, Steps, Tables, drive
from prefect_wix.warehouse.together import Together
from prefect_wix.windows import Window

__all__ = ["DuckDBWarehouse"]

T = TypeVar("T")

BUSY_TIMEOUT_SECONDS = 60.0
_BUSY_POLL_SECONDS = 0.05
_ENOUGH = 8
"""So many small answers are waited for, to land together,"""
_WAIT_SECONDS = 0.05
"""and for so long."""
_MEMORY_LIMIT = "512MB"
"""Enough for a day of ten million ids. DuckDB's own limit is 80 % of the machine."""


class DuckDBWarehouse:
    """Sessions in a DuckDB database.

    Args:
        database: a file's path, or ``md:name`` for MotherDuck.
        schema: the schema of the tables; made if it is not there.
        config: DuckDB's own settings, such as ``{"memory_limit": "2GB"}``; 512 MB if left out.
        busy_timeout_seconds: how long to wait for a file that another process holds.
    """

    def __init__(
        self,
        database: str,
        *,
        schema: str = "main",
        config: Mapping[str, str] | None = None,
        busy_timeout_seconds: float = BUSY_TIMEOUT_SECONDS,
    ) -> None:
        self._duckdb = import_extra("duckdb", extra="duckdb", what_for="A duckdb:// warehouse")
        self._database = database
        self._is_file = not database.startswith("md:")
        self._config = dict(config or {})
        self._busy_timeout = busy_timeout_seconds
        self._tables = Tables(schema)
        self._lease = lease_of(database)
        # A load runs the same few statements over and over, and DuckDB parses slowly.
        self._parsed: dict[str, Any] = {}
        self._ledger = Together(_each_if_not_all(self._keep_ledger))
        self._landings = Together(
            _each_if_not_all(self._publish_all), enough=_ENOUGH, wait_seconds=_WAIT_SECONDS
        )

    def kept_open(self) -> AbstractAsyncContextManager[None]:
        """See `prefect_wix.warehouse.leases.kept_open`."""
        return self._lease.kept_open()

    async def prepare(self) -> None:
        """See `Warehouse.prepare`."""
        await self.transact(lambda tables: tables.prepare())

    async def receipts(self, site_id: str, window: Window) -> list[Receipt]:
        """See `Warehouse.receipts`."""
        return await self.transact(lambda tables: tables.read_receipts(site_id, window))

    async def history(self, site_id: str, window: Window) -> list[Ask]:
        """See `Warehouse.history`."""
        return await self.transact(lambda tables: tables.read_history(site_id, window))

    async def claim(self, ask: Ask, *, adopt_since: datetime) -> Claim:
        """See `Warehouse.claim`."""
        claim: Claim = await self._ledger.do(Claiming(ask, adopt_since))
        return claim

    async def record(self, ask: Ask) -> None:
        """See `Warehouse.record`."""
        await self._ledger.do(Recording(ask))

    async def publish(self, answer: Answer) -> Landed:
        """See `Warehouse.publish`."""
        if answer.spool.is_small:
            landed: Landed = await self._landings.do(answer)
            return landed
        return await finish_in_thread(lambda: self._publish(answer))

    async def transact(self, work: Callable[[Tables], Steps[T]]) -> T:
        """See `SqlWarehouse.transact`."""
        return await finish_in_thread(lambda: self._commit(work(self._tables)))

    def _publish(self, answer: Answer) -> Landed:
        steps = self._tables.publish(answer, datetime.now(UTC))
        return self._commit(steps, lambda connection: stage(connection, answer.spool))

    def _publish_all(self, answers: Sequence[Answer]) -> list[Landed]:
        steps = land_all(self._tables, answers, datetime.now(UTC))
        return self._commit(steps, lambda connection: stage_rows(connection, answers))

    def _keep_ledger(self, verbs: Sequence[Claiming | Recording]) -> list[Claim | None]:
        return self._commit(keep_ledger(self._tables, verbs))

    def _commit(self, steps: Steps[T], prepare: Callable[[Any], None] | None = None) -> T:
        with self._errors(), self._connection() as connection:
            if prepare is not None:
                prepare(connection)
            # What is not committed when the connection closes is undone.
            connection.execute("BEGIN")
            value = drive(steps, lambda statement: self._execute(connection, statement))
            connection.execute("COMMIT")
            return value

    def _execute(self, connection: Any, statement: Statement) -> Rows:
        parsed = self._parsed.get(statement.sql)
        if parsed is None:
            [parsed] = connection.extract_statements(statement.sql)
            self._parsed[statement.sql] = parsed
        rows: Rows = connection.execute(parsed, statement.values).fetchall()
        return rows

    @contextmanager
    def _connection(self) -> Iterator[Any]:
        deadline = time.monotonic() + self._busy_timeout
        try:
            with self._lease.connection(
                lambda: self._connect(deadline),
                settings=self._config,
                timeout=self._busy_timeout,
            ) as connection:
                yield connection
        except TimeoutError as error:
            raise self._busy("other transactions of this process took all of it") from error

    def _connect(self, deadline: float) -> Any:
        if self._is_file:
            Path(self._database).parent.mkdir(parents=True, exist_ok=True)
        while True:
            try:
                connection = self._duckdb.connect(self._database, config=self._config)
            except self._duckdb.IOException as error:
                if "Could not set lock" not in str(error):
                    raise
                if time.monotonic() >= deadline:
                    raise self._busy(error) from error
            else:
                self._limit_memory(connection)
                return connection
            time.sleep(_BUSY_POLL_SECONDS)

    def _limit_memory(self, connection: Any) -> None:
        # Not in the config: in one process DuckDB opens a file with one config only, and whoever
        # looks into the file meanwhile brings none.
        if "memory_limit" not in self._config and self._is_alone(connection):
            connection.execute(f"SET memory_limit = '{_MEMORY_LIMIT}'")

    def _is_alone(self, connection: Any) -> bool:
        """Whether nobody else in this process has it open, whose limit would be changed too."""
        try:
            counted = connection.execute("FROM duckdb_connection_count()").fetchone()
        except self._duckdb.CatalogException:  # an old DuckDB can't tell
            return False
        return bool(counted == (1,))

    def _busy(self, error: object) -> WarehouseBusyError:
        return WarehouseBusyError(
            f"Another process held {self._database} for all of {self._busy_timeout:g} s. Close "
            f"it there (a shell, a notebook, another run) and run again. DuckDB says: {error}"
        )

    @contextmanager
    def _errors(self) -> Iterator[None]:
        duckdb = self._duckdb
        try:
            yield
        except (duckdb.CatalogException, duckdb.BinderException) as error:
            raise WarehouseSchemaError(
                f"The tables in {self._name} are not the ones this version writes; nothing was "
                f"written. DuckDB says: {error}"
            ) from error
        except (
            # A commit that finds the disk full is a TransactionException.
            *(duckdb.IOException, duckdb.InvalidInputException, duckdb.TransactionException),
            OSError,
        ) as error:
            raise WarehouseAccessError(
                f"{self._name} can't be opened or written; it holds what it held before. Check "
                f"the path, the rights and the free space. DuckDB says: {error}"
            ) from error
        except duckdb.Error as error:
            raise WarehouseError(
                f"DuckDB failed on {self._name}, which holds what it held before: {error}"
            ) from error

    @property
    def _name(self) -> str:
        return self._database.partition("?")[0]


def _each_if_not_all(
    do_all: Callable[[Sequence[T]], Sequence[Any]],
) -> Callable[[Sequence[T]], Sequence[Any]]:
    """The same; where it fails each is done by itself, to see whose fault it was."""

    def do(works: Sequence[T]) -> Sequence[Any]:
        try:
            return do_all(works)
        except WarehouseBusyError as error:
            return [error] * len(works)
        except Exception as error:  # noqa: BLE001
            return [error] if len(works) == 1 else [do([work])[0] for work in works]

    return do
