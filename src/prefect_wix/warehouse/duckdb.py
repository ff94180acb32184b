"""DuckDB: a file on this machine.

Only one process can open a file. When another process has it open, a transaction waits for it
until the busy timeout. The warehouse's clock is that of this machine.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
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
from prefect_wix.spool.shield import shield_in_thread
from prefect_wix.warehouse.duckdb_connection import (
    MEMORY_LIMIT,
    last_change,
    shared_connection,
    stage,
)
from prefect_wix.warehouse.interface import BUSY_TIMEOUT_SECONDS, driver_text
from prefect_wix.warehouse.schema import Steps, drive
from prefect_wix.warehouse.transactions import Begin, Lock, SessionTransactions, SqlWarehouse

_LOG = logging.getLogger(__name__)
T = TypeVar("T")
Config = Mapping[str, SecretStr | str]

_BUSY_POLL_SECONDS = 0.05
_MOST_CHANGES = 20
"""A new file changes once; under the load of many processes every second opening finds a change."""
_READ_ONLY = {
    "access_mode": "READ_ONLY",
    "enable_external_access": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "python_enable_replacements": "false",
    "lock_configuration": "true",
}
"""The settings for foreign SQL. DuckDB can't take them back while the file is open."""


class DuckDBWarehouse(SqlWarehouse):
    """Sessions in a DuckDB database.

    Args:
        database: the path of the file.
        schema: the schema of the tables; created if it does not exist.
        config: DuckDB's own settings, such as ``memory_limit``. Without settings the memory limit
            is 512 MB and a load uses one thread.

    Raises:
        ValueError: DuckDB rejects a setting.
    """

    def __init__(
        self, database: str, *, schema: str = "main", config: Mapping[str, SecretStr]
    ) -> None:
        self._duckdb = import_extra("duckdb", extra="duckdb", what_for="A duckdb:// warehouse")
        # One name per file, whatever link leads to it: the process has one connection to it.
        self._database = os.path.realpath(database)
        self._config = config
        self._busy_timeout = BUSY_TIMEOUT_SECONDS
        self._has_waited = False
        if self._config:
            self._check_settings()
        self._tables = SessionTransactions(schema)
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
        """See `SharedConnection.kept_open`."""
        return self._connection.kept_open()

    async def read(self, work: Callable[[SessionTransactions], Steps[T]]) -> T:
        """See `SqlWarehouse.read`. The process has a connection of its own for it."""
        config: Config = {"memory_limit": MEMORY_LIMIT, **self._config, **_READ_ONLY}
        return await shield_in_thread(
            lambda: self._transact(lambda tables, _: work(tables), config)
        )

    async def run(
        self,
        begin: Begin[T],
        lock: Lock = None,  # noqa: ARG002 - the connection runs one transaction at a time
        spool: Spool | None = None,
    ) -> T:
        """See `TableWarehouse.run`."""
        return await shield_in_thread(lambda: self._transact(begin, self._config, spool))

    def _transact(self, begin: Begin[T], config: Config, spool: Spool | None = None) -> T:
        deadline = time.monotonic() + self._busy_timeout
        transaction = self._connection.transaction(
            lambda: self._connect(deadline, config), settings=config, timeout=self._busy_timeout
        )
        try:
            with transaction as cursor:
                if spool is not None:
                    stage(cursor, spool)
                execute = partial(self._connection.execute, cursor)
                return drive(begin(self._tables, datetime.now(UTC)), execute)
        except (self._duckdb.Error, OSError) as error:
            raise self._translated(error) from error

    def _prepare(self) -> Steps[None]:
        # Not before this process has the file: a running load of that version removes its journal.
        journal = Path(f"{self._database}.{self._tables.schema.lower()}.asks")
        if journal.exists():
            raise WarehouseSchemaError(
                f"{journal} has job records that an earlier prefect-wix did not write into the "
                "database; nothing was changed. Load once with that version, or delete the file: "
                "the jobs in it that are still running are then submitted again."
            )
        yield from super()._prepare()

    def _connect(self, deadline: float, config: Config) -> Any:
        Path(self._database).parent.mkdir(parents=True, exist_ok=True)
        changes = 0
        while changes < _MOST_CHANGES:
            try:
                connection = self._connect_once(config)
            except self._duckdb.IOException as error:
                if "Could not set lock" not in str(error):
                    raise
                self._wait_for_lock(deadline, error)
            else:
                if connection is not None:
                    return connection
                changes += 1
        raise WarehouseBusyError(
            f"{self._database} changed each of the {changes} times that it was opened. "
            "Nothing was changed by this run. Run it again."
        )

    def _connect_once(self, config: Config) -> Any | None:
        """A connection, or None if the file changed while it was opened."""
        before = last_change(self._database)
        connection = self._duckdb.connect(self._database, config=_plain(config))
        if before != last_change(self._database):
            # DuckDB reads the header before it locks the file: a transaction that another process
            # committed in between would be lost.
            connection.close()
            return None
        if config is self._config:
            self._set_limits(connection)
        return connection

    def _wait_for_lock(self, deadline: float, error: Exception) -> None:
        seconds, holder = f"{self._busy_timeout:g} s", driver_text(error)
        if not self._has_waited:
            self._has_waited = True
            message = "Waiting up to %s for %s, which another process has open: %s"
            _LOG.warning(message, seconds, self._database, holder)
        if time.monotonic() >= deadline:
            raise WarehouseBusyError(
                f"Another process had {self._database} open for all of {seconds}. Nothing "
                "was changed. Close it there (a shell, a notebook, another run) and run "
                f"again. DuckDB says: {holder}"
            ) from error
        time.sleep(_BUSY_POLL_SECONDS)

    def _set_limits(self, connection: Any) -> None:
        # Not in the config: in one process DuckDB opens a file with one config only, and other code
        # of this process may open it with none.
        limits = {"memory_limit": f"'{MEMORY_LIMIT}'"}
        if self._connection.loads:
            # A load runs small transactions, which take three quarters of the time on 1 thread.
            limits["threads"] = "1"
        with suppress(self._duckdb.CatalogException):  # an old DuckDB can't count connections
            counted = connection.execute("FROM duckdb_connection_count()").fetchone()
            # The limits apply to all connections of the process.
            for name in limits.keys() - self._config.keys() if counted == (1,) else ():
                connection.execute(f"SET {name} = {limits[name]}")

    def _translated(self, error: Exception) -> WarehouseError:
        duckdb, cause = self._duckdb, f"DuckDB says: {driver_text(error)}"
        if isinstance(error, duckdb.CatalogException | duckdb.BinderException):
            return WarehouseSchemaError(
                f"The tables in {self._database} are not the ones this version writes; nothing was "
                f"written. {cause}"
            )
        # A commit that finds the disk full is a TransactionException.
        no_access = duckdb.IOException, duckdb.InvalidInputException, duckdb.TransactionException
        if isinstance(error, (*no_access, OSError)):
            return WarehouseAccessError(
                f"{self._database} can't be opened or written; it was not changed. Check the path, "
                f"the permissions and the free space. {cause}",
                affects_all=False,
            )
        return WarehouseError(f"DuckDB failed on {self._database}, which was not changed. {cause}")


def _plain(config: Config) -> dict[str, str]:
    return {
        name: value.get_secret_value() if isinstance(value, SecretStr) else value
        for name, value in config.items()
    }
