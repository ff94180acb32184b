"""The job ledger of a database that this process alone has open, for as long as it does.

What may still come of something is in memory, so that a claim asks no table; what is noted goes to
the journal at once, and to the table with a later transaction. A transaction that only lands
answers does not keep anybody from noting something meanwhile.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import date, datetime
from typing import NamedTuple

from prefect_wix.partitions import Ask, AskState
from prefect_wix.warehouse.interface import Claim
from prefect_wix.warehouse.journal import Journal
from prefect_wix.warehouse.landing import OPEN, choose_claim
from prefect_wix.warehouse.steps import Steps, Tables

__all__ = ["ClosedLedgerError", "Ledger", "Noted", "left_behind"]

_Key = tuple[str, date, str]


class ClosedLedgerError(Exception):
    """The tables and the journal know more than this ledger; another one is to be opened."""


class Noted(NamedTuple):
    """What a table is to take in."""

    asks: list[Ask]
    new: set[str]
    """The ids of those that it has no entry of yet."""


class Ledger:
    """The entries that are open, and those that are not in the table yet.

    Any thread may use it; what one of its methods does is done before another one begins.

    Args:
        journal: where entries are noted; empty.
        open_asks: the open entries of the table.
    """

    def __init__(self, journal: Journal, open_asks: Iterable[Ask]) -> None:
        self._journal = journal
        self._open: defaultdict[_Key, dict[str, Ask]] = defaultdict(dict)
        """By partition in whatever zone, and there by id."""
        for ask in open_asks:
            self._open[ask.partition.key][ask.ask_id] = ask
        self._pending: dict[str, Ask] = {}
        """Entries that the table is to take in."""
        self.new: set[str] = set()
        """The ids of entries that the table has none of yet."""
        self._is_closed = False
        self._lock = threading.Lock()

    def claim(self, ask: Ask, adopt_since: datetime) -> Claim:
        """See `Warehouse.claim`.

        Raises:
            ClosedLedgerError: nothing was noted.
        """
        with self._alone():
            of_partition = self._open[ask.partition.key]
            claim, to_record = choose_claim(ask, of_partition.values(), adopt_since)
            is_new = not claim.adopted and ask.ask_id not in of_partition
            self._note(to_record)
            if is_new:
                self.new.add(ask.ask_id)
            return claim

    def record(self, ask: Ask) -> None:
        """See `Warehouse.record`.

        Raises:
            ClosedLedgerError: nothing was noted.
        """
        with self._alone():
            self._note([ask])

    def took_in(self, asks: Iterable[Ask]) -> None:
        """Forget entries that are in the table, and that nothing more will come of."""
        with self._lock:
            for ask in asks:
                self._open[ask.partition.key].pop(ask.ask_id, None)
                self._pending.pop(ask.ask_id, None)
                self.new.discard(ask.ask_id)

    @property
    def is_closed(self) -> bool:
        """Whether it notes nothing any more."""
        return self._is_closed

    def close(self) -> Noted | None:
        """Note nothing any more. Returns what the table is to take in.

        None where it was closed: after an error the journal knows what memory does not.
        """
        with self._lock:
            was_closed, self._is_closed = self._is_closed, True
        return None if was_closed else Noted([*self._pending.values()], self.new)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with self._lock:
            if self._is_closed:
                raise ClosedLedgerError
            try:
                yield
            except BaseException:
                # Part of a line may be in the journal, and what follows would be glued to it.
                self._is_closed = True
                raise

    def _note(self, asks: list[Ask]) -> None:
        if not asks:
            return
        self._journal.write(asks)
        for ask in asks:
            self._pending[ask.ask_id] = ask
            of_partition = self._open[ask.partition.key]
            if ask.state in OPEN:
                of_partition[ask.ask_id] = ask
            else:
                of_partition.pop(ask.ask_id, None)


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
