"""Poll a job until it is finished and fetch pages of its result.

A status that does not name an end counts as running. All waits and requests end at one
deadline. When to poll is decided in `prefect_wix.jobs.poll_schedule`; `prefect_wix.jobs.listing`
verifies the pages.
"""

import asyncio
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TypeVar

from prefect_wix import errors
from prefect_wix.client.client import Log, WixClient
from prefect_wix.client.models import PAGE_LIMIT, JobPage, JobStatus, SessionsJob
from prefect_wix.client.rate_limiter import Priority
from prefect_wix.jobs.poll_policy import PollPolicy
from prefect_wix.jobs.poll_schedule import BackoffTimer, JobTimer

SMALLEST_PAGE_LIMIT = 100
"""The page limit after a refusal that names no usable limit, and the lowest one after a 504."""
NOT_FOUND_RETRIES = 3
"""404 responses that are retried."""
UNKNOWN_SECONDS = 60.0
"""A job submitted less than this long ago may be unknown to Wix."""
_FINAL_STATUSES = re.compile(
    "(?:.*_)?(?:FAILED|FAILURE|ERROR|EXPIRED|CANCELL?ED|DELETED|ABORTED|REJECTED|TIMED_OUT|TIMEOUT)"
)
"""ERROR, and undocumented statuses that name an end without a result. Others count as running."""
_UNDOCUMENTED = "Job %s has the undocumented status %r; treated as running."
GATEWAY_TIMEOUT = 504

E = TypeVar("E", bound=errors.ListingError)


@dataclass(eq=False)
class JobReader:
    """The result of one job: its polls and its pages."""

    client: WixClient
    job: SessionsJob
    poll_policy: PollPolicy
    """The waits between polls, and after failed requests."""
    deadline: float
    """When to stop, on the client's clock."""
    log: Log
    """Gets a warning for a failed poll and for an undocumented status."""
    requests: int = 0
    """Number of polls and page requests sent."""
    request_id: str | None = None
    """The latest ``x-wix-request-id``."""
    _limit: int = PAGE_LIMIT
    _logged_statuses: set[str] = field(default_factory=set)
    _unknown_until: float = field(init=False)
    """Until then Wix may not know the job yet; on the client's clock."""

    def __post_init__(self) -> None:
        age = max(0.0, (datetime.now(UTC) - self.job.submitted_at).total_seconds())
        self._unknown_until = self.client.clock.now() + UNKNOWN_SECONDS - age

    @property
    def page_limit(self) -> int:
        """The largest number of IDs in a page; lowered after a refusal or a 504."""
        return min(self._limit, self.client.page_limit)

    async def page(self, offset: int, timer: JobTimer | None = None) -> JobPage:
        """The page that starts after ``offset`` IDs; polls until the job is finished.

        Args:
            offset: the number of IDs before the page. The response of the last poll is page one.
            timer: the poll times, for a job whose submit was observed; without it an exponential
                backoff.

        Raises:
            JobFailedError: the job ended as ERROR.
            UnknownJobError: Wix does not know the job.
            JobTimeoutError: the deadline passed.
            RequestError: a poll failed with an error that is not retryable.
        """
        poll_times = timer or BackoffTimer(self.poll_policy)
        not_found, backoff = 0, self.poll_policy.waits()
        wait = next(backoff)
        while True:
            async with poll_times.poll(self._sleep):
                try:
                    page = await self._fetch(offset, poll_times.probability)
                except errors.NotFoundError as error:
                    not_found += 1
                    is_young = self.client.clock.now() < self._unknown_until
                    if not_found > NOT_FOUND_RETRIES and not is_young:
                        self.request_id = error.request_id
                        raise self._unknown() from error
                except errors.RequestError as error:
                    if not error.temporary:
                        raise  # The client logs the others.
                else:
                    if self._is_finished(page):
                        poll_times.mark_finished()
                        return page
                    poll_times.mark_running()
                    continue
            await self._sleep(wait)
            wait = next(backoff)

    async def pause(self) -> None:
        """Sleep for the first wait of the backoff, before something is fetched again."""
        await self._sleep(next(self.poll_policy.waits()))

    async def _fetch(self, offset: int, priority: Priority) -> JobPage:
        """The page, with fewer IDs where Wix rejects the limit."""
        while True:
            limit = self.page_limit
            try:
                page = await self._fetch_once(limit, offset, priority)
            except errors.BadRequestError as error:
                smaller = _smaller_limit(error, limit)
                if smaller is None:
                    raise
                self.client.page_limit = min(smaller, self.client.page_limit)
            except errors.ServerError as error:
                if error.status == GATEWAY_TIMEOUT:
                    # Wix documents a smaller page as the remedy.
                    self._limit = min(self._limit, max(limit // 2, SMALLEST_PAGE_LIMIT))
                raise
            else:
                self.request_id = page.request_id
                return page

    async def _fetch_once(self, limit: int, offset: int, priority: Priority) -> JobPage:
        self.requests += 1
        seconds = self._seconds_left()
        try:
            async with asyncio.timeout(seconds):
                return await self.client.get_list_sessions_job_result(
                    self.job.job_id, limit=limit, offset=offset, priority=priority
                )
        except TimeoutError as error:
            raise self._timeout() from error

    def _is_finished(self, page: JobPage) -> bool:
        if _FINAL_STATUSES.fullmatch(page.status_text.upper()):
            raise self._error(
                errors.JobFailedError,
                f"Job {self.job.job_id} ({self.job.query}) ended with the status "
                f"{page.status_text}; Wix names {page.reason or 'no reason'}. Run again later, or "
                "for fewer days.",
            )
        if page.status is JobStatus.UNKNOWN and page.status_text not in self._logged_statuses:
            self._logged_statuses.add(page.status_text)
            self.log.warning(_UNDOCUMENTED, self.job.job_id, page.status_text)
        return page.status is JobStatus.FINISHED

    async def _sleep(self, seconds: float) -> None:
        await self.client.clock.sleep(min(seconds, self._seconds_left()))
        self._seconds_left()

    def _seconds_left(self) -> float:
        seconds = self.deadline - self.client.clock.now()
        if seconds <= 0:
            raise self._timeout()
        return seconds

    def _timeout(self) -> errors.JobTimeoutError:
        return self._error(
            errors.JobTimeoutError,
            f"Job {self.job.job_id} ({self.job.query}) was not finished and read after "
            f"{self.poll_policy.timeout_seconds:g} s. It may still be running at Wix: wait for "
            "the same job again or increase timeout_seconds.",
        )

    def _unknown(self) -> errors.UnknownJobError:
        return self._error(
            errors.UnknownJobError,
            f"Wix does not know job {self.job.job_id} ({self.job.query}), submitted "
            f"{self.job.submitted_at:%Y-%m-%d %H:%M:%S} UTC. Wix may have deleted its result: "
            "submit the query again.",
        )

    def _error(self, kind: type[E], message: str) -> E:
        note = f" (request ID {self.request_id})" if self.request_id else ""
        return kind(f"{message}{note}", job_id=self.job.job_id, request_id=self.request_id)


def _smaller_limit(error: errors.BadRequestError, limit: int) -> int | None:
    """The next lower page limit; None if the error has another cause or the limit is not lower."""
    violations = [one for one in error.violations if one.field.split(".")[-1] == "limit"]
    if not violations:
        return None
    threshold = (violations[0].data or {}).get("threshold")
    smaller = threshold if isinstance(threshold, int) and threshold > 0 else SMALLEST_PAGE_LIMIT
    return smaller if smaller < limit else None
