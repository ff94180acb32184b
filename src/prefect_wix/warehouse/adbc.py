"""Snowflake, by ADBC: Arrow from DuckDB into a staging table, and one transaction over that.

DuckDB writes and reads the Arrow streams. The tests run it against PostgreSQL, which has an ADBC
driver too. Never run against Snowflake itself: a parser has checked the statements. BigQuery is in
`bigquery`, because its ADBC driver can't ingest and keeps no transaction open.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import import_module
from typing import Any, TypeVar
from uuid import uuid4

from pydantic import SecretStr

from prefect_wix.errors import (
    WarehouseAccessError,
    WarehouseBusyError,
    WarehouseError,
    WarehouseSchemaError,
    import_extra,
)
from prefect_wix.planning.partitions import JobRecord, Receipt
from prefect_wix.planning.windows import Window
from prefect_wix.spool.id_spool import Spool
from prefect_wix.spool.shield import shield_in_thread
from prefect_wix.warehouse.duckdb_connection import stage
from prefect_wix.warehouse.interface import Claim, PublishResult, VerifiedListing, driver_text
from prefect_wix.warehouse.schema import SESSIONS, Rows, Statement, Steps, drive
from prefect_wix.warehouse.transactions import STAGED, SessionTransactions

T = TypeVar("T")

BUSY_TIMEOUT_SECONDS = 60.0


@dataclass(frozen=True)
class Dialect:
    """The differences between databases.

    Attributes:
        name: the name of the database in messages.
        driver: the package of its ADBC driver.
        extra: the extra that installs it.
        numbered: whether a statement's values are ``$1`` or ``?``.
        uppercase: whether unquoted names are stored in upper case.
        keys: as `SessionTransactions.keys`.
        options: the driver's options.
        set_lock_timeout: sets the lock timeout to ``{seconds}``.
        clock: selects the time by the database's clock.
        lock: locks out other loads until the transaction ends (``{versions}``: the table of the
            schema's version).
        locks_a_table: whether the lock needs that table to exist.
    """

    name: str
    driver: str
    extra: str
    numbered: bool
    uppercase: bool
    keys: bool
    set_lock_timeout: str
    clock: str
    lock: str
    locks_a_table: bool
    options: tuple[tuple[str, str], ...] = ()

    def stored(self, name: str) -> str:
        """An unquoted name as the database stores it."""
        return name.upper() if self.uppercase else name


POSTGRESQL = Dialect(
    name="PostgreSQL",
    driver="adbc_driver_postgresql",
    extra="adbc-postgresql",
    numbered=True,
    uppercase=False,
    keys=True,
    set_lock_timeout="SET lock_timeout = '{seconds:g}s'",
    clock="SELECT clock_timestamp()",
    lock="SELECT pg_advisory_xact_lock(hashtextextended('{versions}', 0))",
    locks_a_table=False,
)
SNOWFLAKE = Dialect(
    name="Snowflake",
    driver="adbc_driver_snowflake",
    extra="adbc-snowflake",
    numbered=False,
    uppercase=True,
    keys=False,
    set_lock_timeout="ALTER SESSION SET LOCK_TIMEOUT = {seconds:.0f}",
    clock="SELECT CURRENT_TIMESTAMP()",
    # An UPDATE locks its table until the transaction ends; each later statement sees what has
    # been committed before it.
    lock="UPDATE {versions} SET version = version",
    locks_a_table=True,
    # Return integers as integers.
    options=(("adbc.snowflake.sql.client_option.use_high_precision", "false"),),
)


class AdbcWarehouse:
    """Sessions in a database that an ADBC driver reaches.

    Writes to one schema are serialized. A process that is killed while it stages may leave a table
    ``wix_staged_…``, which can be dropped.

    Args:
        url: the URL for the driver.
        place: the URL without credentials, for messages.
        dialect: the database.
        schema: the schema of the tables; created if it does not exist.
        busy_timeout_seconds: how long to wait for a lock that another session holds.
    """

    def __init__(
        self,
        url: SecretStr,
        *,
        place: str,
        dialect: Dialect,
        schema: str,
        busy_timeout_seconds: float = BUSY_TIMEOUT_SECONDS,
    ) -> None:
        what = f"A {dialect.name} warehouse by ADBC"
        self._duckdb = import_extra("duckdb", extra=dialect.extra, what_for=what)
        import_extra(dialect.driver, extra=dialect.extra, what_for=what)
        self._driver: Any = import_module(f"{dialect.driver}.dbapi")
        self._url = url
        self._place = place
        self._dialect = dialect
        self._schema = dialect.stored(schema)
        self._tables = SessionTransactions(self._schema, keys=dialect.keys)
        self._busy_timeout = busy_timeout_seconds

    async def prepare(self) -> None:
        """See `Warehouse.prepare`."""
        # The table to lock may not exist yet; every statement of `prepare` can run twice.
        lock = not self._dialect.locks_a_table
        await self._run(lambda _: self._tables.prepare(SESSIONS), lock=lock)

    async def receipts(self, site_id: str, window: Window) -> list[Receipt]:
        """See `Warehouse.receipts`."""
        return await self._run(lambda _: self._tables.read_receipts(site_id, window), lock=False)

    async def job_records(self, site_id: str, window: Window) -> list[JobRecord]:
        """See `Warehouse.job_records`."""
        return await self._run(lambda _: self._tables.read_job_records(site_id, window), lock=False)

    async def claim(self, record: JobRecord, *, adopt_since: datetime) -> Claim:
        """See `Warehouse.claim`."""
        return await self._run(lambda at: self._tables.claim(record, adopt_since, at))

    async def save_record(self, record: JobRecord) -> None:
        """See `Warehouse.save_record`."""
        await self._run(lambda _: self._tables.save_record(record))

    async def publish(self, listing: VerifiedListing) -> PublishResult:
        """See `Warehouse.publish`."""
        return await shield_in_thread(lambda: self._publish(listing))

    async def _run(self, begin: Callable[[datetime], Steps[T]], *, lock: bool = True) -> T:
        def work() -> T:
            with self._session() as session:
                return self._transact(session, begin, lock=lock)

        return await shield_in_thread(work)

    def _publish(self, listing: VerifiedListing) -> PublishResult:
        # Drivers quote the names that they ingest into.
        name, column = map(self._dialect.stored, (f"{STAGED}_{uuid4().hex}", "session_id"))
        staged = self._tables.name(name)
        tables = SessionTransactions(self._schema, keys=self._dialect.keys, staged=staged)
        with self._session() as session:
            try:
                session.ingest((self._schema, name, column), listing.spool)
                return self._transact(session, lambda at: tables.publish(listing, at))
            finally:
                session.drop(staged)

    def _transact(
        self, session: _Session, begin: Callable[[datetime], Steps[T]], *, lock: bool = True
    ) -> T:
        if lock:
            versions = self._tables.name("wix_session_schema")
            session.execute(Statement(self._dialect.lock.format(versions=versions)))
        [(at,)] = session.execute(Statement(self._dialect.clock))
        value = drive(begin(at.astimezone(UTC)), session.execute)
        session.commit()
        return value

    @contextmanager
    def _session(self) -> Iterator[_Session]:
        """A connection; closing it rolls back what is not committed."""
        with (
            self._errors(),
            closing(self._connect()) as connection,
            closing(connection.cursor()) as cursor,
            self._duckdb.connect() as duckdb,
        ):
            session = _Session(connection, cursor, duckdb, numbered=self._dialect.numbered)
            timeout = self._dialect.set_lock_timeout.format(seconds=self._busy_timeout)
            session.execute(Statement(timeout))
            session.commit()
            yield session

    def _connect(self) -> Any:
        with suppress(self._driver.Error):
            url = self._url.get_secret_value()
            return self._driver.connect(url, db_kwargs=dict(self._dialect.options))
        # Without the driver's error, which may quote the URL.
        raise WarehouseAccessError(
            f"{self._place} can't be reached or written. Nothing was changed. Check host, user, "
            "password, database and settings of the warehouse URL, then run again."
        )

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        # A statement may fail only when DuckDB reads its rows.
        except (self._driver.Error, self._duckdb.Error) as error:
            raise self._translated(error) from error

    def _translated(self, error: Exception) -> WarehouseError:
        says = f"{self._dialect.name} says: {driver_text(error)}"
        state = str(getattr(error, "sqlstate", None) or "")
        status = getattr(getattr(error, "status_code", None), "name", "")
        if state in _BUSY or status == "TIMEOUT" or "lock timeout" in says:
            return WarehouseBusyError(
                f"Another session held a lock in {self._place} for all of "
                f"{self._busy_timeout:g} s. End it, or wait for it, and run again. {says}"
            )
        if state.startswith(_NO_ACCESS) or status in _CUT_OFF:
            return WarehouseAccessError(
                f"{self._place} can't be reached or written. No partition was left incomplete. "
                f"Check host, password, rights of the user and free space. {says}"
            )
        if state.startswith(_NOT_OURS) or status in _UNKNOWN_NAMES:
            return WarehouseSchemaError(
                f"The tables in {self._place} are not the ones this version writes; nothing was "
                f"written. {says}"
            )
        return WarehouseError(f"A statement failed at {self._place}. {says}")


_BUSY = ("55P03", "40P01")
_NO_ACCESS = ("08", "25006", "28", "3D", "42501", "53", "57")
_NOT_OURS = ("22", "23", "42")
_CUT_OFF = ("IO", "UNAUTHENTICATED", "UNAUTHORIZED")
_UNKNOWN_NAMES = ("NOT_FOUND", "ALREADY_EXISTS", "INVALID_ARGUMENT", "INVALID_DATA")


class _Session:
    """A connection of a driver, with DuckDB to write and read its Arrow streams."""

    def __init__(self, connection: Any, cursor: Any, duckdb: Any, *, numbered: bool) -> None:
        self._connection = connection
        self._cursor = cursor
        self._duckdb = duckdb
        self._numbered = numbered

    def execute(self, statement: Statement) -> Rows:
        """Run a statement inside the transaction."""
        sql, values = statement.sql, statement.values
        if not self._numbered:
            sql, values = _by_position(statement)
        with self._duckdb.cursor() as made:
            self._cursor.execute(sql, _one_row(made, values) if values else None)
        return self._fetch() if sql.startswith("SELECT") else []

    def _fetch(self) -> Rows:
        result = self._cursor.fetch_arrow()
        with self._duckdb.cursor() as reader:
            rows: Rows = reader.from_arrow(result).fetchall()
        return rows

    def ingest(self, names: tuple[str, str, str], spool: Spool) -> None:
        """Create a table (schema, table, column) of the spool's IDs, and commit it."""
        schema, table, column = names
        with self._duckdb.cursor() as made:
            stage(made, spool)
            ids = made.sql(f'SELECT session_id AS "{column}" FROM {STAGED}')
            self._cursor.adbc_ingest(table, ids, mode="create", db_schema_name=schema)
        self.commit()

    def drop(self, table: str) -> None:
        """Roll back what is not committed, and drop a staging table."""
        self._connection.rollback()
        self.execute(Statement(f"DROP TABLE IF EXISTS {table}"))
        self.commit()

    def commit(self) -> None:
        """Commit the transaction."""
        self._connection.commit()


def _one_row(duckdb: Any, values: tuple[Any, ...]) -> Any:
    columns = ", ".join(f"${n} AS p{n}" for n in range(1, len(values) + 1))
    return duckdb.sql(f"SELECT {columns}", params=list(values))


def _by_position(statement: Statement) -> tuple[str, tuple[Any, ...]]:
    """The statement with ``?`` placeholders, and one value for each."""
    numbers = [int(number) for number in re.findall(r"\$(\d+)", statement.sql)]
    sql = re.sub(r"\$\d+", "?", statement.sql)
    return sql, tuple(statement.values[number - 1] for number in numbers)
