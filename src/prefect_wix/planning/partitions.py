"""The unit of a load: one partition (site, local day, segment), its job records and its receipt.

How warehouses store them is in `prefect_wix.warehouse`.
"""

from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from enum import StrEnum
from typing import Self
from uuid import uuid4

from prefect_wix.client.models import SessionsJob, SessionsQuery
from prefect_wix.planning.segments import Segment
from prefect_wix.planning.windows import ONE_DAY, Window, day_begins


@dataclass(frozen=True, order=True)
class Partition:
    """One site, one local day in the site's time zone, one segment."""

    site_id: str
    day: date
    segment: str
    """The segment's stable key."""
    timezone: str

    def __str__(self) -> str:
        return f"{self.day} {self.segment}"

    @property
    def key(self) -> tuple[str, date, str]:
        """Primary key in a warehouse; the time zone is not part of it."""
        return self.site_id, self.day, self.segment

    @property
    def window(self) -> Window:
        """The local day as a window."""
        return Window(self.day, self.day + ONE_DAY, self.timezone)

    @property
    def query(self) -> SessionsQuery:
        """The query of the partition's job."""
        return Segment.parse(self.segment).query(self.window)

    @property
    def begins_at(self) -> datetime:
        """The instant at which the local day begins."""
        return day_begins(self.day, self.timezone)

    @property
    def ends_at(self) -> datetime:
        """The instant at which the local day ends; no session of the day begins after it."""
        return day_begins(self.day + ONE_DAY, self.timezone)


class JobState(StrEnum):
    """The state of one attempt to load a partition."""

    INTENDED = "intended"
    """Recorded before the submit. If the state stays, a job with an unknown ID may run."""
    SUBMITTED = "submitted"
    """Wix returned a job ID; any run may adopt the job."""
    LANDED = "landed"
    """The job's result replaced the partition."""
    UNCHANGED = "unchanged"
    """The job's result equals the partition; no session was written."""
    SUPERSEDED = "superseded"
    """The result of a job submitted later was already published; no session was written."""
    FAILED = "failed"
    """The job produced no result and is never adopted again."""
    ORPHANED = "orphaned"
    """The response to the submit was lost, and a new record replaced this one."""


CONFIRMING = (JobState.LANDED, JobState.UNCHANGED)
"""States in which the job's result equaled the partition's content at `JobRecord.ended_at`."""


@dataclass(frozen=True)
class JobRecord:
    """One attempt to load one partition with one job."""

    record_id: str
    partition: Partition
    state: JobState
    intended_at: datetime
    job_id: str | None = None
    submitted_at: datetime | None = None
    """When the job was submitted, by the warehouse's clock."""
    ended_at: datetime | None = None
    sessions: int | None = None
    added: int | None = None
    removed: int | None = None
    reason: str | None = None
    run_id: str | None = None
    running_seconds: float | None = None
    """Age of the job in seconds when a poll last found it running; None for an adopted job."""
    finished_seconds: float | None = None
    """Age of the job in seconds when a poll first found it finished; None for an adopted job."""
    base_url: str | None = None
    """Where the job was submitted. Its ID is known only there, so it is adopted only there."""

    @classmethod
    def intend(
        cls, partition: Partition, *, at: datetime, run_id: str | None, base_url: str | None = None
    ) -> Self:
        """The record to save before a submit."""
        return cls(
            record_id=str(uuid4()),
            partition=partition,
            state=JobState.INTENDED,
            intended_at=at,
            run_id=run_id,
            base_url=base_url,
        )

    def submitted(self, job: SessionsJob) -> Self:
        """The record to save when Wix returned the job ID."""
        return replace(
            self, state=JobState.SUBMITTED, job_id=job.job_id, submitted_at=job.submitted_at
        )

    def timed(self, running: float, finished: float | None) -> Self:
        """The record with the job's age, in seconds, at its last running and finished polls."""
        return replace(self, running_seconds=running, finished_seconds=finished)

    def ended(self, state: JobState, *, at: datetime, reason: str | None = None) -> Self:
        """The record to save when the attempt has ended."""
        return replace(self, state=state, ended_at=at, reason=reason)

    @property
    def job(self) -> SessionsJob:
        """The handle of the job.

        Raises:
            ValueError: the job has not been submitted.
        """
        if self.job_id is None or self.submitted_at is None:
            raise ValueError(f"No job is known for {self.partition}.")
        return SessionsJob(
            job_id=self.job_id,
            query=self.partition.query,
            site_id=self.partition.site_id,
            submitted_at=self.submitted_at,
        )


UNCONFIRMED = datetime.fromtimestamp(0, UTC)
"""`Receipt.submitted_at` of a partition that the first edition derived without a job of its own."""


FORGOTTEN = "forgotten"
"""`Receipt.digest` of a partition whose session IDs were erased."""


@dataclass(frozen=True)
class Receipt:
    """The content of a landed partition, and the jobs that listed it."""

    partition: Partition
    sessions: int
    digest: str
    """Fingerprint of the set of session IDs, independent of their order; or `FORGOTTEN`."""
    job_id: str
    submitted_at: datetime
    """Submit time of the job that produced this content."""
    landed_at: datetime
    confirmed_at: datetime
    """Submit time of the newest job with exactly this result."""
    added: int
    """IDs that the content before this one did not have."""
    removed: int
    """IDs of the content before this one that are gone."""
    kept: int
    """IDs that both have."""
    duplicates: int
    """Repeated IDs in Wix's pages; they were dropped."""
    run_id: str | None = None
    version: int | None = None
    """Counts the contents that the partition has had; None before it was counted."""
