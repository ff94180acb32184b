"""Load one partition: claim, submit or adopt a job, poll, read all pages, publish.

The warehouse stores the intent before a submit and the job ID after it, so any later run can adopt
the jobs of a killed load. Submits are serialized: a kill leaves at most one orphan. Many partitions
are in `prefect_wix.load.loader`; listing a job is in `prefect_wix.jobs.listing`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from dataclasses import InitVar, asdict, dataclass, field
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
    WarehouseError,
    WixError,
)
from prefect_wix.jobs.listing import Listing, submit_job
from prefect_wix.jobs.poll_policy import PollPolicy
from prefect_wix.jobs.poll_schedule import PollSchedule
from prefect_wix.planning.estimate import counted
from prefect_wix.planning.partitions import JobRecord, JobState, Partition
from prefect_wix.planning.windows import ONE_DAY, Window
from prefect_wix.warehouse.interface import Claim, VerifiedListing, Warehouse

CONCURRENT_READS = 8
"""Finished jobs that are read and published concurrently; more would only slow each one down."""
HISTORY_DAYS = timedelta(days=30)
"""Days before the last partition whose job records calibrate the poll schedule."""
ADOPT_MAX_AGE = timedelta(hours=6)
"""Older jobs are not adopted: their results would be out of date."""

_TERMINAL_JOB_ERRORS = (JobFailedError, UnknownJobError, IncompleteListingError)
"""After these errors the job can give no result and must not be adopted. The same holds after a
rejected request that neither affects the site nor is temporary."""


@dataclass(frozen=True)
class LoadOptions:
    """Options of a load.

    Attributes:
        as_of: scheduled time of the load.
        jobs_in_flight: maximum number of jobs that run at Wix concurrently.
        poll_policy: waits and timeout of each job.
        run_id: the run, stored in the job records and receipts.
    """

    as_of: datetime
    jobs_in_flight: int = 16
    poll_policy: PollPolicy = PollPolicy()
    run_id: str | None = None


@dataclass(frozen=True)
class PartitionResult:
    """The result of loading one partition."""

    partition: Partition
    state: JobState
    """LANDED, UNCHANGED, SUPERSEDED or FAILED."""
    job_id: str | None = None
    sessions: int = 0
    added: int = 0
    removed: int = 0
    kept: int = 0
    version: int = 0
    """The version of the partition's contents; 0 if the partition failed."""
    duplicates: int = 0
    requests: int = 0
    """Requests after the first submit; 0 if the partition failed."""
    adopted: bool = False
    """The job was submitted by an earlier run."""
    possible_orphans: int = 0
    """Submits of the partition whose response was lost: each may have left a job at Wix."""
    reason: str | None = None
    """The error message of a failed partition."""


async def observed_jobs(
    warehouse: Warehouse, partitions: Sequence[Partition]
) -> list[tuple[SessionsQuery, float, float]]:
    """Jobs that earlier loads timed: (query, age last running, age finished), ages in seconds."""
    if not partitions:
        return []
    last = max(partitions, key=lambda one: one.day)
    window = Window(last.day - HISTORY_DAYS, last.day + ONE_DAY, last.timezone)
    try:
        records = await warehouse.job_records(last.site_id, window)
    except WarehouseError:
        return []  # The next write raises the same error and reports it.
    return [
        (record.partition.query, record.running_seconds or 0.0, record.finished_seconds)
        for record in records
        if record.finished_seconds is not None
    ]


@dataclass
class LoadState:
    """State that the partitions of one load share."""

    client: WixClient
    warehouse: Warehouse
    options: LoadOptions
    history: InitVar[Iterable[tuple[SessionsQuery, float, float]]]
    """See `observed_jobs`."""
    log: Log
    job_accepted: bool = False
    """Wix has accepted a submit of this load, so an empty 403 is throttling."""
    lost_submits: int = 0
    """Partitions in a row whose submits Wix may have executed without a response."""
    pending: int = 0
    """Partitions without a result."""
    stopped: WixError | None = None
    """The failure that affects every partition; nothing is submitted after it."""
    at_wix: set[Partition] = field(default_factory=set)
    """Partitions whose jobs run, or failed."""
    kinds_failed: set[type[WixError]] = field(default_factory=set)
    """The kinds of failures that were logged."""

    def __post_init__(self, history: Iterable[tuple[SessionsQuery, float, float]]) -> None:
        utilization, policy = self.client.rate_limiter.utilization, self.options.poll_policy
        self.schedule = PollSchedule(self.client.clock, policy, utilization, history)
        self.running = asyncio.Semaphore(self.options.jobs_in_flight)
        """Slots for jobs that run at Wix."""
        self.reading = asyncio.Semaphore(CONCURRENT_READS)
        """Slots for finished jobs that are read and published."""
        self.in_progress = asyncio.Semaphore(self.options.jobs_in_flight + CONCURRENT_READS)
        """Slots for all jobs that are not published yet: their spools use memory and disk."""
        self.submitting = asyncio.Lock()

    def log_failure(self, partition: Partition, error: WixError) -> None:
        """Log the first failure of each kind at ERROR and the others at INFO."""
        level = logging.INFO if type(error) in self.kinds_failed else logging.ERROR
        self.kinds_failed.add(type(error))
        self.log.log(level, "%s failed: %s", partition, error)

    def raise_if_stopped(self) -> None:
        """Raise the failure that affects every partition, if there is one."""
        if self.stopped is not None:
            raise self.stopped

    def stop_if_affected(self, error: WixError, *, orphaned: bool = False) -> None:
        """Stop the load if the failure affects every partition.

        Args:
            error: the failure.
            orphaned: it left a job whose ID is not known or stored; others would, too.
        """
        if self.stopped is None and (orphaned or self._affects_all(error)):
            self.stopped = error
            if others := self.pending - 1:
                remaining = counted(others, "partition")
                self.log.error("Stopped: the remaining %s would fail the same way.", remaining)

    def _affects_all(self, error: WixError) -> bool:
        if isinstance(error, WarehouseError):
            return error.affects_all
        if isinstance(error, PermissionDeniedError) and error.empty and self.job_accepted:
            return False
        # A submit that could be sent again was tried for the whole timeout of its job.
        return isinstance(error, RequestError) and (error.affects_site or error.safe_to_resend)


class PartitionLoad:
    """The load of one partition."""

    def __init__(self, load: LoadState, partition: Partition) -> None:
        self._load = load
        self._partition = partition
        self._record = self._intent()
        """Not stored before the first claim."""
        self._adopted = False
        self._orphans = 0

    async def run(self) -> PartitionResult:
        """Load the partition; expected errors become a result with the state FAILED."""
        try:
            self._load.raise_if_stopped()
            return await self._list_and_publish()
        except (ListingError, RequestError, WarehouseError) as error:
            if error is not self._load.stopped:
                self._load.log_failure(self._partition, error)
                self._load.stop_if_affected(error)
                await self._record_failure(error)
            return self._result(JobState.FAILED, reason=str(error))

    async def _list_and_publish(self) -> PartitionResult:
        load = self._load
        listing = Listing(
            load.client,
            self._partition.query,
            submit=self._submit,
            poll_policy=load.options.poll_policy,
            schedule=load.schedule,
            log=load.log,
        )
        async with load.in_progress, listing:
            load.schedule.expected_requests -= REQUESTS_PER_JOB
            async with load.running:
                load.at_wix.add(self._partition)
                await listing.poll_until_finished()
                load.at_wix.discard(self._partition)
            async with load.reading:
                summary = await listing.read_all()
                digest = await listing.spool.run(listing.spool.digest)
                record = self._record
                if listing.timer is not None:
                    record = record.timed(listing.timer.running, listing.timer.finished)
                verified = VerifiedListing(record, listing.spool, digest, summary.duplicates)
                published = await load.warehouse.publish(verified)
        return self._result(
            **asdict(published), duplicates=summary.duplicates, requests=summary.requests
        )

    async def _submit(self) -> SessionsJob:
        """Adopt the partition's running job, or submit a new one between two record writes."""
        if self._record.state is JobState.SUBMITTED:
            await self._close_record(JobState.FAILED, "job failed or unknown; submitted again")
        async with self._load.submitting:
            self._load.raise_if_stopped()
            try:
                return await self._claim()
            except WarehouseError as error:
                # Stop now: the next partition waits for the lock and would submit another orphan.
                self._load.stop_if_affected(
                    error, orphaned=self._record.state is JobState.SUBMITTED
                )
                raise

    async def _claim(self) -> SessionsJob:
        claim = await self._load.warehouse.claim(self._intent(), adopt_since=self._adopt_since())
        self._record, self._adopted = claim.record, claim.adopted
        self._orphans += claim.orphans
        if not claim.adopted:
            return await self._submit_new(claim)
        job = claim.record.job
        at = f"{job.submitted_at:%F %T} UTC"
        self._load.log.info("%s: adopted job %s, submitted %s.", self._partition, job.job_id, at)
        return job

    async def _submit_new(self, claim: Claim) -> SessionsJob:
        try:
            job = await submit_job(
                self._load.client,
                self._partition.query,
                poll_policy=self._load.options.poll_policy,
                log=self._load.log,
                on_response_lost=self._resubmit,
            )
        except RequestError as error:
            if error.may_have_taken_effect:
                await self._record_orphan()
                self._load.lost_submits += 1
                # One query may fail at Wix each time. Two in a row are an outage of submits.
                self._load.stop_if_affected(error, orphaned=self._load.lost_submits > 1)
            else:
                await self._close_record(JobState.FAILED, str(error))
            raise
        self._load.job_accepted, self._load.lost_submits = True, 0
        # Workers' clocks differ; the record is compared with those of other workers.
        submitted = job.model_copy(update={"submitted_at": claim.now()})
        self._record = self._record.submitted(submitted)
        await self._load.warehouse.save_record(self._record)
        return job

    async def _record_orphan(self) -> None:
        self._orphans += 1
        await self._close_record(JobState.ORPHANED, "the response to the submit was lost")

    async def _resubmit(self) -> None:
        await self._record_orphan()
        self._record = self._intent()
        await self._load.warehouse.save_record(self._record)

    async def _record_failure(self, error: WixError) -> None:
        is_final = isinstance(error, _TERMINAL_JOB_ERRORS)
        if isinstance(error, RequestError) and self._record.state is JobState.SUBMITTED:
            is_final = not (error.affects_site or error.temporary)
        if not is_final:
            return
        try:
            await self._close_record(JobState.FAILED, str(error))
        except WarehouseError as another:
            self._load.log.error("%s: failure not recorded: %s", self._partition, another)  # noqa: TRY400
            self._load.stop_if_affected(another)

    async def _close_record(self, state: JobState, reason: str) -> None:
        self._record = self._record.ended(state, at=datetime.now(UTC), reason=reason)
        await self._load.warehouse.save_record(self._record)

    def _intent(self) -> JobRecord:
        return JobRecord.intend(
            self._partition,
            at=datetime.now(UTC),
            run_id=self._load.options.run_id,
            base_url=self._load.client.base_url,
        )

    def _adopt_since(self) -> datetime:
        """The earliest submit time to adopt: a day that is over needs a job from after its end."""
        as_of, ends_at = self._load.options.as_of, self._partition.ends_at
        since = datetime.now(UTC) - ADOPT_MAX_AGE
        return max(since, ends_at) if ends_at <= as_of else since

    def _result(
        self, state: JobState, *, reason: str | None = None, **counts: int
    ) -> PartitionResult:
        return PartitionResult(
            partition=self._partition,
            state=state,
            job_id=self._record.job_id,
            adopted=self._adopted,
            possible_orphans=self._orphans,
            reason=reason,
            **counts,
        )
