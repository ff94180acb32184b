"""The transactions of a SQL warehouse, in words that every SQL engine here understands.

Each is a generator that yields statements and is sent their rows, so that one text serves drivers
that block and drivers that are awaited. An engine only runs them, inside one transaction, and
stages ids when it is asked to. Upserts are DELETE and INSERT, which every dialect has.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, TypeVar

from prefect_wix.errors import WarehouseSchemaError
from prefect_wix.partitions import Ask, AskState, Partition, Receipt
from prefect_wix.warehouse.interface import Answer, Claim, Landed
from prefect_wix.windows import Window

__all__ = ["STAGED", "Statement", "Steps", "Tables", "drive", "drive_async"]

T = TypeVar("T")
Rows = Sequence[Sequence[Any]]

STAGED = "wix_staged_ids"
"""The temporary table (one column, ``session_id``) that an engine stages an answer's ids in."""


@dataclass(frozen=True)
class Statement:
    """One statement with ``$1``, ``$2``, … for its values."""

    sql: str
    values: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Stage:
    """Not a statement: a request to have the answer's ids in the table `STAGED` now."""


Steps = Generator[Statement | Stage, Rows, T]

_COLUMNS = {
    "wix_session_ids": ("site_id", "session_date", "segment", "session_id", "job_id"),
    "wix_session_receipts": (
        *("site_id", "session_date", "segment", "timezone", "sessions", "digest", "job_id"),
        *("asked_at", "landed_at", "added", "gone", "stayed", "repeats", "run_id"),
    ),
    "wix_session_asks": (
        *("ask_id", "site_id", "session_date", "segment", "timezone", "state", "intended_at"),
        *("job_id", "submitted_at", "ended_at", "sessions", "added", "gone", "reason", "run_id"),
    ),
}
_TYPES = {
    "session_date": "DATE",
    **dict.fromkeys(("sessions", "added", "gone", "stayed", "repeats"), "BIGINT"),
    **dict.fromkeys(
        ("asked_at", "landed_at", "intended_at", "submitted_at", "ended_at"), "TIMESTAMPTZ"
    ),
}
_PARTITION = "site_id = $1 AND session_date = $2 AND segment = $3"


@dataclass(frozen=True)
class Tables:
    """The tables of one schema, and the transactions over them.

    Attributes:
        schema: the schema's name, quoted where it must be.
        keys: table -> columns of its primary key, where the engine is better off with one.
    """

    schema: str
    keys: bool = False

    def name(self, table: str) -> str:
        """The table with its schema."""
        return f"{self.schema}.{table}"

    # -- making the tables ---------------------------------------------------------------------

    def prepare(self) -> Steps[None]:
        """Bring the schema to this version, one migration after the other, and check it."""
        yield Statement(f"CREATE SCHEMA IF NOT EXISTS {self.schema}")
        versions = self.name("wix_session_schema")
        yield Statement(f"CREATE TABLE IF NOT EXISTS {versions} (version BIGINT NOT NULL)")
        rows = yield Statement(f"SELECT max(version) FROM {versions}")
        version = rows[0][0] or 0
        migrations = self.migrations()
        if version > len(migrations):
            raise self._too_new(version, len(migrations))
        for number, statements in enumerate(migrations[version:], start=version + 1):
            for sql in statements:
                yield Statement(sql)
            yield Statement(f"INSERT INTO {versions} VALUES ($1)", (number,))
        yield from self._check_columns()

    def migrations(self) -> tuple[tuple[str, ...], ...]:
        """What makes each version of the schema out of the one before; the first makes it whole."""
        return ((*map(self._create_table, _COLUMNS), self._create_view()),)

    def _create_table(self, table: str) -> str:
        columns = [f"{column} {_TYPES.get(column, 'TEXT')}" for column in _COLUMNS[table]]
        if self.keys:
            columns.append(f"PRIMARY KEY ({', '.join(_KEYS[table])})")
        return f"CREATE TABLE {self.name(table)} ({', '.join(columns)})"

    def _create_view(self) -> str:
        return (
            f"CREATE VIEW {self.name('wix_landed_sessions')} AS "
            "SELECT i.site_id, i.session_date, r.timezone, i.segment, i.session_id, i.job_id, "
            "r.asked_at, r.landed_at "
            f"FROM {self.name('wix_session_ids')} i JOIN {self.name('wix_session_receipts')} r "
            "ON r.site_id = i.site_id AND r.session_date = i.session_date "
            "AND r.segment = i.segment"
        )

    def _check_columns(self) -> Steps[None]:
        rows = yield Statement(
            "SELECT table_name, column_name FROM information_schema.columns "
            "WHERE table_schema = $1",
            (self.schema.strip('"'),),
        )
        there = {(str(table), str(column)) for table, column in rows}
        for table, columns in _COLUMNS.items():
            missing = [column for column in columns if (table, column) not in there]
            if missing:
                raise WarehouseSchemaError(
                    f"Table {self.name(table)} lacks {', '.join(missing)}: somebody altered it. "
                    "Nothing was written. Put the columns back, or rename the table and load anew."
                )

    def _too_new(self, version: int, known: int) -> WarehouseSchemaError:
        return WarehouseSchemaError(
            f"Schema {self.schema} is of version {version}, made by a newer prefect-wix; this one "
            f"knows {known}. Nothing was written. Upgrade prefect-wix, or name another schema."
        )

    # -- reading -------------------------------------------------------------------------------

    def read_receipts(self, site_id: str, window: Window) -> Steps[list[Receipt]]:
        """The receipts of a site in a window, each with the last job that confirmed it."""
        receipts, asks = self.name("wix_session_receipts"), self.name("wix_session_asks")
        columns = ", ".join(f"r.{column}" for column in _COLUMNS["wix_session_receipts"])
        rows = yield Statement(
            f"SELECT {columns}, (SELECT max(a.submitted_at) FROM {asks} a "
            "WHERE a.site_id = r.site_id AND a.session_date = r.session_date "
            "AND a.segment = r.segment AND a.timezone = r.timezone "
            "AND a.state IN ('landed', 'unchanged')) "
            f"FROM {receipts} r "
            "WHERE r.site_id = $1 AND r.session_date >= $2 AND r.session_date < $3 "
            "ORDER BY r.session_date, r.segment",
            (site_id, window.start, window.end),
        )
        return [_receipt(row) for row in rows]

    # -- the ledger ----------------------------------------------------------------------------

    def claim(self, ask: Ask, adopt_since: datetime) -> Steps[Claim]:
        """Take the open job of the partition, or note the intent to submit one."""
        asks, partition = self.name("wix_session_asks"), ask.partition
        columns = ", ".join(_COLUMNS["wix_session_asks"])
        open_asks = yield Statement(
            f"SELECT {columns} FROM {asks} WHERE {_PARTITION} AND timezone = $4 "
            "AND state = 'submitted' AND submitted_at >= $5 ORDER BY submitted_at DESC",
            (*partition.key, partition.timezone, adopt_since),
        )
        if open_asks:
            return Claim(_ask(open_asks[0]), orphans=0)
        lost = yield Statement(
            f"SELECT {columns} FROM {asks} WHERE {_PARTITION} AND state = 'intended'",
            partition.key,
        )
        for row in lost:
            yield from self.record(_ask(row).ended(AskState.ORPHANED, at=ask.intended_at))
        yield from self.record(ask)
        return Claim(ask, orphans=len(lost))

    def record(self, ask: Ask) -> Steps[None]:
        """Write how far an ask has come."""
        yield Statement(
            f"DELETE FROM {self.name('wix_session_asks')} WHERE ask_id = $1", (ask.ask_id,)
        )
        yield self._insert("wix_session_asks", _ask_values(ask))

    # -- landing -------------------------------------------------------------------------------

    def publish(self, answer: Answer, landed_at: datetime) -> Steps[Landed]:
        """Replace the partition and its receipt, unless it holds this answer or a newer one."""
        held = yield self._about("count(*)", "wix_session_ids", answer.ask.partition)
        if (yield from self._is_superseded(answer)):
            landed = _untouched(AskState.SUPERSEDED, held[0][0])
        elif (yield from self._is_held(answer, held[0][0])):
            landed = _untouched(AskState.UNCHANGED, held[0][0])
        else:
            landed = yield from self._replace(answer, held[0][0], landed_at)
        yield from self.record(_landed_ask(answer.ask, landed, landed_at))
        return landed

    def _is_superseded(self, answer: Answer) -> Steps[bool]:
        """Whether the partition holds the answer to a job submitted later than this one."""
        newest = yield Statement(
            f"SELECT max(submitted_at) FROM {self.name('wix_session_asks')} WHERE {_PARTITION} "
            "AND timezone = $4 AND state IN ('landed', 'unchanged')",
            (*answer.ask.partition.key, answer.ask.partition.timezone),
        )
        newest_at, asked_at = newest[0][0], answer.ask.submitted_at
        return newest_at is not None and asked_at is not None and _utc(newest_at) > asked_at

    def _is_held(self, answer: Answer, held: int) -> Steps[bool]:
        partition = answer.ask.partition
        rows = yield self._about("digest, timezone, sessions", "wix_session_receipts", partition)
        # The rows are counted too, so that a table altered by hand is put right.
        return [tuple(row) for row in rows] == [(answer.digest, partition.timezone, held)]

    def _replace(self, answer: Answer, held: int, landed_at: datetime) -> Steps[Landed]:
        ask, partition = answer.ask, answer.ask.partition
        yield Stage()
        stayed = yield self._about(
            f"count(*) FILTER (WHERE session_id IN (SELECT session_id FROM {STAGED}))",
            "wix_session_ids",
            partition,
        )
        landed = _diff(len(answer.spool), held=held, stayed=stayed[0][0])
        yield self._delete("wix_session_ids", partition)
        yield Statement(
            f"INSERT INTO {self.name('wix_session_ids')} "
            f"({', '.join(_COLUMNS['wix_session_ids'])}) "
            f"SELECT $1, CAST($2 AS DATE), $3, session_id, $4 FROM {STAGED}",
            (*partition.key, ask.job_id),
        )
        yield self._delete("wix_session_receipts", partition)
        counts = (landed.added, landed.gone, landed.stayed, answer.repeats, ask.run_id)
        proof = (partition.timezone, landed.sessions, answer.digest, ask.job_id)
        yield self._insert(
            "wix_session_receipts",
            (*partition.key, *proof, ask.submitted_at, landed_at, *counts),
        )
        return landed

    def _about(self, what: str, table: str, partition: Partition) -> Statement:
        return Statement(f"SELECT {what} FROM {self.name(table)} WHERE {_PARTITION}", partition.key)

    def _delete(self, table: str, partition: Partition) -> Statement:
        return Statement(f"DELETE FROM {self.name(table)} WHERE {_PARTITION}", partition.key)

    def _insert(self, table: str, values: tuple[Any, ...]) -> Statement:
        places = ", ".join(f"${n}" for n in range(1, len(values) + 1))
        columns = ", ".join(_COLUMNS[table])
        return Statement(f"INSERT INTO {self.name(table)} ({columns}) VALUES ({places})", values)


_KEYS = {
    "wix_session_ids": ("site_id", "segment", "session_date", "session_id"),
    "wix_session_receipts": ("site_id", "segment", "session_date"),
    "wix_session_asks": ("ask_id",),
}


def drive(steps: Steps[T], execute: Callable[[Statement | Stage], Rows]) -> T:
    """Run the steps with a driver that blocks."""
    rows: Rows | None = None
    try:
        while True:
            rows = execute(next(steps) if rows is None else steps.send(rows))
    except StopIteration as end:
        value: T = end.value
        return value


async def drive_async(
    steps: Steps[T], execute: Callable[[Statement | Stage], Awaitable[Rows]]
) -> T:
    """Run the steps with a driver that is awaited."""
    rows: Rows | None = None
    while True:
        try:
            step = next(steps) if rows is None else steps.send(rows)
        except StopIteration as end:
            value: T = end.value
            return value
        rows = await execute(step)


def _diff(sessions: int, *, held: int, stayed: int) -> Landed:
    return Landed(
        AskState.LANDED, sessions, added=sessions - stayed, gone=held - stayed, stayed=stayed
    )


def _untouched(state: AskState, held: int) -> Landed:
    return Landed(state, held, added=0, gone=0, stayed=held)


def _landed_ask(ask: Ask, landed: Landed, at: datetime) -> Ask:
    return replace(
        ask.ended(landed.state, at=at),
        sessions=landed.sessions,
        added=landed.added,
        gone=landed.gone,
    )


def _ask_values(ask: Ask) -> tuple[Any, ...]:
    where = (*ask.partition.key, ask.partition.timezone)
    when = (ask.submitted_at, ask.ended_at)
    what = (ask.sessions, ask.added, ask.gone, ask.reason, ask.run_id)
    return (ask.ask_id, *where, ask.state.value, ask.intended_at, ask.job_id, *when, *what)


def _ask(row: Sequence[Any]) -> Ask:
    ask_id, site_id, day, segment, timezone, state, intended_at, job_id, submitted_at, *rest = row
    ended_at, sessions, added, gone, reason, run_id = rest
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
    )


def _receipt(row: Sequence[Any]) -> Receipt:
    site_id, day, segment, timezone, sessions, digest, job_id, asked_at, landed_at, *rest = row
    added, gone, stayed, repeats, run_id, confirmed_at = rest
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
    )


def _utc(instant: datetime) -> datetime:
    return instant.astimezone(UTC)
