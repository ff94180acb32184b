"""Parquet files in a folder or an object store, one file per partition, written by DuckDB.

    wix_session_ids/<site>/<segment>/<day>.parquet              session IDs; receipt in the metadata
    wix_session_jobs/<site>/<segment>/<day>/<record ID>.json    job records
    wix_session_schema/version.json                             version of this layout

A file contains its receipt, so one write replaces both. Read all sessions with
``wix_session_ids/*/*/*.parquet``: the files have all columns. Folders are not named ``site_id=…``,
because readers would convert the site ``0123`` to a number. Reading and writing files is in
`stores`. The warehouse's clock is that of this machine.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from datetime import UTC, date, datetime
from hashlib import blake2b
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from pydantic import BaseModel, TypeAdapter, ValidationError

from prefect_wix.errors import WarehouseAccessError, WarehouseSchemaError, import_extra
from prefect_wix.planning.partitions import (
    CONFIRMING,
    UNCONFIRMED,
    JobRecord,
    JobState,
    Partition,
    Receipt,
)
from prefect_wix.planning.windows import Window
from prefect_wix.spool.shield import shield_in_thread
from prefect_wix.warehouse.decisions import (
    PartitionContents,
    closed_record,
    decide_claim,
    decide_publish,
    new_receipt,
)
from prefect_wix.warehouse.duckdb_connection import MEMORY_LIMIT, stage
from prefect_wix.warehouse.interface import (
    BUSY_TIMEOUT_SECONDS,
    Claim,
    PublishResult,
    VerifiedListing,
    driver_text,
)
from prefect_wix.warehouse.schema import RENAMED, check_not_newer
from prefect_wix.warehouse.stores import Store
from prefect_wix.warehouse.transactions import STAGED

T = TypeVar("T")

_VERSION = 2
_VERSION_FILE = "wix_session_schema/version.json"
_JOBS = "wix_session_jobs"
_OLD_JOBS = "wix_session_asks"
_OWN_FILE = re.compile(
    r"wix_session_ids(/[^/]+){2}/[0-9]{4}(-[0-9]{2}){2}\.parquet|"
    rf"{_JOBS}(/[^/]+){{2}}/[0-9]{{4}}(-[0-9]{{2}}){{2}}/[\w-]+\.json"
)
_RECEIPT = "prefect_wix_receipt"
_RECEIPTS = TypeAdapter(Receipt)
_RECORDS = TypeAdapter(JobRecord)
_LONGEST_NAME = 150


class _VersionFile(BaseModel, title=_VERSION_FILE):
    version: int


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
        await self._run(self._prepare, lock=_VERSION_FILE)

    async def receipts(self, site_id: str, window: Window) -> list[Receipt]:
        """See `Warehouse.receipts`."""
        return await self._run(lambda: self._receipts_of(site_id, window))

    async def job_records(self, site_id: str, window: Window) -> list[JobRecord]:
        """See `Warehouse.job_records`."""
        return await self._run(lambda: self._job_records_of(site_id, window))

    async def claim(self, record: JobRecord, *, adopt_since: datetime) -> Claim:
        """See `Warehouse.claim`."""
        lock = _lock_name(record.partition)
        return await self._run(lambda: self._claim(record, adopt_since), lock)

    async def save_record(self, record: JobRecord) -> None:
        """See `Warehouse.save_record`."""
        await self._run(lambda: self._save_record(record))

    async def publish(self, listing: VerifiedListing) -> PublishResult:
        """See `Warehouse.publish`."""
        lock = _lock_name(listing.record.partition)
        return await self._run(lambda: self._publish(listing), lock)

    async def _run(self, work: Callable[[], T], lock: str | None = None) -> T:
        def locked() -> T:
            held = self._store.locked(lock, self._busy_timeout) if lock else nullcontext()
            with self._errors(), held:
                return work()

        return await shield_in_thread(locked)

    # -- operations ----------------------------------------------------------------------------

    def _prepare(self) -> None:
        found = _VERSION_FILE in self._store.files("wix_session_schema")
        text = self._store.read([_VERSION_FILE])[0] if found else b'{"version": 0}'
        version = _VersionFile.model_validate_json(text).version
        check_not_newer(self._store.name, version, _VERSION, other="folder")
        if version < _VERSION:
            self._migrate_to_2()

    def _migrate_to_2(self) -> None:
        """Move the job records, if any, to the folder of this version. Safe to run again.

        Receipts stay unchanged in their files; `_parse_receipt` reads both versions.
        """
        old = self._store.files(_OLD_JOBS)
        for path, text in zip(old, self._store.read(old), strict=True):
            record = json.loads(text)
            # Version 1 derived some partitions from others, without a job.
            if not record.get("derived_from"):
                self._put_text(json.dumps(_renamed(record)), path.replace(_OLD_JOBS, _JOBS, 1))
        self._store.delete(old)
        self._put_text(json.dumps({"version": _VERSION}), _VERSION_FILE)

    def _receipts_of(self, site_id: str, window: Window) -> list[Receipt]:
        paths = self._files(f"wix_session_ids/{_name(site_id)}")
        paths = [path for path in paths if window.start <= _day(path) < window.end]
        with self._connection() as connection:
            receipts = self._read_receipts(connection, paths)
        return sorted(receipts, key=lambda one: (one.partition.day, one.partition.segment))

    def _job_records_of(self, site_id: str, window: Window) -> list[JobRecord]:
        paths = self._files(f"{_JOBS}/{_name(site_id)}")
        paths = [path for path in paths if window.start <= _day(_folder(path)) < window.end]
        records = (_RECORDS.validate_json(text) for text in self._store.read(paths))
        return sorted(records, key=lambda record: record.intended_at)

    def _claim(self, record: JobRecord, adopt_since: datetime) -> Claim:
        self._close_landed_records(record.partition)
        records = self._records(record.partition)
        claim, to_save = decide_claim(record, records, adopt_since, datetime.now(UTC))
        for one in to_save:
            self._save_record(one)
        return claim

    def _close_landed_records(self, partition: Partition) -> None:
        """Close the job record of a process that was killed after it replaced the file."""
        with self._connection() as connection:
            receipts = self._read_receipts(connection, self._existing_file(partition))
        for receipt in receipts:
            job = (JobState.SUBMITTED, receipt.job_id, receipt.submitted_at)
            for record in self._records(partition):
                if (record.state, record.job_id, record.submitted_at) == job:
                    closed = closed_record(record, JobState.LANDED, receipt, receipt.landed_at)
                    self._save_record(closed)

    def _files(self, folder: str) -> list[str]:
        """The paths of our own files below the folder, without foreign ones such as .DS_Store."""
        return [path for path in self._store.files(folder) if _OWN_FILE.fullmatch(path)]

    def _existing_file(self, partition: Partition) -> list[str]:
        """The path of the partition's file; empty if there is none."""
        path = _file(partition)
        return [path] if path in self._store.files(_folder(path)) else []

    def _save_record(self, record: JobRecord) -> None:
        path = f"{_JOBS}/{_path(record.partition)}/{record.record_id}.json"
        self._put_text(_RECORDS.dump_json(record).decode(), path)

    def _publish(self, listing: VerifiedListing) -> PublishResult:
        record, landed_at = listing.record, datetime.now(UTC)
        with self._connection(temp_directory=str(listing.spool.folder)) as connection:
            stage(connection, listing.spool)
            contents = self._read_contents(connection, record.partition)
            result = decide_publish(listing, contents, landed_at)
            if result.state is JobState.LANDED:
                self._replace(connection, new_receipt(listing, result, landed_at))
        # Two runs may publish one job; the first has recorded the counts.
        records = self._records(record.partition)
        if record.record_id not in {one.record_id for one in records if one.state in CONFIRMING}:
            self._save_record(closed_record(record, result.state, result, landed_at))
        return result

    # -- files ---------------------------------------------------------------------------------

    def _read_contents(self, connection: Any, partition: Partition) -> PartitionContents:
        paths, staged = self._existing_file(partition), _count(connection, f"FROM {STAGED}")
        if not paths:
            return PartitionContents(0, kept=0, staged=staged, receipt=None)
        address = _literal(self._store.address(paths[0]))
        ids = f"FROM read_parquet({address}, hive_partitioning = false)"
        return PartitionContents(
            sessions=_count(connection, ids),
            kept=_count(connection, f"FROM {STAGED} WHERE session_id IN (SELECT session_id {ids})"),
            staged=staged,
            receipt=next(iter(self._read_receipts(connection, paths)), None),
        )

    def _replace(self, connection: Any, receipt: Receipt) -> None:
        site_id, day, segment = receipt.partition.key
        metadata = _literal(_RECEIPTS.dump_json(receipt).decode())
        with self._store.new_file(_file(receipt.partition)) as draft:
            connection.execute(
                f"COPY (SELECT {_literal(site_id)} AS site_id, DATE {_literal(str(day))} AS "
                f"session_date, {_literal(segment)} AS segment, session_id, "
                f"{_literal(receipt.job_id)} AS job_id FROM {STAGED}) TO {_literal(str(draft))} "
                f"(FORMAT parquet, KV_METADATA {{{_RECEIPT}: {metadata}}})"
            )

    def _read_receipts(self, connection: Any, paths: list[str]) -> list[Receipt]:
        if not paths:
            return []
        rows = connection.execute(
            "SELECT decode(value) FROM parquet_kv_metadata($1) WHERE decode(key) = $2",
            [[self._store.address(path) for path in paths], _RECEIPT],
        ).fetchall()
        return [self._with_confirmed_at(_parse_receipt(text)) for (text,) in rows]

    def _with_confirmed_at(self, receipt: Receipt) -> Receipt:
        """The receipt with the submit time of the last job that confirmed it, per job records.

        A job that ended before the content was published had listed other content.
        """
        times = [
            record.submitted_at
            for record in self._records(receipt.partition)
            if record.state is JobState.UNCHANGED
            and record.partition == receipt.partition
            and record.submitted_at
            and record.ended_at
            and record.ended_at >= receipt.landed_at
        ]
        return replace(receipt, confirmed_at=max([receipt.submitted_at, *times]))

    def _records(self, partition: Partition) -> list[JobRecord]:
        paths = self._files(f"{_JOBS}/{_path(partition)}")
        return [_RECORDS.validate_json(text) for text in self._store.read(paths)]

    def _put_text(self, text: str, path: str) -> None:
        with self._store.new_file(path) as draft:
            draft.write_text(text, encoding="utf-8")

    # -- DuckDB --------------------------------------------------------------------------------

    @contextmanager
    def _connection(self, **config: str) -> Iterator[Any]:
        with self._duckdb.connect(config={"memory_limit": MEMORY_LIMIT, **config}) as connection:
            self._store.attach(connection)
            yield connection

    @contextmanager
    def _errors(self) -> Iterator[None]:
        duckdb = self._duckdb
        try:
            yield
        except (
            *(duckdb.BinderException, duckdb.InvalidInputException, ValidationError),
            *(json.JSONDecodeError, KeyError),
        ) as error:
            raise WarehouseSchemaError(
                f"A file in {self._store.name} has a format that this version does not write. "
                "Nothing was changed. Move it away and load its day again. "
                f"Cause: {driver_text(error)}",
                affects_all=False,
            ) from error
        except (duckdb.Error, OSError) as error:
            raise WarehouseAccessError(
                f"{self._store.name} can't be read or written: {driver_text(error)}. No partition "
                "was left incomplete. Check the path, the rights and the free space, then run "
                "again.",
                affects_all=False,
            ) from error


def _renamed(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of a version 1 file, with the names of this version."""
    return {RENAMED.get(name, name): value for name, value in fields.items()}


def _parse_receipt(text: str) -> Receipt:
    fields = _renamed(json.loads(text))
    if fields.pop("derived_from", None):
        fields["submitted_at"] = UNCONFIRMED
    return _RECEIPTS.validate_python(fields)


def _lock_name(partition: Partition) -> str:
    return f"{partition.site_id} {partition.segment}"


def _path(partition: Partition) -> str:
    return f"{_name(partition.site_id)}/{_name(partition.segment)}/{partition.day}"


def _folder(path: str) -> str:
    return path.rpartition("/")[0]


def _file(partition: Partition) -> str:
    return f"wix_session_ids/{_path(partition)}.parquet"


def _name(value: str) -> str:
    """A site or segment as a file name, unique for each value."""
    name = quote(value, safe="").replace(".", "%2E")
    if len(name) <= _LONGEST_NAME:
        return name
    # File systems allow names of 255 bytes. An encoded value never contains a plus.
    return f"{name[:_LONGEST_NAME]}+{blake2b(value.encode(), digest_size=8).hexdigest()}"


def _day(path: str) -> date:
    return date.fromisoformat(Path(path).stem)


def _count(connection: Any, source: str) -> int:
    return int(connection.execute(f"SELECT count(*) {source}").fetchone()[0])


def _literal(value: str) -> str:
    quoted = value.replace("'", "''")
    return f"'{quoted}'"
