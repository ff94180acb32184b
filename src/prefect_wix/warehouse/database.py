"""A DuckDB database that is open: its transactions, and the ledgers that run ahead of its tables.

A transaction begins by taking in what a ledger has noted, so that whatever it reads is complete.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from datetime import datetime
from typing import Any, TypeVar

from prefect_wix.warehouse.batches import land_first
from prefect_wix.warehouse.interface import Answer, Landed
from prefect_wix.warehouse.journal import Journal
from prefect_wix.warehouse.ledger import ClosedLedgerError, Ledger, Noted, left_behind
from prefect_wix.warehouse.steps import Rows, Statement, Steps, Tables, drive

__all__ = ["Database"]

T = TypeVar("T")


class Database:
    """An open database.

    Its methods block. One at a time may run, but for `opened_ledger`, which any thread may call.

    Args:
        connection: what it is open by.
        journal: makes the journal of a schema.
    """

    def __init__(self, connection: Any, journal: Callable[[Tables], Journal]) -> None:
        self._connection = connection
        self._make_journal = journal
        self._journals: dict[Tables, Journal] = {}
        self._ledgers: dict[Tables, Ledger] = {}
        # A load runs the same few statements over and over, and DuckDB parses slowly.
        self._parsed: dict[str, Any] = {}

    def close(self) -> None:
        """Close it. What its tables can't take in stays in the journal."""
        with closing(self._connection):
            for tables, ledger in [*self._ledgers.items()]:
                if not ledger.is_closed:
                    with suppress(Exception):
                        self.transact(tables, _nothing())
            for journal in self._journals.values():
                journal.close()

    def note(self, tables: Tables, work: Callable[[Ledger], T]) -> T:
        """Note something in the ledger of a schema."""
        while True:
            # Another thread, whose line can't be written, may close it at any time.
            with suppress(ClosedLedgerError):
                return work(self._ledger(tables))

    def opened_ledger(self, tables: Tables) -> Ledger | None:
        """The ledger of a schema where it is there; it may be closed at any time."""
        return self._ledgers.get(tables)

    def _ledger(self, tables: Tables) -> Ledger:
        ledger = self._ledgers.get(tables)
        if ledger is None or ledger.is_closed:
            if self._journal(tables).is_there:
                self.transact(tables, _nothing())
            ledger = Ledger(self._journal(tables), self.run(tables.open_asks()))
            self._ledgers[tables] = ledger
        return ledger

    def transact(
        self, tables: Tables, work: Steps[T], stage: Callable[[Any], None] = lambda _: None
    ) -> T:
        """Do the work in one transaction, on tables that have all that is known.

        Args:
            tables: whose ledger is taken in first.
            work: what to do then.
            stage: makes temporary tables for it.
        """
        # Closed, since what fails may have taken effect, and memory would not know.
        ledger, journal = self._ledgers.pop(tables, None), self._journal(tables)
        noted = ledger.close() if ledger else None
        value = self.run(_after(_take_in(tables, noted, journal), work), stage)
        journal.clear()
        return value

    def land_first(
        self, tables: Tables, answers: Sequence[Answer], at: datetime
    ) -> list[Landed | None]:
        """Land those of the answers whose partition holds nothing yet: what each did, or None.

        Meanwhile others may note something in the ledger.
        """
        ledger = self._ledger(tables)
        try:
            landed, ended = self.run(land_first(tables, answers, at, ledger.new))
        except BaseException:
            ledger.close()  # as in `transact`
            raise
        ledger.took_in(ended)
        return [landed.get(n) for n in range(len(answers))]

    def _journal(self, tables: Tables) -> Journal:
        if tables not in self._journals:
            self._journals[tables] = self._make_journal(tables)
        return self._journals[tables]

    def run(self, steps: Steps[T], stage: Callable[[Any], None] = lambda _: None) -> T:
        """Run steps in one transaction. What the ledger has noted is not looked at."""
        # Its temporary tables go with the cursor, and what is not committed is undone.
        with closing(self._connection.cursor()) as cursor:
            stage(cursor)
            cursor.execute("BEGIN")
            value = drive(steps, lambda statement: self._execute(cursor, statement))
            cursor.execute("COMMIT")
            return value

    def _execute(self, cursor: Any, statement: Statement) -> Rows:
        parsed = self._parsed.get(statement.sql)
        if parsed is None:
            [parsed] = cursor.extract_statements(statement.sql)
            self._parsed[statement.sql] = parsed
        rows: Rows = cursor.execute(parsed, statement.values).fetchall()
        return rows


def _take_in(tables: Tables, noted: Noted | None, journal: Journal) -> Steps[None]:
    asks, new = noted or ((yield from left_behind(tables, journal)), set())
    if asks:
        yield from tables.write_asks(asks, new)


def _after(first: Steps[None], work: Steps[T]) -> Steps[T]:
    yield from first
    return (yield from work)


def _nothing() -> Steps[None]:
    return
    yield
