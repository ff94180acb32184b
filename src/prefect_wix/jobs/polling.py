"""Poll a job until it is finished and fetch a page of its result.

Every status other than FINISHED means "not finished yet", except ERROR. Each wait and each request
ends at one deadline. `prefect_wix.jobs.listing` verifies what the pages add up to.
"""

from __future__ import annotations

import asyncio
from typing import assert_never

from prefect_wix.client.client import Log, WixClient
from prefect_wix.client.models import JobPage, JobStatus, SessionsJob
from prefect_wix.client.rate_limiter import Priority
from prefect_wix.errors import (
    BadRequestError,
    JobFailedError,
    JobTimeoutError,
    NotFoundError,
    RequestError,
    RequestNotSentError,
    ResponseLostError,
    ServerError,
    UnknownJobError,
)
from prefect_wix.jobs.poll_policy import PollPolicy
from prefect_wix.jobs.poll_schedule import BackoffTimer, JobTimer

__all__ = ["JobResult"]

SMALLEST_PAGE_LIMIT = 100
"""What Wix surely takes; asked for when it refuses more without saying how much it takes."""
UNKNOWN_JOB_POLLS = 3
"""Polls that a job just submitted may go unknown before that is believed."""
_OUTAGE = (RequestNotSentError, ResponseLostError, ServerError)
GATEWAY_TIMEOUT = 504
GATEWAY_TIMEOUTS = 5
"""How often one page is asked for that ends in a 504, each time for fewer ids."""


class JobResult:
    """The result of one job, page by finished page.

    Args:
        client: who asks.
        job: the job that is asked for.
        patience: how to wait.
        deadline: when to give up, on the client's clock.
        log: where to tell what a person should know.
    """

    def __init__(
        self,
        client: WixClient,
        job: SessionsJob,
        poll_policy: PollPolicy,
        deadline: float,
        log: Log,
    ) -> None:
        self.job = job
        self.requests = 0
        """Polls and pages asked for."""
        self.request_id: str | None = None
        """The last ``x-wix-request-id`` seen."""
        self._client = client
        self._poll_policy = poll_policy
        self._deadline = deadline
        self._log = log
        self._limit = client.page_limit
        self._odd_statuses: set[str] = set()

    @property
    def page_limit(self) -> int:
        """How many ids a page is asked for."""
        return min(self._limit, self._client.page_limit)

    async def first_page(self, timer: JobTimer | None = None) -> JobPage:
        """Poll until the job is finished. The poll that finds it so is page one.

        Args:
            watch: tells when to ask, where the job was watched from its submit on.

        Raises:
            JobFailedError: the job ended as ERROR.
            UnknownJobError: Wix does not know the job.
            JobTimeoutError: the deadline passed.
            RequestError: a poll failed in a way that asking again does not mend.
        """
        return await self._finished_page(0, timer or BackoffTimer(self._poll_policy))

    async def page(self, offset: int) -> JobPage:
        """The page of a finished job that begins after ``offset`` ids.

        Raises:
            See `first_page`.
        """
        return await self._finished_page(offset, BackoffTimer(self._poll_policy))

    async def pause(self) -> None:
        """One short wait, before asking again for what came out odd."""
        await self._sleep(next(self._poll_policy.waits()))

    async def _finished_page(self, offset: int, timer: JobTimer | BackoffTimer) -> JobPage:
        unknown, setbacks = 0, self._poll_policy.waits()
        while True:
            async with timer.poll(self._sleep):
                try:
                    page = await self._record(offset, timer.probability)
                except NotFoundError as error:
                    unknown += 1
                    if unknown > UNKNOWN_JOB_POLLS:
                        raise self._unknown(error) from error
                except _OUTAGE as error:
                    if not error.retryable:
                        raise
                    # The job goes on without us: an outage ends, or the deadline comes first.
                    self._log.warning("%s Waiting for job %s all the same.", error, self.job.job_id)
                else:
                    if self._is_finished(page):
                        timer.mark_finished()
                        return page
                    timer.mark_running()
                    continue
            await self._sleep(next(setbacks))

    async def _record(self, offset: int, priority: Priority) -> JobPage:
        for poll_policy in reversed(range(GATEWAY_TIMEOUTS)):
            asked = self.page_limit
            try:
                return await self._fetch_within_limit(offset, priority)
            except ServerError as error:
                if error.status != GATEWAY_TIMEOUT or not poll_policy:
                    raise
            # Wix: try a smaller page.
            self._limit = min(self._limit, max(asked // 2, SMALLEST_PAGE_LIMIT))
            await self.pause()
        raise AssertionError("the last try returns or raises")

    async def _fetch_within_limit(self, offset: int, priority: Priority) -> JobPage:
        while True:
            limit = self.page_limit
            try:
                page = await self._fetch_once(limit, offset, priority)
            except BadRequestError as error:
                smaller = _smaller_limit(error, limit)
                if smaller is None:
                    raise
                self._client.page_limit = min(smaller, self._client.page_limit)
                continue
            self.request_id = page.request_id
            return page

    async def _fetch_once(self, limit: int, offset: int, priority: Priority) -> JobPage:
        self.requests += 1
        try:
            async with asyncio.timeout(self._seconds_left()):
                return await self._client.get_list_sessions_job_result(
                    self.job.job_id, limit=limit, offset=offset, priority=priority
                )
        except JobTimeoutError:
            raise
        except TimeoutError as error:
            raise self._timeout() from error

    def _is_finished(self, page: JobPage) -> bool:
        match page.status:
            case JobStatus.FINISHED:
                return True
            case JobStatus.IN_PROGRESS:
                return False
            case JobStatus.UNKNOWN:
                self._log_once(page.status_text)
                return False
            case JobStatus.ERROR:
                raise self._failed()
            case _:  # pragma: no cover
                assert_never(page.status)

    def _log_once(self, status: str) -> None:
        if status not in self._odd_statuses:
            self._odd_statuses.add(status)
            self._log.warning(
                "Job %s has the status %r, which is not documented; taken as still running.",
                self.job.job_id,
                status,
            )

    async def _sleep(self, seconds: float) -> None:
        await self._client.clock.sleep(min(seconds, self._seconds_left()))
        self._seconds_left()

    def _seconds_left(self) -> float:
        left = self._deadline - self._client.clock.now()
        if left <= 0:
            raise self._timeout()
        return left

    def _timeout(self) -> JobTimeoutError:
        return JobTimeoutError(
            f"Job {self.job.job_id} ({self.job.query}) was not finished and read after "
            f"{self._poll_policy.timeout_seconds:g} s. It may still be running: wait for the same "
            f"job again, or allow more timeout_seconds.{self._request_id_note()}",
            job_id=self.job.job_id,
            request_id=self.request_id,
        )

    def _failed(self) -> JobFailedError:
        return JobFailedError(
            f"Wix ended job {self.job.job_id} ({self.job.query}) with the status ERROR and names "
            f"no reason. Ask again later, or for fewer days.{self._request_id_note()}",
            job_id=self.job.job_id,
            request_id=self.request_id,
        )

    def _unknown(self, error: RequestError) -> UnknownJobError:
        return UnknownJobError(
            f"Wix does not know job {self.job.job_id} ({self.job.query}), submitted "
            f"{self.job.submitted_at:%Y-%m-%d %H:%M:%S} UTC. Results may be kept only for a "
            f"while: submit the query again. (request id {error.request_id or 'unknown'})",
            job_id=self.job.job_id,
            request_id=error.request_id,
        )

    def _request_id_note(self) -> str:
        return f" (request id {self.request_id})" if self.request_id else ""


def _smaller_limit(error: BadRequestError, limit: int) -> int | None:
    """The page limit to fall back to, or None where the error is about something else."""
    about_limit = [one for one in error.violations if one.field.split(".")[-1] == "limit"]
    if not about_limit:
        return None
    threshold = (about_limit[0].data or {}).get("threshold")
    smaller = threshold if isinstance(threshold, int) and threshold > 0 else SMALLEST_PAGE_LIMIT
    return smaller if smaller < limit else None
