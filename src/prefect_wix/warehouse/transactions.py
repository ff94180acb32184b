"""The transactions of a SQL warehouse, in words that every SQL engine here understands.

Each is a generator that yields statements and is sent their rows, so that one text serves drivers
that block and drivers that are awaited. An engine only runs them, each inside one transaction; for
`Tables.publish` it stages the answer's ids first. Upserts are DELETE and INSERT, which every
dialect has.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain, count, islice
from typing import Any, Protocol, TypeVar, runtime_checkable

from prefect_wix.errors import WarehouseSchemaError, WarehouseUnsupportedError
from prefect_wix.planning.partitions import ANSWERED, Ask, AskState, Partition, Receipt
from prefect_wix.planning.windows import Window
from prefect_wix.warehouse.decisions import (
    OPEN,
    Held,
    choose_claim,
    choose_landing,
    ended_by,
    new_receipt,
)
from prefect_wix.warehouse.interface import Answer, Claim, Landed, Warehouse
from prefect_wix.warehouse.profile_tables import (
    PROFILE_COLUMNS,
    PROFILE_KEYS,
    PROFILE_TYPES,
    RECONCILIATION,
)

__all__ = [
    "STAGED",
    "Rows",
    "SqlWarehouse",
    "Statement",
    "Steps",
    "Tables",
    "drive",
    "drive_async",
    "sql_warehouse",
]

T = TypeVar("T")
Rows = Sequence[Sequence[Any]]

STAGED = "wix_staged_ids"
"""The temporary table (one column, ``session_id``) that an engine stages an answer's ids in."""


@dataclass(frozen=True)
class Statement:
    """One statement with ``$1``, ``$2``, … for its values."""

    sql: str
    values: tuple[Any, ...] = ()


Steps = Generator[Statement, Rows, T]

_COLUMNS = {
    "wix_session_ids": ("site_id", "session_date", "segment", "session_id", "job_id"),
    "wix_session_receipts": (
        *("site_id", "session_date", "segment", "timezone", "sessions", "digest", "job_id"),
        *("asked_at", "landed_at", "added", "gone", "stayed", "repeats", "run_id"),
        "derived_from",
    ),
    "wix_session_asks": (
        *("ask_id", "site_id", "session_date", "segment", "timezone", "state", "intended_at"),
        *("job_id", "submitted_at", "ended_at", "sessions", "added", "gone", "reason", "run_id"),
        *("running_seconds", "finished_seconds"),
    ),
    **PROFILE_COLUMNS,
    "wix_session_marks": (
        *("site_id", "session_id", "action", "state", "reason", "request_id", "noted_at"),
        "run_id",
    ),
}
_LANDING = ("wix_session_ids", "wix_session_receipts", "wix_session_asks")
_TYPES = {
    "session_date": "DATE",
    **dict.fromkeys(("sessions", "added", "gone", "stayed", "repeats"), "BIGINT"),
    **dict.fromkeys(
        ("asked_at", "landed_at", "intended_at", "submitted_at", "ended_at", "noted_at"),
        "TIMESTAMPTZ",
    ),
    **dict.fromkeys(("running_seconds", "finished_seconds"), "DOUBLE PRECISION"),
    **PROFILE_TYPES,
}
# Earlier versions wrote `derived_from`; this one reads it from receipts and leaves it NULL.
_NEW_IN_2 = {
    "wix_session_receipts": ("derived_from",),
    "wix_session_asks": ("derived_from", "running_seconds", "finished_seconds"),
}
_VERSIONS = "wix_session_schema"
_PARTITION = "site_id = $1 AND session_date = $2 AND segment = $3"


@dataclass(frozen=True)
class Tables:
    """The tables of one schema, and the transactions over them.

    Attributes:
        schema: the schema's name, as the engine files it.
        keys: whether the engine is better off with primary keys and an index.
        staged: the table that the engine stages an answer's ids in.
    """

    schema: str
    keys: bool = False
    staged: str = STAGED

    def name(self, table: str) -> str:
        """The table with its schema."""
        return f'"{self.schema}".{table}'

    # -- making the tables ---------------------------------------------------------------------

    def prepare(self) -> Steps[None]:
        """Bring the schema to this version, one migration after the other, and check it.

        Where there is nothing to do nothing is written, so that a role may lack the right to.
        """
        version = yield from self._version()
        migrations = self.migrations()
        if version > len(migrations):
            raise self._too_new(version, len(migrations))
        for number, statements in enumerate(migrations[version:], start=version + 1):
            for sql in statements:
                yield Statement(sql)
            yield Statement(f"INSERT INTO {self.name(_VERSIONS)} VALUES ($1)", (number,))
        yield from self._check_columns()

    def migrations(self) -> tuple[tuple[str, ...], ...]:
        """What makes each version of the schema out of the one before.

        Each can be run again where DDL is not undone with its transaction.
        """
        return (
            (*map(self._create_table, _LANDING), *self._create_indexes(), *self._create_views()),
            (*self._add_columns(_NEW_IN_2), *self._create_views()),
            (*map(self._create_table, PROFILE_COLUMNS), self._create_reconciliation()),
            (self._create_table("wix_session_marks"),),
        )

    def _version(self) -> Steps[int]:
        if _VERSIONS not in (yield from self._columns()):
            yield from self._create_schema()
            columns = "(version BIGINT NOT NULL)"
            yield Statement(f"CREATE TABLE IF NOT EXISTS {self.name(_VERSIONS)} {columns}")
        rows = yield Statement(f"SELECT max(version) FROM {self.name(_VERSIONS)}")
        return rows[0][0] or 0

    def _create_schema(self) -> Steps[None]:
        there = yield Statement(
            "SELECT count(*) FROM information_schema.schemata "
            "WHERE catalog_name = current_database() AND schema_name = $1",
            (self.schema,),
        )
        if not there[0][0]:
            yield Statement(f'CREATE SCHEMA "{self.schema}"')

    def _create_table(self, table: str) -> str:
        columns = [*map(_column, _COLUMNS[table])]
        if self.keys:
            columns.append(f"PRIMARY KEY ({', '.join(_KEYS[table])})")
        return f"CREATE TABLE IF NOT EXISTS {self.name(table)} ({', '.join(columns)})"

    def _add_columns(self, new: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
        return tuple(
            f"ALTER TABLE {self.name(table)} ADD COLUMN IF NOT EXISTS {_column(column)}"
            for table, columns in new.items()
            for column in columns
        )

    def _create_indexes(self) -> tuple[str, ...]:
        index = "CREATE INDEX IF NOT EXISTS wix_session_asks_partition"
        on = f"{self.name('wix_session_asks')} (site_id, session_date, segment)"
        return (f"{index} ON {on}",) if self.keys else ()

    def _create_views(self) -> tuple[str, ...]:
        ids, receipts = self.name("wix_session_ids"), self.name("wix_session_receipts")
        landed = (
            "SELECT i.site_id, i.session_date, r.timezone, i.segment, i.session_id, i.job_id, "
            f"r.asked_at, r.landed_at, r.derived_from FROM {ids} i JOIN {receipts} r "
            "ON r.site_id = i.site_id AND r.session_date = i.session_date AND r.segment = i.segment"
        )
        # A visit over midnight may be listed under both days: that is no repeat.
        on_two_days = (
            "SELECT site_id, segment, session_id, min(session_date) AS first_date, "
            "max(session_date) AS last_date, count(*) AS days, CASE WHEN max(session_date) - "
            "min(session_date) = count(*) - 1 THEN 'over midnight' ELSE 'days apart' END AS kind "
            f"FROM {ids} GROUP BY site_id, segment, session_id HAVING count(*) > 1"
        )
        views = {"wix_landed_sessions": landed, "wix_sessions_on_two_days": on_two_days}
        return tuple(
            f"CREATE OR REPLACE VIEW {self.name(view)} AS {query}" for view, query in views.items()
        )

    def _create_reconciliation(self) -> str:
        counts, profiles = self.name("wix_session_counts"), self.name("wix_session_profiles")
        query = RECONCILIATION.format(counts=counts, profiles=profiles)
        return f"CREATE OR REPLACE VIEW {self.name('wix_reconciliation')} AS {query}"

    def _check_columns(self) -> Steps[None]:
        there = yield from self._columns()
        for table, columns in _COLUMNS.items():
            missing = [column for column in columns if column not in there.get(table, ())]
            if missing:
                raise WarehouseSchemaError(
                    f"Table {self.name(table)} lacks {', '.join(missing)}: somebody altered it. "
                    "Nothing was written. Put the columns back, or rename the table and load anew."
                )

    def _columns(self) -> Steps[dict[str, set[str]]]:
        rows = yield Statement(
            "SELECT table_name, column_name FROM information_schema.columns "
            "WHERE table_catalog = current_database() AND table_schema = $1",
            (self.schema,),
        )
        columns: dict[str, set[str]] = {}
        for table, column in rows:
            columns.setdefault(str(table).lower(), set()).add(str(column).lower())
        return columns

    def _too_new(self, version: int, known: int) -> WarehouseSchemaError:
        return WarehouseSchemaError(
            f"Schema {self.schema} is of version {version}, made by a newer prefect-wix; this one "
            f"knows {known}. Nothing was written. Upgrade prefect-wix, or name another schema."
        )

    # -- reading -------------------------------------------------------------------------------

    def read_receipts(self, site_id: str, window: Window) -> Steps[list[Receipt]]:
        """The receipts of a site in a window, each with the last job that confirmed it."""
        return (
            yield from self._receipts(
                "site_id = $1 AND session_date >= $2 AND session_date < $3",
                (site_id, window.start, window.end),
            )
        )

    def read_history(self, site_id: str, window: Window) -> Steps[list[Ask]]:
        """The asks of a site in a window, oldest first."""
        rows = yield Statement(
            f"SELECT {_list('wix_session_asks')} FROM {self.name('wix_session_asks')} "
            "WHERE site_id = $1 AND session_date >= $2 AND session_date < $3 "
            "ORDER BY intended_at",
            (site_id, window.start, window.end),
        )
        return [_ask(row) for row in rows]

    def _receipts(self, where: str, values: tuple[Any, ...]) -> Steps[list[Receipt]]:
        rows = yield Statement(
            f"SELECT r.*, c.confirmed_at FROM (SELECT {_list('wix_session_receipts')} "
            f"FROM {self.name('wix_session_receipts')} WHERE {where}) r LEFT JOIN ("
            "SELECT site_id, session_date, segment, timezone, max(submitted_at) AS confirmed_at "
            f"FROM {self.name('wix_session_asks')} "
            f"WHERE state IN ({_quoted(ANSWERED)}) AND {where} "
            "GROUP BY site_id, session_date, segment, timezone) c ON c.site_id = r.site_id "
            "AND c.session_date = r.session_date AND c.segment = r.segment "
            "AND c.timezone = r.timezone ORDER BY r.session_date, r.segment",
            values,
        )
        return [_receipt(row) for row in rows]

    # -- the ledger ----------------------------------------------------------------------------

    def claim(self, ask: Ask, adopt_since: datetime) -> Steps[Claim]:
        """Take the open job of the partition, or note the intent to submit one."""
        open_asks = yield from self._open_asks(ask.partition)
        claim, to_record = choose_claim(ask, open_asks, adopt_since)
        known = {one.ask_id for one in open_asks}
        for one in to_record:
            yield from self.record(one) if one.ask_id in known else self._insert_ask(one)
        return claim

    def _open_asks(self, partition: Partition) -> Steps[list[Ask]]:
        """The entries of a partition, in any zone, that something may still come of."""
        rows = yield Statement(
            f"SELECT {_list('wix_session_asks')} FROM {self.name('wix_session_asks')} "
            f"WHERE state IN ({_quoted(OPEN)}) AND {_PARTITION}",
            partition.key,
        )
        return [_ask(row) for row in rows]

    def record(self, ask: Ask) -> Steps[None]:
        """Write how far an ask has come."""
        delete = f"DELETE FROM {self.name('wix_session_asks')} WHERE ask_id = $1"
        yield Statement(delete, (ask.ask_id,))
        yield from self._insert_ask(ask)

    def _insert_ask(self, ask: Ask) -> Steps[None]:
        yield self.insert("wix_session_asks", [_ask_values(ask)])

    # -- landing -------------------------------------------------------------------------------

    def publish(self, answer: Answer, landed_at: datetime) -> Steps[Landed]:
        """Replace the partition and its receipt, unless it holds this answer or a newer one."""
        held = yield from self._held(answer.ask.partition)
        landed = choose_landing(answer, held, landed_at)
        if landed.state is AskState.LANDED:
            yield from self._replace(answer, held)
            yield from self._file(new_receipt(answer, landed, landed_at), held)
        # Two runs may land one job; the first has written what changed.
        if held.receipt is None or not (yield from self._is_answered(answer.ask)):
            yield from self.record(ended_by(answer.ask, landed, landed_at))
        return landed

    def _is_answered(self, ask: Ask) -> Steps[bool]:
        rows = yield Statement(
            f"SELECT count(*) FROM {self.name('wix_session_asks')} "
            f"WHERE ask_id = $1 AND state IN ({_quoted(ANSWERED)})",
            (ask.ask_id,),
        )
        return bool(rows[0][0])

    def _held(self, partition: Partition) -> Steps[Held]:
        ids = f"FROM {self.name('wix_session_ids')} WHERE {_PARTITION}"
        receipts = f"FROM {self.name('wix_session_receipts')} WHERE {_PARTITION}"
        # A row for each count: DuckDB plans it in half the time of one row with three subqueries.
        counted = yield Statement(
            f"SELECT 'staged' AS what, count(*) AS number FROM {self.staged} UNION ALL "
            f"SELECT 'ids', count(*) {ids} UNION ALL SELECT 'receipts', count(*) {receipts}",
            partition.key,
        )
        numbers = {str(what): int(number) for what, number in counted}
        staged, sessions = numbers["staged"], numbers["ids"]
        if not sessions + numbers["receipts"]:
            # Most days are asked for the first time: then there is nothing to compare.
            return Held(0, stayed=0, staged=staged, receipt=None)
        stayed = yield Statement(
            f"SELECT count(*) FROM {self.staged} WHERE session_id IN (SELECT session_id {ids})",
            partition.key,
        )
        found = yield from self._receipts(_PARTITION, partition.key)
        receipt = found[0] if found else None
        return Held(sessions, stayed=stayed[0][0], staged=staged, receipt=receipt)

    def _replace(self, answer: Answer, held: Held) -> Steps[None]:
        partition = answer.ask.partition
        if held.sessions:
            yield self._delete("wix_session_ids", partition)
        yield Statement(
            f"INSERT INTO {self.name('wix_session_ids')} ({_list('wix_session_ids')}) SELECT "
            "CAST($1 AS TEXT), CAST($2 AS DATE), CAST($3 AS TEXT), session_id, CAST($4 AS TEXT) "
            f"FROM {self.staged}",
            (*partition.key, answer.ask.job_id),
        )

    def _file(self, receipt: Receipt, held: Held) -> Steps[None]:
        if held.receipt is not None:
            yield self._delete("wix_session_receipts", receipt.partition)
        yield self.insert("wix_session_receipts", [_receipt_values(receipt)])

    def _delete(self, table: str, partition: Partition) -> Statement:
        return Statement(f"DELETE FROM {self.name(table)} WHERE {_PARTITION}", partition.key)

    def insert(self, table: str, rows: Sequence[tuple[Any, ...]]) -> Statement:
        """Put whole rows in a table: at least one, few enough to be values of one statement."""
        into = f"INSERT INTO {self.name(table)} ({_list(table)})"
        numbers = count(1)
        places = ", ".join(
            f"({', '.join(f'${n}' for n in islice(numbers, len(row)))})" for row in rows
        )
        return Statement(f"{into} VALUES {places}", tuple(chain.from_iterable(rows)))


_KEYS = {
    "wix_session_ids": ("site_id", "segment", "session_date", "session_id"),
    "wix_session_receipts": ("site_id", "segment", "session_date"),
    "wix_session_asks": ("ask_id",),
    **PROFILE_KEYS,
    "wix_session_marks": ("site_id", "action", "session_id"),
}


def drive(steps: Steps[T], execute: Callable[[Statement], Rows]) -> T:
    """Run the steps with a driver that blocks."""
    rows: Rows | None = None
    try:
        while True:
            rows = execute(next(steps) if rows is None else steps.send(rows))
    except StopIteration as end:
        value: T = end.value
        return value


async def drive_async(steps: Steps[T], execute: Callable[[Statement], Awaitable[Rows]]) -> T:
    """Run the steps with a driver that is awaited."""
    rows: Rows | None = None
    while True:
        try:
            step = next(steps) if rows is None else steps.send(rows)
        except StopIteration as end:
            value: T = end.value
            return value
        rows = await execute(step)


def _column(name: str) -> str:
    return f"{name} {_TYPES.get(name, 'TEXT')}"


def _list(table: str) -> str:
    return ", ".join(_COLUMNS[table])


def _quoted(states: Iterable[AskState]) -> str:
    return ", ".join(f"'{state}'" for state in states)


def _ask_values(ask: Ask) -> tuple[Any, ...]:
    where = (*ask.partition.key, ask.partition.timezone)
    when = (ask.submitted_at, ask.ended_at)
    what = (ask.sessions, ask.added, ask.gone, ask.reason, ask.run_id)
    how = (ask.running_seconds, ask.finished_seconds)
    return (ask.ask_id, *where, ask.state.value, ask.intended_at, ask.job_id, *when, *what, *how)


def _ask(row: Sequence[Any]) -> Ask:
    ask_id, site_id, day, segment, timezone, state, intended_at, job_id, submitted_at, *rest = row
    ended_at, sessions, added, gone, reason, run_id, running_seconds, finished_seconds = rest
    return Ask(
        ask_id=ask_id,
        partition=Partition(site_id, day, segment, timezone),
        state=AskState(state),
        intended_at=_utc(intended_at),
        job_id=job_id,
        submitted_at=submitted_at and _utc(submitted_at),
        ended_at=ended_at and _utc(ended_at),
        sessions=sessions,
        added=added,
        gone=gone,
        reason=reason,
        run_id=run_id,
        running_seconds=running_seconds,
        finished_seconds=finished_seconds,
    )


def _receipt(row: Sequence[Any]) -> Receipt:
    site_id, day, segment, timezone, sessions, digest, job_id, asked_at, landed_at, *rest = row
    added, gone, stayed, repeats, run_id, derived_from, confirmed_at = rest
    return Receipt(
        partition=Partition(site_id, day, segment, timezone),
        sessions=sessions,
        digest=digest,
        job_id=job_id,
        asked_at=_utc(asked_at),
        landed_at=_utc(landed_at),
        confirmed_at=_utc(confirmed_at or asked_at),
        added=added,
        gone=gone,
        stayed=stayed,
        repeats=repeats,
        run_id=run_id,
        derived_from=derived_from,
    )


def _receipt_values(receipt: Receipt) -> tuple[Any, ...]:
    what = (receipt.partition.timezone, receipt.sessions, receipt.digest, receipt.job_id)
    when = (receipt.asked_at, receipt.landed_at)
    counts = (receipt.added, receipt.gone, receipt.stayed, receipt.repeats)
    return (*receipt.partition.key, *what, *when, *counts, receipt.run_id, receipt.derived_from)


def _utc(instant: datetime) -> datetime:
    return instant.astimezone(UTC)


@runtime_checkable
class SqlWarehouse(Warehouse, Protocol):
    """A warehouse that runs any steps over its tables: DuckDB and PostgreSQL."""

    async def transact(self, work: Callable[[Tables], Steps[T]]) -> T:
        """Run the steps in one transaction, in turn with all others that are run so.

        Loads go on meanwhile where the engine allows it: two questions in one transaction may see
        the landings of different moments.

        Raises:
            WarehouseError: see the tree in `prefect_wix.errors`.
        """


def sql_warehouse(warehouse: Warehouse, *, what_for: str) -> SqlWarehouse:
    """The same warehouse, which is one that runs steps.

    Args:
        warehouse: any.
        what_for: what needs it, as the beginning of a sentence.

    Raises:
        WarehouseUnsupportedError: it is not.
    """
    if isinstance(warehouse, SqlWarehouse):
        return warehouse
    raise WarehouseUnsupportedError(
        f"{what_for} need a duckdb:// or postgresql:// warehouse; "
        f"{type(warehouse).__name__} is not supported yet."
    )
