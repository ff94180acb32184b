"""One query from submit to a verified set of ids: submit, wait, drain, verify.

Streams new ids as their pages come and keeps few in memory. Ends as complete, or as one typed
error: ids handed out before the end count for nothing until the listing has ended without one.
Knows nothing of Prefect or warehouses.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Self

from pydantic import BaseModel, ConfigDict

from prefect_wix.client.client import Log, WixClient
from prefect_wix.client.models import JobPage, SessionsJob, SessionsQuery
from prefect_wix.errors import (
    IncompleteListingError,
    JobFailedError,
    RequestError,
    UnknownJobError,
)
from prefect_wix.jobs.poll_policy import PollPolicy
from prefect_wix.jobs.poll_schedule import JobTimer, PollSchedule
from prefect_wix.jobs.polling import JobResult
from prefect_wix.jobs.prefetch import PagePrefetcher
from prefect_wix.spool.id_spool import Spool

__all__ = ["Listing", "ListingSummary", "submit_job"]

STALE_PAGES = 3
"""Pages in a row that bring nothing new before a pass is given up, but for those that were taken in
together with one that does."""
MAX_PASSES = 4
"""How often a result is drained before it is called incomplete."""
_LOG = logging.getLogger(__name__)


class ListingSummary(BaseModel):
    """What a complete listing came to."""

    model_config = ConfigDict(frozen=True)

    job: SessionsJob
    sessions: int
    """Distinct session ids."""
    duplicates: int
    """Ids that Wix handed out more than once; the repeats were dropped."""
    passes: int
    """How often the result was drained; more than once where it drifted."""
    requests: int
    """Requests after the first submit: polls, pages, and a resubmission."""
    possible_orphans: int
    """Submits whose reply was lost: each may have left a job that nobody waits for."""
    resubmitted: bool
    """The first job failed or was forgotten, and the query was asked once more."""
    parts: int = 1
    """The listings it was put together from: one for each day where the whole window failed."""


async def submit_job(
    client: WixClient,
    query: SessionsQuery,
    *,
    log: Log = _LOG,
    on_response_lost: Callable[[], Awaitable[None]] | None = None,
) -> SessionsJob:
    """Start one job; where the reply to that is lost, start at most one more.

    Wix has no idempotency key and no list of jobs, so a lost reply may leave a job that nobody
    will ever ask for: ``possible_orphans`` on the handle counts them.

    Args:
        reply_lost: awaited between a lost reply and the second submit, to keep a record of it.

    Raises:
        RequestError: the submit failed; see the tree in `prefect_wix.errors`.
    """
    try:
        job_id, orphans = await client.list_sessions_async(query), 0
    except RequestError as error:
        if not error.may_have_taken_effect:
            raise
        log.warning("%s A job may run unused (possible orphan); asking once more.", error)
        if on_response_lost is not None:
            await on_response_lost()
        job_id, orphans = await client.list_sessions_async(query), 1
    return SessionsJob(
        job_id=job_id,
        query=query,
        site_id=client.site_id,
        submitted_at=datetime.now(UTC),
        possible_orphans=orphans,
    )


@dataclass
class _Pass:
    """One drain of a result, from the first page to the last."""

    number: int
    known_before: int
    distinct: int = 0
    totals: list[int | None] = field(default_factory=list)

    def agrees(self, known: int) -> bool:
        """Whether this pass shows that the ``known`` ids are all there are.

        A total that stayed put must equal them. Where Wix names none, this pass must have handed
        out exactly the ids that the passes before it did.
        """
        if len(set(self.totals)) > 1:
            return False
        total = self.totals[-1]
        if total is not None:
            return total == known
        return self.number > 1 and known == self.known_before == self.distinct


class Listing:
    """The complete answer to one query. Iterate it once, inside ``async with``.

    ::

        async with Listing(client, query) as listing:
            async for session_ids in listing:
                ...
        listing.summary

    Each batch is a list of ids that no batch before it held: of a page, or of several that came
    while the one before was worked on; up to 32 pages are asked for meanwhile. Ids are proven
    complete only when the iteration ends without an error.

    Args:
        client: who asks. May be shared by many listings.
        query: what to ask.
        job: a job that already runs for this query; without it one is submitted.
        submit: how to submit, where the caller keeps a record of jobs; `submit_job` if left out.
        patience: how to wait.
        pace: when to poll, where several listings learn from each other.
        log: where to tell what a person should know.

    Raises (while it is iterated):
        JobFailedError: the job ended as ERROR, and so did its resubmission.
        UnknownJobError: Wix forgot the job, and its resubmission; or it forgot a job that it had
            begun to hand out.
        JobTimeoutError: the deadline passed.
        IncompleteListingError: ids and total never agreed.
        RequestError: a request failed in a way that asking again does not mend.
        SpoolError: the local disk could not hold the ids.
    """

    def __init__(
        self,
        client: WixClient,
        query: SessionsQuery,
        *,
        job: SessionsJob | None = None,
        submit: Callable[[], Awaitable[SessionsJob]] | None = None,
        poll_policy: PollPolicy = PollPolicy(),
        schedule: PollSchedule | None = None,
        log: Log = _LOG,
    ) -> None:
        self.job = job
        self.timer: JobTimer | None = None
        """How the job was seen to run, where it was submitted here."""
        self.spool = Spool()
        self.summary: ListingSummary | None = None
        """Set when the listing has ended as complete."""
        self.resubmitted = False
        """The query was asked once more."""
        self._client = client
        self._submit = submit or (lambda: submit_job(client, query, log=log))
        self._query = query
        self._poll_policy = poll_policy
        self._schedule = schedule or PollSchedule(
            client.clock, poll_policy, client.rate_limiter.utilization
        )
        self._log = log
        self._finished: tuple[JobResult, JobPage] | None = None
        self._result: JobResult | None = None
        self._earlier_requests = self._earlier_orphans = self._duplicates = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.spool.close()

    @property
    def has_finished_job(self) -> bool:
        """Wix has done its part: where time is up after that, it was read too slowly."""
        return self._finished is not None

    @property
    def requests(self) -> int:
        """Requests after the first submit, so far."""
        return self._earlier_requests + (self._result.requests if self._result else 0)

    @property
    def possible_orphans(self) -> int:
        """Submits whose reply was lost, so far."""
        return self._earlier_orphans + (self.job.possible_orphans if self.job else 0)

    async def read_all(self) -> ListingSummary:
        """Iterate to the end; the ids are in ``spool`` then.

        Raises:
            See the class.
        """
        async for _ in self:
            pass
        if self.summary is None:  # pragma: no cover
            raise AssertionError("a listing ends with a summary or an error")
        return self.summary

    async def __aiter__(self) -> AsyncIterator[list[str]]:
        result, page = self._finished or await self.first_page()
        for number in range(1, MAX_PASSES + 1):
            this_pass = _Pass(number, known_before=len(self.spool))
            async with PagePrefetcher(result, page) as pages:
                async for unseen in self._read_pass(pages, page, this_pass):
                    yield unseen
            if this_pass.agrees(len(self.spool)):
                self.summary = self._summarize(result, number)
                return
            self._log_drift(result, this_pass)
            await result.pause()
            page = await result.page(0)
        raise self._incomplete(result, page)

    async def first_page(self) -> tuple[JobResult, JobPage]:
        """A finished job and its first page; asked once more where a job came to nothing.

        For those who want to know when the job is finished, before or without going on.

        Raises:
            See the class.
        """
        job = self.job or await self._submit_timed()
        # A submit may have to wait for its turn; a job's time begins when there is a job.
        deadline = self._client.clock.now() + self._poll_policy.timeout_seconds
        while True:
            result = JobResult(self._client, job, self._poll_policy, deadline, self._log)
            self.job, self._result = job, result
            try:
                self._finished = result, await result.first_page(self.timer)
            except (JobFailedError, UnknownJobError) as error:
                if self.resubmitted:
                    raise
                self._log.warning("%s Asking the same query once more.", error)
            else:
                return self._finished
            finally:
                self._stop_timer()
            job, self.resubmitted = await self._submit_timed(), True
            self._earlier_requests += result.requests + 1
            self._earlier_orphans += result.job.possible_orphans

    async def _submit_timed(self) -> SessionsJob:
        now = datetime.now(UTC)
        job = await self._submit()
        # Of a job that runs already, nobody here has seen the beginning.
        self.timer = self._schedule.timer(self._query) if job.submitted_at >= now else None
        return job

    def _stop_timer(self) -> None:
        if self.timer is not None:
            self.timer.end()

    async def _read_pass(
        self, pages: PagePrefetcher, page: JobPage, this_pass: _Pass
    ) -> AsyncIterator[list[str]]:
        offset = stale = 0
        received = [page]
        while True:
            unseen, fresh = await self._add_pages(received, this_pass)
            if unseen:
                yield unseen
            offset += sum(len(page.session_ids) for page in received)
            stale = 0 if fresh else stale + len(received)
            if stale >= STALE_PAGES or any(_is_last(one, this_pass.distinct) for one in received):
                return
            received = await pages.pages(offset)

    async def _add_pages(self, received: list[JobPage], this_pass: _Pass) -> tuple[list[str], int]:
        # Many ids take their time; pages that come meanwhile are taken in together next, and the
        # more of them there are, the less each of them takes.
        ids = [session_id for page in received for session_id in page.session_ids]
        added = await self.spool.run(
            lambda: self.spool.add(ids, in_pass=this_pass.number), adding=len(ids)
        )
        self._duplicates += len(ids) - added.fresh
        this_pass.distinct += added.fresh
        this_pass.totals += [page.total for page in received]
        return added.unseen, added.fresh

    def _summarize(self, result: JobResult, passes: int) -> ListingSummary:
        return ListingSummary(
            job=result.job,
            sessions=len(self.spool),
            duplicates=self._duplicates,
            passes=passes,
            requests=self.requests,
            possible_orphans=self.possible_orphans,
            resubmitted=self.resubmitted,
        )

    def _log_drift(self, result: JobResult, this_pass: _Pass) -> None:
        self._log.info(
            "Job %s: %d distinct ids after pass %d, total %s; draining it again.",
            result.job.job_id,
            len(self.spool),
            this_pass.number,
            " then ".join(map(str, dict.fromkeys(this_pass.totals))),
        )

    def _incomplete(self, result: JobResult, page: JobPage) -> IncompleteListingError:
        return IncompleteListingError(
            f"Job {result.job.job_id} ({result.job.query}) handed out {len(self.spool)} distinct "
            f"ids in {MAX_PASSES} passes, but names a total of {page.total}: the listing is "
            "incomplete, and nothing of it is used. Run it again; if it stays so, give Wix the "
            f"request id {page.request_id or 'unknown'}.",
            job_id=result.job.job_id,
            request_id=page.request_id,
            received=len(self.spool),
            total=page.total,
        )


def _is_last(page: JobPage, distinct: int) -> bool:
    """Whether a pass is over: the total is reached or, without a total, a page is empty."""
    return not page.session_ids if page.total is None else distinct >= page.total
