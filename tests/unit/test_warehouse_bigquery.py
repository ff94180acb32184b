"""BigQuery keeps the promises of every warehouse, as far as can be told without BigQuery.

Its driver is played here over a real DuckDB: each statement has to be GoogleSQL to sqlglot, is
translated by it and run, a script as the transaction that it is. What sqlglot does not know of
BigQuery's documented rules is checked beside it. The real driver is used where it gets by alone.
"""

from __future__ import annotations

import asyncio
import json
import pickle
import re
import sys
import threading
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
from prefect_wix.warehouse.transactions import Tables
from tests.unit.test_warehouse import (  # noqa: F401 - the promises of every warehouse
    ODD,
    spoken,
    test_a_claim_is_leave_to_submit,
    test_a_job_is_not_adopted_when_it_is,
    test_a_job_that_runs_is_adopted,
    test_a_landed_job_is_not_open_any_more,
    test_a_later_answer_takes_the_place_of_an_earlier_one,
    test_a_missing_column_is_refused,
    test_a_newer_schema_is_refused,
    test_a_table_altered_by_hand_is_put_right,
    test_a_table_of_the_same_name_is_refused,
    test_a_visit_over_midnight_is_told_from_a_repeat,
    test_an_answer_lands_with_its_receipt,
    test_an_answer_that_comes_late_does_not_replace_a_newer_one,
    test_an_empty_answer_removes_what_was_there,
    test_an_empty_first_answer_is_a_receipt,
    test_an_intent_without_a_job_may_be_an_orphan,
    test_odd_ids_come_back_as_they_went,
    test_odd_segments_and_sites_are_filed_apart,
    test_only_the_partition_is_touched,
    test_preparing_at_once_is_safe,
    test_preparing_twice_changes_nothing,
    test_publishing_unprepared_names_the_tables,
    test_receipts_are_those_of_the_window,
    test_the_history_is_every_ask_of_the_window,
    test_the_last_to_confirm_counts_when_answers_come_late,
    test_the_newest_job_wins_in_any_zone,
    test_the_same_answer_again_writes_no_session,
    test_the_view_shows_what_is_landed,
    test_two_claims_at_once_agree,
    use_next_version,
)
from tests.warehouses import MOBILE, NOON, SqlBench, a_record, ids_of, land, on_day

sqlglot = pytest.importorskip("sqlglot")
exp = sqlglot.exp

URL = "bigquery://project/wix"
MEGABYTE = 1_000_000


# -- BigQuery, played ----------------------------------------------------------------------------


class DriverError(Exception):
    """What the driver raises: Google's text and nothing more."""


class BigQuery:
    """BigQuery as its documentation has it, over a DuckDB in memory.

    Attributes:
        sent: every text that was sent.
        options: what the last connection was made with.
        before: called once, before the next script begins.
        within: called once, after the first statement of the next script's transaction.
        saying: a text to fail the next statement with.
        cut: how many rows get lost on the way.
    """

    def __init__(self):
        self.duckdb = duckdb.connect()
        self.transactions = Transactions()
        self.sent = []
        self.options = self.before = self.within = self.saying = None
        self.cut = 0

    def connect(self, *, db_kwargs, autocommit):
        assert autocommit, "the driver warns that it can't do without"
        self.options = db_kwargs
        return Connection(self)

    def hook(self, name):
        hook = getattr(self, name)
        setattr(self, name, None)
        if hook is not None:
            hook()


class Transactions:
    """If a transaction mutates rows in a table, others that do so at the same time are cancelled.

    A statement that finds no row to update or delete is taken not to mutate any; that is the
    reading of the documentation that protects least.
    """

    def __init__(self):
        self._turn = threading.Lock()
        self._now = 0
        self._open = {}
        self._committed = Counter()

    def begin(self):
        with self._turn:
            transaction = object()
            self._open[transaction] = (self._now, set())
            return transaction

    def mutate(self, transaction, table):
        with self._turn:
            began, mutated = self._open[transaction]
            mutated.add(table)
            others = [tables for one, (_, tables) in self._open.items() if one is not transaction]
            if self._committed[table] > began or any(table in tables for tables in others):
                raise duckdb.TransactionException(table)

    def end(self, transaction, *, committed):
        with self._turn:
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
    """Arrow, as the driver hands it over."""

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
        says, self._bigquery.saying = self._bigquery.saying, None
        if says:
            raise DriverError(says)
        self.rowcount, self._relation = 0, None
        try:
            self._run(understood(text))
        except duckdb.Error as error:
            raise DriverError(in_googles_words(error)) from error

    def _run(self, statements):
        if len(statements) > 1:
            self._bigquery.hook("before")
            self._transact(statements)
        elif isinstance(statements[0], exp.Select):
            self._record(statements[0])
        else:
            self._duckdb.execute(in_duckdb(statements[0]))

    def _record(self, select):
        self._find_dataset(select)
        # At once, and not when it is read. In no order but the one that is asked for: backwards.
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


def in_googles_words(error):
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


def understood(text):
    """The statements of a text, after a look whether BigQuery would take them."""
    statements = sqlglot.parse(text, read="bigquery")
    statements = [one for one in statements if one is not None]
    for one in statements:
        assert not one.find(exp.Command), f"sqlglot could only copy: {one}"
        if isinstance(one, exp.Update | exp.Delete):
            assert one.args.get("where"), f"BigQuery wants a WHERE: {one}"
        for difference in one.find_all(exp.Sub):
            assert not difference.find(exp.Max), f"Of dates it is an INTERVAL there: {one}"
    if len(statements) > 1:
        first, *changes, last = statements
        assert (type(first), type(last)) == (exp.Transaction, exp.Commit)
        # No DDL: BigQuery has none in a transaction. No SELECT: see `_Script.send`.
        assert {type(one) for one in changes} <= {exp.Update, exp.Delete, exp.Insert}
    return statements


def in_duckdb(statement):
    # What DuckDB has no word for, clusters and expirations, is left out.
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

    def held(self):
        raise NotImplementedError("nobody can hold a dataset")


@pytest.fixture
def played(monkeypatch):
    """The driver's module, played."""
    bigquery = BigQuery()
    module = SimpleNamespace(Error=DriverError, connect=bigquery.connect)
    monkeypatch.setitem(sys.modules, "adbc_driver_bigquery", module)
    monkeypatch.setitem(sys.modules, "adbc_driver_bigquery.dbapi", module)
    return bigquery


@pytest.fixture
def bench(played):
    return BigQueryBench(played)


@pytest.fixture
def sql_bench(bench):
    return bench


@pytest.fixture
async def warehouse(bench):
    return await bench.ready()


class NoTurns(dict):
    """Loads that do not wait for each other: each is in a process of its own."""

    def __missing__(self, place):
        return threading.Lock()


@pytest.fixture
def processes(monkeypatch):
    monkeypatch.setattr(bigquery, "_TURNS", NoTurns())


# -- races ---------------------------------------------------------------------------------------


def meanwhile(bench, ids, **when):
    """Another process that lands, from beginning to end, while this one is at a hook."""
    return lambda: asyncio.run(land(bench.open(), ids, **when))


async def test_an_answer_decided_on_too_early_is_decided_on_anew(bench, warehouse, processes):
    """Another load lands between the look and the script: what it left is what counts."""
    await land(warehouse, ["a", "b"])
    bench.bigquery.before = meanwhile(bench, ["b", "c"], hours=1)
    landed = await land(warehouse, ["c", "d"], hours=2)
    assert landed == PublishResult(JobState.LANDED, 2, added=1, removed=1, kept=1)
    assert sorted(await bench.check()) == ["c", "d"]


async def test_an_answer_overtaken_in_between_is_superseded(bench, warehouse, processes):
    """The other one was newer: nothing of this one is written."""
    bench.bigquery.before = meanwhile(bench, ["new"], hours=2)
    assert (await land(warehouse, ["old"], hours=1)).state is JobState.SUPERSEDED
    assert await bench.check() == ["new"]


async def test_the_same_answer_twice_at_once_lands_once(bench, warehouse, processes):
    """Nothing is doubled, also where there was nothing to delete."""
    bench.bigquery.before = meanwhile(bench, ["a", "b"])
    assert (await land(warehouse, ["a", "b"], hours=1)).state is JobState.UNCHANGED
    assert sorted(await bench.check()) == ["a", "b"]


async def test_of_two_transactions_at_once_one_is_cancelled(bench, warehouse, processes):
    """Also in a new partition, where neither has a row to delete: each updates the version."""
    others = []

    def another():
        with pytest.raises(WarehouseBusyError) as caught:
            asyncio.run(land(bench.open(tries=1), ["x"], hours=1))
        others.append(str(caught.value))

    bench.bigquery.within = another
    assert (await land(warehouse, ["a"])).state is JobState.LANDED
    assert "concurrent update against table project:wix.wix_session_schema" in others[0]
    assert await bench.check() == ["a"]


async def test_loads_of_many_processes_leave_one_answer(bench, warehouse, processes):
    """Threads that know nothing of each other land into one partition."""
    answers = [ids_of(str(number), 50) for number in range(6)]
    loads = (land(bench.open(tries=60), ids, hours=n) for n, ids in enumerate(answers))
    await asyncio.gather(*loads)
    assert sorted(await bench.check()) == sorted(answers[-1])


async def test_claims_of_many_processes_agree(bench, warehouse, processes):
    """Each sees the intents of those before it."""
    intents = [JobRecord.intend(MOBILE, at=NOON, run_id=str(n)) for n in range(6)]
    claims = (bench.open(tries=60).claim(intent, adopt_since=NOON) for intent in intents)
    orphans = [claim.orphans for claim in await asyncio.gather(*claims)]
    assert sorted(orphans) == [0, 1, 1, 1, 1, 1]


async def test_a_claim_overtaken_in_between_adopts(bench, warehouse, processes):
    """Another run has submitted the job since the look."""
    record = a_record()
    bench.bigquery.before = lambda: asyncio.run(bench.open().save_record(record))
    claim = await warehouse.claim(JobRecord.intend(MOBILE, at=NOON, run_id=None), adopt_since=NOON)
    assert claim.adopted
    assert claim.record == record


async def test_an_answer_of_many_rows_is_the_same_in_any_order(bench, warehouse):
    """Rows come back as they like; the look in the script is no race lost."""
    for hours in range(5):
        await warehouse.save_record(
            JobRecord.intend(MOBILE, at=NOON + timedelta(hours=hours), run_id=None)
        )
    intent = JobRecord.intend(MOBILE, at=NOON, run_id=None)
    assert (await bench.open(tries=1).claim(intent, adopt_since=NOON)).orphans == 5


async def test_another_partition_is_no_race_lost(bench, warehouse, processes):
    """What landed elsewhere since the look takes nothing away."""
    bench.bigquery.before = lambda: asyncio.run(land(bench.open(), ["x"], on_day(9)))
    assert (await land(bench.open(tries=1), ["a"])).state is JobState.LANDED


async def test_a_race_lost_again_and_again_is_busy(bench, warehouse, processes):
    """It is tried so many times and no more, and nothing has landed."""
    tries = []

    def ahead():
        tries.append(len(tries))
        asyncio.run(land(open_quietly(bench), ids_of(f"x{len(tries)}", 2), hours=len(tries)))
        bench.bigquery.before = ahead

    def open_quietly(bench):
        bench.bigquery.before = None
        return bench.open()

    bench.bigquery.before = ahead
    with pytest.raises(WarehouseBusyError, match="each of the 3 times") as caught:
        await land(bench.open(tries=3), ["a"], hours=99)
    assert len(tries) == 3
    assert sorted(await bench.check()) == ["x3-0", "x3-1"]
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


async def test_loads_of_one_process_take_turns(bench, warehouse):
    """None of them has to try again."""
    days = [on_day(day) for day in range(1, 7)]
    await asyncio.gather(*(land(bench.open(tries=1), ["a"], day) for day in days))
    for day in days:
        assert await bench.check(day) == ["a"]


# -- failures ------------------------------------------------------------------------------------


async def test_a_script_that_fails_leaves_what_was_there(bench, warehouse):
    """Its last statement finds no column: the ids and the receipt are the old ones."""
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
    """Not after a landing, and not after one that failed."""
    await land(warehouse, ["a"])
    await bench.sql(f"DROP TABLE {bench.name('wix_session_jobs')}")
    with pytest.raises(WarehouseSchemaError):
        await land(warehouse, ["b"], hours=1)
    assert await staged(bench) == []


async def test_a_staging_table_goes_by_itself(bench, warehouse):
    """A process that is killed, or cut off before it can drop it, leaves it for a day."""
    cut_off = "googleapi: Error 503: Service unavailable, backendError"
    bench.bigquery.before = lambda: setattr(bench.bigquery, "saying", cut_off)
    assert (await land(warehouse, ["a"])).state is JobState.LANDED
    [table] = await staged(bench)
    [made] = [text for text in bench.bigquery.sent if f"CREATE TABLE `wix`.{table}" in text]
    assert re.search(r"OPTIONS\(expiration_timestamp = TIMESTAMP '[-+:.T\d]+'\)$", made)


async def test_rows_that_get_lost_on_the_way_are_missed(bench, warehouse):
    """The driver says how many there are, and is silent when its stream breaks."""
    await land(warehouse, ["a"])
    bench.bigquery.cut = 1
    with pytest.raises(WarehouseAccessError, match="cut short"):
        await bench.receipt()


@pytest.mark.parametrize(
    ("says", "error"),
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
async def test_what_google_says_is_told_apart(bench, warehouse, says, error):
    """Access, tables that are not ours, and all the rest; its own sentence is passed on."""
    bench.bigquery.saying = says
    with pytest.raises(WarehouseError, match=re.escape(says)) as caught:
        await bench.receipt()
    assert type(caught.value) is error


# -- the schema ----------------------------------------------------------------------------------


async def test_a_dataset_is_made_only_where_there_is_none(bench):
    """A role that may not make datasets can use one that is there."""
    await bench.ready()
    assert [text for text in bench.bigquery.sent if "CREATE SCHEMA" in text]
    bench.bigquery.sent.clear()
    for table in ("ids", "receipts", "jobs", "schema"):
        await bench.sql(f"DROP TABLE wix.wix_session_{table}")
    await bench.ready()
    assert not [text for text in bench.bigquery.sent if "CREATE SCHEMA" in text]


async def test_an_older_schema_moves_on(bench, warehouse, monkeypatch):
    """The next version is made out of this one, and an old client then keeps out."""
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
    said = []

    def execute(statement):
        said.append(statement.sql)
        return [[0]] if statement.sql.startswith(("SELECT max", "SELECT count")) else []

    with pytest.raises(WarehouseSchemaError, match="lacks"):
        drive(Tables("wix").prepare(SESSIONS), execute)
    return said


def test_every_word_that_is_translated_is_one_that_is_used():
    """Were a statement worded anew, its translation would be lost without a sound."""
    text = "\n".join(creation())
    assert not [word for word in _WORDS if word not in text]


def test_tables_are_clustered_by_partition():
    """A question for one partition is not billed for all of them."""
    tables = [sql for sql in creation() if re.match("CREATE TABLE.*_(ids|receipts|jobs) ", sql)]
    assert len(tables) == 3
    for sql in tables:
        made = googlesql(Statement(sql), project="project", dataset="wix")
        [statement] = understood(made)
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


def come_back(text):
    [statement] = sqlglot.parse(f"SELECT {text}", read="bigquery")
    return duckdb.sql(statement.sql("duckdb")).fetchall()[0][0]


@pytest.mark.parametrize("value", [*ODD, *LINES, *TRICKS, "", 0, -7, None, MOBILE.day, NOON])
def test_a_value_comes_back_from_its_literal(value):
    """Whatever is in it."""
    assert come_back(literal(value)) == value


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_a_string_is_one_literal(text):
    """It ends where the value ends, and has no escape that GoogleSQL does not know."""
    assert STRING.fullmatch(literal(text))


def test_a_value_of_another_kind_has_no_literal():
    """Nothing is guessed."""
    with pytest.raises(TypeError, match="bytes"):
        literal(b"")


async def test_ids_with_line_breaks_and_quotes_land(bench, warehouse):
    """An id is text, and no part of a statement."""
    assert (await land(warehouse, [*LINES, *TRICKS])).sessions == len(LINES) + len(TRICKS)
    assert sorted(await bench.ids()) == sorted([*LINES, *TRICKS])


@pytest.mark.parametrize(
    "id_", ["3f2a7c1e-0000-4000-8000-{:012d}", "é" * 700 + "{}", "'" * 99 + "{}"]
)
def test_statements_with_ids_are_well_below_the_limit(id_):
    """By the bytes, not the characters, and with what escaping adds."""
    ids = [id_.format(number) for number in range(20_000)]
    texts = list(inserts("`wix`.staged", ids))
    assert len(texts) > 1
    assert max(len(text.encode()) for text in texts) < 0.6 * MEGABYTE
    assert sum(text.count(", ") + 1 for text in texts) == len(ids)


def test_an_answer_without_ids_is_no_statement():
    """An empty array has no type."""
    assert list(inserts("`wix`.staged", [])) == []


def test_many_ids_are_never_all_in_memory():
    """One statement at a time is made of them."""
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
    """In as many statements as it takes."""
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
async def test_a_url_says_how_to_connect(played, tmp_path, query, options):
    """The application default credentials, unless a file is named."""
    key = tmp_path / "key.json"
    key.write_text("{}")
    await open_warehouse(URL + query.format(key=key)).prepare()
    expected = {name: value.format(key=key) for name, value in options.items()}
    assert played.options == {f"{SQL}.project_id": "project", **expected}


def test_a_dataset_may_be_named_as_the_schema(played):
    """As with every other warehouse."""
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
def test_a_url_that_names_no_dataset_is_explained(played, url):
    """It is said what to write; nothing of a password is."""
    with pytest.raises(ValueError, match="Write bigquery://project/dataset") as caught:
        open_warehouse(url)
    assert "hush" not in spoken(caught.value)


@pytest.mark.parametrize("module", ["duckdb", "adbc_driver_bigquery"])
def test_a_missing_package_is_named_with_its_command(played, module, monkeypatch):
    """One sentence, to be pasted into a shell."""
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=r"pip install 'prefect-wix\[adbc-bigquery\]'"):
        open_warehouse(URL)


@pytest.mark.parametrize("key", ["/nowhere/key.json", '{"private_key":"hush"}', "hush" * 100])
async def test_a_key_that_is_no_file_is_not_repeated(played, key):
    """It might be the key itself."""
    with pytest.raises(WarehouseAccessError, match="are no file") as caught:
        await open_warehouse(f"{URL}?credentials={key}").prepare()
    assert "hush" not in spoken(caught.value)


# -- the real driver -----------------------------------------------------------------------------


@pytest.fixture
def driver():
    return pytest.importorskip("adbc_driver_bigquery")


@pytest.fixture
def key(tmp_path):
    """A key of nobody, for a token service that is not there."""
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
    """By the names that its module has for them."""
    names = {option.value for option in driver.DatabaseOptions}
    options = bigquery._options("project", "EU", "key.json")
    assert options.keys() <= names
    assert options[f"{SQL}.auth_type"] in names


async def test_without_a_network_there_is_an_end_to_it(driver, key):
    """The driver would try for ever; what it says is passed on, and nothing of the key."""
    warehouse = open_warehouse(f"{URL}?credentials={key}")
    warehouse._answer_seconds = 1.0
    with pytest.raises(WarehouseAccessError, match="context canceled") as caught:
        await warehouse.prepare()
    assert "PRIVATE" not in spoken(caught.value)


async def test_a_key_that_can_not_be_read_is_an_access_error(driver, tmp_path):
    """And not repeated."""
    (tmp_path / "key.json").write_text("hush")
    warehouse = open_warehouse(f"{URL}?credentials={tmp_path}/key.json")
    with pytest.raises(WarehouseAccessError) as caught:
        await warehouse.prepare()
    assert "hush" not in spoken(caught.value)
