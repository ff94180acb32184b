"""BigQuery, by Google's client: reads first, then one script that checks them and writes.

No connection keeps a transaction open that a killed process would leave behind for a day. So a load
job stages the IDs of a listing; the partition is read and the result decided; and one script, a
transaction, checks that the reads still hold before it writes. It first updates the table of the
schema's version: BigQuery cancels a transaction that mutates rows of a table while another one
does, a transaction reads one snapshot, and a script that fails is rolled back
(https://cloud.google.com/bigquery/docs/transactions). A load that loses such a race reads again.

The tests run it on bqemulator, an emulator that cancels no transaction. It was never run on
BigQuery itself, which creates tables outside of transactions: a migration that fails stays
incomplete until it is run again.
"""

from __future__ import annotations

import json
import random
import re
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from datetime import UTC, date, datetime
from tempfile import TemporaryFile
from typing import Any, TypeVar
from uuid import uuid4

from prefect_wix.errors import (
    WarehouseAccessError,
    WarehouseBusyError,
    WarehouseError,
    WarehouseSchemaError,
    import_extra,
)
from prefect_wix.spool.id_spool import Spool
from prefect_wix.spool.shield import shield_in_thread
from prefect_wix.warehouse.interface import driver_text
from prefect_wix.warehouse.schema import Rows, Statement, drive
from prefect_wix.warehouse.transactions import STAGED, Begin, BlockingWarehouse, SessionTransactions

T = TypeVar("T")

_STATEMENT_SECONDS = 900
_RETRY_SECONDS = 60
_RETRY_WAITS = (1.0, 2.0, 4.0, 8.0, 15.0, 15.0, 15.0)
_CHANGED = "wix_reads_have_changed"
# https://cloud.google.com/bigquery/docs/error-messages
_NOT_OURS = {"duplicate", "invalid", "invalidQuery", "notFound"}
# Both are an invalidQuery.
_LOST = re.compile(rf"aborted due to concurrent update|{_CHANGED}")
# Transactions of one process are serialized, so that they do not cancel each other.
_LOCKS: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)


class BigQueryWarehouse(BlockingWarehouse):
    """Sessions in a BigQuery dataset.

    Writes to one dataset are serialized. Staging tables of a killed process expire after a day.

    Args:
        connect: makes a client for the project and location that are given by name.
        project: the project of the dataset, which also runs (and pays for) the jobs.
        dataset: the dataset of the tables; created if it does not exist.
        location: where the dataset is, such as ``EU``. If left out, BigQuery finds it, and
            creates a new dataset in its default location.
    """

    def __init__(
        self,
        connect: Callable[..., Any],
        *,
        project: str,
        dataset: str,
        location: str | None = None,
    ) -> None:
        what = "A bigquery:// warehouse"
        self._bigquery = import_extra("google.cloud.bigquery", extra="bigquery", what_for=what)
        self._google = import_extra("google.api_core.exceptions", extra="bigquery", what_for=what)
        self._auth = import_extra("google.auth.exceptions", extra="bigquery", what_for=what)
        self._rejected = self._google.Unauthorized, self._google.Forbidden, self._auth.RefreshError
        self._connect = connect
        self._project = project
        self._location = location
        self._place = f"bigquery://{project}/{dataset}"
        self._tables = SessionTransactions(dataset)
        self._retry_waits: tuple[float, ...] = _RETRY_WAITS

    async def prepare(self) -> None:
        """See `Warehouse.prepare`."""
        await shield_in_thread(self._create_dataset)
        await super().prepare()

    def _create_dataset(self) -> None:
        with self._session() as session:
            dataset = session.bigquery.DatasetReference(self._project, self._tables.schema)
            try:
                session.client.get_dataset(dataset, retry=session.retry)
            except self._google.NotFound:
                session.client.create_dataset(dataset, exists_ok=True)

    def _transact(self, begin: Begin[T], *, lock: bool, spool: Spool | None = None) -> T:
        with self._session() as session:
            if not lock:
                # No decision that depends on the time.
                return drive(begin(self._tables, datetime.now(UTC)), session.execute)
            if spool is None:
                return self._write(session, self._tables, begin)
            name = f"{STAGED}_{uuid4().hex}"
            staged = f"{self._project}.{self._tables.schema}.{name}"
            tables = replace(self._tables, staged=self._tables.name(name))
            try:
                session.stage(staged, spool)
                return self._write(session, tables, begin)
            finally:
                # Otherwise it expires.
                with suppress(self._google.GoogleAPIError):
                    session.client.delete_table(staged, not_found_ok=True)

    def _write(self, session: _Session, tables: SessionTransactions, begin: Begin[T]) -> T:
        """Read, decide and write; repeat all of it if another load wrote in between."""
        lost = None
        with _LOCKS[self._place]:
            for wait in (0.0, *self._retry_waits):
                time.sleep(wait * random.uniform(0.5, 1.5))  # noqa: S311
                [(at,)] = session.execute(Statement("SELECT CURRENT_TIMESTAMP()"))
                script = _Script(session, lock=tables.name("wix_session_schema"))
                value = drive(begin(tables, at), script.take)
                try:
                    script.send()
                except self._google.BadRequest as error:
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
        try:
            with closing(self._open()) as client:
                yield _Session(self._bigquery, client, self._project, self._tables.schema)
        except (
            *(self._google.GoogleAPIError, self._auth.GoogleAuthError),
            # requests and its timeouts.
            *(OSError, TimeoutError),
        ) as error:
            raise self._translated(error) from error

    def _open(self) -> Any:
        try:
            return self._connect(project=self._project, location=self._location)
        except self._auth.DefaultCredentialsError:
            raise
        except Exception as error:  # noqa: BLE001 - it may quote the key or its path
            kind = type(error).__name__
        raise WarehouseAccessError(
            f"The credentials of {self._place} are no key file of a service account ({kind}). Set "
            "the path of a JSON key, or leave them out to use the application default credentials."
        )

    def _translated(self, error: Exception) -> WarehouseError:
        cause = f"BigQuery says: {driver_text(error)}"
        reasons = {one.get("reason") for one in getattr(error, "errors", ())}
        if reasons & _NOT_OURS:
            return WarehouseSchemaError(
                f"The tables in {self._place} are not the ones this version writes, or the "
                f"location is wrong. Nothing was changed. {cause}"
            )
        if isinstance(error, self._google.BadRequest):
            return WarehouseError(
                f"A statement failed at {self._place}. Nothing was changed. {cause}"
            )
        return WarehouseAccessError(
            f"{self._place} can't be reached or written. No partition was left incomplete. Check "
            f"the network, the credentials, their rights and the location, then run again. {cause}",
            affects_all=isinstance(error, self._rejected),
        )


class _Session:
    """A client, and the statements that it runs."""

    def __init__(self, bigquery: Any, client: Any, project: str, dataset: str) -> None:
        self.bigquery = bigquery
        self.client = client
        self.retry = bigquery.DEFAULT_RETRY.with_timeout(_RETRY_SECONDS)
        self._words = {
            **_WORDS,
            "current_database()": f"'{project}'",
            "information_schema.columns": f"`{dataset}`.INFORMATION_SCHEMA.COLUMNS",
            # `prepare` has created the dataset.
            "information_schema.schemata": (
                f"(SELECT '{project}' AS catalog_name, '{dataset}' AS schema_name)"
            ),
        }

    def execute(self, statement: Statement) -> Rows:
        """Run a statement as `SessionTransactions` writes it."""
        return self.run(*self.bind(statement))

    def bind(self, statement: Statement, first: int = 1) -> tuple[str, list[Any]]:
        """The statement in GoogleSQL, and its parameters, whose names begin at ``v{first}``."""
        parameters: list[Any] = []

        def word(match: re.Match[str]) -> str:
            if match["name"]:
                return f"`{match['name']}`"
            if not match["value"]:
                return self._words[match[0]]
            value = statement.values[int(match["value"]) - 1]
            if value is None:
                # A parameter would need the type of the column.
                return "NULL"
            name = f"v{first + len(parameters)}"
            kind = _TYPES[type(value)]
            parameters.append(self.bigquery.ScalarQueryParameter(name, kind, value))
            return f"@{name}"

        sql = _TO_TRANSLATE.sub(word, statement.sql)
        # A query of one partition then reads (and is billed for) its blocks, not the whole table.
        if re.match(r"CREATE TABLE .*\bsession_date\b.*\bsegment\b", sql):
            sql += " CLUSTER BY site_id, session_date, segment"
        return sql, parameters

    def run(self, sql: str, parameters: Sequence[Any] = ()) -> Rows:
        """Run GoogleSQL to its end, or until the timeout."""
        config = self.bigquery.QueryJobConfig(
            query_parameters=parameters, job_timeout_ms=_STATEMENT_SECONDS * 1000
        )
        # No repeated jobs: they would retry an unreachable server for 20 minutes.
        retries = {"retry": self.retry, "job_retry": None}
        job = self.client.query(sql, job_config=config, **retries)
        rows = job.result(timeout=_STATEMENT_SECONDS, **retries)
        return [row.values() for row in rows]

    def stage(self, staged: str, spool: Spool) -> None:
        """Load the spool's IDs into a new table, which expires by itself."""
        expires = "TIMESTAMP_ADD(CURRENT_TIMESTAMP(), INTERVAL 1 DAY)"
        columns = f"(session_id STRING) OPTIONS(expiration_timestamp = {expires})"
        self.run(f"CREATE TABLE `{staged}` {columns}")
        if not len(spool):
            return
        config = self.bigquery.LoadJobConfig(source_format="NEWLINE_DELIMITED_JSON")
        with TemporaryFile(dir=spool.folder) as file:
            for batch in spool.batches():
                file.writelines(json.dumps({"session_id": one}).encode() + b"\n" for one in batch)
            load = self.client.load_table_from_file(file, staged, rewind=True, job_config=config)
        load.result(timeout=_STATEMENT_SECONDS)


class _Script:
    """The reads of a transaction, and its writes, valid while the reads hold.

    Args:
        session: to read in.
        lock: the table that every script updates; `SessionTransactions.prepare` leaves a row in it.
    """

    def __init__(self, session: _Session, *, lock: str) -> None:
        self._session = session
        self._lock = lock
        self._still: list[str] = []
        self._writes: list[str] = []
        self._parameters: list[Any] = []

    def take(self, statement: Statement) -> Rows:
        """Run a SELECT now, before all writes; defer any other statement."""
        sql, parameters = self._session.bind(statement, first=len(self._parameters) + 1)
        self._parameters += parameters
        if not sql.startswith("SELECT"):
            self._writes.append(sql)
            return []
        as_json = f"TO_JSON_STRING(t) AS row_json FROM ({sql}) AS t ORDER BY row_json"
        rows = self._session.run(f"SELECT t.*, {as_json}", parameters)
        before = Statement("$1", ("\n".join(row[-1] for row in rows),))
        name, parameters = self._session.bind(before, first=len(self._parameters) + 1)
        self._parameters += parameters
        self._still.append(rf"ARRAY_TO_STRING(ARRAY(SELECT {as_json}), '\n') = {name}")
        return [row[:-1] for row in rows]

    def send(self) -> None:
        """Run the writes in one transaction, if there are any."""
        if self._writes:
            # No error handler: its ROLLBACK would fail where BigQuery has rolled back already.
            still = " AND ".join(self._still) or "TRUE"
            check = f"WHERE IF({still}, TRUE, ERROR('{_CHANGED}'))"
            lock, _ = self._session.bind(Statement(f"UPDATE {self._lock} SET version = version"))
            script = ("BEGIN TRANSACTION", f"{lock} {check}", *self._writes, "COMMIT TRANSACTION")
            self._session.run(";\n".join((*script, "")), self._parameters)


_TYPES = {
    str: "STRING",
    bool: "BOOL",
    int: "INT64",
    float: "FLOAT64",
    datetime: "TIMESTAMP",
    date: "DATE",
}
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
