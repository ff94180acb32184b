"""The transactions of a SQL warehouse, in words that every SQL engine here understands.

Each is a generator that yields statements and is sent their rows, so that one text serves drivers
that block and drivers that are awaited. An engine only runs them, each inside one transaction; for
`Tables.publish` it stages the answer's ids first. Upserts are DELETE and INSERT, which every
dialect has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol, TypeVar, runtime_checkable

from prefect_wix.errors import WarehouseUnsupportedError
from prefect_wix.planning.partitions import CONFIRMING, JobRecord, JobState, Partition, Receipt
from prefect_wix.planning.windows import Window
from prefect_wix.warehouse.decisions import (
    OPEN_STATES,
    PartitionContents,
    closed_record,
    decide_claim,
    decide_publish,
    new_receipt,
)
from prefect_wix.warehouse.interface import Claim, PublishResult, VerifiedListing, Warehouse
from prefect_wix.warehouse.schema import IDS, JOBS, RECEIPTS, Schema, Statement, Steps, Table

__all__ = ["STAGED", "SqlWarehouse", "Tables", "sql_warehouse"]

T = TypeVar("T")

STAGED = "wix_staged_ids"
"""The temporary table (one column, ``session_id``) that an engine stages an answer's ids in."""


_PARTITION = "site_id = $1 AND session_date = $2 AND segment = $3"


@dataclass(frozen=True)
class Tables(Schema):
    """The transactions over the tables of landed sessions.

    Attributes:
        staged: the table that the engine stages an answer's ids in.
    """

    staged: str = STAGED

    # -- reading -------------------------------------------------------------------------------

    def read_receipts(self, site_id: str, window: Window) -> Steps[list[Receipt]]:
        """The receipts of a site in a window, each with the last job that confirmed it."""
        return (
            yield from self._receipts(
                "site_id = $1 AND session_date >= $2 AND session_date < $3",
                (site_id, window.start, window.end),
            )
        )

    def read_job_records(self, site_id: str, window: Window) -> Steps[list[JobRecord]]:
        """The asks of a site in a window, oldest first."""
        rows = yield Statement(
            f"SELECT {JOBS.columns} FROM {self.name(JOBS.name)} "
            "WHERE site_id = $1 AND session_date >= $2 AND session_date < $3 "
            "ORDER BY intended_at",
            (site_id, window.start, window.end),
        )
        return [_record(row) for row in rows]

    def _receipts(self, where: str, values: tuple[Any, ...]) -> Steps[list[Receipt]]:
        rows = yield Statement(
            f"SELECT r.*, c.confirmed_at FROM (SELECT {RECEIPTS.columns} "
            f"FROM {self.name(RECEIPTS.name)} WHERE {where}) r LEFT JOIN ("
            "SELECT site_id, session_date, segment, timezone, max(submitted_at) AS confirmed_at "
            f"FROM {self.name(JOBS.name)} "
            f"WHERE state IN ({_quoted(CONFIRMING)}) AND {where} "
            "GROUP BY site_id, session_date, segment, timezone) c ON c.site_id = r.site_id "
            "AND c.session_date = r.session_date AND c.segment = r.segment "
            "AND c.timezone = r.timezone ORDER BY r.session_date, r.segment",
            values,
        )
        return [_receipt(row) for row in rows]

    # -- the ledger ----------------------------------------------------------------------------

    def claim(self, record: JobRecord, adopt_since: datetime) -> Steps[Claim]:
        """Take the open job of the partition, or note the intent to submit one."""
        open_records = yield from self._open_records(record.partition)
        claim, to_record = decide_claim(record, open_records, adopt_since)
        known = {one.record_id for one in open_records}
        for one in to_record:
            yield from self.save_record(one) if one.record_id in known else self._insert_record(one)
        return claim

    def _open_records(self, partition: Partition) -> Steps[list[JobRecord]]:
        """The entries of a partition, in any zone, that something may still come of."""
        rows = yield Statement(
            f"SELECT {JOBS.columns} FROM {self.name(JOBS.name)} "
            f"WHERE state IN ({_quoted(OPEN_STATES)}) AND {_PARTITION}",
            partition.key,
        )
        return [_record(row) for row in rows]

    def save_record(self, record: JobRecord) -> Steps[None]:
        """Write how far an ask has come."""
        delete = f"DELETE FROM {self.name(JOBS.name)} WHERE record_id = $1"
        yield Statement(delete, (record.record_id,))
        yield from self._insert_record(record)

    def _insert_record(self, record: JobRecord) -> Steps[None]:
        yield self.insert(JOBS, [_record_values(record)])

    # -- landing -------------------------------------------------------------------------------

    def publish(self, answer: VerifiedListing, landed_at: datetime) -> Steps[PublishResult]:
        """Replace the partition and its receipt, unless it holds this answer or a newer one."""
        held = yield from self._read_contents(answer.record.partition)
        landed = decide_publish(answer, held, landed_at)
        if landed.state is JobState.LANDED:
            yield from self._replace(answer, held)
            yield from self._file(new_receipt(answer, landed, landed_at), held)
        # Two runs may land one job; the first has written what changed.
        if held.receipt is None or not (yield from self._is_answered(answer.record)):
            yield from self.save_record(closed_record(answer.record, landed, landed_at))
        return landed

    def _is_answered(self, record: JobRecord) -> Steps[bool]:
        rows = yield Statement(
            f"SELECT count(*) FROM {self.name(JOBS.name)} "
            f"WHERE record_id = $1 AND state IN ({_quoted(CONFIRMING)})",
            (record.record_id,),
        )
        return bool(rows[0][0])

    def _read_contents(self, partition: Partition) -> Steps[PartitionContents]:
        ids = f"FROM {self.name(IDS.name)} WHERE {_PARTITION}"
        receipts = f"FROM {self.name(RECEIPTS.name)} WHERE {_PARTITION}"
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
            return PartitionContents(0, kept=0, staged=staged, receipt=None)
        kept = yield Statement(
            f"SELECT count(*) FROM {self.staged} WHERE session_id IN (SELECT session_id {ids})",
            partition.key,
        )
        found = yield from self._receipts(_PARTITION, partition.key)
        receipt = found[0] if found else None
        return PartitionContents(sessions, kept=kept[0][0], staged=staged, receipt=receipt)

    def _replace(self, answer: VerifiedListing, held: PartitionContents) -> Steps[None]:
        partition = answer.record.partition
        if held.sessions:
            yield self._delete(IDS, partition)
        yield Statement(
            f"INSERT INTO {self.name(IDS.name)} ({IDS.columns}) SELECT "
            "CAST($1 AS TEXT), CAST($2 AS DATE), CAST($3 AS TEXT), session_id, CAST($4 AS TEXT) "
            f"FROM {self.staged}",
            (*partition.key, answer.record.job_id),
        )

    def _file(self, receipt: Receipt, held: PartitionContents) -> Steps[None]:
        if held.receipt is not None:
            yield self._delete(RECEIPTS, receipt.partition)
        yield self.insert(RECEIPTS, [_receipt_values(receipt)])

    def _delete(self, table: Table, partition: Partition) -> Statement:
        return Statement(f"DELETE FROM {self.name(table.name)} WHERE {_PARTITION}", partition.key)


def _quoted(states: Iterable[JobState]) -> str:
    return ", ".join(f"'{state}'" for state in states)


def _record_values(record: JobRecord) -> tuple[Any, ...]:
    where = (*record.partition.key, record.partition.timezone)
    when = (record.submitted_at, record.ended_at)
    what = (record.sessions, record.added, record.removed, record.reason, record.run_id)
    how = (record.running_seconds, record.finished_seconds)
    return (
        record.record_id,
        *where,
        record.state.value,
        record.intended_at,
        record.job_id,
        *when,
        *what,
        *how,
    )


def _record(row: Sequence[Any]) -> JobRecord:
    record_id, site_id, day, segment, timezone, state, intended_at, job_id, submitted_at, *rest = (
        row
    )
    ended_at, sessions, added, removed, reason, run_id, running_seconds, finished_seconds = rest
    return JobRecord(
        record_id=record_id,
        partition=Partition(site_id, day, segment, timezone),
        state=JobState(state),
        intended_at=_utc(intended_at),
        job_id=job_id,
        submitted_at=submitted_at and _utc(submitted_at),
        ended_at=ended_at and _utc(ended_at),
        sessions=sessions,
        added=added,
        removed=removed,
        reason=reason,
        run_id=run_id,
        running_seconds=running_seconds,
        finished_seconds=finished_seconds,
    )


def _receipt(row: Sequence[Any]) -> Receipt:
    site_id, day, segment, timezone, sessions, digest, job_id, submitted_at, landed_at, *rest = row
    added, removed, kept, duplicates, run_id, confirmed_at = rest
    return Receipt(
        partition=Partition(site_id, day, segment, timezone),
        sessions=sessions,
        digest=digest,
        job_id=job_id,
        submitted_at=_utc(submitted_at),
        landed_at=_utc(landed_at),
        confirmed_at=_utc(confirmed_at or submitted_at),
        added=added,
        removed=removed,
        kept=kept,
        duplicates=duplicates,
        run_id=run_id,
    )


def _receipt_values(receipt: Receipt) -> tuple[Any, ...]:
    what = (receipt.partition.timezone, receipt.sessions, receipt.digest, receipt.job_id)
    when = (receipt.submitted_at, receipt.landed_at)
    counts = (receipt.added, receipt.removed, receipt.kept, receipt.duplicates)
    return (*receipt.partition.key, *what, *when, *counts, receipt.run_id)


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
