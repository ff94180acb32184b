"""What became of each session's mark, kept in the warehouse: what makes marking resumable.

An id is noted as unknown before it is sent, and as what became of it right after; so the ids whose
sender was killed are known as ids that Wix may have heard of. Who sends them is not known here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from prefect_wix.client.models import MarkAction, MarkOutcome, MarkState
from prefect_wix.warehouse.schema import Statement, Steps
from prefect_wix.warehouse.transactions import SqlWarehouse, Tables

__all__ = ["Choice", "MarkRecords"]

SENT = "It was sent, and no reply is on record."
"""The reason of an id whose sender did not live to note the reply."""

_THESE = "site_id = $1 AND action = $2 AND session_id = ANY(CAST($3 AS TEXT[]))"


@dataclass(frozen=True)
class Choice:
    """Which of some ids are to be sent, and how many are not, and why."""

    to_send: tuple[str, ...]
    done: int
    """Ids that Wix has confirmed before."""
    unknown: int
    """Ids that were sent before without a reply, and are not to be sent again."""


@dataclass(frozen=True)
class MarkRecords:
    """The marks of one kind that are on record for one site.

    Attributes:
        warehouse: where they are kept; its tables are made.
        site_id: whose sessions.
        action: which mark.
        retry_unknown: whether an id that was sent without a reply is to be sent again.
        run_id: who marks, to be kept with what it notes.
    """

    warehouse: SqlWarehouse
    site_id: str
    action: MarkAction
    retry_unknown: bool = False
    run_id: str | None = None

    async def choose(self, session_ids: Sequence[str]) -> Choice:
        """Which of the ids are to be sent."""
        return await self.warehouse.transact(lambda tables: self._choose(tables, session_ids))

    async def claim(self, session_ids: Sequence[str]) -> Choice:
        """The same, with a note that those are about to be sent; of two runs one gets an id."""
        return await self.warehouse.transact(lambda tables: self._claim(tables, session_ids))

    async def record(self, outcomes: Iterable[MarkOutcome]) -> None:
        """Note what became of ids. One that was not sent after all leaves no note."""
        noted = _Notes.of(outcomes)
        await self.warehouse.transact(lambda tables: self._note(tables, noted))

    async def unmarked(self, most: int) -> list[MarkOutcome]:
        """Ids that are on record as refused or unknown, the latest first, ``most`` at most."""
        return await self.warehouse.transact(lambda tables: self._unmarked(tables, most))

    def _choose(self, tables: Tables, session_ids: Sequence[str]) -> Steps[Choice]:
        rows = yield Statement(
            f"SELECT session_id, state FROM {tables.name(_TABLE)} WHERE {_THESE}",
            (self.site_id, self.action.value, list(session_ids)),
        )
        states = {session_id: MarkState(state) for session_id, state in rows}
        settled = {MarkState.DONE} if self.retry_unknown else {MarkState.DONE, MarkState.UNKNOWN}
        kept = [state for state in states.values() if state in settled]
        return Choice(
            to_send=tuple(one for one in session_ids if states.get(one) not in settled),
            done=kept.count(MarkState.DONE),
            unknown=kept.count(MarkState.UNKNOWN),
        )

    def _claim(self, tables: Tables, session_ids: Sequence[str]) -> Steps[Choice]:
        choice = yield from self._choose(tables, session_ids)
        sent = MarkOutcome(session_ids=choice.to_send, state=MarkState.UNKNOWN, reason=SENT)
        yield from self._note(tables, _Notes.of([sent]))
        return choice

    def _note(self, tables: Tables, notes: _Notes) -> Steps[None]:
        marks, whose = tables.name(_TABLE), (self.site_id, self.action.value)
        ids, *what = notes.columns
        yield Statement(f"DELETE FROM {marks} WHERE {_THESE}", (*whose, ids))
        yield Statement(
            f"INSERT INTO {marks} (site_id, action, session_id, state, reason, request_id, "
            "noted_at, run_id) SELECT CAST($1 AS TEXT), CAST($2 AS TEXT), r.* FROM (SELECT "
            "unnest(CAST($3 AS TEXT[])), unnest(CAST($4 AS TEXT[])) AS state, "
            "unnest(CAST($5 AS TEXT[])), unnest(CAST($6 AS TEXT[])), "
            "CAST($7 AS TIMESTAMPTZ), CAST($8 AS TEXT)) r "
            f"WHERE state <> '{MarkState.NOT_SENT}'",
            (*whose, ids, *what, datetime.now(UTC), self.run_id),
        )

    def _unmarked(self, tables: Tables, most: int) -> Steps[list[MarkOutcome]]:
        rows = yield Statement(
            f"SELECT session_id, state, reason, request_id FROM {tables.name(_TABLE)} "
            f"WHERE site_id = $1 AND action = $2 AND state <> '{MarkState.DONE}' "
            "ORDER BY noted_at DESC, session_id LIMIT $3",
            (self.site_id, self.action.value, most),
        )
        return [
            MarkOutcome(session_ids=(one,), state=MarkState(state), reason=reason, request_id=rid)
            for one, state, reason, rid in rows
        ]


@dataclass(frozen=True)
class _Notes:
    """What became of ids, as one list for each column."""

    columns: tuple[list[Any], ...]
    """Ids, states, reasons and request ids."""

    @classmethod
    def of(cls, outcomes: Iterable[MarkOutcome]) -> _Notes:
        rows = [
            (session_id, one.state.value, one.reason, one.request_id)
            for one in outcomes
            for session_id in one.session_ids
        ]
        return cls(tuple(map(list, zip(*rows, strict=True))) or ([], [], [], []))


_TABLE = "wix_session_marks"
