"""A window that can't be listed as a whole, in parts: halved by days until every part succeeds.

A part of several days that fails is halved again. A day that fails by itself is named, and then
there is no listing. What one listing is, and when it fails, is in `prefect_wix.listing`. Partitions
are of one day each, and are loaded by `prefect_wix.loading`.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import date

from prefect_wix.client import WixClient
from prefect_wix.errors import (
    DaysFailedError,
    IncompleteListingError,
    JobFailedError,
    JobTimeoutError,
    ListingError,
    UnknownJobError,
)
from prefect_wix.finish import finish_in_thread
from prefect_wix.listing import Listing, ListingSummary
from prefect_wix.models import SessionsJob, SessionsQuery
from prefect_wix.pace import Patience
from prefect_wix.result import Log
from prefect_wix.spool import Spool
from prefect_wix.windows import ONE_DAY

__all__ = ["drained"]

HOPELESS_DAYS = 5
"""After so many days that failed, and none that was listed, the days are not what is wrong."""
_FEWER_DAYS_MAY_DO = (JobFailedError, JobTimeoutError, IncompleteListingError)
_LOG = logging.getLogger(__name__)


@asynccontextmanager
async def drained(
    client: WixClient, job: SessionsJob, *, patience: Patience = Patience(), log: Log = _LOG
) -> AsyncIterator[tuple[ListingSummary, Spool]]:
    """The complete answer to a job's query, put together from parts where the whole fails.

    ::

        async with drained(client, job) as (summary, spool):
            ...

    Only a query with two dates is asked in parts; what a predefined period means is for Wix to
    say. Parts are asked for one after the other, the newest first, and may take as long as the
    whole was waited for: so all ends after twice the patience, beside waits for the site's budget.
    Where big parts hang rather than fail, that time is soon up, and the days left are untried.

    P parts that make up the whole cost at most 2 P jobs with those that failed. Each of N days that
    fails costs at most 2 log2(N) + 1 jobs beside the whole's, the logarithm rounded up.

    Args:
        client: who asks.
        job: runs for the query already. One that fails is submitted once more before it is halved.
        patience: how to wait for the whole. A part gets an equal share of the time for all parts,
            enough to follow one day that never ends down to where it stands alone.
        log: where to tell what a person should know.

    Raises:
        DaysFailedError: days failed by themselves; it names them.
        ListingError: a query of one day, or of a predefined period, failed; or the whole was
            finished and could not be read in time; see `Listing`.
        RequestError: a request failed in a way that fewer days do not mend.
    """
    async with Listing(client, job.query, job=job, patience=patience, log=log) as whole:
        outcome = await _outcome(whole)
        if isinstance(outcome, ListingSummary):
            yield outcome, whole.spool
            return
    if len(_days(job.query)) <= 1 or _was_read_too_slowly(whole, outcome):
        raise outcome
    log.warning("%s Asking for its days in parts.", outcome)
    with Spool() as spool:
        parts = _Parts(client, job.query, patience, log, spool)
        await parts.halve(_days(job.query))
        parts.check(outcome)
        yield parts.summarize(whole, whole.job or job), spool


async def _outcome(listing: Listing) -> ListingSummary | ListingError:
    """What a listing came to, or the failure that fewer days may mend."""
    try:
        return await listing.drain()
    except _FEWER_DAYS_MAY_DO as error:
        return error


def _was_read_too_slowly(whole: Listing, failure: ListingError) -> bool:
    """Whether time was up with the job finished: parts have as much to read, and less time each."""
    return isinstance(failure, JobTimeoutError) and whole.has_finished_job


def _days(query: SessionsQuery) -> list[date]:
    """The days between two dates, oldest first; none where the period is one of Wix's own."""
    if query.start_date is None or query.end_date is None:
        return []
    length = (query.end_date - query.start_date).days
    return [query.start_date + n * ONE_DAY for n in range(length)]


class _Parts:
    """The parts of one window: those asked for so far, and the union of those that succeeded."""

    def __init__(
        self, client: WixClient, query: SessionsQuery, patience: Patience, log: Log, spool: Spool
    ) -> None:
        halvings = (len(_days(query)) - 1).bit_length()
        self._client = client
        self._query = query
        self._log = log
        self._spool = spool
        # One for each halving on the way to a day that never ends, one for all that succeeds, and
        # one for the last part that is begun: what fails has always had a whole share.
        share = patience.timeout_seconds / (halvings + 2)
        self._patience = replace(patience, timeout_seconds=share)
        self._last_begin = client.clock.now() + patience.timeout_seconds - share
        self._asked: list[Listing] = []
        self._failed: dict[date, ListingError] = {}
        self._untried: list[date] = []

    async def halve(self, days: Sequence[date]) -> None:
        """Ask for both halves; what is known of each is kept here."""
        middle = len(days) // 2
        for half in (days[middle:], days[:middle]):
            await self._ask(half)

    def check(self, failure: ListingError) -> None:
        """Raise if something is missing from the union; tell if the whole's total was another.

        Raises:
            DaysFailedError: days failed by themselves, or were not tried.
        """
        if self._failed or self._untried:
            first = self._failed[min(self._failed)] if self._failed else failure
            raise self._days_failed(first) from first
        total = failure.total if isinstance(failure, IncompleteListingError) else None
        if total is not None and total != len(self._spool):
            self._log.warning(
                "The job for the whole named a total of %d; its parts hold %d distinct sessions.",
                total,
                len(self._spool),
            )

    def summarize(self, whole: Listing, job: SessionsJob) -> ListingSummary:
        """What the union came to, with all that it cost."""
        everything, parts = [whole, *self._asked], self._complete
        listed = sum(part.sessions + part.repeats for part in parts)
        return ListingSummary(
            job=job,
            sessions=len(self._spool),
            repeats=listed - len(self._spool),
            passes=max(part.passes for part in parts),
            requests=sum(one.requests for one in everything) + len(self._asked),
            possible_orphans=sum(one.possible_orphans for one in everything),
            resubmitted=any(one.resubmitted for one in everything),
            parts=len(parts),
        )

    @property
    def _complete(self) -> list[ListingSummary]:
        return [listing.summary for listing in self._asked if listing.summary]

    async def _ask(self, days: Sequence[date]) -> None:
        if self._reason_to_stop():
            self._untried = [*days, *self._untried]
            return
        outcome = await self._list(days)
        if isinstance(outcome, ListingSummary):
            return
        if len(days) > 1:
            self._log.info("%s Halving it.", outcome)
            await self.halve(days)
        else:
            self._log.warning("%s fails by itself: %s", days[0], outcome)
            self._failed[days[0]] = outcome

    async def _list(self, days: Sequence[date]) -> ListingSummary | ListingError:
        async with self._listing(days) as listing:
            self._asked.append(listing)
            outcome = await _outcome(listing)
            # Only now is it known that the ids are the answer, and belong in the union.
            if isinstance(outcome, ListingSummary):
                await finish_in_thread(lambda: self._take_in(listing.spool))
            return outcome

    def _listing(self, days: Sequence[date]) -> Listing:
        dates = {"start_date": days[0], "end_date": days[-1] + ONE_DAY}
        # Several days that fail are halved rather than asked once more.
        again = (UnknownJobError,) if len(days) > 1 else (UnknownJobError, JobFailedError)
        return Listing(
            self._client,
            self._query.model_copy(update=dates),
            patience=self._patience,
            ask_again_after=again,
            log=self._log,
        )

    def _take_in(self, part: Spool) -> None:
        for batch in part.batches():
            self._spool.add(batch)

    def _reason_to_stop(self) -> str | None:
        if self._client.clock.now() > self._last_begin:
            return "the time was up: allow more timeout_seconds"
        if len(self._failed) >= HOPELESS_DAYS and not self._complete:
            return "nothing at all could be listed: try later"
        return None

    def _days_failed(self, first: ListingError) -> DaysFailedError:
        days = tuple(sorted(self._failed))
        return DaysFailedError(
            f"{self._query} can't be listed, neither as a whole nor in parts, and nothing of it "
            f"is used. {self._tell_days(days)}Ask for the other days, or let load_sessions land "
            f"them; try these later. The first reason: {first}",
            job_id=first.job_id,
            request_id=first.request_id,
            days=days,
            untried=tuple(self._untried),
        )

    def _tell_days(self, days: Sequence[date]) -> str:
        failed = f"Days that fail by themselves: {', '.join(map(str, days))}. " if days else ""
        if not self._untried:
            return failed
        end = self._untried[-1] + ONE_DAY
        return f"{failed}Days before {end} were not tried, since {self._reason_to_stop()}. "
