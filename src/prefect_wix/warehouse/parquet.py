"""Parquet files in a folder or an object store, one for each partition, written by DuckDB.

    wix_session_ids/<site>/<segment>/<day>.parquet       ids, and the receipt in its metadata
    wix_session_asks/<site>/<segment>/<day>/<ask>.json   the ledger of jobs
    wix_session_schema/version.json                      the version of all this

Since a receipt is in the file that it is for, the two are replaced as one. Read them all with
``wix_session_ids/*/*/*.parquet``: the columns are in the files, and the folders only keep them
apart. (Folders named ``site_id=…`` would make readers turn a site ``0123`` into a number.)
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, date, datetime
from hashlib import blake2b
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from pydantic import TypeAdapter, ValidationError

from prefect_wix.errors import WarehouseAccessError, WarehouseSchemaError
from prefect_wix.extras import import_extra
from prefect_wix.planning.partitions import ANSWERED, Ask, AskState, Partition, Receipt
from prefect_wix.planning.windows import Window
from prefect_wix.spool.id_spool import Spool
from prefect_wix.spool.shield import finish_in_thread
from prefect_wix.warehouse.connection import stage
from prefect_wix.warehouse.decisions import (
    OPEN,
    Held,
    choose_claim,
    choose_landing,
    ended_by,
    landed_by,
    new_receipt,
)
from prefect_wix.warehouse.interface import Answer, Claim, Landed
from prefect_wix.warehouse.stores import Store
from prefect_wix.warehouse.transactions import STAGED

__all__ = ["ParquetWarehouse"]

T = TypeVar("T")

BUSY_TIMEOUT_SECONDS = 60.0
_VERSION = 1
_VERSION_FILE = "wix_session_schema/version.json"
_RECEIPT = "prefect_wix_receipt"
_RECEIPTS = TypeAdapter(Receipt)
_ASKS = TypeAdapter(Ask)
# Room for a day of ten million ids; DuckDB spills what does not fit.
_MEMORY_LIMIT = "512MB"
_LONGEST_NAME = 150


class ParquetWarehouse:
    """Sessions in Parquet files.

    Args:
        store: where the files are.
        busy_timeout_seconds: how long to wait for a partition that another process is landing.
    """

    def __init__(self, store: Store, *, busy_timeout_seconds: float = BUSY_TIMEOUT_SECONDS) -> None:
        self._duckdb = import_extra("duckdb", extra="duckdb", what_for="A Parquet warehouse")
        self._store = store
        self._busy_timeout = busy_timeout_seconds

    async def prepare(self) -> None:
        """See `Warehouse.prepare`."""
        await self._run(self._prepare)

    async def receipts(self, site_id: str, window: Window) -> list[Receipt]:
        """See `Warehouse.receipts`."""
        return await self._run(lambda: self._receipts_of(site_id, window))

    async def history(self, site_id: str, window: Window) -> list[Ask]:
        """See `Warehouse.history`."""
        return await self._run(lambda: self._history_of(site_id, window))

    async def claim(self, ask: Ask, *, adopt_since: datetime) -> Claim:
        """See `Warehouse.claim`."""
        return await self._run(lambda: self._claim(ask, adopt_since), ask.partition)

    async def record(self, ask: Ask) -> None:
        """See `Warehouse.record`."""
        await self._run(lambda: self._record(ask))

    async def publish(self, answer: Answer) -> Landed:
        """See `Warehouse.publish`."""
        return await self._run(lambda: self._publish(answer), answer.ask.partition)

    async def _run(self, work: Callable[[], T], lock: Partition | None = None) -> T:
        def locked() -> T:
            with self._errors():
                if lock is None:
                    return work()
                with self._store.locked(f"{lock.site_id} {lock.segment}", self._busy_timeout):
                    return work()

        return await finish_in_thread(locked)

    # -- the verbs -----------------------------------------------------------------------------

    def _prepare(self) -> None:
        if not self._store.files("wix_session_schema"):
            self._put_text(json.dumps({"version": _VERSION}), _VERSION_FILE)
        version = json.loads(self._store.read([_VERSION_FILE])[0])["version"]
        if version > _VERSION:
            raise WarehouseSchemaError(
                f"{self._store.name} is of version {version}, made by a newer prefect-wix; this "
                f"one knows {_VERSION}. Nothing was written. Upgrade prefect-wix, or name another "
                "place."
            )

    def _receipts_of(self, site_id: str, window: Window) -> list[Receipt]:
        paths = self._store.files(f"wix_session_ids/{_name(site_id)}")
        paths = [path for path in paths if window.start <= _day(path) < window.end]
        with self._connection() as connection:
            receipts = self._read_receipts(connection, paths)
        return sorted(receipts, key=lambda one: (one.partition.day, one.partition.segment))

    def _history_of(self, site_id: str, window: Window) -> list[Ask]:
        paths = self._store.files(f"wix_session_asks/{_name(site_id)}")
        paths = [path for path in paths if window.start <= _day(_folder(path)) < window.end]
        asks = (_ASKS.validate_json(text) for text in self._store.read(paths))
        return sorted(asks, key=lambda ask: ask.intended_at)

    def _claim(self, ask: Ask, adopt_since: datetime) -> Claim:
        self._close_what_landed(ask.partition)
        claim, to_record = choose_claim(ask, self._open_asks(ask.partition), adopt_since)
        for one in to_record:
            self._record(one)
        return claim

    def _close_what_landed(self, partition: Partition) -> None:
        """Write down what a process that was killed between file and ledger had landed."""
        with self._connection() as connection:
            receipts = self._read_receipts(connection, self._there(partition))
        for receipt in receipts:
            for ask in self._asks(partition):
                job = (ask.job_id, ask.submitted_at)
                if ask.state is AskState.SUBMITTED and job == (receipt.job_id, receipt.asked_at):
                    self._record(landed_by(ask, receipt))

    def _there(self, partition: Partition) -> list[str]:
        """The partition's file, if it has one."""
        path = _file(partition)
        return [path] if path in self._store.files(_folder(path)) else []

    def _record(self, ask: Ask) -> None:
        path = f"wix_session_asks/{_where(ask.partition)}/{ask.ask_id}.json"
        self._put_text(_ASKS.dump_json(ask).decode(), path)

    def _publish(self, answer: Answer) -> Landed:
        landed_at = datetime.now(UTC)
        with self._connection(answer.spool) as connection:
            landed = choose_landing(answer, self._held(connection, answer.ask.partition), landed_at)
            if landed.state is AskState.LANDED:
                self._replace(connection, new_receipt(answer, landed, landed_at))
        # Two runs may land one job; the first has written what changed.
        if not self._is_answered(answer.ask):
            self._record(ended_by(answer.ask, landed, landed_at))
        return landed

    def _open_asks(self, partition: Partition) -> list[Ask]:
        return [one for one in self._asks(partition) if one.state in OPEN]

    def _is_answered(self, ask: Ask) -> bool:
        asks = (one for one in self._asks(ask.partition) if one.ask_id == ask.ask_id)
        return any(one.state in ANSWERED for one in asks)

    # -- files ---------------------------------------------------------------------------------

    def _held(self, connection: Any, partition: Partition) -> Held:
        path = _file(partition)
        staged = _count(connection, f"FROM {STAGED}")
        if not self._there(partition):
            return Held(0, stayed=0, staged=staged, receipt=None)
        ids = f"FROM read_parquet({_text(self._store.address(path))})"
        receipts = self._read_receipts(connection, [path])
        return Held(
            sessions=_count(connection, ids),
            stayed=_count(
                connection, f"FROM {STAGED} WHERE session_id IN (SELECT session_id {ids})"
            ),
            staged=staged,
            receipt=receipts[0] if receipts else None,
        )

    def _replace(self, connection: Any, receipt: Receipt) -> None:
        site_id, day, segment = receipt.partition.key
        proof = _text(_RECEIPTS.dump_json(receipt).decode())
        with self._store.draft() as draft:
            connection.execute(
                f"COPY (SELECT {_text(site_id)} AS site_id, DATE {_text(str(day))} AS "
                f"session_date, {_text(segment)} AS segment, session_id, "
                f"{_text(receipt.job_id)} AS job_id FROM {STAGED}) TO {_text(str(draft))} "
                f"(FORMAT parquet, KV_METADATA {{{_RECEIPT}: {proof}}})"
            )
            self._store.put(draft, _file(receipt.partition))

    def _read_receipts(self, connection: Any, paths: list[str]) -> list[Receipt]:
        if not paths:
            return []
        rows = connection.execute(
            "SELECT decode(value) FROM parquet_kv_metadata($1) WHERE decode(key) = $2",
            [[self._store.address(path) for path in paths], _RECEIPT],
        ).fetchall()
        return [self._confirmed(_RECEIPTS.validate_json(text)) for (text,) in rows]

    def _confirmed(self, receipt: Receipt) -> Receipt:
        """The receipt with the last job that confirmed it, which only the ledger knows."""
        times = [
            ask.submitted_at
            for ask in self._asks(receipt.partition)
            if ask.state in ANSWERED and ask.partition == receipt.partition and ask.submitted_at
        ]
        return replace(receipt, confirmed_at=max([receipt.asked_at, *times]))

    def _asks(self, partition: Partition) -> list[Ask]:
        paths = self._store.files(f"wix_session_asks/{_where(partition)}")
        return [_ASKS.validate_json(text) for text in self._store.read(paths)]

    def _put_text(self, text: str, path: str) -> None:
        with self._store.draft() as draft:
            draft.write_text(text, encoding="utf-8")
            self._store.put(draft, path)

    # -- DuckDB --------------------------------------------------------------------------------

    @contextmanager
    def _connection(self, spool: Spool | None = None) -> Iterator[Any]:
        config = {"memory_limit": _MEMORY_LIMIT}
        if spool is not None:
            config["temp_directory"] = str(spool.folder)
        with self._duckdb.connect(config=config) as connection:
            self._store.attach(connection)
            if spool is not None:
                stage(connection, spool)
            yield connection

    @contextmanager
    def _errors(self) -> Iterator[None]:
        duckdb = self._duckdb
        try:
            yield
        except (duckdb.BinderException, duckdb.InvalidInputException, ValidationError) as error:
            raise WarehouseSchemaError(
                f"A file in {self._store.name} is not one that this version writes; nothing was "
                f"written. Move it away and load its day anew. It says: {error}"
            ) from error
        except (duckdb.Error, OSError) as error:
            raise WarehouseAccessError(
                f"{self._store.name} can't be read or written; it holds what it held before. "
                f"Check the path, the rights and the free space. It says: {error}"
            ) from error


def _where(partition: Partition) -> str:
    return f"{_name(partition.site_id)}/{_name(partition.segment)}/{partition.day}"


def _folder(path: str) -> str:
    return path.rpartition("/")[0]


def _file(partition: Partition) -> str:
    return f"wix_session_ids/{_where(partition)}.parquet"


def _name(value: str) -> str:
    """A value as one name in a path; no two values have the same."""
    name = quote(value, safe="").replace(".", "%2E")
    if len(name) <= _LONGEST_NAME:
        return name
    # A file system takes names of 255 bytes. No encoded value has a plus in it.
    return f"{name[:_LONGEST_NAME]}+{blake2b(value.encode(), digest_size=8).hexdigest()}"


def _day(path: str) -> date:
    return date.fromisoformat(Path(path).stem)


def _count(connection: Any, of: str) -> int:
    return int(connection.execute(f"SELECT count(*) {of}").fetchone()[0])


def _text(value: str) -> str:
    quoted = value.replace("'", "''")
    return f"'{quoted}'"
