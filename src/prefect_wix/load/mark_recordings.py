"""Marking many sessions as recorded, or their recordings as deleted: each id once, resumable.

Ids are claimed in the warehouse's ledger before they are sent, and what became of them is noted
right after; a marking that is killed at any point is taken up by the next one. Where the ids come
from is in `sources`. Knows nothing of Prefect.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice

from prefect_wix.client.client import MARK_LIMIT, Log, WixClient, mark_outcome
from prefect_wix.client.models import MarkAction, MarkOutcome, MarkState
from prefect_wix.errors import (
    BadRequestError,
    ConflictError,
    NotFoundError,
    PermissionDeniedError,
    RequestError,
)
from prefect_wix.load.mark_records import MarkRecords
from prefect_wix.spool.id_spool import Spool

__all__ = ["MarkSummary", "mark_sessions", "plan_marks"]

_MOST_TROUBLES = 8
"""Calls in a row that say nothing of their ids: after so many it is Wix that is in trouble."""


@dataclass(frozen=True)
class MarkSummary:
    """What became of the ids that were to be marked."""

    site_id: str
    action: MarkAction
    wanted: int
    """Distinct ids that were given."""
    done_before: int = 0
    """Confirmed in an earlier run; not sent again."""
    unknown_before: int = 0
    """Sent in an earlier run without a reply; not sent again."""
    to_send: int = 0
    """Ids that were left to send. All the rest is of these."""
    done: int = 0
    """Confirmed,"""
    already: int = 0
    """some of them by a 409: Wix says that they were marked before."""
    refused: int = 0
    """Refused; a rerun sends them again."""
    unknown: int = 0
    """Sent without a reply: each may have been marked."""
    stopped: str | None = None
    """Why the rest was not sent."""

    @property
    def not_sent(self) -> int:
        """Ids that were not tried, and are for the next run."""
        return self.to_send - self.done - self.refused - self.unknown

    @property
    def complete(self) -> bool:
        """Whether every id that was given is marked now."""
        return self.done_before + self.done == self.wanted

    def plus(self, **counts: int) -> MarkSummary:
        """The summary with more of something."""
        return replace(self, **{name: getattr(self, name) + n for name, n in counts.items()})


Progress = Callable[[MarkSummary], Awaitable[None]]


async def plan_marks(records: MarkRecords, spool: Spool) -> MarkSummary:
    """How many of the spool's ids would be sent. Asks Wix for nothing."""
    summary = MarkSummary(records.site_id, records.action, wanted=len(spool))
    async for ids in _chunks(spool):
        choice = await records.choose(ids)
        counts = {"done_before": choice.done, "unknown_before": choice.unknown}
        summary = summary.plus(to_send=len(choice.to_send), **counts)
    return summary


async def mark_sessions(
    client: WixClient,
    records: MarkRecords,
    spool: Spool,
    *,
    calls_in_flight: int,
    on_progress: Progress,
    log: Log = logging.getLogger(__name__),  # noqa: B008
) -> MarkSummary:
    """Mark each id of the spool that is not on record as marked.

    Ids that are refused do not stop the others. A failure that holds for all of them does: a wrong
    key, or a Wix that answers nothing of use many times in a row.

    Args:
        client: of the site; its budget is kept.
        ledger: what is on record, and where what becomes of each id is noted.
        spool: the ids.
        calls_in_flight: how many calls may be on their way at once. A marking that is killed
            leaves no more than these unknown.
        on_progress: told the summary so far, now and then.
        log: where to tell that it stops.

    Raises:
        WarehouseError: the ledger can't be read or written.
    """
    marking = _Marking(client, records, calls_in_flight, log)
    marking.summary = await plan_marks(records, spool)
    async for ids in _chunks(spool):
        for batch in _split((await records.choose(ids)).to_send, marking.batch_size):
            if marking.summary.stopped is None:
                await marking.mark(batch)
                await on_progress(marking.summary)
    return marking.summary


async def _chunks(spool: Spool) -> AsyncIterator[list[str]]:
    batches = spool.batches()
    while ids := await asyncio.to_thread(next, batches, None):
        yield ids


def _split(ids: Iterable[str], size: int) -> Iterator[tuple[str, ...]]:
    rest = iter(ids)
    while some := tuple(islice(rest, size)):
        yield some


class _Marking:
    """One marking on its way: what became of the ids so far, and whether to go on."""

    summary: MarkSummary

    def __init__(
        self, client: WixClient, records: MarkRecords, calls_in_flight: int, log: Log
    ) -> None:
        self._client = client
        self._records = records
        self._log = log
        self._ids_a_call = 1 if records.action is MarkAction.RECORDED else MARK_LIMIT
        self.batch_size = calls_in_flight * self._ids_a_call
        self._troubles = 0

    async def mark(self, ids: Sequence[str]) -> None:
        """Claim the ids of one batch, send them all at once, and note what became of them."""
        claimed = (await self._records.claim(ids)).to_send
        calls = [self._call(some) for some in _split(claimed, self._ids_a_call)]
        outcomes = list(chain.from_iterable(await asyncio.gather(*calls)))
        await self._records.record(outcomes)
        for outcome in outcomes:
            self._count(outcome)

    async def _call(self, ids: tuple[str, ...]) -> list[MarkOutcome]:
        if self.summary.stopped is not None:
            return [MarkOutcome(session_ids=ids, state=MarkState.NOT_SENT)]
        error = await self._send(ids)
        self._learn(error)
        if not isinstance(error, ConflictError | NotFoundError):
            return [mark_outcome(ids, error)]
        if len(ids) > 1:
            return await self._halves(ids)
        outcome = mark_outcome(ids, error)
        is_done = isinstance(error, ConflictError)
        return [outcome.model_copy(update={"state": MarkState.DONE}) if is_done else outcome]

    async def _halves(self, ids: tuple[str, ...]) -> list[MarkOutcome]:
        """One id that Wix does not take must not hold back the others of its call."""
        half = len(ids) // 2
        return [*await self._call(ids[:half]), *await self._call(ids[half:])]

    async def _send(self, ids: tuple[str, ...]) -> RequestError | None:
        try:
            if self._records.action is MarkAction.RECORDED:
                await self._client.mark_session_as_recorded(*ids)
            else:
                await self._client.mark_batch_as_deleted(ids)
        except RequestError as error:
            return error
        return None

    def _learn(self, error: RequestError | None) -> None:
        """Stop where going on is of no use."""
        if error is None or isinstance(error, BadRequestError | ConflictError | NotFoundError):
            self._troubles = 0
            return
        self._troubles += 1
        if self._affects_all(error) or self._troubles >= _MOST_TROUBLES:
            self._log.error("Nothing further is sent, since this holds for all ids: %s", error)
            self.summary = replace(self.summary, stopped=str(error))

    def _affects_all(self, error: RequestError) -> bool:
        if isinstance(error, PermissionDeniedError) and error.empty and self.summary.done:
            # Wix took our marks, so that an empty 403 can only mean that it throttles.
            return False
        return error.affects_site

    def _count(self, outcome: MarkOutcome) -> None:
        ids, is_done = len(outcome.session_ids), outcome.state is MarkState.DONE
        if outcome.state is not MarkState.NOT_SENT:
            self.summary = self.summary.plus(**{outcome.state.value: ids})
        self.summary = self.summary.plus(already=ids if is_done and outcome.reason else 0)
