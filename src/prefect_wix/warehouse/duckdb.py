"""DuckDB: a file on this machine (or MotherDuck), the embedded default.

A file that another process holds is waited for until a deadline. Small answers that are ready at
the same time land together.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager, suppress
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
from prefect_wix.spool import FEW
from prefect_wix.warehouse.database import Database
from prefect_wix.warehouse.interface import Answer, Claim, Landed
from prefect_wix.warehouse.journal import Journal
from prefect_wix.warehouse.leases import NoTurnError, lease_of
from prefect_wix.warehouse.ledger import ClosedLedgerError, Ledger
from prefect_wix.warehouse.staging import stage
from prefect_wix.warehouse.steps import Steps, Tables
from prefect_wix.warehouse.together import Together
from prefect_wix.windows import Window

__all__ = ["DuckDBWarehouse"]

T = TypeVar("T")

BUSY_TIMEOUT_SECONDS = 60.0
_BUSY_POLL_SECONDS = 0.05
_ENOUGH = 8
"""So many small answers are waited for, to land together,"""
_WAIT_SECONDS = 0.1
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
        self._is_file = not database.startswith("md:")
        # One name for one file: its journal has to be found, whatever link or folder leads to it.
        self._database = os.path.realpath(database) if self._is_file else database
        self._config = dict(config or {})
        self._busy_timeout = busy_timeout_seconds
        self._tables = Tables(schema, arrays=True)
        self._lease = lease_of(self._database)
        self._landings = Together(self._publish_all, enough=_ENOUGH, wait_seconds=_WAIT_SECONDS)

    def kept_open(self) -> AbstractAsyncContextManager[None]:
        """See `prefect_wix.warehouse.leases.kept_open`."""
        return self._lease.kept_open()

    async def prepare(self) -> None:
        """See `Warehouse.prepare`."""
        await self._use(lambda database: database.run(self._tables.prepare()))

    async def receipts(self, site_id: str, window: Window) -> list[Receipt]:
        """See `Warehouse.receipts`."""
        return await self.transact(lambda tables: tables.read_receipts(site_id, window))

    async def history(self, site_id: str, window: Window) -> list[Ask]:
        """See `Warehouse.history`."""
        return await self.transact(lambda tables: tables.read_history(site_id, window))

    async def claim(self, ask: Ask, *, adopt_since: datetime) -> Claim:
        """See `Warehouse.claim`."""
        if not self._is_file:
            return await self.transact(lambda tables: tables.claim(ask, adopt_since))
        return await self._note(lambda ledger: ledger.claim(ask, adopt_since))

    async def record(self, ask: Ask) -> None:
        """See `Warehouse.record`."""
        if not self._is_file:
            return await self.transact(lambda tables: tables.record(ask))
        return await self._note(lambda ledger: ledger.record(ask))

    async def publish(self, answer: Answer) -> Landed:
        """See `Warehouse.publish`."""
        if len(answer.spool) <= FEW and self._is_file:
            landed: Landed = await self._landings.do(answer)
            return landed
        return await finish_in_thread(lambda: self._publish(answer))

    async def transact(self, work: Callable[[Tables], Steps[T]]) -> T:
        """See `SqlWarehouse.transact`."""
        return await self._use(lambda database: self._transact(database, work(self._tables)))

    async def _note(self, work: Callable[[Ledger], T]) -> T:
        # Without a thread where the file is open: the way there and back takes far longer than a
        # line in the journal, above all while an answer lands.
        with self._errors(), suppress(ClosedLedgerError):
            if ledger := self._opened_ledger():
                return work(ledger)
        return await self._use(lambda database: database.note(self._tables, work))

    def _opened_ledger(self) -> Ledger | None:
        database: Database | None = self._lease.opened(settings=self._config)
        return database.opened_ledger(self._tables) if database else None

    async def _use(self, work: Callable[[Database], T]) -> T:
        return await finish_in_thread(lambda: self._in_turn(work))

    def _publish_all(self, answers: Sequence[Answer]) -> list[Landed | BaseException]:
        """Land those together that can; the others, and all if that fails, each by itself."""
        try:
            first = self._land_first(answers)
        except WarehouseBusyError as error:
            return [error] * len(answers)
        except Exception as error:  # noqa: BLE001
            if len(answers) == 1:
                return [error]
            first = [None] * len(answers)
        both = zip(answers, first, strict=True)
        return [landed or self._land_alone(answer) for answer, landed in both]

    def _land_first(self, answers: Sequence[Answer]) -> list[Landed | None]:
        at = datetime.now(UTC)
        return self._in_turn(lambda database: database.land_first(self._tables, answers, at))

    def _land_alone(self, answer: Answer) -> Landed | BaseException:
        try:
            return self._publish(answer)
        except Exception as error:  # noqa: BLE001
            return error

    def _publish(self, answer: Answer) -> Landed:
        steps = self._tables.publish(answer, datetime.now(UTC))
        return self._in_turn(
            lambda database: self._transact(
                database, steps, lambda connection: stage(connection, answer.spool)
            )
        )

    def _transact(
        self, database: Database, steps: Steps[T], stage: Callable[[Any], None] = lambda _: None
    ) -> T:
        # MotherDuck has others at the same tables at any time, so that no ledger runs ahead.
        if not self._is_file:
            return database.run(steps, stage)
        return database.transact(self._tables, steps, stage)

    def _in_turn(self, work: Callable[[Database], T]) -> T:
        deadline = time.monotonic() + self._busy_timeout
        with self._errors():
            try:
                with self._lease.turn(
                    lambda: Database(self._connect(deadline), self._journal),
                    settings=self._config,
                    timeout=self._busy_timeout,
                ) as database:
                    return work(database)
            except NoTurnError as error:
                raise self._busy("other transactions of this process took all of it") from error

    def _journal(self, tables: Tables) -> Journal:
        return Journal(Path(f"{self._database}.{tables.schema.lower()}.asks"))

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
