"""BigQuery passes the tests of every warehouse, as far as possible without BigQuery.

A fake of its driver runs on a real DuckDB: sqlglot parses each statement as GoogleSQL and
translates it, and a script runs as one transaction. BigQuery's documented rules that sqlglot does
not check are checked here. The real driver is used where it needs no server.
"""

from __future__ import annotations

import asyncio
import json
import pickle
import re
import sys
import threading
import traceback
import tracemalloc
from collections import Counter
from contextlib import closing
from datetime import timedelta
from types import SimpleNamespace

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_wix.errors import (
    MissingExtraError,
    WarehouseAccessError,
    WarehouseBusyError,
    WarehouseError,
    WarehouseSchemaError,
)
from prefect_wix.planning.partitions import JobRecord, JobState
from prefect_wix.spool.id_spool import Spool
from prefect_wix.warehouse import bigquery
from prefect_wix.warehouse.bigquery import _WORDS, googlesql, inserts, literal
from prefect_wix.warehouse.factory import open_warehouse
from prefect_wix.warehouse.interface import PublishResult
from prefect_wix.warehouse.schema import SESSIONS, Statement, drive
from prefect_wix.warehouse.transactions import SessionTransactions
from tests.engines.test_warehouse import (  # noqa: F401 - the tests of every warehouse
    ODD,
    full_text,
    test_a_first_claim_permits_a_submit,
    test_a_foreign_table_of_the_same_name_is_refused,
    test_a_landed_job_is_not_adopted,
    test_a_late_listing_does_not_replace_a_newer_one,
    test_a_later_listing_replaces_an_earlier_one,
    test_a_listing_lands_with_its_receipt,
    test_a_listing_older_than_the_last_confirmation_is_superseded,
    test_a_missing_column_is_refused,
    test_a_newer_schema_is_refused,
    test_a_partition_altered_by_hand_is_replaced,
    test_a_visit_over_midnight_is_distinguished_from_days_apart,
    test_an_empty_first_listing_has_a_receipt,
    test_an_empty_listing_empties_the_partition,
    test_an_intent_without_a_job_may_be_an_orphan,
    test_concurrent_claims_are_serialized,
    test_concurrent_preparing_is_safe,
    test_job_records_are_all_those_of_the_window,
    test_odd_ids_are_read_back_unchanged,
    test_odd_segments_and_sites_are_separate_partitions,
    test_only_the_published_partition_changes,
    test_other_jobs_are_not_adopted,
    test_preparing_twice_changes_nothing,
    test_publishing_unprepared_names_the_tables,
    test_receipts_are_those_of_the_window,
    test_the_latest_running_job_is_adopted,
    test_the_newest_job_wins_in_any_zone,
    test_the_same_listing_again_writes_no_session,
    test_the_view_shows_landed_sessions,
    use_next_version,
)
from tests.warehouses import MOBILE, NOON, SqlBench, a_record, ids_of, land, on_day

sqlglot = pytest.importorskip("sqlglot")
exp = sqlglot.exp

URL = "bigquery://project/wix"
MEGABYTE = 1_000_000


# -- a fake of BigQuery --------------------------------------------------------------------------


class DriverError(Exception):
    """The driver's error: Google's text only."""


class BigQuery:
    """BigQuery according to its documentation, on a DuckDB in memory.

    Attributes:
        sent: every text that was sent.
        options: the options of the last connection.
        before: called once, before the next script begins.
        within: called once, after the first statement of the next script's transaction.
        failure: the text of an error that fails the next statement.
        cut: how many rows of each result are lost.
    """

    def __init__(self):
        self.duckdb = duckdb.connect()
        self.transactions = Transactions()
        self.sent = []
        self.options = self.before = self.within = self.failure = None
        self.cut = 0

    def connect(self, *, db_kwargs, autocommit):
        assert autocommit, "the driver requires autocommit"
        self.options = db_kwargs
        return Connection(self)

    def hook(self, name):
        hook = getattr(self, name)
        setattr(self, name, None)
        if hook is not None:
            hook()


class Transactions:
    """If a transaction mutates rows in a table, others that do so at the same time are cancelled.

    A statement that finds no row to update or delete is assumed not to mutate any, the weakest
    guarantee that the documentation allows.
    """

    def __init__(self):
        self._lock = threading.Lock()
        self._now = 0
        self._open = {}
        self._committed = Counter()

    def begin(self):
        with self._lock:
            transaction = object()
            self._open[transaction] = (self._now, set())
            return transaction

    def mutate(self, transaction, table):
        with self._lock:
            began, mutated = self._open[transaction]
            mutated.add(table)
            others = [tables for one, (_, tables) in self._open.items() if one is not transaction]
            if self._committed[table] > began or any(table in tables for tables in others):
                raise duckdb.TransactionException(table)

    def end(self, transaction, *, committed):
        with self._lock:
            _, mutated = self._open.pop(transaction)
            if committed:
                self._now += 1
                self._committed.update(
                    {table: self._now - self._committed[table] for table in mutated}
                )


class Connection:
    def __init__(self, bigquery):
        self._bigquery = bigquery

    def cursor(self):
        return Cursor(self._bigquery)

    def close(self):
        return


class Stream:
    """An Arrow stream, as the driver returns it."""

    def __init__(self, relation):
        self._relation = relation

    def __arrow_c_stream__(self, schema=None):
        return self._relation.__arrow_c_stream__(schema)


class Cursor:
    def __init__(self, bigquery):
        self._bigquery = bigquery
        self._duckdb = bigquery.duckdb.cursor()
        self._relation = None
        self.rowcount = -1

    def execute(self, text):
        self._bigquery.sent.append(text)
        if len(text.encode()) > MEGABYTE:
            raise DriverError("googleapi: Error 400: The query is too large.")
        message, self._bigquery.failure = self._bigquery.failure, None
        if message:
            raise DriverError(message)
        self.rowcount, self._relation = 0, None
        try:
            self._run(parse(text))
        except duckdb.Error as error:
            raise DriverError(google_error(error)) from error

    def _run(self, statements):
        if len(statements) > 1:
            self._bigquery.hook("before")
            self._transact(statements)
        elif isinstance(statements[0], exp.Select):
            self._select(statements[0])
        else:
            self._duckdb.execute(in_duckdb(statements[0]))

    def _select(self, select):
        self._find_dataset(select)
        # Materialized at once. Without ORDER BY the order is arbitrary: reversed here.
        order = "" if select.args.get("order") else "ORDER BY row_number() OVER () DESC"
        rows = f"SELECT * FROM ({in_duckdb(select)}) {order}"
        kept = self._duckdb.execute(f"CREATE OR REPLACE TEMP TABLE kept AS {rows}")
        self.rowcount = kept.fetchall()[0][0]
        self._relation = self._duckdb.table("kept").limit(self.rowcount - self._bigquery.cut)

    def _find_dataset(self, select):
        if "INFORMATION_SCHEMA" in select.sql():
            there = "SELECT count(*) FROM duckdb_schemas() WHERE schema_name = 'wix'"
            if not self._duckdb.execute(there).fetchall()[0][0]:
                raise DriverError(NO_DATASET)

    def _transact(self, script):
        transaction = self._bigquery.transactions.begin()
        self._duckdb.execute("BEGIN")
        try:
            for number, statement in enumerate(script[1:-1]):
                self._change(transaction, statement)
                if number == 0:
                    self._bigquery.hook("within")
            self._duckdb.execute("COMMIT")
        except BaseException:
            self._duckdb.execute("ROLLBACK")
            self._bigquery.transactions.end(transaction, committed=False)
            raise
        self._bigquery.transactions.end(transaction, committed=True)

    def _change(self, transaction, statement):
        rows = self._duckdb.execute(in_duckdb(statement)).fetchall()[0][0]
        if rows and isinstance(statement, exp.Update | exp.Delete):
            self._bigquery.transactions.mutate(transaction, statement.this.name)

    def fetch_arrow(self):
        assert self.rowcount, "without rows the real driver gives a schema without columns"
        return Stream(self._relation)

    def adbc_cancel(self):
        return

    def close(self):
        self._duckdb.close()


NO_DATASET = (
    "UNKNOWN: [BigQuery] googleapi: Error 404: Not found: Dataset project:wix was not found in "
    "location US, notFound"
)


def google_error(error):
    if isinstance(error, duckdb.TransactionException):
        return (
            "UNKNOWN: [BigQuery] googleapi: Error 400: Query error: Transaction is aborted due to "
            f"concurrent update against table project:wix.{error}. Transaction ID: 61e3-0 at [2:1]"
        )
    if "Schema with name" in str(error):
        return NO_DATASET
    if isinstance(error, duckdb.CatalogException):
        return f"UNKNOWN: [BigQuery] googleapi: Error 404: Not found: Table: {error}, notFound"
    if isinstance(error, duckdb.BinderException):
        return f"UNKNOWN: [BigQuery] googleapi: Error 400: Unrecognized name: {error}, invalidQuery"
    return f"UNKNOWN: [BigQuery] googleapi: Error 400: Query error: {error}, invalidQuery"


def parse(text):
    """The statements of a text, after a check that BigQuery accepts them."""
    statements = sqlglot.parse(text, read="bigquery")
    statements = [one for one in statements if one is not None]
    for one in statements:
        assert not one.find(exp.Command), f"sqlglot can't parse: {one}"
        if isinstance(one, exp.Update | exp.Delete):
            assert one.args.get("where"), f"BigQuery requires a WHERE: {one}"
        for difference in one.find_all(exp.Sub):
            assert not difference.find(exp.Max), f"A difference of dates is an INTERVAL: {one}"
    if len(statements) > 1:
        first, *changes, last = statements
        assert (type(first), type(last)) == (exp.Transaction, exp.Commit)
        # BigQuery allows no DDL in a transaction. No SELECT: see `_Script.send`.
        assert {type(one) for one in changes} <= {exp.Update, exp.Delete, exp.Insert}
    return statements


def in_duckdb(statement):
    # Clusters and expirations are left out, because DuckDB has none.
    text = statement.sql("duckdb", unsupported_level=sqlglot.ErrorLevel.IGNORE)
    columns = "SELECT * REPLACE ('project' AS table_catalog) FROM information_schema.columns"
    return text.replace('"wix"."INFORMATION_SCHEMA.COLUMNS"', f"({columns})")


class BigQueryBench(SqlBench):
    def __init__(self, bigquery):
        self.bigquery = bigquery
        super().__init__(URL, "wix")

    def open(self, *, tries=8):
        warehouse = open_warehouse(self.url)
        warehouse._retry_waits = (0.01, 0.02, 0.04, 0.08, *[0.1] * tries)[: tries - 1]
        return warehouse

    async def sql(self, text):
        with closing(self.bigquery.duckdb.cursor()) as cursor:
            return cursor.execute(text).fetchall()

    async def version(self, partition=MOBILE):
        return sorted(await self.sql(f"SELECT rowid, * FROM {self.name('wix_session_ids')}"))

    def locked(self):
        raise NotImplementedError("BigQuery has no lock of a dataset")


@pytest.fixture
def driver_fake(monkeypatch):
    """The fake of the driver's module."""
    bigquery = BigQuery()
    module = SimpleNamespace(Error=DriverError, connect=bigquery.connect)
    monkeypatch.setitem(sys.modules, "adbc_driver_bigquery", module)
    monkeypatch.setitem(sys.modules, "adbc_driver_bigquery.dbapi", module)
    return bigquery


@pytest.fixture
def bench(driver_fake):
    return BigQueryBench(driver_fake)


@pytest.fixture
def sql_bench(bench):
    return bench


@pytest.fixture
async def warehouse(bench):
    return await bench.ready()


class NoLocks(dict):
    """Loads that do not wait for each other, as in different processes."""

    def __missing__(self, place):
        return threading.Lock()


@pytest.fixture
def processes(monkeypatch):
    monkeypatch.setattr(bigquery, "_LOCKS", NoLocks())


# -- races ---------------------------------------------------------------------------------------


def meanwhile(bench, ids, **when):
    """A hook in which another process publishes a listing."""
    return lambda: asyncio.run(land(bench.open(), ids, **when))


async def test_a_decision_is_repeated_after_a_lost_race(bench, warehouse, processes):
    """Another load publishes between the read and the script; the decision uses its contents."""
    await land(warehouse, ["a", "b"])
    bench.bigquery.before = meanwhile(bench, ["b", "c"], hours=1)
    landed = await land(warehouse, ["c", "d"], hours=2)
    assert landed == PublishResult(JobState.LANDED, 2, added=1, removed=1, kept=1)
    assert sorted(await bench.check()) == ["c", "d"]


async def test_a_listing_overtaken_by_a_newer_one_is_superseded(bench, warehouse, processes):
    """Nothing of the older listing is written."""
    bench.bigquery.before = meanwhile(bench, ["new"], hours=2)
    assert (await land(warehouse, ["old"], hours=1)).state is JobState.SUPERSEDED
    assert await bench.check() == ["new"]


async def test_the_same_listing_twice_at_once_lands_once(bench, warehouse, processes):
    """No session is doubled, even if there was nothing to delete."""
    bench.bigquery.before = meanwhile(bench, ["a", "b"])
    assert (await land(warehouse, ["a", "b"], hours=1)).state is JobState.UNCHANGED
    assert sorted(await bench.check()) == ["a", "b"]


async def test_of_two_transactions_at_once_one_is_cancelled(bench, warehouse, processes):
    """Each updates the version, so this holds in a new partition without rows to delete."""
    others = []

    def another():
        with pytest.raises(WarehouseBusyError) as caught:
            asyncio.run(land(bench.open(tries=1), ["x"], hours=1))
        others.append(str(caught.value))

    bench.bigquery.within = another
    assert (await land(warehouse, ["a"])).state is JobState.LANDED
    assert "concurrent update against table project:wix.wix_session_schema" in others[0]
    assert await bench.check() == ["a"]


async def test_loads_of_many_processes_leave_one_listing(bench, warehouse, processes):
    """Threads without a shared lock publish into one partition, and the newest job wins."""
    listings = [ids_of(str(number), 50) for number in range(6)]
    loads = (land(bench.open(tries=60), ids, hours=n) for n, ids in enumerate(listings))
    await asyncio.gather(*loads)
    assert sorted(await bench.check()) == sorted(listings[-1])


async def test_claims_of_many_processes_are_serialized(bench, warehouse, processes):
    """Each sees the intents of those before it."""
    intents = [JobRecord.intend(MOBILE, at=NOON, run_id=str(n)) for n in range(6)]
    claims = (bench.open(tries=60).claim(intent, adopt_since=NOON) for intent in intents)
    orphans = [claim.orphans for claim in await asyncio.gather(*claims)]
    assert sorted(orphans) == [0, 1, 1, 1, 1, 1]


async def test_a_claim_overtaken_by_a_submit_adopts_the_job(bench, warehouse, processes):
    """Another run submits the job after the read."""
    record = a_record()
    bench.bigquery.before = lambda: asyncio.run(bench.open().save_record(record))
    claim = await warehouse.claim(JobRecord.intend(MOBILE, at=NOON, run_id=None), adopt_since=NOON)
    assert claim.adopted
    assert claim.record == record


async def test_the_order_of_rows_is_no_lost_race(bench, warehouse):
    """Rows return in any order, and the check in the script still succeeds."""
    for hours in range(5):
        await warehouse.save_record(
            JobRecord.intend(MOBILE, at=NOON + timedelta(hours=hours), run_id=None)
        )
    intent = JobRecord.intend(MOBILE, at=NOON, run_id=None)
    assert (await bench.open(tries=1).claim(intent, adopt_since=NOON)).orphans == 5


async def test_a_publish_to_another_partition_is_no_lost_race(bench, warehouse, processes):
    """A change of another partition after the read does not matter."""
    bench.bigquery.before = lambda: asyncio.run(land(bench.open(), ["x"], on_day(9)))
    assert (await land(bench.open(tries=1), ["a"])).state is JobState.LANDED


async def test_a_race_lost_in_every_attempt_is_a_busy_error(bench, warehouse, processes):
    """The attempts are limited, and nothing is published."""
    tries = []

    def ahead():
        tries.append(len(tries))
        asyncio.run(land(open_quietly(bench), ids_of(f"x{len(tries)}", 2), hours=len(tries)))
        bench.bigquery.before = ahead

    def open_quietly(bench):
        bench.bigquery.before = None
        return bench.open()

    bench.bigquery.before = ahead
    with pytest.raises(WarehouseBusyError, match="each of the 3 attempts") as caught:
        await land(bench.open(tries=3), ["a"], hours=99)
    assert len(tries) == 3
    assert sorted(await bench.check()) == ["x3-0", "x3-1"]
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


async def test_loads_of_one_process_are_serialized(bench, warehouse):
    """None of them repeats an attempt."""
    days = [on_day(day) for day in range(1, 7)]
    await asyncio.gather(*(land(bench.open(tries=1), ["a"], day) for day in days))
    for day in days:
        assert await bench.check(day) == ["a"]


# -- failures ------------------------------------------------------------------------------------


async def test_a_script_that_fails_leaves_the_old_version(bench, warehouse):
    """Its last statement fails, and IDs and receipt are the old ones."""
    await land(warehouse, ["a", "b"])
    before = await bench.version()
    await bench.sql(f"ALTER TABLE {bench.name('wix_session_jobs')} DROP COLUMN reason")
    with pytest.raises(WarehouseSchemaError, match="not the ones this version writes"):
        await land(warehouse, ["c"], hours=1)
    assert bench.bigquery.sent[-2].startswith("BEGIN TRANSACTION;\nUPDATE `wix`.wix_session_schema")
    assert await bench.version() == before
    assert sorted(await bench.check()) == ["a", "b"]


async def staged(bench):
    tables = await bench.sql("SELECT table_name FROM information_schema.tables")
    return [name for (name,) in tables if "staged" in name]


async def test_no_staging_table_is_left(bench, warehouse):
    """Neither a publish nor a failed one leaves it."""
    await land(warehouse, ["a"])
    await bench.sql(f"DROP TABLE {bench.name('wix_session_jobs')}")
    with pytest.raises(WarehouseSchemaError):
        await land(warehouse, ["b"], hours=1)
    assert await staged(bench) == []


async def test_a_staging_table_expires(bench, warehouse):
    """A process that is killed or disconnected before it drops the table leaves it for a day."""
    cut_off = "googleapi: Error 503: Service unavailable, backendError"
    bench.bigquery.before = lambda: setattr(bench.bigquery, "failure", cut_off)
    assert (await land(warehouse, ["a"])).state is JobState.LANDED
    [table] = await staged(bench)
    [made] = [text for text in bench.bigquery.sent if f"CREATE TABLE `wix`.{table}" in text]
    assert re.search(r"OPTIONS\(expiration_timestamp = TIMESTAMP '[-+:.T\d]+'\)$", made)


async def test_a_truncated_result_is_an_error(bench, warehouse):
    """The driver reports the number of rows, and no error when its stream breaks."""
    await land(warehouse, ["a"])
    bench.bigquery.cut = 1
    with pytest.raises(WarehouseAccessError, match="cut short"):
        await bench.receipt()


@pytest.mark.parametrize(
    ("message", "error"),
    [
        ("googleapi: Error 403: Access Denied: Dataset project:wix", WarehouseAccessError),
        ("googleapi: Error 404: Not found: Project nowhere", WarehouseAccessError),
        ("bigquery: constructing client: credentials: could not find", WarehouseAccessError),
        ("retry failed with context canceled; last error: dial tcp", WarehouseAccessError),
        ("Arrow reader requires roles/bigquery.readSessionUser", WarehouseAccessError),
        ("googleapi: Error 404: Not found: Table project:wix.x", WarehouseSchemaError),
        ("googleapi: Error 400: Column x is not present in table y", WarehouseSchemaError),
        ("googleapi: Error 400: Resources exceeded", WarehouseError),
    ],
)
async def test_errors_of_google_are_classified(bench, warehouse, message, error):
    """Access errors, schema errors and all others, with Google's message."""
    bench.bigquery.failure = message
    with pytest.raises(WarehouseError, match=re.escape(message)) as caught:
        await bench.receipt()
    assert type(caught.value) is error


# -- the schema ----------------------------------------------------------------------------------


async def test_a_dataset_is_created_only_if_there_is_none(bench):
    """A role that may not create datasets can use an existing one."""
    await bench.ready()
    assert [text for text in bench.bigquery.sent if "CREATE SCHEMA" in text]
    bench.bigquery.sent.clear()
    for table in ("ids", "receipts", "jobs", "schema"):
        await bench.sql(f"DROP TABLE wix.wix_session_{table}")
    await bench.ready()
    assert not [text for text in bench.bigquery.sent if "CREATE SCHEMA" in text]


async def test_an_older_schema_is_migrated(bench, warehouse, monkeypatch):
    """`prepare` migrates to the next version, and this version then refuses to write."""
    await land(warehouse, ["a"])
    alter = ("ALTER TABLE {jobs} ADD COLUMN n BIGINT", "UPDATE {jobs} SET n = 7 WHERE TRUE")
    with monkeypatch.context() as newer:
        use_next_version(newer, *alter)
        await warehouse.prepare()
    assert await bench.sql(f"SELECT n FROM {bench.name('wix_session_jobs')}") == [(7,)]
    with pytest.raises(WarehouseSchemaError, match="Upgrade prefect-wix"):
        await warehouse.prepare()


def creation():
    """The statements that create the tables in an empty dataset."""
    statements = []

    def execute(statement):
        statements.append(statement.sql)
        return [[0]] if statement.sql.startswith(("SELECT max", "SELECT count")) else []

    with pytest.raises(WarehouseSchemaError, match="lacks"):
        drive(SessionTransactions("wix").prepare(SESSIONS), execute)
    return statements


def test_every_translated_expression_is_used():
    """A changed statement would otherwise lose its translation silently."""
    text = "\n".join(creation())
    assert not [word for word in _WORDS if word not in text]


def test_tables_are_clustered_by_partition():
    """A query of one partition is not billed for all of them."""
    tables = [sql for sql in creation() if re.match("CREATE TABLE.*_(ids|receipts|jobs) ", sql)]
    assert len(tables) == 3
    for sql in tables:
        translated = googlesql(Statement(sql), project="project", dataset="wix")
        [statement] = parse(translated)
        assert statement.sql("bigquery").endswith("CLUSTER BY site_id, session_date, segment")


# -- literals ------------------------------------------------------------------------------------

# A quoted string of https://cloud.google.com/bigquery/docs/reference/standard-sql/lexical.
STRING = re.compile(
    r"""'(?:[^'\\\r\n]|\\[abfnrtv\\?"'`]|\\[0-7]{3}|\\[xX][0-9a-fA-F]{2}"""
    r"""|\\u(?![dD][89abAB])[0-9a-fA-F]{4}|\\U000[0-9a-fA-F]{5})*'"""
)
LINES = ["a\rb", "a\x0bb", "a\x0cb", "a\x1cb", "a\x85b", "a\u2028b", "a\u2029b", "tab\tbed", "a\nb"]
TRICKS = [
    "\\'",
    "'); DROP TABLE x; --",
    "`",
    "@p",
    "\\u0041",
    "\\x41",
    "/* x */",
    "'''",
    '"""',
    "\\",
]


def evaluate(text):
    [statement] = sqlglot.parse(f"SELECT {text}", read="bigquery")
    return duckdb.sql(statement.sql("duckdb")).fetchall()[0][0]


@pytest.mark.parametrize("value", [*ODD, *LINES, *TRICKS, "", 0, -7, None, MOBILE.day, NOON])
def test_a_literal_evaluates_to_its_value(value):
    """Values may have any content."""
    assert evaluate(literal(value)) == value


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_a_string_is_one_literal(text):
    """It ends where the value ends, and has only escapes of GoogleSQL."""
    assert STRING.fullmatch(literal(text))


def test_a_value_of_another_kind_has_no_literal():
    """An unsupported type is an error."""
    with pytest.raises(TypeError, match="bytes"):
        literal(b"")


async def test_ids_with_line_breaks_and_quotes_land(bench, warehouse):
    """An ID is text and never part of a statement."""
    assert (await land(warehouse, [*LINES, *TRICKS])).sessions == len(LINES) + len(TRICKS)
    assert sorted(await bench.ids()) == sorted([*LINES, *TRICKS])


@pytest.mark.parametrize(
    "id_", ["3f2a7c1e-0000-4000-8000-{:012d}", "é" * 700 + "{}", "'" * 99 + "{}"]
)
def test_statements_with_ids_are_well_below_the_limit(id_):
    """Their size is counted in bytes, including escapes."""
    ids = [id_.format(number) for number in range(20_000)]
    texts = list(inserts("`wix`.staged", ids))
    assert len(texts) > 1
    assert max(len(text.encode()) for text in texts) < 0.6 * MEGABYTE
    assert sum(text.count(", ") + 1 for text in texts) == len(ids)


def test_a_listing_without_ids_needs_no_statement():
    """An empty array has no type."""
    assert list(inserts("`wix`.staged", [])) == []


def test_many_ids_are_never_all_in_memory():
    """Statements are generated one at a time."""
    with Spool() as spool:
        spool.add([f"3f2a7c1e-0000-4000-8000-{n:012d}" for n in range(100_000)])
        tracemalloc.start()
        try:
            for _ in inserts("t", (one for batch in spool.batches() for one in batch)):
                pass
            assert tracemalloc.get_traced_memory()[1] < 6_000_000
        finally:
            tracemalloc.stop()


async def test_many_ids_land(bench, warehouse):
    """They take several statements."""
    ids = [f"3f2a7c1e-0000-4000-8000-{n:012d}" for n in range(30_000)]
    assert (await land(warehouse, ids)).sessions == 30_000
    assert len([text for text in bench.bigquery.sent if "UNNEST" in text]) == 3
    assert len(await bench.check()) == 30_000


# -- URLs ----------------------------------------------------------------------------------------

SQL = "adbc.bigquery.sql"


@pytest.mark.parametrize(
    ("query", "options"),
    [
        ("", {}),
        ("?location=EU", {f"{SQL}.location": "EU"}),
        (
            "?credentials={key}",
            {
                f"{SQL}.auth_type": f"{SQL}.auth_type.json_credential_file",
                f"{SQL}.auth_credentials": "{key}",
            },
        ),
    ],
)
async def test_a_url_sets_the_options_of_the_driver(driver_fake, tmp_path, query, options):
    """Without a file, the driver uses the application default credentials."""
    key = tmp_path / "key.json"
    key.write_text("{}")
    await open_warehouse(URL + query.format(key=key)).prepare()
    expected = {name: value.format(key=key) for name, value in options.items()}
    assert driver_fake.options == {f"{SQL}.project_id": "project", **expected}


def test_the_schema_may_be_the_dataset(driver_fake):
    """The schema replaces the dataset of the URL, as in every other warehouse."""
    assert open_warehouse("bigquery://project", schema="wix")._place == URL


@pytest.mark.parametrize(
    "url",
    [
        "bigquery://project",
        "bigquery:///wix",
        "bigquery://project/wix/table",
        "bigquery://project/a-b",
        "bigquery://pro`ject/wix",
        "bigquery://me:hush@project/wix",
        "bigquery://project/wix?password=hush",
    ],
)
def test_an_invalid_url_is_explained(driver_fake, url):
    """The error says what to write, and contains no password."""
    with pytest.raises(ValueError, match="Write bigquery://project/dataset") as caught:
        open_warehouse(url)
    assert "hush" not in full_text(caught.value)


@pytest.mark.parametrize("module", ["duckdb", "adbc_driver_bigquery"])
def test_a_missing_package_is_named_with_its_command(driver_fake, module, monkeypatch):
    """The error has the command that installs it."""
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=r"pip install 'prefect-wix\[adbc-bigquery\]'"):
        open_warehouse(URL)


@pytest.mark.parametrize("key", ["/nowhere/key.json", '{"private_key":"hush"}', "hush" * 100])
async def test_a_key_that_is_no_file_is_not_repeated(driver_fake, key):
    """The path might be the key itself."""
    with pytest.raises(WarehouseAccessError, match="are no file") as caught:
        await open_warehouse(f"{URL}?credentials={key}").prepare()
    assert "hush" not in full_text(caught.value)


async def test_an_error_that_names_the_key_file_is_forwarded_without_it(driver_fake, tmp_path):
    """The rest of Google's message stays."""
    key = tmp_path / "qzJ7xWv9.json"
    key.write_text("{}")
    driver_fake.failure = f"constructing client: open {key}: permission denied"
    with pytest.raises(WarehouseAccessError, match="open the key file: permission") as caught:
        await open_warehouse(f"{URL}?credentials={key}").prepare()
    assert "qzJ7" not in "".join(traceback.format_exception(caught.value))


# -- the real driver -----------------------------------------------------------------------------


@pytest.fixture
def driver():
    return pytest.importorskip("adbc_driver_bigquery")


@pytest.fixture
def key(tmp_path):
    """A valid key for a token service that does not exist."""
    rsa = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.rsa")
    forms = pytest.importorskip("cryptography.hazmat.primitives.serialization")
    private = rsa.generate_private_key(65537, 2048).private_bytes(
        forms.Encoding.PEM, forms.PrivateFormat.PKCS8, forms.NoEncryption()
    )
    account = {"type": "service_account", "project_id": "project", "client_email": "me@project"}
    service = {"private_key": private.decode(), "token_uri": "http://127.0.0.1:1/token"}
    file = tmp_path / "key.json"
    file.write_text(json.dumps(account | service))
    return file


def test_the_options_are_those_of_the_driver(driver):
    """Their names are in the driver's module."""
    names = {option.value for option in driver.DatabaseOptions}
    options = bigquery._options("project", "EU", "key.json")
    assert options.keys() <= names
    assert options[f"{SQL}.auth_type"] in names


async def test_without_a_network_there_is_a_timeout(driver, key):
    """The driver would retry for ever; the error has its message and not the key."""
    warehouse = open_warehouse(f"{URL}?credentials={key}")
    warehouse._statement_seconds = 1.0
    with pytest.raises(WarehouseAccessError, match="context canceled") as caught:
        await warehouse.prepare()
    assert "PRIVATE" not in full_text(caught.value)


async def test_an_unreadable_key_is_an_access_error(driver, tmp_path):
    """The error does not repeat the key."""
    (tmp_path / "key.json").write_text("hush")
    warehouse = open_warehouse(f"{URL}?credentials={tmp_path}/key.json")
    with pytest.raises(WarehouseAccessError) as caught:
        await warehouse.prepare()
    assert "hush" not in full_text(caught.value)
