"""One partition on its way from an ask to rows, and what the partitions of one load share.

Before a submit its intent is in the warehouse's ledger, and right after it the job's id; so a load
that is killed at any point is taken up by the next one, wherever that runs. Submits take turns,
so that a kill leaves at most one whose fate nobody knows. Knows nothing of Prefect.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from prefect_wix.client.client import Log, WixClient
from prefect_wix.client.models import SessionsJob, SessionsQuery
from prefect_wix.client.rate_limiter import REQUESTS_PER_JOB
from prefect_wix.errors import (
    IncompleteListingError,
    JobFailedError,
    ListingError,
    PermissionDeniedError,
    RequestError,
    UnknownJobError,
    WarehouseBusyError,
    WarehouseError,
    WixError,
)
from prefect_wix.jobs.listing import Listing, ListingSummary, submit_job
from prefect_wix.jobs.poll_policy import PollPolicy
from prefect_wix.jobs.poll_schedule import PollSchedule
from prefect_wix.planning.partitions import JobRecord, JobState, Partition
from prefect_wix.planning.windows import ONE_DAY, Window
from prefect_wix.spool.shield import shield
from prefect_wix.warehouse.interface import PublishResult, VerifiedListing, Warehouse

__all__ = [
    "ADOPT_MAX_AGE",
    "Load",
    "LoadOptions",
    "PartitionLoad",
    "PartitionResult",
    "observed_jobs",
]

CONCURRENT_READS = 8
"""Finished jobs that are drained and landed at once: with more, each would only be slower."""
HISTORY_DAYS = timedelta(days=30)
"""Of how many days before the last one the ledger is asked how long jobs took."""
ADOPT_MAX_AGE = timedelta(hours=6)
"""A job older than this is not waited for any more: its answer would be old news."""

_TERMINAL_JOB_ERRORS = (JobFailedError, UnknownJobError, IncompleteListingError)
"""After these it is of no use to ask for the same job again."""


@dataclass(frozen=True)
class LoadOptions:
    """How a load goes about it.

    Attributes:
        as_of: when the load was due.
        jobs_in_flight: how many jobs may run at Wix at once.
        patience: how each job is waited for.
        run_id: who loads, to be kept with the receipts.
    """

    as_of: datetime
    jobs_in_flight: int = 16
    poll_policy: PollPolicy = PollPolicy()
    run_id: str | None = None


@dataclass(frozen=True)
class PartitionResult:
    """What became of one partition."""

    partition: Partition
    state: JobState
    """LANDED, UNCHANGED, SUPERSEDED or FAILED."""
    job_id: str | None = None
    sessions: int = 0
    added: int = 0
    removed: int = 0
    kept: int = 0
    duplicates: int = 0
    requests: int = 0
    adopted: bool = False
    """The job was submitted by an earlier run."""
    possible_orphans: int = 0
    """Submits for it that never got a reply: each may have left a job that nobody knows."""
    reason: str | None = None
    """Why it failed, in words."""


async def observed_jobs(
    warehouse: Warehouse, partitions: Sequence[Partition]
) -> list[tuple[SessionsQuery, float, float]]:
    """The jobs that earlier loads watched: (query, seen running at, finished at)."""
    if not partitions:
        return []
    last = max(partitions, key=lambda one: one.day)
    window = Window(last.day - HISTORY_DAYS, last.day + ONE_DAY, last.timezone)
    try:
        records = await warehouse.job_records(last.site_id, window)
    except WarehouseError:
        return []  # Whoever writes to it next will say what is wrong.
    return [
        (record.partition.query, record.running_seconds or 0.0, record.finished_seconds)
        for record in records
        if record.finished_seconds is not None
    ]


class Load:
    """What the partitions of one load share."""

    def __init__(
        self,
        client: WixClient,
        warehouse: Warehouse,
        options: LoadOptions,
        history: Iterable[tuple[SessionsQuery, float, float]],
        log: Log,
    ) -> None:
        self.client = client
        self.warehouse = warehouse
        self.options = options
        self.log = log
        self.schedule = PollSchedule(
            client.clock, options.poll_policy, client.rate_limiter.utilization, history
        )
        self.running = asyncio.Semaphore(options.jobs_in_flight)
        """Jobs that run at Wix;"""
        self.reading = asyncio.Semaphore(CONCURRENT_READS)
        self.in_progress = asyncio.Semaphore(options.jobs_in_flight + CONCURRENT_READS)
        """and those that are finished and not landed yet, whose ids take room on this machine."""
        self.submitting = asyncio.Lock()
        self.job_accepted = False
        """Wix has started a job for us, so that an empty 403 can only mean that it throttles."""
        self.stopped: WixError | None = None
        """Why no further partition is begun."""

    def check(self) -> None:
        """Raise what holds for every partition, if something does."""
        if self.stopped is not None:
            raise self.stopped

    def tell(self, partition: Partition, error: WixError) -> None:
        """Say that a partition failed, and learn from it."""
        self.log.error("%s failed: %s", partition, error)
        self.learn(error)

    def learn(self, error: WixError) -> None:
        """Stop where a failure holds for every partition."""
        if self.stopped is None and self._affects_all(error):
            self.log.error("No further partition is begun, since this holds for all of them.")
            self.stopped = error

    def _affects_all(self, error: WixError) -> bool:
        if isinstance(error, WarehouseError):
            return not isinstance(error, WarehouseBusyError)
        if isinstance(error, PermissionDeniedError) and error.empty and self.job_accepted:
            return False
        return isinstance(error, RequestError) and error.affects_site


class PartitionLoad:
    """One partition on its way from an ask to rows."""

    def __init__(self, load: Load, partition: Partition) -> None:
        self._load = load
        self._partition = partition
        self._record: JobRecord | None = None
        self._adopted = False
        self._orphans = 0

    async def run(self) -> PartitionResult:
        """Ask for it and land it; never raises what only this partition suffers from."""
        try:
            self._load.check()
            return await self._load_it()
        except (ListingError, RequestError, WarehouseError) as error:
            if error is not self._load.stopped:
                self._load.tell(self._partition, error)
                await self._record_failure(error)
            return self._outcome(JobState.FAILED, reason=str(error))

    async def _load_it(self) -> PartitionResult:
        async with self._load.in_progress, self._listing() as listing:
            self._load.schedule.expected_requests -= REQUESTS_PER_JOB
            async with self._load.running:
                await listing.first_page()
            async with self._load.reading:
                summary = await listing.read_all()
                answer = await self._answer(listing, summary)
                landed = await self._load.warehouse.publish(answer)
        return self._landed(landed, summary)

    def _listing(self) -> Listing:
        return Listing(
            self._load.client,
            self._partition.query,
            submit=self._submit,
            poll_policy=self._load.options.poll_policy,
            schedule=self._load.schedule,
            log=self._load.log,
        )

    async def _answer(self, listing: Listing, summary: ListingSummary) -> VerifiedListing:
        digest = await listing.spool.run(listing.spool.digest)
        record = self._current_record
        if listing.timer is not None:
            record = record.timed(listing.timer.running, listing.timer.finished)
        return VerifiedListing(record, listing.spool, digest, summary.duplicates)

    async def _submit(self) -> SessionsJob:
        """A job for the partition: the one that runs already, or a new one that is on record."""
        await self._abandon_record()
        async with self._load.submitting:
            self._load.check()
            claim = await self._load.warehouse.claim(
                self._intent(), adopt_since=self._adopt_since()
            )
            self._record, self._adopted = claim.record, claim.adopted
            self._orphans += claim.orphans
            return self._adopt(claim.record) if claim.adopted else await self._submit_new()

    def _adopt(self, record: JobRecord) -> SessionsJob:
        self._load.log.info(
            "%s: waiting for job %s, which runs since %s.",
            self._partition,
            record.job_id,
            f"{record.job.submitted_at:%F %T} UTC",
        )
        return record.job

    async def _submit_new(self) -> SessionsJob:
        try:
            job = await submit_job(
                self._load.client,
                self._partition.query,
                log=self._load.log,
                on_response_lost=self._resubmit,
            )
        except RequestError as error:
            if error.may_have_taken_effect:
                await self._record_orphan()
            else:
                await self._close_record(JobState.FAILED, str(error))
            raise
        self._load.job_accepted = True
        await self._save_job_id(job)
        return job

    async def _save_job_id(self, job: SessionsJob) -> None:
        self._record = self._current_record.submitted(job)
        try:
            await shield(self._load.warehouse.save_record(self._record))
        except WarehouseError as error:
            # Before the next one, who waits for its turn, submits a job that may be lost too.
            self._load.learn(error)
            raise

    async def _record_orphan(self) -> None:
        self._orphans += 1
        await self._close_record(JobState.ORPHANED, "the reply to the submit was lost")

    async def _resubmit(self) -> None:
        await self._record_orphan()
        self._record = self._intent()
        await self._load.warehouse.save_record(self._record)

    async def _abandon_record(self) -> None:
        """Close the ask whose job came to nothing, before the query is asked once more."""
        if self._record is not None:
            await self._close_record(
                JobState.FAILED, "the job failed or was forgotten; asked once more"
            )

    async def _record_failure(self, error: WixError) -> None:
        if not isinstance(error, _TERMINAL_JOB_ERRORS):
            return
        try:
            await self._close_record(JobState.FAILED, str(error))
        except WarehouseError as another:
            self._load.log.error("%s: %s", self._partition, another)  # noqa: TRY400
            self._load.learn(another)

    async def _close_record(self, state: JobState, reason: str) -> None:
        self._record = self._current_record.ended(state, at=datetime.now(UTC), reason=reason)
        await self._load.warehouse.save_record(self._record)

    def _intent(self) -> JobRecord:
        return JobRecord.intend(
            self._partition, at=datetime.now(UTC), run_id=self._load.options.run_id
        )

    def _adopt_since(self) -> datetime:
        """No job from before the day was over, unless it is not over yet; and none too old."""
        as_of, over = self._load.options.as_of, self._partition.ends_at
        since = datetime.now(UTC) - ADOPT_MAX_AGE
        return max(since, over) if over <= as_of else since

    @property
    def _current_record(self) -> JobRecord:
        if self._record is None:  # pragma: no cover
            raise AssertionError("a job is only ever submitted through an ask")
        return self._record

    def _landed(self, landed: PublishResult, summary: ListingSummary) -> PartitionResult:
        return self._outcome(
            landed.state,
            sessions=landed.sessions,
            added=landed.added,
            removed=landed.removed,
            kept=landed.kept,
            duplicates=summary.duplicates,
            requests=summary.requests,
        )

    def _outcome(
        self, state: JobState, *, reason: str | None = None, **counts: int
    ) -> PartitionResult:
        outcome = PartitionResult(
            partition=self._partition,
            state=state,
            job_id=self._record.job_id if self._record else None,
            adopted=self._adopted,
            possible_orphans=self._orphans,
            reason=reason,
        )
        return replace(outcome, **counts)  # type: ignore[arg-type]
