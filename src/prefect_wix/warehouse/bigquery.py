"""BigQuery, by its ADBC driver: reads first, then one script that checks them and writes.

The driver can't ingest, and keeps no transaction open between calls. So the IDs of a listing are
staged as literals; the partition is read and the result decided; and one script, a transaction,
checks that the reads still hold before it writes. It first updates the table of the schema's
version: BigQuery cancels a transaction that mutates rows of a table while another one does, a
transaction reads one snapshot, and a script that fails is rolled back
(https://cloud.google.com/bigquery/docs/transactions). A load that loses such a race reads again.

Never run against BigQuery itself. The tests parse every statement as GoogleSQL, translate it and
run it in DuckDB. BigQuery creates tables outside of transactions: a migration that fails stays
incomplete until it is run again.
"""

from __future__ import annotations

import os
import random
import re
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, date, datetime, timedelta
from functools import partial
from importlib import import_module
from itertools import chain
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
from prefect_wix.warehouse.interface import Claim, PublishResult, VerifiedListing, driver_text
from prefect_wix.warehouse.schema import SESSIONS, Rows, Statement, Steps, drive
from prefect_wix.warehouse.transactions import STAGED, SessionTransactions

T = TypeVar("T")

_STAGED_FOR = timedelta(days=1)
# Without a network the driver retries for ever.
_STATEMENT_SECONDS = 900.0
_RETRY_WAITS = (1.0, 2.0, 4.0, 8.0, 15.0, 15.0, 15.0)
# Transactions of one process are serialized, so that they do not cancel each other.
_LOCKS: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)


class BigQueryWarehouse:
    """Sessions in a BigQuery dataset.

    Writes to one dataset are serialized. Staging tables of a killed process expire after a day.
    Beside the rights to edit the dataset's data and to run jobs, the driver needs
    ``roles/bigquery.readSessionUser``.

    Args:
        project: the project of the dataset, which also runs (and pays for) the jobs.
        dataset: the dataset of the tables; created if it does not exist.
        location: where the dataset is, such as ``EU``. If left out, BigQuery finds it, and
            creates a new dataset in its default location.
        credentials: the path of a JSON key; if left out, the application default credentials.
    """

    def __init__(
        self,
        project: str,
        dataset: str,
        *,
        location: str | None = None,
        credentials: SecretStr | None = None,
    ) -> None:
        what = "A bigquery:// warehouse"
        self._duckdb = import_extra("duckdb", extra="adbc-bigquery", what_for=what)
        import_extra("adbc_driver_bigquery", extra="adbc-bigquery", what_for=what)
        self._driver: Any = import_module("adbc_driver_bigquery.dbapi")
        self._place = f"bigquery://{project}/{dataset}"
        self._project = project
        self._location = location
        self._key_file = credentials or SecretStr("")
        self._translate = partial(googlesql, project=project, dataset=dataset)
        self._tables = SessionTransactions(dataset)
        self._statement_seconds = _STATEMENT_SECONDS
        self._retry_waits: tuple[float, ...] = _RETRY_WAITS

    async def prepare(self) -> None:
        """See `Warehouse.prepare`."""
        await self._run(self._prepare)

    async def receipts(self, site_id: str, window: Window) -> list[Receipt]:
        """See `Warehouse.receipts`."""
        steps = self._tables.read_receipts(site_id, window)
        return await self._run(lambda session: drive(steps, session.execute))

    async def job_records(self, site_id: str, window: Window) -> list[JobRecord]:
        """See `Warehouse.job_records`."""
        steps = self._tables.read_job_records(site_id, window)
        return await self._run(lambda session: drive(steps, session.execute))

    async def claim(self, record: JobRecord, *, adopt_since: datetime) -> Claim:
        """See `Warehouse.claim`."""

        def claim(session: _Session) -> Claim:
            return self._transact(
                session, lambda: self._tables.claim(record, adopt_since, session.now())
            )

        return await self._run(claim)

    async def save_record(self, record: JobRecord) -> None:
        """See `Warehouse.save_record`."""
        await self._run(
            lambda session: self._transact(session, lambda: self._tables.save_record(record))
        )

    async def publish(self, listing: VerifiedListing) -> PublishResult:
        """See `Warehouse.publish`."""
        return await self._run(lambda session: self._publish(session, listing))

    async def _run(self, work: Callable[[_Session], T]) -> T:
        def in_a_session() -> T:
            with self._session() as session:
                return work(session)

        return await shield_in_thread(in_a_session)

    def _prepare(self, session: _Session) -> None:
        with _LOCKS[self._place]:
            try:
                drive(self._tables.prepare(SESSIONS), session.execute)
            except self._driver.Error as error:
                if "Not found: Dataset" not in str(error):
                    raise
                session.run(f"CREATE SCHEMA IF NOT EXISTS `{self._tables.schema}`")
                drive(self._tables.prepare(SESSIONS), session.execute)

    def _publish(self, session: _Session, listing: VerifiedListing) -> PublishResult:
        staged = self._tables.name(f"{STAGED}_{uuid4().hex}")
        tables = SessionTransactions(self._tables.schema, staged=staged)
        try:
            session.stage(staged, listing.spool)
            return self._transact(session, lambda: tables.publish(listing, session.now()))
        finally:
            # Otherwise it expires.
            with suppress(self._driver.Error):
                session.execute(Statement(f"DROP TABLE IF EXISTS {staged}"))

    def _transact(self, session: _Session, begin: Callable[[], Steps[T]]) -> T:
        """Read, decide and write; repeat all of it if another load wrote in between."""
        lost = None
        with _LOCKS[self._place]:
            for wait in (0.0, *self._retry_waits):
                time.sleep(wait * random.uniform(0.5, 1.5))  # noqa: S311
                script = _Script(session, lock=self._tables.name("wix_session_schema"))
                value = drive(begin(), script.take)
                try:
                    script.send()
                except self._driver.Error as error:
                    if not _LOST.search(str(error)):
                        raise
                    lost = error
                else:
                    return value
        raise WarehouseBusyError(
            f"Another load wrote to {self._place} during each of the "
            f"{len(self._retry_waits) + 1} attempts of this one. Nothing was changed. Run fewer "
            f"loads at once, and run again. BigQuery says: {driver_text(lost)}"
        ) from lost

    @contextmanager
    def _session(self) -> Iterator[_Session]:
        key_file = self._key_file.get_secret_value()
        if key_file and not os.path.isfile(key_file):  # noqa: PTH113 - never raises
            # It may be the key itself, which the driver would repeat.
            raise WarehouseAccessError(
                f"The credentials of {self._place} are no file. Set the path of a JSON key, or "
                "leave them out to use the application default credentials."
            )
        options = _options(self._project, self._location, key_file)
        connect = partial(self._driver.connect, db_kwargs=options, autocommit=True)
        try:
            with closing(connect()) as connection, closing(connection.cursor()) as cursor:
                yield _Session(cursor, self._duckdb, self._translate, self._statement_seconds)
        except self._driver.Error as error:
            says = str(error)
            if not key_file or key_file not in says:
                raise self._translated(says) from error
            raise self._translated(says.replace(key_file, "the key file")) from None

    def _translated(self, says: str) -> WarehouseError:
        if _NO_ACCESS.search(says):
            return WarehouseAccessError(
                f"{self._place} can't be reached or written. No partition was left incomplete. "
                "Check the network, the credentials, their rights and the location, then run "
                f"again. BigQuery says: {driver_text(says)}"
            )
        if _NOT_OURS.search(says):
            return WarehouseSchemaError(
                f"The tables in {self._place} are not the ones this version writes; nothing was "
                f"written. BigQuery says: {driver_text(says)}"
            )
        return WarehouseError(
            f"A statement failed at {self._place}. BigQuery says: {driver_text(says)}"
        )


# The driver passes on what Google's client says, and has no codes.
_CHANGED = "wix_held_has_changed"
_LOST = re.compile(rf"concurrent update|{_CHANGED}")
_NO_ACCESS = re.compile(
    r"Error (401|403|5\d\d)|constructing client|fetch token|dial tcp|context (canceled|deadline)|"
    r"readSessionUser|Not found: Project"
)
_NOT_OURS = re.compile(
    r"Error (404|409)|Unrecognized name|not present in table|not found inside|cannot be inserted"
)


class _Session:
    """A cursor of the driver, with DuckDB to read its rows."""

    def __init__(
        self, cursor: Any, duckdb: Any, translate: Callable[[Statement], str], seconds: float
    ) -> None:
        self._cursor = cursor
        self._duckdb = duckdb
        self._seconds = seconds
        self.translate = translate

    def execute(self, statement: Statement) -> Rows:
        """Run a statement as `SessionTransactions` writes it."""
        return self.run(self.translate(statement))

    def now(self) -> datetime:
        """The time by BigQuery's clock."""
        [(now,)] = self.run("SELECT CURRENT_TIMESTAMP() AS now")
        at: datetime = now.astimezone(UTC)
        return at

    def run(self, sql: str) -> Rows:
        """Run GoogleSQL to its end."""
        deadline = threading.Timer(self._seconds, self._cursor.adbc_cancel)
        deadline.start()
        try:
            # Not `executescript`: it neither waits for the job nor reports its errors.
            self._cursor.execute(sql)
            return self._fetch() if sql.startswith("SELECT") else []
        finally:
            deadline.cancel()

    def _fetch(self) -> Rows:
        if not self._cursor.rowcount:
            # Without rows the driver returns no columns either.
            return []
        with self._duckdb.connect() as reader:
            rows: Rows = reader.from_arrow(self._cursor.fetch_arrow()).fetchall()
        if len(rows) != self._cursor.rowcount:
            # The driver reports no error when the stream breaks.
            raise WarehouseAccessError("A result of BigQuery was cut short. Run again.")
        return rows

    def stage(self, table: str, spool: Spool) -> None:
        """Create a table of the spool's IDs, which expires by itself."""
        name = self.translate(Statement(table))
        expires = f"expiration_timestamp = {literal(datetime.now(UTC) + _STAGED_FOR)}"
        self.run(f"CREATE TABLE {name} (session_id STRING) OPTIONS({expires})")
        for insert in inserts(name, chain.from_iterable(spool.batches())):
            self.run(insert)


class _Script:
    """The reads of a transaction, and its writes, valid while the reads hold.

    Args:
        session: to read in.
        lock: the table that every script updates; `SessionTransactions.prepare` leaves a row in it.
    """

    def __init__(self, session: _Session, *, lock: str) -> None:
        self._session = session
        self._lock = session.translate(Statement(lock))
        self._still: list[str] = []
        self._writes: list[str] = []

    def take(self, statement: Statement) -> Rows:
        """Run a SELECT now, before all writes; defer any other statement."""
        sql = self._session.translate(statement)
        if not sql.startswith("SELECT"):
            self._writes.append(sql)
            return []
        as_json = f"TO_JSON_STRING(t) AS row_json FROM ({sql}) AS t ORDER BY row_json"
        rows = self._session.run(f"SELECT t.*, {as_json}")
        before = literal("\n".join(row[-1] for row in rows))
        self._still.append(rf"ARRAY_TO_STRING(ARRAY(SELECT {as_json}), '\n') = {before}")
        return [row[:-1] for row in rows]

    def send(self) -> None:
        """Run the writes in one transaction, if there are any."""
        if self._writes:
            # No statement returns rows: the driver can't always read those of a script. No error
            # handler: its ROLLBACK would fail where BigQuery has rolled back already.
            still = " AND ".join(self._still) or "TRUE"
            check = f"WHERE IF({still}, TRUE, ERROR('{_CHANGED}'))"
            first = ("BEGIN TRANSACTION", f"UPDATE {self._lock} SET version = version {check}")
            self._session.run(";\n".join((*first, *self._writes, "COMMIT TRANSACTION;")))


def _options(project: str, location: str | None, credentials: str | None) -> dict[str, str]:
    """The driver's options, named as its module documents them."""
    sql = "adbc.bigquery.sql"
    key_file = {
        f"{sql}.auth_type": f"{sql}.auth_type.json_credential_file",
        f"{sql}.auth_credentials": credentials or "",
    }
    return {
        f"{sql}.project_id": project,
        **({f"{sql}.location": location} if location else {}),
        **(key_file if credentials else {}),
    }


# A query may have 1 MB of text (https://cloud.google.com/bigquery/quotas#query_jobs: "Maximum
# unresolved GoogleSQL query length"). Half of it leaves room for the rest of the query.
_INSERT_BYTES = 500_000


def googlesql(statement: Statement, *, project: str, dataset: str) -> str:
    """A statement for BigQuery: its names in backticks, its types, and literals."""

    def word(match: re.Match[str]) -> str:
        if match["value"]:
            return literal(statement.values[int(match["value"]) - 1])
        return f"`{match['name']}`" if match["name"] else words[match[0]]

    words = {
        **_WORDS,
        "current_database()": literal(project),
        "information_schema.columns": f"`{dataset}`.INFORMATION_SCHEMA.COLUMNS",
        # The query runs only after the columns of the dataset were read, so it exists.
        "information_schema.schemata": (
            f"(SELECT {literal(project)} AS catalog_name, {literal(dataset)} AS schema_name)"
        ),
    }
    sql = _TO_TRANSLATE.sub(word, statement.sql)
    # A query of one partition then reads (and is billed for) its blocks and not the whole table.
    by_partition = re.match(r"CREATE TABLE .*\bsession_date\b.*\bsegment\b", sql)
    return f"{sql} CLUSTER BY site_id, session_date, segment" if by_partition else sql


_DAYS = "max(session_date) - min(session_date)"
_WORDS = {
    "TEXT": "STRING",
    "BIGINT": "INT64",
    "TIMESTAMPTZ": "TIMESTAMP",
    "DOUBLE PRECISION": "FLOAT64",
    # In GoogleSQL the difference of two dates is an interval, not a number.
    _DAYS: "DATE_DIFF(max(session_date), min(session_date), DAY)",
}
_TO_TRANSLATE = re.compile(
    r'\$(?P<value>\d+)|"(?P<name>\w+)"|\b(?:TEXT|BIGINT|TIMESTAMPTZ|DOUBLE PRECISION)\b|'
    rf"current_database\(\)|information_schema\.\w+|{re.escape(_DAYS)}"
)


def literal(value: object) -> str:
    """A value as GoogleSQL writes it.

    See https://cloud.google.com/bigquery/docs/reference/standard-sql/lexical#literals.
    """
    match value:
        case None:
            return "NULL"
        case str():
            return f"'{_ESCAPED.sub(_escape, value)}'"
        case int() | float():
            return repr(value)
        case datetime():
            return f"TIMESTAMP '{value.astimezone(UTC).isoformat()}'"
        case date():
            return f"DATE '{value.isoformat()}'"
    raise TypeError(f"GoogleSQL has no literal for {type(value).__name__}.")


_ESCAPED = re.compile(r"[\\'\x00-\x1f\x7f-\x9f\u2028\u2029]")


def _escape(match: re.Match[str]) -> str:
    character = match[0]
    return f"\\{character}" if character in "\\'" else f"\\u{ord(character):04x}"


def inserts(table: str, session_ids: Iterable[str]) -> Iterator[str]:
    """Statements that insert IDs into a table (a GoogleSQL name), each below the size limit."""
    chunk: list[str] = []
    size = 0
    for text in map(literal, session_ids):
        length = len(text.encode()) + len(", ")
        if chunk and size + length > _INSERT_BYTES:
            yield _insert(table, chunk)
            chunk, size = [], 0
        chunk.append(text)
        size += length
    if chunk:
        yield _insert(table, chunk)


def _insert(table: str, literals: list[str]) -> str:
    ids = ", ".join(literals)
    return f"INSERT INTO {table} (session_id) SELECT id FROM UNNEST([{ids}]) AS id"
