"""The tables of a SQL warehouse: columns, views, versions and migrations.

A `TableSet` holds the tables that one feature owns. This module defines the set of landed sessions;
other features define theirs. The statements are SQL that every engine accepts. A generator yields
statements and receives their rows, so that one text serves blocking and async drivers; an engine
runs each generator in one transaction. The transactions over these tables are in `transactions`.

To add a column: extend the `Table` here and the dataclass in `prefect_wix.planning.partitions`,
write a migration, raise the version of `SESSIONS`, and do the same in `parquet`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, count, islice
from typing import Any, TypeVar, cast

from prefect_wix.errors import WarehouseSchemaError
from prefect_wix.planning.partitions import UNCONFIRMED

T = TypeVar("T")
Rows = Sequence[Sequence[Any]]


@dataclass(frozen=True)
class Statement:
    """One SQL statement, with ``$1``, ``$2``, … as placeholders of its values."""

    sql: str
    values: tuple[Any, ...] = ()


Steps = Generator[Statement, Rows, T]


def drive(steps: Steps[T], execute: Callable[[Statement], Rows]) -> T:
    """Execute the yielded statements with a blocking driver; the generator's return value."""
    try:
        statement = next(steps)
        while True:
            statement = steps.send(execute(statement))
    except StopIteration as end:
        return cast("T", end.value)


async def drive_async(steps: Steps[T], execute: Callable[[Statement], Awaitable[Rows]]) -> T:
    """Execute the yielded statements with an async driver; the generator's return value."""
    try:
        statement = next(steps)
        while True:
            statement = steps.send(await execute(statement))
    except StopIteration as end:
        return cast("T", end.value)


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        name: the name, without a schema.
        definition: the columns as in CREATE TABLE; a column without a type is TEXT.
        key: the columns of the primary key, as in CREATE TABLE.
    """

    name: str
    definition: str
    key: str

    @cached_property
    def types(self) -> dict[str, str]:
        """SQL type by column."""
        columns = (column.split(maxsplit=1) for column in self.definition.split(", "))
        return {name: "".join(rest) or "TEXT" for name, *rest in columns}

    @cached_property
    def columns(self) -> str:
        """The column names, separated by commas."""
        return ", ".join(self.types)


@dataclass(frozen=True)
class TableSet:
    """Tables and views that one feature owns, with one version number.

    Attributes:
        versions: the table that records every version the tables have had.
        version: the version that this code reads and writes.
        tables: the tables of that version.
        views: query by view, with ``{table}`` for each table that it reads.
        indexes: table and columns by index, for engines that profit from an index.
        migrations: migration by version, from the version before it. An engine may commit each
            statement separately, so a migration must be safe to run again.
    """

    versions: str
    version: int
    tables: tuple[Table, ...]
    views: Mapping[str, str] = field(default_factory=dict)
    indexes: Mapping[str, str] = field(default_factory=dict)
    migrations: Mapping[int, Callable[[Schema], Steps[None]]] = field(default_factory=dict)


IDS = Table(
    "wix_session_ids",
    "site_id, session_date DATE, segment, session_id, job_id, first_landed_at TIMESTAMPTZ, "
    "added_version BIGINT",
    key="site_id, segment, session_date, session_id",
)
REMOVALS = Table(
    "wix_session_removals",
    "site_id, session_date DATE, segment, session_id, first_landed_at TIMESTAMPTZ, "
    "added_version BIGINT, added_job_id, removed_at TIMESTAMPTZ, removed_version BIGINT, "
    "removed_job_id",
    key="site_id, segment, session_date, session_id, removed_version",
)
RECEIPTS = Table(
    "wix_session_receipts",
    "site_id, session_date DATE, segment, timezone, sessions BIGINT, digest, job_id, "
    "submitted_at TIMESTAMPTZ, landed_at TIMESTAMPTZ, added BIGINT, removed BIGINT, kept BIGINT, "
    "duplicates BIGINT, run_id, version BIGINT",
    key="site_id, segment, session_date",
)
JOBS = Table(
    "wix_session_jobs",
    "record_id, site_id, session_date DATE, segment, timezone, state, intended_at TIMESTAMPTZ, "
    "job_id, submitted_at TIMESTAMPTZ, ended_at TIMESTAMPTZ, sessions BIGINT, added BIGINT, "
    "removed BIGINT, reason, run_id, running_seconds DOUBLE PRECISION, "
    "finished_seconds DOUBLE PRECISION, base_url",
    key="record_id",
)
MARKS = Table(
    "wix_session_marks",
    "site_id, session_id, action, state, reason, request_id, noted_at TIMESTAMPTZ, run_id",
    key="site_id, action, session_id",
)
RENAMED = {
    "ask_id": "record_id",
    "asked_at": "submitted_at",
    "gone": "removed",
    "stayed": "kept",
    "repeats": "duplicates",
}
"""This version's name by the first edition's, for columns and for attributes in files."""
_IDS_WITH_RECEIPTS = (
    "{wix_session_ids} i JOIN {wix_session_receipts} r "
    "ON r.site_id = i.site_id AND r.session_date = i.session_date AND r.segment = i.segment"
)
_VIEWS = {
    "wix_landed_sessions": (
        "SELECT i.site_id, i.session_date, r.timezone, i.segment, i.session_id, i.job_id, "
        "r.submitted_at, r.landed_at, COALESCE(i.first_landed_at, r.landed_at) AS first_landed_at "
        f"FROM {_IDS_WITH_RECEIPTS}"
    ),
    # Rows from before versions were counted belong to version 1.
    "wix_session_changes": (
        "SELECT i.site_id, i.session_date, i.segment, i.session_id, 'added' AS change, "
        "COALESCE(i.first_landed_at, r.landed_at) AS changed_at, i.job_id, "
        f"COALESCE(i.added_version, 1) AS version FROM {_IDS_WITH_RECEIPTS} UNION ALL "
        "SELECT site_id, session_date, segment, session_id, 'added', first_landed_at, "
        "added_job_id, added_version FROM {wix_session_removals} UNION ALL "
        "SELECT site_id, session_date, segment, session_id, 'removed', removed_at, "
        "removed_job_id, removed_version FROM {wix_session_removals}"
    ),
    # Wix may list a visit over midnight under both days; that is not a duplicate.
    "wix_sessions_on_two_days": (
        "SELECT site_id, segment, session_id, min(session_date) AS first_date, "
        "max(session_date) AS last_date, count(*) AS days, CASE WHEN max(session_date) - "
        "min(session_date) = count(*) - 1 THEN 'over midnight' ELSE 'days apart' END AS kind "
        "FROM {wix_session_ids} GROUP BY site_id, segment, session_id HAVING count(*) > 1"
    ),
}


@dataclass(frozen=True)
class Schema:
    """Statements that create, check and describe the tables in one schema of a database.

    Attributes:
        schema: the schema's name, in the engine's case.
        keys: whether the engine profits from primary keys and an index.
    """

    schema: str
    keys: bool = False

    def name(self, table: str) -> str:
        """The name of a table or view, qualified with the schema."""
        return f'"{self.schema}".{table}'

    def prepare(self, tables: TableSet) -> Steps[None]:
        """Create a set of tables, or migrate it to its version, and check its columns.

        Writes nothing if the tables are current, so a role without DDL rights can run it.

        Raises:
            WarehouseSchemaError: the version is newer, or columns are missing.
        """
        versions = self.name(tables.versions)
        if tables.versions not in (yield from self.columns()):
            yield from self._create_schema()
            yield Statement(f"CREATE TABLE IF NOT EXISTS {versions} (version BIGINT NOT NULL)")
        [(found,)] = yield Statement(f"SELECT max(version) FROM {versions}")
        version = found or 0
        if version == 0:
            yield from self._create(tables)
        else:
            check_not_newer(f"Schema {self.schema}", version, tables.version, other="schema")
            for number in range(version + 1, tables.version + 1):
                yield from tables.migrations[number](self)
        if version < tables.version:
            yield Statement(f"INSERT INTO {versions} VALUES ($1)", (tables.version,))
        yield from self._check_columns(tables)

    def create_views_and_indexes(self, tables: TableSet) -> Steps[None]:
        """Create or replace the views of a set, and its indexes if the engine profits from them."""
        names = {table.name: self.name(table.name) for table in tables.tables}
        for index, columns in tables.indexes.items() if self.keys else ():
            yield Statement(f"CREATE INDEX IF NOT EXISTS {index} ON {columns.format(**names)}")
        for view, query in tables.views.items():
            sql = f"CREATE OR REPLACE VIEW {self.name(view)} AS {query.format(**names)}"
            yield Statement(sql)

    def columns(self) -> Steps[dict[str, set[str]]]:
        """Column names by table or view of the schema, all in lower case."""
        rows = yield Statement(
            "SELECT table_name, column_name FROM information_schema.columns "
            f"WHERE table_catalog = current_database() AND (table_schema = $1 OR "
            # Only PostgreSQL, which has keys, tells schemas of different case apart.
            f"{not self.keys} AND lower(table_schema) = lower($1))",
            (self.schema,),
        )
        columns: dict[str, set[str]] = {}
        for table, column in rows:
            columns.setdefault(str(table).lower(), set()).add(str(column).lower())
        return columns

    def insert(self, table: Table, rows: Sequence[tuple[Any, ...]]) -> Statement:
        """Insert rows with a value for every column.

        Args:
            rows: at least one, and few enough for the values of one statement.
        """
        numbers = count(1)
        placeholders = ", ".join(
            f"({', '.join(f'${n}' for n in islice(numbers, len(row)))})" for row in rows
        )
        into = f"INSERT INTO {self.name(table.name)} ({table.columns})"
        return Statement(f"{into} VALUES {placeholders}", tuple(chain.from_iterable(rows)))

    def _create_schema(self) -> Steps[None]:
        found = yield Statement(
            "SELECT count(*) FROM information_schema.schemata "
            "WHERE catalog_name = current_database() AND schema_name = $1",
            (self.schema,),
        )
        if not found[0][0]:
            # Another process may create it meanwhile.
            yield Statement(f'CREATE SCHEMA IF NOT EXISTS "{self.schema}"')

    def _create(self, tables: TableSet) -> Steps[None]:
        for table in tables.tables:
            yield self.create_table(table)
        yield from self.create_views_and_indexes(tables)

    def create_table(self, table: Table) -> Statement:
        """Create a table if it does not exist."""
        columns = [f"{name} {kind}" for name, kind in table.types.items()]
        if self.keys:
            columns.append(f"PRIMARY KEY ({table.key})")
        return Statement(
            f"CREATE TABLE IF NOT EXISTS {self.name(table.name)} ({', '.join(columns)})"
        )

    def _check_columns(self, tables: TableSet) -> Steps[None]:
        found = yield from self.columns()
        for table in tables.tables:
            missing = [name for name in table.types if name not in found.get(table.name, ())]
            if missing:
                raise WarehouseSchemaError(
                    f"Table {self.name(table.name)} lacks {', '.join(missing)}. Nothing was "
                    "written. Restore the columns, or rename the table and load again."
                )


def check_not_newer(place: str, version: int, supported: int, *, other: str) -> None:
    """Check that this code can write a version of the tables or files.

    Raises:
        WarehouseSchemaError: the version is newer.
    """
    if version > supported:
        raise WarehouseSchemaError(
            f"{place} has version {version}, made by a newer prefect-wix; this one supports "
            f"version {supported}. Nothing was written. Upgrade prefect-wix or use another {other}."
        )


def _migrate_to_5(schema: Schema) -> Steps[None]:
    """Rename tables and columns to standard terms; mark derived partitions as unconfirmed.

    Versions before 5 derived some partitions from other segments. No job listed them, so the next
    load submits jobs for them.
    """
    found = yield from schema.columns()
    # CREATE OR REPLACE can't rename a column of a view.
    yield Statement(f"DROP VIEW IF EXISTS {schema.name('wix_landed_sessions')}")
    if _OLD_JOBS in found:
        yield Statement(f"ALTER TABLE {schema.name(_OLD_JOBS)} RENAME TO {JOBS.name}")
    jobs, receipts = schema.name(JOBS.name), schema.name(RECEIPTS.name)
    columns = {
        jobs: found.get(_OLD_JOBS) or found.get(JOBS.name, set()),
        receipts: found.get(RECEIPTS.name, set()),
    }
    for table, names in columns.items():
        for old in RENAMED.keys() & names:
            yield Statement(f"ALTER TABLE {table} RENAME COLUMN {old} TO {RENAMED[old]}")
    derived = "WHERE derived_from IS NOT NULL"
    if "derived_from" in columns[receipts]:
        yield Statement(f"UPDATE {receipts} SET submitted_at = $1 {derived}", (UNCONFIRMED,))
        yield Statement(f"ALTER TABLE {receipts} DROP COLUMN derived_from")
    if "derived_from" in columns[jobs]:
        yield Statement(f"DELETE FROM {jobs} {derived}")
        yield Statement(f"ALTER TABLE {jobs} DROP COLUMN derived_from")
    if schema.keys:
        yield Statement(f"DROP INDEX IF EXISTS {schema.name(_OLD_JOBS)}_partition")


def _migrate_to_6(schema: Schema) -> Steps[None]:
    """Add the base URL of a job. It is unknown for older jobs, which are therefore not adopted."""
    yield Statement(f"ALTER TABLE {schema.name(JOBS.name)} ADD COLUMN IF NOT EXISTS base_url TEXT")


def _migrate_to_7(schema: Schema) -> Steps[None]:
    """Count the versions of partitions. Rows are filled when their partition changes next."""
    ids, receipts = schema.name(IDS.name), schema.name(RECEIPTS.name)
    for column in ("first_landed_at TIMESTAMPTZ", "added_version BIGINT"):
        yield Statement(f"ALTER TABLE {ids} ADD COLUMN IF NOT EXISTS {column}")
    yield Statement(f"ALTER TABLE {receipts} ADD COLUMN IF NOT EXISTS version BIGINT")
    yield schema.create_table(REMOVALS)
    yield from schema.create_views_and_indexes(SESSIONS)


_OLD_JOBS = "wix_session_asks"
SESSIONS = TableSet(
    versions="wix_session_schema",
    version=7,
    tables=(IDS, REMOVALS, RECEIPTS, JOBS, MARKS),
    views=_VIEWS,
    indexes={"wix_session_jobs_partition": "{wix_session_jobs} (site_id, session_date, segment)"},
    migrations={5: _migrate_to_5, 6: _migrate_to_6, 7: _migrate_to_7},
)
"""The tables of landed session IDs and their removals, receipts, job records and marks."""
