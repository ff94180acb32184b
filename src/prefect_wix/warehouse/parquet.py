"""Parquet files in a folder or an object store, one file per partition, written by DuckDB.

    wix_session_ids/<site>/<segment>/<day>.parquet            session IDs; receipt in the metadata
    wix_session_removals/<site>/<segment>/<day>-….parquet     IDs that one version removed
    wix_session_jobs/<site>/<segment>/<day>.json              job records of the partition
    wix_session_schema/version.json                           version of this layout

A file contains its receipt, so one write replaces both. A process reads one version of a file,
decides, and replaces that version and no other; if another process was quicker, it decides again.
So a newer result, or its confirmation, is never replaced by an older one. Removals are written
first, and count only if the metadata of the partition's file names them: a process that is killed,
or was not the quickest, leaves removals that do not count.

Read all sessions with ``wix_session_ids/*/*/*.parquet``: the files have all columns. Folders are
not named ``site_id=…``, because readers would convert the site ``0123`` to a number. Reading and
writing files is in `stores`. The warehouse's clock is that of this machine.
"""

from __future__ import annotations

import json
import random
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from hashlib import blake2b
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote
from uuid import uuid4

from filelock import Timeout
from pydantic import BaseModel, TypeAdapter, ValidationError

from prefect_wix.errors import (
    WarehouseAccessError,
    WarehouseBusyError,
    WarehouseSchemaError,
    import_extra,
)
from prefect_wix.planning.partitions import (
    CONFIRMING,
    JobRecord,
    JobState,
    Partition,
    Receipt,
)
from prefect_wix.planning.windows import Window
from prefect_wix.spool.files import literal_path, temporary_folder
from prefect_wix.spool.shield import shield_in_thread
from prefect_wix.warehouse.decisions import (
    PartitionContents,
    closed_record,
    decide_claim,
    decide_publish,
    new_receipt,
)
from prefect_wix.warehouse.duckdb_connection import stage
from prefect_wix.warehouse.interface import (
    BUSY_TIMEOUT_SECONDS,
    Claim,
    PublishResult,
    VerifiedListing,
    driver_text,
)
from prefect_wix.warehouse.schema import (
    IDS,
    RECEIPTS,
    REMOVALS,
    SESSIONS,
    Steps,
    check_not_newer,
    drive,
)
from prefect_wix.warehouse.stores import Store, error_text
from prefect_wix.warehouse.transactions import STAGED, SessionTransactions

T = TypeVar("T")
Key = tuple[str, date, str]
"""See `Partition.key`."""
Read = Callable[[Callable[[SessionTransactions], Steps[T]]], Awaitable[T]]
"""See `SqlWarehouse.read`."""

_VERSION = 4
_VERSION_TEXT = json.dumps({"version": _VERSION})
_VERSION_FILE = "wix_session_schema/version.json"
_IDS = "wix_session_ids"
_JOBS = "wix_session_jobs"
_DAY = "[0-9]{4}(-[0-9]{2}){2}"
_OWN_FILE = re.compile(rf"{_IDS}(/[^/]+){{2}}/{_DAY}\.parquet|{_JOBS}(/[^/]+){{2}}/{_DAY}\.json")
_RECEIPT = "prefect_wix_receipt"
_RECORDS = TypeAdapter(list[JobRecord])
_ALWAYS = Window(date.min, date.max, "UTC")
_IN_COPY = SessionTransactions("main")
_PARTITION = (
    "CAST($1 AS TEXT) AS site_id, CAST($2 AS DATE) AS session_date, CAST($3 AS TEXT) AS segment"
)
_LANDED_ROWS = (
    f"SELECT {_PARTITION}, s.session_id, COALESCE(i.job_id, $4) AS job_id, "
    "COALESCE(i.first_landed_at, CAST($5 AS TIMESTAMPTZ)) AS first_landed_at, "
    "COALESCE(i.added_version, CAST($6 AS BIGINT)) AS added_version "
    f"FROM {STAGED} s LEFT JOIN {IDS.name} i USING (session_id)"
)
_REMOVED_ROWS = (
    f"SELECT DISTINCT {_PARTITION}, session_id, first_landed_at, added_version, "
    "job_id AS added_job_id, CAST($5 AS TIMESTAMPTZ) AS removed_at, "
    "CAST($6 AS BIGINT) AS removed_version, CAST($4 AS TEXT) AS removed_job_id "
    f"FROM {IDS.name} ANTI JOIN {STAGED} USING (session_id)"
)
_LONGEST_NAME = 150
_FIRST_PAUSE_SECONDS = 0.02
_LONGEST_PAUSE_SECONDS = 1.0


class _VersionFile(BaseModel, title=_VERSION_FILE):
    version: int


@dataclass(frozen=True)
class _Receipt(Receipt):
    """A receipt with the paths of the removals that its partition has had."""

    removals: tuple[str, ...] = ()


_RECEIPTS = TypeAdapter(_Receipt)


class ParquetWarehouse:
    """Sessions in Parquet files.

    Args:
        store: the storage of the files.
    """

    def __init__(self, store: Store) -> None:
        self._duckdb = import_extra("duckdb", extra="duckdb", what_for="A Parquet warehouse")
        self._store = store
        self._busy_timeout = BUSY_TIMEOUT_SECONDS

    async def prepare(self) -> None:
        """See `Warehouse.prepare`."""
        await self._run(self._prepare)

    async def receipts(self, site_id: str, window: Window) -> list[Receipt]:
        """See `Warehouse.receipts`."""
        return await self._run(lambda: self._receipts_of(site_id, window))

    async def job_records(self, site_id: str, window: Window) -> list[JobRecord]:
        """See `Warehouse.job_records`."""
        return await self._run(lambda: self._job_records_of(site_id, window))

    async def claim(self, record: JobRecord, *, adopt_since: datetime) -> Claim:
        """See `Warehouse.claim`."""
        return await self._run(lambda: self._claim(record, adopt_since))

    async def save_record(self, record: JobRecord) -> None:
        """See `Warehouse.save_record`."""
        await self._run(lambda: self._save_record(record))

    async def publish(self, listing: VerifiedListing) -> PublishResult:
        """See `Warehouse.publish`."""
        return await self._run(lambda: self._publish(listing))

    async def versions(self, site_id: str | None, segment: str | None) -> dict[Key, int]:
        """The version of each partition of a site and segment; of all, if they are None."""
        return await self._run(lambda: self._versions(site_id, segment))

    @asynccontextmanager
    async def changes(self, key: Key, since: int) -> AsyncIterator[Read[Any]]:
        """A function that reads ``wix_session_changes`` of a copy of a partition.

        Args:
            key: the partition.
            since: the view has the changes after this version.
        """
        with temporary_folder() as folder, self._connection(temp_directory=str(folder)) as copy:
            await self._run(lambda: self._copy_changes(key, since, folder, copy))
            yield lambda work: self._run(lambda: _drive(copy, work(_IN_COPY)))

    async def _run(self, work: Callable[[], T]) -> T:
        def checked() -> T:
            with self._errors():
                return work()

        return await shield_in_thread(checked)

    # -- operations ----------------------------------------------------------------------------

    def _prepare(self) -> None:
        self._swap(_VERSION_FILE, self._check_version)
        with temporary_folder() as folder, suppress(Timeout):
            (draft := folder / "draft").write_text(_VERSION_TEXT, encoding="utf-8")
            # The file exists and has neither of these versions.
            for version in (None, self._store.no_version):
                if self._store.put(_VERSION_FILE, draft, version):
                    raise WarehouseAccessError(
                        f"{self._store.name} replaces objects without regard to the conditions "
                        "If-Match and If-None-Match, so two loads at once could lose sessions. "
                        "Use another store, or a version of this one that honours them."
                    )

    def _check_version(self, old: Path, new: Path) -> None:
        if not old.exists():
            new.write_text(_VERSION_TEXT, encoding="utf-8")
            return
        version = _VersionFile.model_validate_json(old.read_bytes()).version
        check_not_newer(self._store.name, version, _VERSION, other="folder")
        if version < _VERSION:
            raise WarehouseSchemaError(
                f"{self._store.name} has version {version}, made by an older prefect-wix; this one "
                f"writes version {_VERSION}. Nothing was changed. Its session IDs stay readable; "
                "give the warehouse another folder and load there."
            )

    def _receipts_of(self, site_id: str, window: Window) -> list[Receipt]:
        receipts = self._read_receipts(self._files(f"{_IDS}/{_name(site_id)}", window))
        return sorted(receipts, key=lambda one: (one.partition.day, one.partition.segment))

    def _read_receipts(self, files: Mapping[str, int]) -> list[_Receipt]:
        with temporary_folder() as folder, self._connection() as connection:
            return _read_receipts(connection, self._store.footers(files, folder))

    def _versions(self, site_id: str | None, segment: str | None) -> dict[Key, int]:
        files = self._files(_IDS if site_id is None else f"{_IDS}/{_name(site_id)}", _ALWAYS)
        names = {_name(segment)} if segment is not None else {path.split("/")[2] for path in files}
        files = {path: size for path, size in files.items() if path.split("/")[2] in names}
        return {one.partition.key: one.version or 1 for one in self._read_receipts(files)}

    def _copy_changes(self, key: Key, since: int, folder: Path, copy: Any) -> None:
        self._store.fetch(_file(key), file := folder / "file")
        receipt = _open(copy, file)
        for table in (RECEIPTS, REMOVALS):
            copy.execute(_IN_COPY.create_table(table).sql)
        row = f"INSERT INTO {RECEIPTS.name} (site_id, session_date, segment) VALUES ($1, $2, $3)"
        copy.execute(row, key)
        for path in receipt.removals if receipt else ():
            # A path ends with the version and a unique text.
            if int(path.split("-")[-2]) > since:
                self._store.fetch(path, removed := folder / "removed")
                copy.execute(f"INSERT INTO {REMOVALS.name} BY NAME FROM {_source(removed)}")
        _drive(copy, _IN_COPY.create_views_and_indexes(SESSIONS))

    def _job_records_of(self, site_id: str, window: Window) -> list[JobRecord]:
        texts = self._store.read(self._files(f"{_JOBS}/{_name(site_id)}", window))
        records = [record for text in texts for record in _RECORDS.validate_json(text)]
        return sorted(records, key=lambda record: record.intended_at)

    def _files(self, folder: str, window: Window) -> dict[str, int]:
        """Our own files of the window: path -> size, without foreign ones such as .DS_Store."""
        return {
            path: size
            for path, size in self._store.files(folder).items()
            if _OWN_FILE.fullmatch(path) and str(window.start) <= Path(path).stem < str(window.end)
        }

    def _claim(self, record: JobRecord, adopt_since: datetime) -> Claim:
        def change(records: dict[str, JobRecord]) -> Claim:
            if any(one.state is JobState.SUBMITTED for one in records.values()):
                self._close_landed_record(record.partition, records)
            claim, to_save = decide_claim(record, records.values(), adopt_since, datetime.now(UTC))
            records.update((one.record_id, one) for one in to_save)
            return claim

        return self._change_records(record.partition, change)

    def _close_landed_record(self, partition: Partition, records: dict[str, JobRecord]) -> None:
        """Close the job record of a process that was killed after it replaced the file."""
        with temporary_folder() as folder, self._connection() as connection:
            self._store.fetch(_file(partition.key), file := folder / "file")
            receipt = _open(connection, file)
        if receipt is not None:
            records.update((one.record_id, _landed(one, receipt)) for one in [*records.values()])

    def _save_record(self, record: JobRecord) -> None:
        def change(records: dict[str, JobRecord]) -> None:
            stored = records.get(record.record_id)
            # Two runs may wait for one job; the first that publishes it has recorded the counts.
            if stored is None or stored.state not in CONFIRMING:
                records[record.record_id] = record

        self._change_records(record.partition, change)

    def _publish(self, listing: VerifiedListing) -> PublishResult:
        record = listing.record

        def write(old: Path, new: Path) -> tuple[PublishResult, JobRecord]:
            receipt = _open(connection, old)
            at, contents = datetime.now(UTC), _read_contents(connection, receipt)
            result = decide_publish(listing, contents, at)
            closed = closed_record(record, result.state, result, at)
            if result.state is JobState.LANDED:
                removals = receipt.removals if receipt else ()
                receipt = _Receipt(**vars(new_receipt(listing, result, at)), removals=removals)
                self._write_landed(connection, receipt, new)
            elif result.state is JobState.UNCHANGED and receipt is not None:
                receipt = replace(receipt, confirmed_at=record.job.submitted_at)
                _write(connection, f"FROM {IDS.name}", (), receipt, new)
                closed = _landed(closed, receipt)
            return result, closed

        with self._connection(temp_directory=str(listing.spool.folder)) as connection:
            stage(connection, listing.spool)
            result, closed = self._swap(_file(record.partition.key), write)
        self._save_record(closed)
        return result

    def _write_landed(self, connection: Any, receipt: _Receipt, file: Path) -> None:
        key, version = receipt.partition.key, receipt.version
        values = *key, receipt.job_id, receipt.landed_at, version
        if receipt.removed:
            path = f"{REMOVALS.name}/{_path(key)}-{version}-{uuid4().hex}.parquet"
            receipt = replace(receipt, removals=(*receipt.removals, path))
            _write(connection, _REMOVED_ROWS, values, receipt, draft := file.with_name("removals"))
            self._store.put(path, draft, None)
        if _write(connection, _LANDED_ROWS, values, receipt, file) != receipt.sessions:
            # Rows were doubled by hand: all are written as new ones.
            _open(connection, file.with_name("none"))
            _write(connection, _LANDED_ROWS, values, receipt, file)

    # -- compare and swap ----------------------------------------------------------------------

    def _swap(self, path: str, write: Callable[[Path, Path], T]) -> T:
        """Replace the version of a file that `write` has read, and no other.

        Args:
            path: the file.
            write: reads a copy of one version, which does not exist if there is no file, and writes
                the new version, or nothing. Called again when the file was replaced meanwhile.

        Raises:
            WarehouseBusyError: other processes replaced or locked the file for all of the timeout.
        """
        deadline, longest = time.monotonic() + self._busy_timeout, _FIRST_PAUSE_SECONDS
        while time.monotonic() < deadline:
            with temporary_folder() as folder, suppress(Timeout):
                old, new = folder / "old", folder / "new"
                version = self._store.fetch(path, old)
                result = write(old, new)
                if not new.exists() or self._store.put(path, new, version):
                    return result
            # Many writers would spend their time on versions that others replace.
            time.sleep(random.uniform(0, longest))  # noqa: S311 - no secret
            longest = min(2 * longest, _LONGEST_PAUSE_SECONDS)
        raise WarehouseBusyError(
            f"Other processes replaced or locked {path} in {self._store.name} for all of "
            f"{self._busy_timeout:g} s. Nothing was written. End them or wait, then run again."
        )

    def _change_records(
        self, partition: Partition, change: Callable[[dict[str, JobRecord]], T]
    ) -> T:
        """Change the job records of a partition, by their ID."""

        def write(old: Path, new: Path) -> T:
            before = _RECORDS.validate_json(old.read_bytes()) if old.exists() else []
            records = {record.record_id: record for record in before}
            result = change(records)
            if [*records.values()] != before:
                new.write_bytes(_RECORDS.dump_json([*records.values()]))
            return result

        return self._swap(f"{_JOBS}/{_path(partition.key)}.json", write)

    # -- DuckDB --------------------------------------------------------------------------------

    @contextmanager
    def _connection(self, **config: str) -> Iterator[Any]:
        # A day of a million IDs stays under 500 MiB, with the copies that are up- and downloaded.
        # Each thread would need memory of its own.
        config |= {"memory_limit": "256MB", "preserve_insertion_order": "false", "threads": "1"}
        with self._duckdb.connect(config=config) as connection:
            yield connection

    @contextmanager
    def _errors(self) -> Iterator[None]:
        duckdb = self._duckdb
        try:
            yield
        except (duckdb.BinderException, duckdb.InvalidInputException, ValidationError) as error:
            raise WarehouseSchemaError(
                f"A file in {self._store.name} has a format that this version does not write. "
                "Nothing was changed. Move it away and load its day again. "
                f"Cause: {driver_text(error)}",
                affects_all=False,
            ) from error
        except (duckdb.Error, *self._store.errors) as error:
            raise WarehouseAccessError(
                f"{self._store.name} can't be read or written: {error_text(error)}. No "
                "partition was left incomplete. Check the path or bucket, the credentials, the "
                "rights and the free space, then run again.",
                affects_all=isinstance(error, self._store.denied),
            ) from (error if isinstance(error, OSError | duckdb.Error) else None)


# -- files -----------------------------------------------------------------------------------------


def _open(connection: Any, file: Path) -> _Receipt | None:
    """Make the rows of a partition's file the view ``wix_session_ids``; its receipt."""
    exists = file.exists()
    columns = (f"CAST(NULL AS {kind}) AS {name}" for name, kind in IDS.types.items())
    rows = f"{IDS.columns} FROM {_source(file)}" if exists else f"{', '.join(columns)} LIMIT 0"
    connection.execute(f"CREATE OR REPLACE VIEW {IDS.name} AS SELECT {rows}")
    return next(iter(_read_receipts(connection, [literal_path(file)] if exists else [])), None)


def _read_contents(connection: Any, receipt: Receipt | None) -> PartitionContents:
    ids = f"FROM {IDS.name}"
    sessions, kept, staged, newest = connection.execute(
        f"SELECT (SELECT count(*) {ids}), (SELECT count(*) FROM {STAGED} WHERE session_id IN "
        f"(SELECT session_id {ids})), (SELECT count(*) FROM {STAGED}), "
        f"(SELECT max(added_version) {ids})"
    ).fetchone()
    version = (receipt and receipt.version) or newest or 0
    return PartitionContents(sessions, kept, staged, receipt, version)


def _landed(record: JobRecord, receipt: Receipt) -> JobRecord:
    """The record as landed if the receipt is of its job; a kill left that unrecorded."""
    if (record.job_id, record.submitted_at) != (receipt.job_id, receipt.submitted_at):
        return record
    return closed_record(record, JobState.LANDED, receipt, receipt.landed_at)


def _write(
    connection: Any, rows: str, values: tuple[Any, ...], receipt: _Receipt, file: Path
) -> int:
    """Write the rows of a query, with the receipt in the file's metadata; the number of rows."""
    metadata = _literal(_RECEIPTS.dump_json(receipt).decode())
    options = f"(FORMAT parquet, KV_METADATA {{{_RECEIPT}: {metadata}}})"
    copy = f"COPY ({rows}) TO {_literal(str(file))} {options}"
    return int(connection.execute(copy, values).fetchone()[0])


def _read_receipts(connection: Any, paths: list[str]) -> list[_Receipt]:
    if not paths:
        return []
    rows = connection.execute(
        "SELECT decode(value) FROM parquet_kv_metadata($1) WHERE decode(key) = $2",
        [paths, _RECEIPT],
    ).fetchall()
    return [_RECEIPTS.validate_json(text) for (text,) in rows]


def _source(file: Path) -> str:
    return f"read_parquet({_literal(literal_path(file))}, hive_partitioning = false)"


def _path(key: Key) -> str:
    site_id, day, segment = key
    return f"{_name(site_id)}/{_name(segment)}/{day}"


def _file(key: Key) -> str:
    return f"{_IDS}/{_path(key)}.parquet"


def _name(value: str) -> str:
    """A site or segment as a file name, unique for each value."""
    name = quote(value, safe="").replace(".", "%2E")
    if len(name) <= _LONGEST_NAME:
        return name
    # File systems allow names of 255 bytes. An encoded value never contains a plus.
    return f"{name[:_LONGEST_NAME]}+{blake2b(value.encode(), digest_size=8).hexdigest()}"


def _literal(value: str) -> str:
    quoted = value.replace("'", "''")
    return f"'{quoted}'"


def _drive(connection: Any, steps: Steps[T]) -> T:
    return drive(steps, lambda one: connection.execute(one.sql, one.values).fetchall())
