"""The job ledger of a database that this process alone has open, for as long as it does.

What may still come of something is in memory, so that a claim asks no table; what is noted goes to
the journal at once, and to the table with a later transaction.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from prefect_wix.partitions import Ask, AskState
from prefect_wix.warehouse.interface import Claim
from prefect_wix.warehouse.journal import Journal
from prefect_wix.warehouse.landing import OPEN, choose_claim
from prefect_wix.warehouse.steps import Steps, Tables

__all__ = ["Ledger", "left_behind"]


class Ledger:
    """The entries that are open, and those that are not in the table yet.

    Args:
        journal: where entries are noted; empty.
        open_asks: the open entries of the table.
    """

    def __init__(self, journal: Journal, open_asks: Iterable[Ask]) -> None:
        self._journal = journal
        self._open = {ask.ask_id: ask for ask in open_asks}
        self.pending: dict[str, Ask] = {}
        """Entries that the table is to take in,"""
        self.new: set[str] = set()
        """and the ids of those that it has none of yet."""

    def claim(self, ask: Ask, adopt_since: datetime) -> Claim:
        """See `Warehouse.claim`."""
        of_partition = [one for one in self._open.values() if _are_of_one_partition(one, ask)]
        claim, to_record = choose_claim(ask, of_partition, adopt_since)
        is_new = not claim.adopted and ask.ask_id not in self._open
        self._note(to_record)
        if is_new:
            self.new.add(ask.ask_id)
        return claim

    def record(self, ask: Ask) -> None:
        """See `Warehouse.record`."""
        self._note([ask])

    def took_in(self, asks: Iterable[Ask]) -> None:
        """Forget entries that are in the table, and that nothing more will come of."""
        for ask in asks:
            self._open.pop(ask.ask_id, None)
            self.pending.pop(ask.ask_id, None)
            self.new.discard(ask.ask_id)

    def _note(self, asks: list[Ask]) -> None:
        if not asks:
            return
        self._journal.write(asks)
        for ask in asks:
            self.pending[ask.ask_id] = ask
            if ask.state in OPEN:
                self._open[ask.ask_id] = ask
            else:
                self._open.pop(ask.ask_id, None)


def _are_of_one_partition(one: Ask, other: Ask) -> bool:
    return one.partition.key == other.partition.key


def left_behind(tables: Tables, journal: Journal) -> Steps[list[Ask]]:
    """What a process that was killed has noted, and the table still has to take in.

    An ask that has ended may be so in the table alone, where its sessions are.
    """
    asks = journal.read()
    if not asks:
        return []
    states = yield from tables.states_of(asks)
    return [ask for ask_id, ask in asks.items() if _is_news(ask, states.get(ask_id))]


def _is_news(ask: Ask, known: AskState | None) -> bool:
    if known is AskState.ORPHANED:
        # Somebody took its submit for lost; its reply came all the same.
        return ask.state is not AskState.INTENDED
    return known is None or known in OPEN
