"""One query to a verified set of session IDs: submit, poll, read all pages, verify.

A listing yields new IDs page by page, keeps few of them in memory, and ends as complete or with one
typed error; IDs are valid only after it has completed. Polls and single pages are in
`prefect_wix.jobs.polling`, windows that are split into days in `prefect_wix.jobs.split_window`.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import KW_ONLY, dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Self

from pydantic import BaseModel

from prefect_wix.client.client import Log, WixClient
from prefect_wix.client.models import JobPage, SessionsJob, SessionsQuery
from prefect_wix.errors import IncompleteListingError, JobFailedError, RequestError, UnknownJobError
from prefect_wix.jobs.poll_policy import PollPolicy
from prefect_wix.jobs.poll_schedule import JobTimer, PollSchedule
from prefect_wix.jobs.polling import JobReader
from prefect_wix.jobs.prefetch import PagePrefetcher
from prefect_wix.spool.id_spool import Spool

STALE_PAGES = 3
"""A pass ends after this many consecutive pages without an ID that is new to it. Pages added in one
batch with a new ID do not count."""
STALE_PASSES = 4
"""A listing fails after this many consecutive passes that brought it no closer to its total."""
MAX_PASSES = 20
"""Passes over a result before it fails as incomplete. If the order of IDs changes within ties, each
pass lacks at most a fraction 1 / e of those still missing: about 15 passes find 1,000,000 IDs."""
_DRIFT = "Job %s: %d distinct IDs after pass %d, total %s; reading all pages again."
_LOG = logging.getLogger(__name__)


class ListingSummary(BaseModel, frozen=True):
    """Counts of a complete listing."""

    job: SessionsJob
    sessions: int
    """Distinct session IDs."""
    duplicates: int
    """Copies of IDs that were dropped: within a pass, or between the days of a split window."""
    passes: int
    """Times that all pages were read; more than 1 if IDs and total disagreed, or without total."""
    requests: int
    """Requests after the first submit: polls, pages, and a resubmission."""
    possible_orphans: int
    """Submits whose response was lost; each may have started a job that is not used."""
    resubmitted: bool
    """Whether the first job failed or became unknown and the query was submitted once more."""
    parts: int = 1
    """Number of listings combined: 1, or one per day if the whole window failed."""


async def submit_job(
    client: WixClient,
    query: SessionsQuery,
    *,
    poll_policy: PollPolicy = PollPolicy(),
    log: Log = _LOG,
    on_response_lost: Callable[[], Awaitable[None]] | None = None,
) -> SessionsJob:
    """Submit one job; if the response is lost, submit once more when Wix responds again.

    Wix has no idempotency key and no list of jobs, so a lost response may leave a job that is never
    read: ``possible_orphans`` of the returned job counts them.

    Args:
        client: sends the requests.
        query: the query to submit.
        poll_policy: its timeout is also that of a submit which Wix does not accept (429 or 503),
            and of the wait for a response after a lost one.
        log: gets a warning for a lost response.
        on_response_lost: awaited between a lost response and the second submit, to record it.

    Raises:
        RequestError: the submit failed; see the tree in `prefect_wix.errors`.
    """
    deadline = client.clock.now() + poll_policy.timeout_seconds
    submit = partial(client.list_sessions_async, query, deadline=deadline)
    try:
        job_id, orphans = await submit(), 0
    except RequestError as error:
        if not error.may_have_taken_effect or not await client.responds(deadline=deadline):
            raise
        log.warning("%s Submitting once more; an unused job may run (possible orphan).", error)
        if on_response_lost is not None:
            await on_response_lost()
        job_id, orphans = await submit(), 1
    return SessionsJob(
        job_id=job_id,
        query=query,
        site_id=client.site_id,
        submitted_at=datetime.now(UTC),
        possible_orphans=orphans,
    )


@dataclass
class _Pass:
    """One pass over a result, from the first page on, and what remains of the earlier passes."""

    result: JobReader
    number: int = 1
    known_before: int = 0
    """Distinct IDs of the earlier passes."""
    known: int = 0
    """Distinct IDs of all passes."""
    total: int | None = None
    """The last total that Wix sent, in any pass; a page without a total does not change it."""
    total_changed_in: int = 0
    """The last pass in which the total changed; 0 if it never did."""
    stale_before: int = 0
    """Consecutive passes just before this one without progress."""
    follows_end: bool = False
    """Whether the pass before this one received the end of the list."""
    received: int = 0
    distinct: int = 0
    stale_pages: int = 0
    has_end: bool = False
    """Whether this pass received the end of the list."""

    def add(self, pages: list[JobPage], *, fresh: int, known: int) -> None:
        """Count consecutive pages with ``fresh`` IDs that are new to this pass."""
        for total in (page.total for page in pages if page.total is not None):
            if self.total not in {None, total}:
                self.total_changed_in = self.number
            self.total = total
        self.received += sum(len(page.session_ids) for page in pages)
        self.distinct += fresh
        self.known = known
        self.stale_pages = 0 if fresh else self.stale_pages + len(pages)
        length = len(pages[-1].session_ids)
        if self.total is not None and self.distinct >= self.total:
            # More pages may follow a full one, for example if Wix caps the total.
            self.has_end = length < self.result.page_limit
        else:
            self.has_end = length == 0 and self.received >= (self.total or 0)

    @property
    def is_over(self) -> bool:
        """Whether no other page of this pass is needed."""
        has_too_many = self.total is not None and self.distinct > self.total
        return self.has_end or has_too_many or self.stale_pages >= STALE_PAGES

    @property
    def proves_all(self) -> bool:
        """Whether the known IDs are complete: this pass received the end, and the counts agree.

        The total must be constant and equal to the known IDs. If it changed in an earlier pass,
        so did the result: this pass must have received all of them. If Wix sends no total, this
        pass must have received exactly the IDs of the earlier passes, and no duplicates: where a
        page repeats IDs, another may lack some.
        """
        if not self.has_end or self.total_changed_in == self.number:
            return False
        if self.total is None:
            counts = {self.known_before, self.known, self.distinct, self.received}
            return self.follows_end and len(counts) == 1
        return self.known == self.total and (
            self.total_changed_in == 0 or self.distinct == self.known
        )

    @property
    def stale_passes(self) -> int:
        """Consecutive passes without progress, including this one.

        New IDs are progress towards a total only: without one, equal passes are needed.
        """
        has_progress = self.total is not None and 0 < self.known_before < self.known <= self.total
        return 0 if has_progress else self.stale_before + 1

    def next(self) -> _Pass:
        """The pass after this one."""
        return _Pass(
            self.result,
            number=self.number + 1,
            known_before=self.known,
            total=self.total,
            total_changed_in=self.total_changed_in,
            stale_before=self.stale_passes,
            follows_end=self.has_end,
        )


@dataclass(eq=False)
class Listing:
    """The complete result of one query. Iterate it once, inside ``async with``.

    ::

        async with Listing(client, query) as listing:
            async for session_ids in listing:
                ...
        listing.summary

    Each batch is a list of IDs that no earlier batch contains: from one page, or from all pages
    received while the batch before was processed (up to 32 pages). The IDs are complete only if the
    iteration ends without an error.

    Args:
        client: sends the requests; may be shared by many listings.
        query: the query to list.
        job: a job already running for this query; without it one is submitted.
        submit: submits the query, for a caller that records jobs; `submit_job` by default.
        poll_policy: the deadline, and the waits between polls.
        schedule: the poll times, shared by listings that observe jobs of the same kinds.
        log: gets warnings for retries, and each pass that must be repeated.

    Raises (while it is iterated):
        JobFailedError: the job ended as ERROR, and so did its resubmission.
        UnknownJobError: Wix does not know the job, nor its resubmission; or no longer knows a job
            after its first page.
        JobTimeoutError: the deadline passed.
        IncompleteListingError: no pass proved the IDs complete: they disagreed with the total, or
            no page ended the list.
        RequestError: a request failed with an error that is not retryable.
        SpoolError: the local disk could not store the IDs.
    """

    client: WixClient
    query: SessionsQuery
    _: KW_ONLY
    job: SessionsJob | None = None
    submit: Callable[[], Awaitable[SessionsJob]] | None = None
    poll_policy: PollPolicy = PollPolicy()
    schedule: PollSchedule | None = None
    log: Log = _LOG

    timer: JobTimer | None = field(default=None, init=False)
    """The ages at which the job was observed; None if it was not submitted here."""
    spool: Spool = field(default_factory=Spool, init=False)
    finished: tuple[JobReader, JobPage] | None = field(default=None, init=False)
    """The result of the finished job and its first page; None while no job is finished."""
    summary: ListingSummary | None = field(default=None, init=False)
    """Set once the listing is complete."""
    _readers: list[JobReader] = field(default_factory=list, init=False)
    """The result of each submitted job: at most two."""
    _duplicates: int = field(default=0, init=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.spool.close()

    @property
    def requests(self) -> int:
        """Requests after the first submit, so far."""
        return max(0, sum(reader.requests + 1 for reader in self._readers) - 1)

    @property
    def possible_orphans(self) -> int:
        """Submits whose response was lost, so far."""
        return sum(reader.job.possible_orphans for reader in self._readers)

    @property
    def resubmitted(self) -> bool:
        """Whether the query was submitted once more."""
        return len(self._readers) > 1

    async def read_all(self) -> ListingSummary:
        """Iterate to the end; then all IDs are in ``spool``.

        Raises:
            See the class.
        """
        async for _ in self:
            pass
        if self.summary is None:  # pragma: no cover
            raise AssertionError("a listing ends with a summary or an error")
        return self.summary

    async def __aiter__(self) -> AsyncIterator[list[str]]:
        result, page = self.finished or await self.poll_until_finished()
        this_pass = _Pass(result)
        while True:
            async with PagePrefetcher(result, page) as pages:
                async for unseen in self._read_pass(pages, page, this_pass):
                    yield unseen
            if this_pass.proves_all:
                self.summary = self._summarize(this_pass)
                return
            if this_pass.stale_passes >= STALE_PASSES or this_pass.number >= MAX_PASSES:
                raise _incomplete(this_pass)
            self.log.info(_DRIFT, result.job, this_pass.known, this_pass.number, this_pass.total)
            await result.pause()
            page = await result.page(0)
            this_pass = this_pass.next()

    async def poll_until_finished(self) -> tuple[JobReader, JobPage]:
        """Submit and poll until a job is finished; resubmit once if it fails or is unknown.

        Returns:
            The result of the finished job, and its first page.

        Raises:
            See the class.
        """
        job = self.job or await self._submit_timed()
        # The timeout starts after the submit, which may have waited for the rate limit.
        deadline = self.client.clock.now() + self.poll_policy.timeout_seconds
        while True:
            self.job = job
            result = JobReader(self.client, job, self.poll_policy, deadline, self.log)
            self._readers.append(result)
            try:
                self.finished = result, await result.page(0, self.timer)
            except (JobFailedError, UnknownJobError) as error:
                if self.resubmitted:
                    raise
                self.log.info("%s Submitting the query once more.", error)
            else:
                return self.finished
            finally:
                if self.timer is not None:
                    self.timer.end()
            job = await self._submit_timed()

    async def _submit_timed(self) -> SessionsJob:
        now = datetime.now(UTC)
        submit = self.submit or partial(
            submit_job, self.client, self.query, poll_policy=self.poll_policy, log=self.log
        )
        job = await submit()
        schedule = self.schedule or PollSchedule(
            self.client.clock, self.poll_policy, self.client.rate_limiter.utilization
        )
        # A caller's submit may return a job adopted from an earlier run, of unknown age.
        self.timer = schedule.timer(self.query) if job.submitted_at >= now else None
        return job

    async def _read_pass(
        self, pages: PagePrefetcher, page: JobPage, this_pass: _Pass
    ) -> AsyncIterator[list[str]]:
        received = [page]
        while True:
            # Pages received while the disk is busy are added together: that costs less per page.
            ids = [session_id for one in received for session_id in one.session_ids]
            add = partial(self.spool.add, ids, in_pass=this_pass.number)
            added = await self.spool.run(add, adding=len(ids))
            self._duplicates += len(ids) - added.fresh
            this_pass.add(received, fresh=added.fresh, known=len(self.spool))
            if added.unseen:
                yield added.unseen
            if this_pass.is_over:
                return
            received = await pages.pages(this_pass.received)

    def _summarize(self, last_pass: _Pass) -> ListingSummary:
        return ListingSummary(
            job=last_pass.result.job,
            sessions=last_pass.known,
            duplicates=self._duplicates,
            passes=last_pass.number,
            requests=self.requests,
            possible_orphans=self.possible_orphans,
            resubmitted=self.resubmitted,
        )


def _incomplete(last_pass: _Pass) -> IncompleteListingError:
    known, total, result = last_pass.known, last_pass.total, last_pass.result
    if total is None:
        reason = "without a total, and no two passes with the same IDs ended with an empty page"
    elif total == known:
        reason = "but its total changed, or no page ended the list"
    else:
        reason = f"but its total is {total:,}"
    return IncompleteListingError(
        f"Job {result.job.job_id} ({result.job.query}) returned {known:,} distinct IDs in "
        f"{last_pass.number} passes, {reason}: the listing is incomplete and was not used. "
        "Run again; if it fails again, send Wix support the request ID "
        f"{result.request_id or 'unknown'}.",
        job_id=result.job.job_id,
        request_id=result.request_id,
        received=known,
        total=total,
    )
