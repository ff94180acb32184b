"""Answers that land together, in few statements.

Most of what a small statement costs an engine such as DuckDB is to plan it; so what several answers
write is written by one. That is done where they are the first for their day, as most are: then
there is nothing to compare.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import date, datetime
from itertools import chain

from prefect_wix.errors import WarehouseError
from prefect_wix.partitions import Ask, Partition
from prefect_wix.warehouse.interface import Answer, Landed
from prefect_wix.warehouse.landing import Held, choose_landing, ended_by, new_receipt
from prefect_wix.warehouse.steps import Statement, Steps, Tables

__all__ = ["land_first"]


def land_first(
    tables: Tables, answers: Sequence[Answer], at: datetime, new: Collection[str]
) -> Steps[tuple[dict[int, Landed], list[Ask]]]:
    """Land those of some answers whose partition holds nothing yet.

    Args:
        tables: where to.
        answers: at least one.
        at: when they land.
        new: the ids of asks that have no entry in the ledger's table.

    Returns:
        What each of them did, by its place among the answers; and the entries of the ledger that
        were written.
    """
    first = yield from _first(tables, answers)
    if not first:
        return {}, []
    landed = {
        n: choose_landing(one, Held(0, 0, len(one.spool), receipt=None), at)
        for n, one in first.items()
    }
    [[arrived]] = yield tables.insert_ids(
        [(*one.ask.partition.key, one.ask.job_id, _ids(one)) for one in first.values()]
    )
    if arrived != sum(done.sessions for done in landed.values()):
        raise WarehouseError(f"Of the ids of {len(first)} answers {arrived} arrived, and not all.")
    yield tables.insert_receipts([new_receipt(one, landed[n], at) for n, one in first.items()])
    ended = [ended_by(one.ask, landed[n], at) for n, one in first.items()]
    yield from tables.write_asks(ended, new)
    return landed, ended


def _first(tables: Tables, answers: Sequence[Answer]) -> Steps[dict[int, Answer]]:
    taken = yield from _held(tables, {answer.ask.partition for answer in answers})
    first = {}
    for n, answer in enumerate(answers):
        key = answer.ask.partition.key
        if key not in taken:
            first[n] = answer
        taken.add(key)
    return first


def _held(tables: Tables, partitions: set[Partition]) -> Steps[set[tuple[str, date, str]]]:
    """The keys that something is held for, among others of the same sites and days."""
    sites = sorted({partition.site_id for partition in partitions})
    days = sorted({partition.day for partition in partitions})
    held = (
        f"SELECT site_id, session_date, segment FROM {tables.name(table)} "
        "WHERE site_id IN (SELECT unnest($1)) AND session_date IN (SELECT unnest($2))"
        for table in ("wix_session_ids", "wix_session_receipts")
    )
    rows = yield Statement(" UNION ".join(held), (sites, days))
    return {(site_id, day, segment) for site_id, day, segment in rows}


def _ids(answer: Answer) -> list[str]:
    return [*chain.from_iterable(answer.spool.batches())]
