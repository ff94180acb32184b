"""Verbs of a warehouse that come at the same time, in one transaction and in few statements.

Most of what a small statement costs an engine such as DuckDB is to plan it; so what several verbs
write is written by one. Each does what it does alone, in the order in which they came.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from typing import cast

from prefect_wix.partitions import Ask, Partition
from prefect_wix.warehouse.interface import Answer, Claim, Landed
from prefect_wix.warehouse.landing import (
    OPEN,
    Held,
    choose_claim,
    choose_landing,
    ended_by,
    new_receipt,
)
from prefect_wix.warehouse.steps import Statement, Steps, Tables

__all__ = ["Claiming", "Recording", "claim", "keep_ledger", "land_all"]


@dataclass(frozen=True)
class Claiming:
    """See `Warehouse.claim`."""

    ask: Ask
    adopt_since: datetime


@dataclass(frozen=True)
class Recording:
    """See `Warehouse.record`."""

    ask: Ask


# -- the ledger ----------------------------------------------------------------------------------


def claim(tables: Tables, ask: Ask, adopt_since: datetime) -> Steps[Claim]:
    """Take the open job of the partition, or note the intent to submit one."""
    [result] = yield from keep_ledger(tables, [Claiming(ask, adopt_since)])
    return cast("Claim", result)


def keep_ledger(tables: Tables, verbs: Sequence[Claiming | Recording]) -> Steps[list[Claim | None]]:
    """Do the verbs; for each, in their order, what was claimed."""
    claimed = [verb.ask.partition for verb in verbs if isinstance(verb, Claiming)]
    ledger = _Ledger((yield from tables.open_asks(*claimed)) if claimed else ())
    results = [ledger.do(verb) for verb in verbs]
    if there := ledger.noted.keys() - ledger.new:
        yield tables.delete_asks(there)
    if ledger.noted:
        yield tables.insert_asks(ledger.noted.values())
    return results


class _Ledger:
    """The entries of some partitions, while verbs change them."""

    def __init__(self, open_asks: Iterable[Ask]) -> None:
        self._asks = {ask.ask_id: ask for ask in open_asks}
        self.noted: dict[str, Ask] = {}
        """Entries to write,"""
        self.new: set[str] = set()
        """and which of them the warehouse has none of yet."""

    def do(self, verb: Claiming | Recording) -> Claim | None:
        if isinstance(verb, Claiming):
            return self._claim(verb.ask, verb.adopt_since)
        self._note(verb.ask)
        return None

    def _claim(self, ask: Ask, adopt_since: datetime) -> Claim:
        # Its own entry is there where a commit took effect that was said to have failed.
        is_new = ask.ask_id not in self._asks
        others = [one for one in self._open_in(ask.partition) if one.ask_id != ask.ask_id]
        taken, to_record = choose_claim(ask, others, adopt_since)
        for one in to_record:
            self._note(one)
        if is_new and not taken.adopted:
            self.new.add(ask.ask_id)
        return taken

    def _open_in(self, partition: Partition) -> list[Ask]:
        same = (ask for ask in self._asks.values() if ask.partition.key == partition.key)
        return [ask for ask in same if ask.state in OPEN]

    def _note(self, ask: Ask) -> None:
        self._asks[ask.ask_id] = self.noted[ask.ask_id] = ask


# -- landing -------------------------------------------------------------------------------------


def land_all(tables: Tables, answers: Sequence[Answer], at: datetime) -> Steps[list[Landed]]:
    """Land answers, whose rows are staged, each with its place among them as ``answer``.

    Those for partitions that hold nothing yet, as most do, need no comparing, and are written
    together.

    Args:
        tables: where to.
        answers: at least one.
        at: when they land.
    """
    first = yield from _first_answers(tables, answers)
    landed: dict[int, Landed] = (yield from _land_first(tables, first, at)) if first else {}
    for n, answer in enumerate(answers):
        if n not in landed:
            landed[n] = yield from _tables_of(tables, n).publish(answer, at)
    return [landed[n] for n in range(len(answers))]


def _first_answers(tables: Tables, answers: Sequence[Answer]) -> Steps[dict[int, Answer]]:
    taken = yield from _held(tables, {answer.ask.partition for answer in answers})
    first = {}
    for n, answer in enumerate(answers):
        key = answer.ask.partition.key
        # One that is derived closes other asks as well.
        if key not in taken and answer.ask.derived_from is None:
            first[n] = answer
        taken.add(key)
    return first


def _held(tables: Tables, partitions: set[Partition]) -> Steps[set[tuple[str, date, str]]]:
    """The keys that something is held for, among others of the same sites and days."""
    sites = sorted({partition.site_id for partition in partitions})
    days = sorted({partition.day for partition in partitions})
    places = [f"${n}" for n in range(1, 1 + len(sites) + len(days))]
    of_sites, of_days = ", ".join(places[: len(sites)]), ", ".join(places[len(sites) :])
    held = (
        f"SELECT site_id, session_date, segment FROM {tables.name(table)} "
        f"WHERE site_id IN ({of_sites}) AND session_date IN ({of_days})"
        for table in ("wix_session_ids", "wix_session_receipts")
    )
    rows = yield Statement(" UNION ".join(held), (*sites, *days))
    return {(site_id, day, segment) for site_id, day, segment in rows}


def _land_first(
    tables: Tables, answers: dict[int, Answer], at: datetime
) -> Steps[dict[int, Landed]]:
    rows = yield Statement(f"SELECT answer, count(*) FROM {tables.staged} GROUP BY answer")
    arrived = {n: count for n, count in rows}  # noqa: C416
    landed = {
        n: choose_landing(answer, Held(0, 0, staged=arrived.get(n, 0), receipt=None), at)
        for n, answer in answers.items()
    }
    yield tables.insert_staged(answers)
    yield tables.insert_receipts(new_receipt(answers[n], landed[n], at) for n in answers)
    yield tables.delete_asks([answer.ask.ask_id for answer in answers.values()])
    yield tables.insert_asks(ended_by(answers[n].ask, landed[n], at) for n in answers)
    return landed


def _tables_of(tables: Tables, n: int) -> Tables:
    """The tables, with the rows of one of the answers alone."""
    staged = f"(SELECT session_id FROM {tables.staged} WHERE answer = {n})"
    return replace(tables, staged=staged)
