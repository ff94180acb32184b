"""Read which sessions were added and removed, for a consumer that keeps up with the warehouse.

A consumer stores a token, which holds the version that it has read of each partition. Unlike a
time, a version misses no change when loads commit in another order than they began.
"""

from __future__ import annotations

import json
import zlib
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import partial
from typing import Literal

from prefect_wix.warehouse.interface import Warehouse
from prefect_wix.warehouse.parquet import Key, ParquetWarehouse, Read
from prefect_wix.warehouse.schema import RECEIPTS, Statement, Steps
from prefect_wix.warehouse.transactions import SessionTransactions, sql_warehouse

BATCH_SIZE = 10_000
"""The most changes in one batch."""
_COLUMNS = "site_id, session_date, segment, session_id, change, changed_at, job_id, version"
_Reader = Callable[[Key, int], AbstractAsyncContextManager[Read["list[SessionChange]"]]]


@dataclass(frozen=True)
class SessionChange:
    """One session ID that was added to a partition or removed from it."""

    site_id: str
    session_date: date
    segment: str
    session_id: str
    change: Literal["added", "removed"]
    changed_at: datetime
    """When the change was published, by the warehouse's clock."""
    job_id: str
    """The job whose result brought the change."""
    version: int
    """The version of the partition that has the change first."""

    @property
    def idempotency_key(self) -> str:
        """A text that only this change has, to send it at least once and count it once."""
        parts = self.site_id, str(self.session_date), self.segment, self.session_id, self.version
        return json.dumps(parts)


@dataclass(frozen=True)
class ChangeBatch:
    """Consecutive changes of one partition, in the order of versions."""

    changes: list[SessionChange]
    token: str
    """Where to go on after these changes are processed."""


async def read_session_changes(
    warehouse: Warehouse,
    *,
    since: str | None = None,
    site_id: str | None = None,
    segment: str | None = None,
) -> AsyncIterator[ChangeBatch]:
    """Yield the changes since a token, in batches of at most 10,000.

    Store the token of a batch once its changes are processed. After a crash some changes come
    again (see `SessionChange.idempotency_key`), and none is missed.

    Args:
        warehouse: the warehouse, such as ``block.get_warehouse()``: DuckDB, PostgreSQL or Parquet
            files.
        since: the last stored token of this consumer; None for all changes.
        site_id: only this site; None for all sites.
        segment: only this segment, by its key; None for all segments.

    Raises:
        ValueError: the token is not one of this function.
        WarehouseUnsupportedError: another engine. Read the view ``wix_session_changes`` there.
        WarehouseError: see the tree in `prefect_wix.errors`.
    """
    known = _parse_token(since) if since else {}
    current, reader = await _open(warehouse, {"site_id": site_id, "segment": segment})
    for key, version in sorted(current.items()):
        if known.get(key, 0) >= version:
            continue
        after = (known.get(key, 0) + 1, "", "")
        async with reader(key, known.get(key, 0)) as read:
            while known.get(key, 0) < version:
                rows = await read(partial(_read_page, key=key, version=version, after=after))
                page = rows[:BATCH_SIZE]
                if len(page) == len(rows):
                    known[key] = version
                else:
                    last = page[-1]
                    known[key] = last.version - 1
                    after = (last.version, last.session_id, last.change)
                if page:
                    yield ChangeBatch(page, _make_token(known))


async def _open(
    warehouse: Warehouse, filters: dict[str, str | None]
) -> tuple[dict[Key, int], _Reader]:
    """The version of each partition, and what opens the changes of one after a version."""
    if isinstance(warehouse, ParquetWarehouse):
        return await warehouse.versions(**filters), warehouse.changes
    engine = sql_warehouse(warehouse, what_for="Session changes")
    versions = await engine.read(lambda tables: _read_versions(tables, filters))
    return versions, lambda *_: nullcontext(engine.read)


def _read_versions(
    tables: SessionTransactions, filters: Mapping[str, str | None]
) -> Steps[dict[Key, int]]:
    given = {name: value for name, value in filters.items() if value is not None}
    where = " AND ".join(f"{name} = ${number}" for number, name in enumerate(given, start=1))
    rows = yield Statement(
        "SELECT site_id, session_date, segment, COALESCE(version, 1) "
        f"FROM {tables.name(RECEIPTS.name)} WHERE {where or 'true'}",
        tuple(given.values()),
    )
    return {(site_id, day, segment): version for site_id, day, segment, version in rows}


def _read_page(
    tables: SessionTransactions, key: Key, version: int, after: tuple[int, str, str]
) -> Steps[list[SessionChange]]:
    """The changes after the last ones, and one more if there are more than a batch."""
    rows = yield Statement(
        f"SELECT {_COLUMNS} FROM {tables.name('wix_session_changes')} WHERE site_id = $1 "
        "AND session_date = $2 AND segment = $3 AND version <= $4 "
        "AND (version, session_id, change) > ($5, $6, $7) "
        f"ORDER BY version, session_id, change LIMIT {BATCH_SIZE + 1}",
        (*key, version, *after),
    )
    return [SessionChange(*row) for row in rows]


def _make_token(known: Mapping[Key, int]) -> str:
    """The versions by site, segment and consecutive days: compressed, a byte or two for each."""
    days_of: dict[tuple[str, str], dict[date, int]] = {}
    for (site_id, day, segment), version in known.items():
        days_of.setdefault((site_id, segment), {})[day] = version
    series = []
    for segment_key, versions in days_of.items():
        first, days = min(versions), (max(versions) - min(versions)).days + 1
        each = [versions.get(first + timedelta(number), 0) for number in range(days)]
        series.append((*segment_key, str(first), each))
    return b64encode(zlib.compress(json.dumps(series).encode(), 9)).decode()


def _parse_token(token: str) -> dict[Key, int]:
    try:
        series = json.loads(zlib.decompress(b64decode(token, validate=True)))
        return {
            (site_id, date.fromisoformat(first) + timedelta(number), segment): version
            for site_id, segment, first, versions in series
            for number, version in enumerate(versions)
            if version
        }
    except (ValueError, TypeError, zlib.error):
        raise ValueError(
            "The token is not one of read_session_changes. Give the last stored one, or None to "
            "read all changes."
        ) from None
