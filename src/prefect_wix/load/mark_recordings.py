"""Mark many sessions as recorded, or their recordings as deleted: each ID once, resumable.

IDs are claimed in the warehouse before a call sends them, and the outcome is recorded after it, so
the next run can resume a killed one. The IDs are read in `prefect_wix.load.id_source`; their mark
records are in `prefect_wix.load.mark_records`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice

from prefect_wix.client.client import MARK_LIMIT, Log, WixClient
from prefect_wix.client.models import MarkAction, MarkOutcome, MarkState
from prefect_wix.errors import (
    BadRequestError,
    ConflictError,
    NotFoundError,
    PermissionDeniedError,
    RequestError,
    RequestNotSentError,
)
from prefect_wix.load.mark_records import MarkRecords
from prefect_wix.spool.id_spool import Spool

_MAX_CONSECUTIVE_FAILURES = 8
"""Stop after this many failed calls in a row: Wix is unavailable, and IDs would become unknown."""


@dataclass(frozen=True)
class MarkSummary:
    """Counts of session IDs by the outcome of their mark."""

    site_id: str
    action: MarkAction
    wanted: int
    """Distinct IDs in the source."""
    done_before: int = 0
    """IDs that Wix confirmed in an earlier run; not sent again."""
    unknown_before: int = 0
    """IDs sent in an earlier run whose response was lost; not sent again."""
    to_send: int = 0
    """IDs that this run has to send: done, refused, unknown or not sent."""
    done: int = 0
    """IDs that Wix confirmed in this run."""
    already: int = 0
    """The part of ``done`` that a 409 confirmed: Wix had marked them before."""
    refused: int = 0
    """IDs that Wix refused; the next run sends them again."""
    unknown: int = 0
    """IDs sent in this run whose response was lost: each may have been marked."""
    stopped: str | None = None
    """Error that stopped the run; None if it went through all IDs."""

    @property
    def not_sent(self) -> int:
        """IDs left to the next run: their calls did not reach Wix, or this run stopped."""
        return self.to_send - self.done - self.refused - self.unknown

    @property
    def complete(self) -> bool:
        """Whether every ID of the source is marked."""
        return self.done_before + self.done == self.wanted

    def plus(self, **counts: int) -> MarkSummary:
        """The summary with counts added."""
        return replace(self, **{name: getattr(self, name) + n for name, n in counts.items()})


Progress = Callable[[MarkSummary], Awaitable[None]]


async def plan_marks(records: MarkRecords, spool: Spool) -> MarkSummary:
    """Count the IDs of the spool that a run would send; no request is sent to Wix."""
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
    """Mark each ID of the spool that earlier runs have not marked.

    Refused IDs do not stop the others. A failure that affects all of them does: a rejected key, or
    8 failed calls in a row.

    Args:
        client: the client of the site.
        records: the mark records of the site.
        spool: the IDs.
        calls_in_flight: concurrent calls; a killed run leaves at most the IDs of these unknown.
        on_progress: awaited with the summary after each batch of calls.
        log: logger or run logger.

    Raises:
        WarehouseError: the mark records can't be read or written.
    """
    run = _MarkRun(client, records, calls_in_flight, log)
    run.summary = await plan_marks(records, spool)
    async for ids in _chunks(spool):
        for batch in _split((await records.choose(ids)).to_send, run.batch_size):
            if run.summary.stopped is None:
                await run.mark(batch)
                await on_progress(run.summary)
    return run.summary


async def _chunks(spool: Spool) -> AsyncIterator[list[str]]:
    batches = spool.batches()
    while ids := await asyncio.to_thread(next, batches, None):
        yield ids


def _split(ids: Iterable[str], size: int) -> Iterator[tuple[str, ...]]:
    rest = iter(ids)
    while part := tuple(islice(rest, size)):
        yield part


class _MarkRun:
    """The state of one run: the counts so far, and the error that stopped it."""

    summary: MarkSummary

    def __init__(
        self, client: WixClient, records: MarkRecords, calls_in_flight: int, log: Log
    ) -> None:
        self._client = client
        self._records = records
        self._log = log
        self._ids_per_call = 1 if records.action is MarkAction.RECORDED else MARK_LIMIT
        self.batch_size = calls_in_flight * self._ids_per_call
        self._consecutive_failures = 0

    async def mark(self, ids: Sequence[str]) -> None:
        """Claim the IDs of one batch, send their calls concurrently, and record the outcomes."""
        claimed = (await self._records.claim(ids)).to_send
        calls = [self._call(part) for part in _split(claimed, self._ids_per_call)]
        outcomes = list(chain.from_iterable(await asyncio.gather(*calls)))
        await self._records.record(outcomes)
        for outcome in outcomes:
            self._count(outcome)

    async def _call(self, ids: tuple[str, ...]) -> list[MarkOutcome]:
        if self.summary.stopped is not None:
            return [MarkOutcome(session_ids=ids, state=MarkState.NOT_SENT)]
        error = await self._send(ids)
        self._check_failure(error)
        if len(ids) > 1 and isinstance(error, ConflictError | NotFoundError):
            # Split the refused call, so that one refused ID does not block the others.
            half = len(ids) // 2
            return [*await self._call(ids[:half]), *await self._call(ids[half:])]
        outcome = _outcome(ids, error)
        if isinstance(error, ConflictError):
            outcome = outcome.model_copy(update={"state": MarkState.DONE})
        return [outcome]

    async def _send(self, ids: tuple[str, ...]) -> RequestError | None:
        try:
            if self._records.action is MarkAction.RECORDED:
                await self._client.mark_session_as_recorded(*ids)
            else:
                await self._client.mark_recordings_as_deleted(ids)
        except RequestError as error:
            return error
        return None

    def _check_failure(self, error: RequestError | None) -> None:
        """Stop the run if the remaining IDs would fail too."""
        if error is None or isinstance(error, BadRequestError | ConflictError | NotFoundError):
            self._consecutive_failures = 0
            return
        self._consecutive_failures += 1
        # Where Wix has accepted marks with this key, an empty 403 is throttling.
        is_throttled = (
            isinstance(error, PermissionDeniedError) and error.empty and self.summary.done
        )
        affects_all = error.affects_site and not is_throttled
        if affects_all or self._consecutive_failures >= _MAX_CONSECUTIVE_FAILURES:
            self._log.error("Stopped: the remaining session IDs would fail the same way. %s", error)
            self.summary = replace(self.summary, stopped=str(error))

    def _count(self, outcome: MarkOutcome) -> None:
        ids = len(outcome.session_ids)
        if outcome.state is not MarkState.NOT_SENT:
            self.summary = self.summary.plus(**{outcome.state.value: ids})
        if outcome.state is MarkState.DONE and outcome.reason:
            self.summary = self.summary.plus(already=ids)


def _outcome(session_ids: tuple[str, ...], error: RequestError | None) -> MarkOutcome:
    """The outcome of a mark request that succeeded or raised ``error``."""
    if error is None:
        return MarkOutcome(session_ids=session_ids, state=MarkState.DONE)
    state = MarkState.UNKNOWN if error.may_have_taken_effect else MarkState.REFUSED
    return MarkOutcome(
        session_ids=session_ids,
        state=MarkState.NOT_SENT if isinstance(error, RequestNotSentError) else state,
        reason=str(error),
        request_id=error.request_id,
    )
