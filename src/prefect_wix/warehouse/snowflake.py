"""Snowflake, by its Python connector: a session and a transaction per operation.

The file of IDs is uploaded (PUT) to the stage of a temporary table and copied into it (COPY INTO),
which needs no rights to create tables. An UPDATE of the version table locks that table until the
transaction ends, so writes to one schema are serialized. Snowflake rolls back the transaction of a
killed process once it blocks another one and was idle for 5 minutes
(https://docs.snowflake.com/en/sql-reference/transactions#aborting-transactions).

The tests run it on fakesnow, an emulator without locks. It was never run on Snowflake itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import closing
from datetime import UTC
from typing import Any, TypeVar

from prefect_wix.errors import (
    WarehouseAccessError,
    WarehouseBusyError,
    WarehouseError,
    WarehouseSchemaError,
    import_extra,
)
from prefect_wix.spool.id_spool import Spool
from prefect_wix.warehouse.interface import BUSY_TIMEOUT_SECONDS, driver_text
from prefect_wix.warehouse.schema import Rows, Statement, drive
from prefect_wix.warehouse.transactions import STAGED, Begin, BlockingWarehouse, SessionTransactions

T = TypeVar("T")

_LOGIN_SECONDS = 30
_STATEMENT_SECONDS = 900
_CANCELED = "57014"
"""The SQL state of a statement that waited too long, or with too many others, for a lock."""
_NO_ACCESS = ("08", "28", "42501", "57P03")
_NOT_OURS = ("02", "22", "23", "42")


class SnowflakeWarehouse(BlockingWarehouse):
    """Sessions in a Snowflake schema.

    Args:
        connect: opens a connection, with the connector's options by name.
        place: the URL without credentials, for messages.
        schema: the schema of the tables; created if it does not exist.
    """

    def __init__(self, connect: Callable[..., Any], *, place: str, schema: str) -> None:
        self._driver = import_extra(
            "snowflake.connector", extra="snowflake", what_for="A snowflake:// warehouse"
        )
        self._connect = connect
        self._place = place
        self._busy_timeout = BUSY_TIMEOUT_SECONDS
        # Unquoted names are stored in upper case.
        self._tables = SessionTransactions(schema.upper())

    def _transact(self, begin: Begin[T], *, lock: bool, spool: Spool | None = None) -> T:
        try:
            # Closing the connection rolls back what is not committed.
            with closing(self._open()) as connection:
                with connection.cursor() as cursor:
                    if spool is not None:
                        _stage(cursor, spool)
                    if lock:
                        versions = self._tables.name("wix_session_schema")
                        cursor.execute(f"UPDATE {versions} SET version = version")
                    [(at,)] = cursor.execute("SELECT CURRENT_TIMESTAMP()").fetchall()
                    steps = begin(self._tables, at.astimezone(UTC))
                    value = drive(steps, lambda statement: _execute(cursor, statement))
                connection.commit()
                return value
        except self._driver.errors.Error as error:
            raise self._translated(error) from error

    def _open(self) -> Any:
        parameters = {
            "TIMEZONE": "UTC",
            "LOCK_TIMEOUT": max(1, round(self._busy_timeout)),
            "STATEMENT_TIMEOUT_IN_SECONDS": _STATEMENT_SECONDS,
        }
        try:
            return self._connect(
                schema=self._tables.schema,
                autocommit=False,
                paramstyle="qmark",
                login_timeout=_LOGIN_SECONDS,
                network_timeout=_STATEMENT_SECONDS,
                session_parameters=parameters,
            )
        except Exception as error:  # noqa: BLE001 - it may quote a setting of the URL
            kind = f"{type(error).__name__} {getattr(error, 'errno', '')}".rstrip()
        raise WarehouseAccessError(
            f"Snowflake or its connector rejects the connection to {self._place} ({kind}). Nothing "
            "was changed. Check account, user, key or password, and the settings of the warehouse "
            "URL, then run again."
        )

    def _translated(self, error: Any) -> WarehouseError:
        cause, state = f"Snowflake says: {driver_text(error)}", str(error.sqlstate or "")
        if state == _CANCELED:
            return WarehouseBusyError(
                f"Another session held a lock in {self._place} for all of "
                f"{self._busy_timeout:g} s. Nothing was changed. Find it with SHOW LOCKS, then run "
                f"again. {cause}"
            )
        if state.startswith(_NO_ACCESS) or not isinstance(error, self._driver.ProgrammingError):
            return WarehouseAccessError(
                f"{self._place} can't be reached or written. No partition was left incomplete. "
                "Check the network, the warehouse and the rights of the role, then run again. "
                f"{cause}",
                affects_all=state.startswith(("28", "42")),
            )
        if state.startswith(_NOT_OURS):
            return WarehouseSchemaError(
                f"The tables in {self._place} are not the ones this version writes, or the role "
                f"may not see them. Nothing was changed. {cause}",
                affects_all=state.startswith(("02", "42")),
            )
        return WarehouseError(f"A statement failed at {self._place}. Nothing was changed. {cause}")


def _stage(cursor: Any, spool: Spool) -> None:
    cursor.execute(f"CREATE TEMPORARY TABLE {STAGED} (session_id TEXT)")
    path = spool.lines().as_posix().replace("'", "\\'")
    cursor.execute(f"PUT 'file://{path}' @%{STAGED}")
    # A line is an ID, whatever it contains.
    cursor.execute(
        f"COPY INTO {STAGED} FROM @%{STAGED} FILE_FORMAT = "
        "(TYPE = CSV FIELD_DELIMITER = NONE ESCAPE_UNENCLOSED_FIELD = NONE NULL_IF = ())"
    )


def _execute(cursor: Any, statement: Statement) -> Rows:
    # Foreign to Snowflake: numbered placeholders, and a time without its type.
    numbers = [int(number) for number in re.findall(r"\$(\d+)", statement.sql)]
    values = [_typed(statement.values[number - 1]) for number in numbers]
    cursor.execute(re.sub(r"\$\d+", "?", statement.sql), values or None)
    rows: Rows = cursor.fetchall()
    return rows


def _typed(value: Any) -> Any:
    return ("TIMESTAMP_TZ", value) if getattr(value, "tzinfo", None) else value
