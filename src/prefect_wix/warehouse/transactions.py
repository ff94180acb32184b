"""The transactions of a SQL warehouse, in SQL that every engine understands.

Each is a generator of statements (see `prefect_wix.warehouse.schema`) that an engine runs in one
transaction. For `publish` the engine stages the session IDs of the listing first. The decisions are
in `prefect_wix.warehouse.decisions`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

from prefect_wix.errors import WarehouseUnsupportedError
from prefect_wix.planning.partitions import CONFIRMING, JobRecord, JobState, Partition, Receipt
from prefect_wix.planning.windows import Window
from prefect_wix.spool.id_spool import Spool
from prefect_wix.spool.shield import shield_in_thread
from prefect_wix.warehouse.decisions import (
    OPEN_STATES,
    PartitionContents,
    closed_record,
    decide_claim,
    decide_publish,
    new_receipt,
)
from prefect_wix.warehouse.interface import Claim, PublishResult, VerifiedListing, Warehouse
from prefect_wix.warehouse.schema import (
    IDS,
    JOBS,
    RECEIPTS,
    REMOVALS,
    SESSIONS,
    Schema,
    Statement,
    Steps,
    Table,
)

T = TypeVar("T")
Lock = tuple[str, ...] | None
"""A site and segment, the whole schema (an empty tuple), or nothing."""

STAGED = "wix_staged_ids"
"""The temporary table, with the column ``session_id``, that an engine stages a listing's IDs in."""
DIFFERENCE = "wix_difference"
"""The temporary table, with the columns ``session_id`` and ``is_new``, of an engine with keys."""
_CONTENTS = (IDS, REMOVALS, RECEIPTS)
_PARTITION_COLUMNS = ("site_id", "session_date", "segment", "timezone")
_PARTITION = "site_id = $1 AND session_date = $2 AND segment = $3"
_WINDOW = "site_id = $1 AND session_date >= $2 AND session_date < $3"


@dataclass(frozen=True)
class SessionTransactions(Schema):
    """The transactions over the tables of landed sessions.

    Attributes:
        staged: the table that the engine stages a listing's IDs in.
    """

    staged: str = STAGED

    # -- reading -------------------------------------------------------------------------------

    def read_receipts(self, site_id: str, window: Window) -> Steps[list[Receipt]]:
        """The receipts of a site in a window, each with the time of the last confirming job."""
        return self._receipts(_WINDOW, (site_id, window.start, window.end))

    def read_job_records(self, site_id: str, window: Window) -> Steps[list[JobRecord]]:
        """The job records of a site in a window, oldest intent first."""
        return self._job_records(_WINDOW, (site_id, window.start, window.end))

    def _job_records(self, where: str, values: tuple[Any, ...]) -> Steps[list[JobRecord]]:
        rows = yield Statement(
            f"SELECT {JOBS.columns} FROM {self.name(JOBS.name)} WHERE {where} ORDER BY intended_at",
            values,
        )
        return [_record(row) for row in rows]

    def _receipts(self, where: str, values: tuple[Any, ...]) -> Steps[list[Receipt]]:
        # A job that ended before the content was published had listed other content.
        columns = ", ".join(f"r.{name}" for name in RECEIPTS.types)
        rows = yield Statement(
            f"SELECT {columns}, max(c.submitted_at) AS confirmed_at FROM (SELECT * "
            f"FROM {self.name(RECEIPTS.name)} WHERE {where}) r LEFT JOIN (SELECT * "
            f"FROM {self.name(JOBS.name)} WHERE state = '{JobState.UNCHANGED}' AND {where}) c "
            "ON c.site_id = r.site_id AND c.session_date = r.session_date "
            "AND c.segment = r.segment AND c.timezone = r.timezone AND c.ended_at >= r.landed_at "
            f"GROUP BY {columns} ORDER BY r.session_date, r.segment",
            values,
        )
        return [_receipt(row) for row in rows]

    # -- job records ---------------------------------------------------------------------------

    def claim(self, record: JobRecord, adopt_since: datetime, at: datetime) -> Steps[Claim]:
        """Adopt the open job of the partition, or insert the intent to submit one.

        Args:
            record: see `Warehouse.claim`.
            adopt_since: see `Warehouse.claim`.
            at: the time by the warehouse's clock, read once the engine holds the lock.
        """
        # The intent is stored already if its commit succeeded but reported an error.
        concerned = f"{_PARTITION} AND (state IN ({_quoted(OPEN_STATES)}) OR record_id = $4)"
        stored = yield from self._job_records(concerned, (*record.partition.key, record.record_id))
        claim, to_save = decide_claim(record, stored, adopt_since, at)
        known = {one.record_id for one in stored}
        for one in to_save:
            if one.record_id in known:
                yield from self.save_record(one)
            else:
                yield self.insert(JOBS, [_values(JOBS, one)])
        return claim

    def save_record(self, record: JobRecord) -> Steps[None]:
        """Insert an intent, or write the state of a job whose intent is stored.

        A record that confirms its partition stays as it is: two runs may publish one job, and the
        first one's record has the changes.
        """
        jobs, values = self.name(JOBS.name), _values(JOBS, record)
        if record.state is JobState.INTENDED:
            yield Statement(f"DELETE FROM {jobs} WHERE record_id = $1", values[:1])
            yield self.insert(JOBS, [values])
        else:
            columns = ", ".join(f"{name} = ${n}" for n, name in enumerate(JOBS.types, start=1))
            where = f"record_id = $1 AND state NOT IN ({_quoted(CONFIRMING)})"
            yield Statement(f"UPDATE {jobs} SET {columns} WHERE {where}", values)

    # -- publishing ----------------------------------------------------------------------------

    def publish(self, listing: VerifiedListing, at: datetime) -> Steps[PublishResult]:
        """Replace the partition and its receipt, unless it has the same IDs or a newer result.

        Args:
            listing: the result; the engine has staged its IDs.
            at: the time by the warehouse's clock, read once the engine holds the lock.
        """
        contents = yield from self._read_contents(listing.record.partition)
        result = decide_publish(listing, contents, at)
        if result.state is JobState.LANDED:
            yield from self._replace(contents, new_receipt(listing, result, at))
        yield from self.save_record(closed_record(listing.record, result.state, result, at))
        return result

    def _read_contents(self, partition: Partition) -> Steps[PartitionContents]:
        ids, removals, receipts = (
            f"FROM {self.name(table.name)} WHERE {_PARTITION}" for table in _CONTENTS
        )
        # A row for each count: DuckDB plans it in half the time of one row with several subqueries.
        counted = yield Statement(
            f"SELECT 'staged' AS what, count(*) AS number FROM {self.staged} "
            f"UNION ALL SELECT 'ids', count(*) {ids} UNION ALL SELECT 'removals', count(*) "
            f"{removals} UNION ALL SELECT 'receipts', count(*) {receipts}",
            partition.key,
        )
        numbers = {str(what): int(number) for what, number in counted}
        staged, sessions = numbers.pop("staged"), numbers["ids"]
        if not any(numbers.values()):
            # A first load has nothing to compare with.
            return PartitionContents(0, kept=0, staged=staged, receipt=None)
        kept = yield from self._compare(partition, staged)
        receipt = next(iter((yield from self._receipts(_PARTITION, partition.key))), None)
        if receipt is not None:
            return PartitionContents(sessions, kept, staged, receipt, receipt.version or 1)
        # The receipt was deleted by hand.
        [(version,)] = yield Statement(
            f"SELECT max(version) FROM (SELECT added_version AS version {ids} "
            f"UNION ALL SELECT removed_version {removals}) AS versions",
            partition.key,
        )
        return PartitionContents(sessions, kept, staged, None, version or 1)

    def _compare(self, partition: Partition, staged: int) -> Steps[int]:
        """The number of IDs both in the partition and in the listing.

        On an engine with keys the difference is computed once, and kept for `_replace`.
        """
        ids = f"SELECT session_id FROM {self.name(IDS.name)} WHERE {_PARTITION}"
        if not self.keys:
            counted = f"SELECT count(*) FROM {self.staged} WHERE session_id IN ({ids})"
            [(kept,)] = yield Statement(counted, partition.key)
            return int(kept)
        yield Statement(
            f"INSERT INTO {DIFFERENCE} SELECT COALESCE(s.session_id, i.session_id), "
            f"i.session_id IS NULL FROM {self.staged} AS s FULL JOIN ({ids}) AS i "
            "ON i.session_id = s.session_id WHERE s.session_id IS NULL OR i.session_id IS NULL",
            partition.key,
        )
        [(new,)] = yield Statement(f"SELECT count(*) FROM {DIFFERENCE} WHERE is_new")
        return staged - int(new)

    def _replace(self, contents: PartitionContents, receipt: Receipt) -> Steps[None]:
        """Write the difference: rows that stay are not touched."""
        key, ids = receipt.partition.key, self.name(IDS.name)
        if contents.receipt is not None and contents.receipt.version is None:
            yield Statement(
                f"UPDATE {ids} SET first_landed_at = $4, added_version = 1 "
                f"WHERE {_PARTITION} AND added_version IS NULL",
                (*key, contents.receipt.landed_at),
            )
        if contents.sessions > contents.kept:
            yield from self._move(receipt) if self.keys else self._remove(contents, receipt)
        new = f"{self.staged} AS s WHERE NOT EXISTS (SELECT 1 FROM {ids} AS i WHERE i.site_id = $1 "
        new += "AND i.session_date = $2 AND i.segment = $3 AND i.session_id = s.session_id)"
        new = f"{DIFFERENCE} AS s WHERE is_new" if self.keys else new
        yield Statement(
            f"INSERT INTO {ids} ({IDS.columns}) SELECT CAST($1 AS TEXT), CAST($2 AS DATE), "
            "CAST($3 AS TEXT), s.session_id, CAST($4 AS TEXT), CAST($5 AS TIMESTAMPTZ), "
            f"CAST($6 AS BIGINT) FROM {new if contents.kept else f'{self.staged} AS s'}",
            (*key, receipt.job_id, receipt.landed_at, receipt.version),
        )
        if contents.receipt is not None:
            yield Statement(f"DELETE FROM {self.name(RECEIPTS.name)} WHERE {_PARTITION}", key)
        yield self.insert(RECEIPTS, [_values(RECEIPTS, receipt)])

    def _move(self, receipt: Receipt) -> Steps[None]:
        """Move the rows that the listing lacks to the removals, on an engine with keys."""
        yield Statement(
            f"WITH gone AS (DELETE FROM {self.name(IDS.name)} WHERE {_PARTITION} AND session_id IN "
            f"(SELECT session_id FROM {DIFFERENCE} WHERE NOT is_new) RETURNING *) "
            f"INSERT INTO {self.name(REMOVALS.name)} ({REMOVALS.columns}) SELECT site_id, "
            "session_date, segment, session_id, first_landed_at, added_version, job_id, "
            "CAST($4 AS TIMESTAMPTZ), CAST($5 AS BIGINT), CAST($6 AS TEXT) FROM gone",
            (*receipt.partition.key, receipt.landed_at, receipt.version, receipt.job_id),
        )

    def _remove(self, contents: PartitionContents, receipt: Receipt) -> Steps[None]:
        """Move the rows that the listing lacks to the removals, also rows that are doubled."""
        key, ids = receipt.partition.key, self.name(IDS.name)
        is_gone = f"{_PARTITION} AND NOT EXISTS (SELECT 1 FROM {self.staged} AS s "
        is_gone += f"WHERE s.session_id = {IDS.name}.session_id)"
        counted = f"SELECT count(DISTINCT session_id) FROM {ids} WHERE {_PARTITION}"
        [(distinct,)] = yield Statement(counted, key)
        removals = self.name(REMOVALS.name)
        yield Statement(
            f"INSERT INTO {removals} ({REMOVALS.columns}) SELECT DISTINCT site_id, session_date, "
            "segment, session_id, first_landed_at, added_version, job_id, "
            "CAST($4 AS TIMESTAMPTZ), CAST($5 AS BIGINT), CAST($6 AS TEXT) "
            f"FROM {ids} WHERE {is_gone}",
            (*key, receipt.landed_at, receipt.version, receipt.job_id),
        )
        if distinct != contents.sessions:
            # By hand: all rows are written again.
            yield Statement(f"DELETE FROM {ids} WHERE {_PARTITION}", key)
        else:
            yield Statement(
                f"DELETE FROM {ids} WHERE {_PARTITION} AND session_id IN (SELECT session_id "
                f"FROM {removals} WHERE {_PARTITION} AND removed_version = $4)",
                (*key, receipt.version),
            )


def _quoted(states: Iterable[JobState]) -> str:
    return ", ".join(f"'{state}'" for state in states)


def _values(table: Table, row: JobRecord | Receipt) -> tuple[Any, ...]:
    """The values of a row, in the order of the table's columns."""
    partition = vars(row.partition).values()
    fields = vars(row) | dict(zip(_PARTITION_COLUMNS, partition, strict=True))
    values = (fields[name] for name in table.types)
    # Drivers take plain text.
    return tuple(str(value) if isinstance(value, JobState) else value for value in values)


def _fields(columns: Iterable[str], row: Sequence[Any]) -> dict[str, Any]:
    """The attributes of a row, with its `Partition` and with instants in UTC."""
    fields: dict[str, Any] = {
        name: value.astimezone(UTC) if isinstance(value, datetime) else value
        for name, value in zip(columns, row, strict=True)
    }
    return {"partition": Partition(*map(fields.pop, _PARTITION_COLUMNS)), **fields}


def _record(row: Sequence[Any]) -> JobRecord:
    fields = _fields(JOBS.types, row)
    return JobRecord(**fields | {"state": JobState(fields["state"])})


def _receipt(row: Sequence[Any]) -> Receipt:
    fields = _fields([*RECEIPTS.types, "confirmed_at"], row)
    return Receipt(**fields | {"confirmed_at": fields["confirmed_at"] or fields["submitted_at"]})


Begin = Callable[[SessionTransactions, datetime], Steps[T]]
"""Begins a transaction's steps, from its tables and the time by the warehouse's clock."""


class TableWarehouse(ABC):
    """The operations of `Warehouse` as transactions over tables, which an engine runs."""

    _tables: SessionTransactions

    @abstractmethod
    async def run(self, begin: Begin[T], lock: Lock = None, spool: Spool | None = None) -> T:
        """Run steps in one transaction.

        Args:
            begin: called once the lock is held, and again if the transaction is repeated.
            lock: what to lock against other transactions.
            spool: the IDs to stage in `SessionTransactions.staged`.
        """

    async def prepare(self) -> None:
        """See `Warehouse.prepare`."""
        # Concurrent CREATE TABLE IF NOT EXISTS statements fail without a lock.
        await self.run(lambda *_: self._prepare(), lock=())

    def _prepare(self) -> Steps[None]:
        return self._tables.prepare(SESSIONS)

    async def receipts(self, site_id: str, window: Window) -> list[Receipt]:
        """See `Warehouse.receipts`."""
        return await self.run(lambda tables, _: tables.read_receipts(site_id, window))

    async def job_records(self, site_id: str, window: Window) -> list[JobRecord]:
        """See `Warehouse.job_records`."""
        return await self.run(lambda tables, _: tables.read_job_records(site_id, window))

    async def claim(self, record: JobRecord, *, adopt_since: datetime) -> Claim:
        """See `Warehouse.claim`."""
        return await self.run(
            lambda tables, at: tables.claim(record, adopt_since, at), _lock(record.partition)
        )

    async def save_record(self, record: JobRecord) -> None:
        """See `Warehouse.save_record`."""
        await self.run(lambda tables, _: tables.save_record(record), _lock(record.partition))

    async def publish(self, listing: VerifiedListing) -> PublishResult:
        """See `Warehouse.publish`."""
        lock = _lock(listing.record.partition)
        return await self.run(
            lambda tables, at: tables.publish(listing, at), lock, spool=listing.spool
        )


class BlockingWarehouse(TableWarehouse):
    """A warehouse with a blocking client: each operation is one transaction in a thread."""

    @abstractmethod
    def _transact(self, begin: Begin[T], *, lock: bool, spool: Spool | None = None) -> T:
        """See `TableWarehouse.run`; ``lock`` is whether the transaction decides and writes."""

    async def run(self, begin: Begin[T], lock: Lock = None, spool: Spool | None = None) -> T:
        """See `TableWarehouse.run`."""
        # Before `prepare` there is no table to lock yet; each of its statements can run twice.
        return await shield_in_thread(lambda: self._transact(begin, lock=bool(lock), spool=spool))


class SqlWarehouse(TableWarehouse):
    """A warehouse that runs any steps over its tables: DuckDB and PostgreSQL.

    Profiles are computed in it and marks are kept in it, beside the operations of `Warehouse`.
    """

    @abstractmethod
    async def read(self, work: Callable[[SessionTransactions], Steps[T]]) -> T:
        """Run steps of foreign SQL in a transaction that can only read the database's tables.

        In DuckDB it can access no file, extension or setting. In PostgreSQL it is READ ONLY, and
        the rights of the user limit which functions of the server it can call.

        Raises:
            WarehouseError: see the tree in `prefect_wix.errors`.
        """

    async def transact(self, work: Callable[[SessionTransactions], Steps[T]]) -> T:
        """Run the steps in one transaction. Only one such transaction runs at a time.

        In PostgreSQL loads publish meanwhile: two SELECTs of one transaction may see different
        versions of a partition.

        Raises:
            WarehouseError: see the tree in `prefect_wix.errors`.
        """
        return await self.run(lambda tables, _: work(tables), lock=())


def _lock(partition: Partition) -> Lock:
    return partition.site_id, partition.segment


def sql_warehouse(warehouse: Warehouse, *, what_for: str) -> SqlWarehouse:
    """The warehouse, if it can run steps.

    Args:
        warehouse: any warehouse.
        what_for: the plural subject of the error's sentence, such as "Marks".

    Raises:
        WarehouseUnsupportedError: its engine cannot run steps.
    """
    if isinstance(warehouse, SqlWarehouse):
        return warehouse
    raise WarehouseUnsupportedError(
        f"{what_for} need a duckdb:// or postgresql:// warehouse; "
        f"{type(warehouse).__name__} is not supported yet."
    )
