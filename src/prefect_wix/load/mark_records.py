"""Mark records: the state of each session's mark, kept in the warehouse.

An ID is recorded as unknown before it is sent, and with its outcome after that; so the IDs that a
killed run had sent stay unknown. The calls are in `prefect_wix.load.mark_recordings`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from prefect_wix.client.models import MarkAction, MarkOutcome, MarkState
from prefect_wix.warehouse.schema import MARKS, Statement, Steps
from prefect_wix.warehouse.transactions import SessionTransactions, SqlWarehouse

SENT = "Sent; no response was recorded."
"""The reason of an ID whose run was killed before it recorded the outcome."""

_MATCHES = "site_id = $1 AND action = $2 AND session_id = ANY(CAST($3 AS TEXT[]))"


@dataclass(frozen=True)
class Choice:
    """The IDs to send, and counts of the others."""

    to_send: tuple[str, ...]
    done: int
    """IDs that Wix has confirmed before."""
    unknown: int
    """IDs that were sent before without a response and must not be sent again."""


@dataclass(frozen=True)
class MarkRecords:
    """The mark records of one action on one site.

    Attributes:
        warehouse: a prepared warehouse.
        site_id: the site of the sessions.
        action: the kind of mark.
        retry_unknown: whether IDs that were sent without a response are sent again.
        run_id: the run, stored in the records.
    """

    warehouse: SqlWarehouse
    site_id: str
    action: MarkAction
    retry_unknown: bool = False
    run_id: str | None = None

    async def choose(self, session_ids: Sequence[str]) -> Choice:
        """Select the IDs to send."""
        return await self.warehouse.transact(lambda tables: self._choose(tables, session_ids))

    async def claim(self, session_ids: Sequence[str]) -> Choice:
        """Select the IDs to send and record them as sent; of two runs only one gets an ID."""
        return await self.warehouse.transact(lambda tables: self._claim(tables, session_ids))

    async def record(self, outcomes: Sequence[MarkOutcome]) -> None:
        """Record outcomes; the record of an ID that was not sent is deleted."""
        await self.warehouse.transact(lambda tables: self._write(tables, outcomes))

    async def unmarked(self, most: int) -> list[MarkOutcome]:
        """Refused and unknown IDs, latest first, at most ``most``."""
        return await self.warehouse.transact(lambda tables: self._unmarked(tables, most))

    def _choose(self, tables: SessionTransactions, session_ids: Sequence[str]) -> Steps[Choice]:
        rows = yield Statement(
            f"SELECT session_id, state FROM {tables.name(MARKS.name)} WHERE {_MATCHES}",
            (self.site_id, self.action.value, list(session_ids)),
        )
        states = {session_id: MarkState(state) for session_id, state in rows}
        settled = {MarkState.DONE} if self.retry_unknown else {MarkState.DONE, MarkState.UNKNOWN}
        skipped = [state for state in states.values() if state in settled]
        return Choice(
            to_send=tuple(one for one in session_ids if states.get(one) not in settled),
            done=skipped.count(MarkState.DONE),
            unknown=skipped.count(MarkState.UNKNOWN),
        )

    def _claim(self, tables: SessionTransactions, session_ids: Sequence[str]) -> Steps[Choice]:
        choice = yield from self._choose(tables, session_ids)
        sent = MarkOutcome(session_ids=choice.to_send, state=MarkState.UNKNOWN, reason=SENT)
        yield from self._write(tables, [sent])
        return choice

    def _write(self, tables: SessionTransactions, outcomes: Sequence[MarkOutcome]) -> Steps[None]:
        marks, key = tables.name(MARKS.name), (self.site_id, self.action.value)
        rows = [
            (session_id, one.state.value, one.reason, one.request_id)
            for one in outcomes
            for session_id in one.session_ids
        ]
        ids, *values = [[row[column] for row in rows] for column in range(4)]
        yield Statement(f"DELETE FROM {marks} WHERE {_MATCHES}", (*key, ids))
        yield Statement(
            f"INSERT INTO {marks} (site_id, action, session_id, state, reason, request_id, "
            "noted_at, run_id) SELECT CAST($1 AS TEXT), CAST($2 AS TEXT), r.* FROM (SELECT "
            "unnest(CAST($3 AS TEXT[])), unnest(CAST($4 AS TEXT[])) AS state, "
            "unnest(CAST($5 AS TEXT[])), unnest(CAST($6 AS TEXT[])), "
            "CAST($7 AS TIMESTAMPTZ), CAST($8 AS TEXT)) r "
            f"WHERE state <> '{MarkState.NOT_SENT}'",
            (*key, ids, *values, datetime.now(UTC), self.run_id),
        )

    def _unmarked(self, tables: SessionTransactions, most: int) -> Steps[list[MarkOutcome]]:
        rows = yield Statement(
            f"SELECT session_id, state, reason, request_id FROM {tables.name(MARKS.name)} "
            f"WHERE site_id = $1 AND action = $2 AND state <> '{MarkState.DONE}' "
            "ORDER BY noted_at DESC, session_id LIMIT $3",
            (self.site_id, self.action.value, most),
        )
        return [
            MarkOutcome(session_ids=(one,), state=MarkState(state), reason=reason, request_id=rid)
            for one, state, reason, rid in rows
        ]
