"""DuckDB: a file on this machine, or MotherDuck.

Only one process can open a file. When another process has it open, a transaction waits for it
until the busy timeout. The warehouse's clock is that of this machine.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from pydantic import SecretStr

from prefect_wix.errors import (
    WarehouseAccessError,
    WarehouseBusyError,
    WarehouseError,
    WarehouseSchemaError,
    WarehouseUnsupportedError,
    import_extra,
)
from prefect_wix.planning.partitions import JobRecord, Receipt
from prefect_wix.planning.windows import Window
from prefect_wix.spool.shield import shield_in_thread
from prefect_wix.warehouse.duckdb_connection import shared_connection, stage
from prefect_wix.warehouse.interface import Claim, PublishResult, VerifiedListing, driver_text
from prefect_wix.warehouse.schema import SESSIONS, Rows, Statement, Steps, drive
from prefect_wix.warehouse.transactions import SessionTransactions

T = TypeVar("T")
Config = Mapping[str, SecretStr | str]

BUSY_TIMEOUT_SECONDS = 60.0
_BUSY_POLL_SECONDS = 0.05
_MEMORY_LIMIT = "512MB"
"""Enough for a day of ten million IDs. DuckDB's default is 80 % of the machine's memory."""
_READ_ONLY = {
    "access_mode": "READ_ONLY",
    "enable_external_access": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "python_enable_replacements": "false",
    "lock_configuration": "true",
}
"""The settings for foreign SQL. DuckDB can't take them back while the file is open."""


class DuckDBWarehouse:
    """Sessions in a DuckDB database.

    Args:
        database: a file's path, or ``md:name`` for MotherDuck, without the token.
        schema: the schema of the tables; created if it does not exist.
        config: DuckDB's own settings, such as ``memory_limit``, and MotherDuck's token. Without
            settings the memory limit is 512 MB and a load uses one thread.
        busy_timeout_seconds: how long to wait for a file that another process has open.

    Raises:
        ValueError: DuckDB rejects a setting.
    """

    def __init__(
        self,
        database: str,
        *,
        schema: str = "main",
        config: Mapping[str, SecretStr] | None = None,
        busy_timeout_seconds: float = BUSY_TIMEOUT_SECONDS,
    ) -> None:
        self._duckdb = import_extra("duckdb", extra="duckdb", what_for="A duckdb:// warehouse")
        self._is_file = not database.startswith("md:")
        # One name per file, whatever link leads to it: the process has one connection to it.
        self._database = os.path.realpath(database) if self._is_file else database
        self._config = dict(config or {})
        self._busy_timeout = busy_timeout_seconds
        if self._is_file and self._config:
            self._check_settings()
        self._tables = SessionTransactions(schema, counts_updates=True)
        self._connection = shared_connection(self._database)

    def _check_settings(self) -> None:
        # Without this switch DuckDB downloads the extension of a setting that it does not know.
        offline = {"autoinstall_known_extensions": "false"}
        with suppress(self._duckdb.Error):
            self._duckdb.connect(":memory:", config={**_plain(self._config), **offline}).close()
            return
        raise ValueError(
            "DuckDB rejects a setting after the ? of the warehouse URL. Correct its name and its "
            "value, or remove it."
        )

    def kept_open(self) -> AbstractAsyncContextManager[None]:
        """See `prefect_wix.warehouse.duckdb_connection.kept_open`."""
        return self._connection.kept_open()

    async def prepare(self) -> None:
        """See `Warehouse.prepare`."""
        await self.transact(self._prepare)

    async def receipts(self, site_id: str, window: Window) -> list[Receipt]:
        """See `Warehouse.receipts`."""
        return await self.transact(lambda tables: tables.read_receipts(site_id, window))

    async def job_records(self, site_id: str, window: Window) -> list[JobRecord]:
        """See `Warehouse.job_records`."""
        return await self.transact(lambda tables: tables.read_job_records(site_id, window))

    async def claim(self, record: JobRecord, *, adopt_since: datetime) -> Claim:
        """See `Warehouse.claim`."""
        return await self.transact(
            lambda tables: tables.claim(record, adopt_since, datetime.now(UTC))
        )

    async def save_record(self, record: JobRecord) -> None:
        """See `Warehouse.save_record`."""
        await self.transact(lambda tables: tables.save_record(record))

    async def publish(self, listing: VerifiedListing) -> PublishResult:
        """See `Warehouse.publish`."""

        def publish(cursor: Any) -> PublishResult:
            stage(cursor, listing.spool)
            return self._drive(self._tables.publish(listing, datetime.now(UTC)), cursor)

        return await self._run(publish)

    async def transact(self, work: Callable[[SessionTransactions], Steps[T]]) -> T:
        """See `SqlWarehouse.transact`."""
        return await self._run(lambda cursor: self._drive(work(self._tables), cursor))

    async def read(self, work: Callable[[SessionTransactions], Steps[T]]) -> T:
        """See `SqlWarehouse.read`. The process has a connection of its own for it."""
        if not self._is_file:
            raise WarehouseUnsupportedError(
                "On MotherDuck a query can't be kept from reading files. Nothing was read. Write "
                "the IDs to a file and set file instead of query."
            )
        config: Config = {"memory_limit": _MEMORY_LIMIT, **self._config, **_READ_ONLY}
        return await self._run(lambda cursor: self._drive(work(self._tables), cursor), config)

    async def _run(self, work: Callable[[Any], T], config: Config | None = None) -> T:
        return await shield_in_thread(lambda: self._transact(work, config or self._config))

    def _transact(self, work: Callable[[Any], T], config: Config) -> T:
        deadline = time.monotonic() + self._busy_timeout
        with (
            self._errors(),
            self._connection.transaction(
                lambda: self._connect(deadline, config), settings=config, timeout=self._busy_timeout
            ) as cursor,
        ):
            return work(cursor)

    def _drive(self, steps: Steps[T], cursor: Any) -> T:
        def execute(statement: Statement) -> Rows:
            parsed = self._connection.parse(cursor, statement.sql)
            rows: Rows = cursor.execute(parsed, statement.values).fetchall()
            return rows

        return drive(steps, execute)

    def _prepare(self, tables: SessionTransactions) -> Steps[None]:
        # Not before this process has the file: a running load of that version removes its journal.
        self._refuse_journal()
        yield from tables.prepare(SESSIONS)

    def _refuse_journal(self) -> None:
        journal = Path(f"{self._database}.{self._tables.schema.lower()}.asks")
        if self._is_file and journal.exists():
            raise WarehouseSchemaError(
                f"{journal} has job records that an earlier prefect-wix did not write into the "
                "database; nothing was changed. Load once with that version, or delete the file: "
                "the jobs in it that are still running are then submitted again."
            )

    def _connect(self, deadline: float, config: Config) -> Any:
        if self._is_file:
            Path(self._database).parent.mkdir(parents=True, exist_ok=True)
        while True:
            try:
                connection = self._open(config)
            except self._duckdb.IOException as error:
                if "Could not set lock" not in str(error):
                    raise
                if time.monotonic() >= deadline:
                    raise self._busy(error) from error
            else:
                if config is self._config:
                    self._set_limits(connection)
                return connection
            time.sleep(_BUSY_POLL_SECONDS)

    def _open(self, config: Config) -> Any:
        if self._is_file:
            return self._duckdb.connect(self._database, config=_plain(config))
        with suppress(self._duckdb.Error):
            return self._duckdb.connect(self._database, config=_plain(config))
        # Without DuckDB's error, which may repeat the token.
        raise WarehouseAccessError(
            f"{self._name} can't be opened or written; it was not changed. Check the name, the "
            "token and the network, then run again."
        )

    def _set_limits(self, connection: Any) -> None:
        # Not in the config: in one process DuckDB opens a file with one config only, and other code
        # of this process may open it with none.
        if self._is_alone(connection):
            limits = {"memory_limit": f"'{_MEMORY_LIMIT}'"}
            if self._connection.is_kept_open:
                # A load runs small transactions, which take three quarters of the time on 1 thread.
                limits["threads"] = "1"
            for name in limits.keys() - self._config.keys():
                connection.execute(f"SET {name} = {limits[name]}")

    def _is_alone(self, connection: Any) -> bool:
        """Whether this is the only connection of the process: the limits apply to all of them."""
        try:
            counted = connection.execute("FROM duckdb_connection_count()").fetchone()
        except self._duckdb.CatalogException:  # an old DuckDB has no such function
            return False
        return bool(counted == (1,))

    def _busy(self, error: object) -> WarehouseBusyError:
        return WarehouseBusyError(
            f"Another process had {self._database} open for all of {self._busy_timeout:g} s. Close "
            "it there (a shell, a notebook, another run) and run again. "
            f"DuckDB says: {driver_text(error)}"
        )

    @contextmanager
    def _errors(self) -> Iterator[None]:
        duckdb = self._duckdb
        try:
            yield
        except (duckdb.CatalogException, duckdb.BinderException) as error:
            raise WarehouseSchemaError(
                f"The tables in {self._name} are not the ones this version writes; nothing was "
                f"written. DuckDB says: {driver_text(error)}"
            ) from error
        except (
            # A commit that finds the disk full is a TransactionException.
            *(duckdb.IOException, duckdb.InvalidInputException, duckdb.TransactionException),
            OSError,
        ) as error:
            raise WarehouseAccessError(
                f"{self._name} can't be opened or written; it was not changed. Check the path, the "
                f"permissions and the free space. DuckDB says: {driver_text(error)}"
            ) from error
        except duckdb.Error as error:
            raise WarehouseError(
                f"DuckDB failed on {self._name}, which was not changed: {driver_text(error)}"
            ) from error

    @property
    def _name(self) -> str:
        return self._database.partition("?")[0]


def _plain(config: Config) -> dict[str, str]:
    return {
        name: value.get_secret_value() if isinstance(value, SecretStr) else value
        for name, value in config.items()
    }
