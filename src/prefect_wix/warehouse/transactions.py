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
from typing import Any, Protocol, TypeVar, runtime_checkable

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
    SESSIONS,
    Schema,
    Statement,
    Steps,
    Table,
)

T = TypeVar("T")

STAGED = "wix_staged_ids"
"""The temporary table, with the column ``session_id``, that an engine stages a listing's IDs in."""
_PARTITION_COLUMNS = ("site_id", "session_date", "segment", "timezone")
_PARTITION = "site_id = $1 AND session_date = $2 AND segment = $3"


@dataclass(frozen=True)
class SessionTransactions(Schema):
    """The transactions over the tables of landed sessions.

    Attributes:
        staged: the table that the engine stages a listing's IDs in.
        counts_updates: whether the engine returns the number of rows that an UPDATE changed.
    """

    staged: str = STAGED
    counts_updates: bool = False

    # -- reading -------------------------------------------------------------------------------

    def read_receipts(self, site_id: str, window: Window) -> Steps[list[Receipt]]:
        """The receipts of a site in a window, each with the time of the last confirming job."""
        return (
            yield from self._receipts(
                "site_id = $1 AND session_date >= $2 AND session_date < $3",
                (site_id, window.start, window.end),
            )
        )

    def read_job_records(self, site_id: str, window: Window) -> Steps[list[JobRecord]]:
        """The job records of a site in a window, oldest intent first."""
        rows = yield Statement(
            f"SELECT {JOBS.columns} FROM {self.name(JOBS.name)} "
            "WHERE site_id = $1 AND session_date >= $2 AND session_date < $3 "
            "ORDER BY intended_at",
            (site_id, window.start, window.end),
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
        open_records = yield from self._open_records(record.partition)
        claim, to_save = decide_claim(record, open_records, adopt_since, at)
        known = {one.record_id for one in open_records}
        for one in to_save:
            if one.record_id in known:
                yield from self.save_record(one)
            else:
                yield self.insert(JOBS, [_values(JOBS, one)])
        return claim

    def _open_records(self, partition: Partition) -> Steps[list[JobRecord]]:
        """The job records of a partition, in any time zone, that are intended or submitted."""
        rows = yield Statement(
            f"SELECT {JOBS.columns} FROM {self.name(JOBS.name)} "
            f"WHERE state IN ({_quoted(OPEN_STATES)}) AND {_PARTITION}",
            partition.key,
        )
        return [_record(row) for row in rows]

    def save_record(self, record: JobRecord) -> Steps[None]:
        """Write the state of a job: update its record, or insert the first one."""
        jobs, values = self.name(JOBS.name), _values(JOBS, record)
        if self.counts_updates:
            changes = ", ".join(f"{name} = ${n}" for n, name in enumerate(JOBS.types, start=1))
            updated = yield Statement(f"UPDATE {jobs} SET {changes} WHERE record_id = $1", values)
            if updated[0][0]:
                return
        else:
            yield Statement(f"DELETE FROM {jobs} WHERE record_id = $1", (record.record_id,))
        yield self.insert(JOBS, [values])

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
            yield from self._replace_ids(listing, contents)
            yield from self._replace_receipt(new_receipt(listing, result, at), contents)
        # Two runs may publish one job: the first one's record has the changes.
        if contents.receipt is None or not (yield from self._is_confirming(listing.record)):
            yield from self.save_record(closed_record(listing.record, result, at))
        return result

    def _is_confirming(self, record: JobRecord) -> Steps[bool]:
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
            # A first load has nothing to compare with.
            return PartitionContents(0, kept=0, staged=staged, receipt=None)
        kept = yield Statement(
            f"SELECT count(*) FROM {self.staged} WHERE session_id IN (SELECT session_id {ids})",
            partition.key,
        )
        found = yield from self._receipts(_PARTITION, partition.key)
        receipt = found[0] if found else None
        return PartitionContents(sessions, kept=kept[0][0], staged=staged, receipt=receipt)

    def _replace_ids(self, listing: VerifiedListing, contents: PartitionContents) -> Steps[None]:
        partition = listing.record.partition
        if contents.sessions:
            yield self._delete(IDS, partition)
        yield Statement(
            f"INSERT INTO {self.name(IDS.name)} ({IDS.columns}) SELECT "
            "CAST($1 AS TEXT), CAST($2 AS DATE), CAST($3 AS TEXT), session_id, CAST($4 AS TEXT) "
            f"FROM {self.staged}",
            (*partition.key, listing.record.job_id),
        )

    def _replace_receipt(self, receipt: Receipt, contents: PartitionContents) -> Steps[None]:
        if contents.receipt is not None:
            yield self._delete(RECEIPTS, receipt.partition)
        yield self.insert(RECEIPTS, [_values(RECEIPTS, receipt)])

    def _delete(self, table: Table, partition: Partition) -> Statement:
        return Statement(f"DELETE FROM {self.name(table.name)} WHERE {_PARTITION}", partition.key)


def _quoted(states: Iterable[JobState]) -> str:
    return ", ".join(f"'{state}'" for state in states)


def _values(table: Table, row: JobRecord | Receipt) -> tuple[Any, ...]:
    """The values of a row, in the order of the table's columns."""
    where = dict(zip(_PARTITION_COLUMNS, (*row.partition.key, row.partition.timezone), strict=True))
    values = (where[name] if name in where else getattr(row, name) for name in table.types)
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
"""Makes the steps of a transaction, from the tables and the time by the warehouse's clock."""


class ThreadedWarehouse(ABC):
    """A warehouse with a blocking client: each operation is one transaction in a thread."""

    @abstractmethod
    def _transact(self, begin: Begin[T], *, lock: bool, spool: Spool | None = None) -> T:
        """Run the steps in one transaction.

        Args:
            begin: makes the steps; called again if the transaction is repeated.
            lock: whether the transaction decides and writes; no other one may do so meanwhile.
            spool: the IDs to stage in `SessionTransactions.staged` first.
        """

    async def prepare(self) -> None:
        """See `Warehouse.prepare`."""
        # There may be no table to lock yet; every statement can run twice.
        await self._run(lambda tables, _: tables.prepare(SESSIONS), lock=False)

    async def receipts(self, site_id: str, window: Window) -> list[Receipt]:
        """See `Warehouse.receipts`."""
        return await self._run(lambda tables, _: tables.read_receipts(site_id, window), lock=False)

    async def job_records(self, site_id: str, window: Window) -> list[JobRecord]:
        """See `Warehouse.job_records`."""
        return await self._run(
            lambda tables, _: tables.read_job_records(site_id, window), lock=False
        )

    async def claim(self, record: JobRecord, *, adopt_since: datetime) -> Claim:
        """See `Warehouse.claim`."""
        return await self._run(lambda tables, at: tables.claim(record, adopt_since, at))

    async def save_record(self, record: JobRecord) -> None:
        """See `Warehouse.save_record`."""
        await self._run(lambda tables, _: tables.save_record(record))

    async def publish(self, listing: VerifiedListing) -> PublishResult:
        """See `Warehouse.publish`."""
        return await self._run(lambda tables, at: tables.publish(listing, at), spool=listing.spool)

    async def _run(self, begin: Begin[T], *, lock: bool = True, spool: Spool | None = None) -> T:
        return await shield_in_thread(lambda: self._transact(begin, lock=lock, spool=spool))


@runtime_checkable
class SqlWarehouse(Warehouse, Protocol):
    """A warehouse that runs any steps over its tables: DuckDB and PostgreSQL.

    Profiles are computed in it and marks are kept in it, beside the verbs of `Warehouse`.
    """

    async def transact(self, work: Callable[[SessionTransactions], Steps[T]]) -> T:
        """Run the steps in one transaction. Only one such transaction runs at a time.

        In PostgreSQL loads publish meanwhile: two SELECTs of one transaction may see different
        versions of a partition.

        Raises:
            WarehouseError: see the tree in `prefect_wix.errors`.
        """

    async def read(self, work: Callable[[SessionTransactions], Steps[T]]) -> T:
        """Run steps of foreign SQL in a transaction that can only read the database's tables.

        In DuckDB it can access no file, extension or setting. In PostgreSQL it is READ ONLY, and
        the rights of the user limit which functions of the server it can call.

        Raises:
            WarehouseUnsupportedError: the database can't be kept from more than that: MotherDuck.
            WarehouseError: see the tree in `prefect_wix.errors`.
        """


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
