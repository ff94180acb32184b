"""The command that erases session IDs: of a site, of days before a date, or in a list.

What has no session ID stays: receipts, job records and the totals of profiles. The receipt of an
erased day says that it is forgotten, so that no load submits a job for it by itself, and that the
versions of its contents go on if it is loaded again on demand.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress
from datetime import date, datetime
from functools import partial
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from prefect_wix.blocks.documents import find_block, find_server, read_settings
from prefect_wix.deployments.definitions import WAREHOUSE
from prefect_wix.errors import DeploymentError, WarehouseUnsupportedError
from prefect_wix.load.id_source import read_file
from prefect_wix.planning.partitions import FORGOTTEN
from prefect_wix.profiles.schema import COMPLETENESS, FLOWS, PROFILED_SESSIONS
from prefect_wix.spool.id_spool import Spool
from prefect_wix.warehouse.interface import Warehouse
from prefect_wix.warehouse.schema import IDS, MARKS, RECEIPTS, REMOVALS, Statement, Steps
from prefect_wix.warehouse.transactions import SessionTransactions, TableWarehouse

Conditions = list[tuple[str, str]]
"""A table, and the condition of the rows to change in it."""

_DAYS = "site_id = $1 AND session_date < $2"
_UPDATES = {
    RECEIPTS.name: f"digest = '{FORGOTTEN}', submitted_at = CURRENT_TIMESTAMP, "
    "landed_at = CURRENT_TIMESTAMP",
    COMPLETENESS.name: "examples = '[]'",
}
"""What is set in tables of which no row is deleted. A job that still runs was submitted before."""
_NOTES = {RECEIPTS.name: "marked as forgotten", COMPLETENESS.name: "without examples"}


def forget(
    *,
    site: str | None = None,
    before: date | None = None,
    session_id: Path | None = None,
    yes: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Erase session IDs from the warehouse, or say what would be erased.

    Erases what meets all given options from the landed sessions, their removals, the profiles and
    the marks. Counts stay. A forgotten day is loaded again only by a load with refresh=all.
    The warehouse is that of the block on the Prefect server or, where none is saved, of the
    environment and .env.

    Args:
        site: Only this site; without it, all sites in the warehouse.
        before: Only local days before this one, such as 2026-01-31.
        session_id: Only the IDs in this file: one per line (.txt), or .csv, .jsonl or .parquet
            with a column session_id. A load of their days adds them again while Wix lists them.
        yes: Erase. Without it, only the numbers of rows are shown.
    """
    if site is None and before is None and session_id is None:
        raise ValueError("Set --site, --before or --session-id. Nothing was erased.")
    with Spool() as spool:
        if session_id is not None:
            read_file(session_id, spool)
        ids = spool if session_id is not None else None
        counts = asyncio.run(_forget(site, before or date.max, ids, yes=yes))
    result = "Erased:" if yes else "Nothing was erased. Run it again with --yes to erase:"
    print(result if counts.total() else "Nothing in the warehouse matches; nothing was erased.")  # noqa: T201
    for table, rows in counts.items():
        print(f"{rows:>14,}  {table} {_NOTES.get(table, '')}".rstrip())  # noqa: T201


async def _forget(
    site_id: str | None, before: date, ids: Spool | None, *, yes: bool
) -> Counter[str]:
    server = None
    with suppress(DeploymentError):
        server = await find_server()
    block, _ = await find_block(WAREHOUSE, read_settings(Path.cwd()), server)
    return await erase(block.get_warehouse(), site_id, before, ids, yes=yes)


async def erase(
    warehouse: Warehouse, site_id: str | None, before: date, ids: Spool | None, *, yes: bool
) -> Counter[str]:
    """Erase what meets all conditions. A repeated call completes one that failed.

    Args:
        warehouse: the warehouse; its tables are created or migrated.
        site_id: only this site; None for all.
        before: only local days before this one.
        ids: only these session IDs; None for all.
        yes: whether to erase. Otherwise the rows are counted only.

    Returns:
        The number of rows by table.

    Raises:
        WarehouseUnsupportedError: the warehouse is a Parquet folder.
    """
    if not isinstance(warehouse, TableWarehouse):
        raise WarehouseUnsupportedError(
            "Session IDs in Parquet files can't be erased by this command. Delete the files of the "
            "days instead: */<site>/<segment>/<day>* in the folder of the warehouse. A load does "
            "not look for days that are more than 30 days old."
        )
    await warehouse.prepare()
    places = await warehouse.run(lambda tables, _: _read_places(tables))
    counts = Counter[str]()
    with Spool() as nothing:
        for site, segment in places:
            if site_id in {None, site}:
                begin = partial(_erase, key=(site, before, segment), ids=ids, yes=yes)
                spool = nothing if ids is None else ids
                counts.update(await warehouse.run(begin, (site, segment), spool))
    return counts


def _read_places(tables: SessionTransactions) -> Steps[list[tuple[str, str]]]:
    """The sites and segments in the warehouse, and first each site with an empty segment."""
    partitions = [
        f"SELECT site_id, segment FROM {tables.name(table.name)}"
        for table in (RECEIPTS, IDS, REMOVALS)
    ]
    marks = f"SELECT site_id, '' AS segment FROM {tables.name(MARKS.name)}"
    rows = yield Statement(
        "SELECT DISTINCT site_id, segment FROM "
        f"({' UNION ALL '.join([*partitions, marks])}) AS places"
    )
    return sorted({place for site, segment in rows for place in ((site, ""), (site, segment))})


def _erase(
    tables: SessionTransactions,
    _: datetime,
    *,
    key: tuple[str, date, str],
    ids: Spool | None,
    yes: bool,
) -> Steps[Counter[str]]:
    """Erase the sessions of a segment; or, if that is empty, the marks and profiles of a site."""
    is_staged = f" AND session_id IN (SELECT session_id FROM {tables.staged})"
    listed = "" if ids is None else is_staged
    if key[-1]:
        conditions = _of_sessions(listed)
    else:
        conditions = yield from _of_marks_and_profiles(tables, listed)
    values: tuple[object, ...] = key if key[-1] else key[:2]
    counts = Counter[str]()
    for table, where in conditions:
        counted = f"SELECT count(*) FROM {tables.name(table)} WHERE {where}"
        [(rows,)] = yield Statement(counted, values)
        counts[table] += int(rows)
    for table, where in conditions if yes else ():
        name, update = tables.name(table), _UPDATES.get(table)
        change = f"UPDATE {name} SET {update}" if update else f"DELETE FROM {name}"
        yield Statement(f"{change} WHERE {where}", values)
    return counts


def _of_sessions(listed: str) -> Conditions:
    of_segment = f"{_DAYS} AND segment = $3"
    conditions = [(table.name, of_segment + listed) for table in (IDS, REMOVALS)]
    forgotten = [(RECEIPTS.name, f"{of_segment} AND digest <> '{FORGOTTEN}'")]
    return conditions if listed else conditions + forgotten


def _of_marks_and_profiles(tables: SessionTransactions, listed: str) -> Steps[Conditions]:
    changes, profiled = tables.name("wix_session_changes"), tables.name(PROFILED_SESSIONS.name)
    of_days = f"session_id IN (SELECT session_id FROM {changes} WHERE {_DAYS})"
    of_ids = f"session_date IN (SELECT session_date FROM {profiled} WHERE {_DAYS}{listed})"
    # A session began before it was marked.
    conditions = [
        (MARKS.name, f"site_id = $1 AND CAST(noted_at AS DATE) < $2{listed}"),
        (MARKS.name, f"site_id = $1 AND CAST(noted_at AS DATE) >= $2 AND {of_days}{listed}"),
    ]
    if PROFILED_SESSIONS.name in (yield from tables.columns()):
        conditions += [
            (COMPLETENESS.name, f"{_DAYS} AND examples <> '[]' AND {of_ids}"),
            (FLOWS.name, _DAYS + listed),
            (PROFILED_SESSIONS.name, _DAYS + listed),
        ]
    return conditions
