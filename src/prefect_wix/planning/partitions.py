"""What is asked, landed, replaced and proven as one: one site, one local day, one segment.

Also the two records kept of it: the job that was asked for it, and the receipt for what it holds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from enum import StrEnum
from typing import Self
from uuid import uuid4

from prefect_wix.client.models import SessionsJob, SessionsQuery
from prefect_wix.planning.segments import Segment
from prefect_wix.planning.windows import ONE_DAY, Window, day_begins

__all__ = ["CONFIRMING", "UNCONFIRMED", "JobRecord", "JobState", "Partition", "Receipt"]


@dataclass(frozen=True, order=True)
class Partition:
    """One site, one local day in its zone, one segment."""

    site_id: str
    day: date
    segment: str
    """The segment's stable key."""
    timezone: str

    def __str__(self) -> str:
        return f"{self.day} {self.segment}"

    @property
    def key(self) -> tuple[str, date, str]:
        """What a warehouse files it under; the zone is a property of what is filed."""
        return self.site_id, self.day, self.segment

    @property
    def window(self) -> Window:
        """The day as a window."""
        return Window(self.day, self.day + ONE_DAY, self.timezone)

    @property
    def query(self) -> SessionsQuery:
        """The query that asks for it."""
        return Segment.parse(self.segment).query(self.window)

    @property
    def begins_at(self) -> datetime:
        """The instant at which the local day begins."""
        return day_begins(self.day, self.timezone)

    @property
    def ends_at(self) -> datetime:
        """The instant at which the local day is over; no session can begin in it after that."""
        return day_begins(self.day + ONE_DAY, self.timezone)


class JobState(StrEnum):
    """How far one ask for a partition has come."""

    INTENDED = "intended"
    """About to be submitted. If it stays so, a job may run that nobody knows."""
    SUBMITTED = "submitted"
    """The job is known; any run may wait for it."""
    LANDED = "landed"
    """Its answer replaced what the partition held."""
    UNCHANGED = "unchanged"
    """Its answer was what the partition held already."""
    SUPERSEDED = "superseded"
    """What came of a job submitted later had landed already; nothing was written."""
    FAILED = "failed"
    """It came to nothing, and asking for the same job again is of no use."""
    ORPHANED = "orphaned"
    """Its submit got no reply, and another ask took its place."""


CONFIRMING = (JobState.LANDED, JobState.UNCHANGED)
"""The states of an ask whose answer is what the partition held when it ended."""


@dataclass(frozen=True)
class JobRecord:
    """One entry of the job ledger: one attempt to get one partition's answer from Wix."""

    record_id: str
    partition: Partition
    state: JobState
    intended_at: datetime
    job_id: str | None = None
    submitted_at: datetime | None = None
    ended_at: datetime | None = None
    sessions: int | None = None
    added: int | None = None
    removed: int | None = None
    reason: str | None = None
    run_id: str | None = None
    running_seconds: float | None = None
    """Seconds after the submit at which the job was last seen running,"""
    finished_seconds: float | None = None
    """and at which it was first seen finished. None where nobody watched it from the submit."""

    @classmethod
    def intend(cls, partition: Partition, *, at: datetime, run_id: str | None) -> Self:
        """The entry to write before a submit."""
        return cls(
            record_id=str(uuid4()),
            partition=partition,
            state=JobState.INTENDED,
            intended_at=at,
            run_id=run_id,
        )

    def submitted(self, job: SessionsJob) -> Self:
        """The entry to write when the job is known."""
        return replace(
            self, state=JobState.SUBMITTED, job_id=job.job_id, submitted_at=job.submitted_at
        )

    def timed(self, running: float, finished: float | None) -> Self:
        """The entry with when, in seconds after the submit, its job was seen to run and to end."""
        return replace(self, running_seconds=running, finished_seconds=finished)

    def ended(self, state: JobState, *, at: datetime, reason: str | None = None) -> Self:
        """The entry to write when nothing more will come of it."""
        return replace(self, state=state, ended_at=at, reason=reason)

    @property
    def job(self) -> SessionsJob:
        """The handle of the job.

        Raises:
            ValueError: none is known.
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
"""`Receipt.submitted_at` of a partition that no job listed: the first edition derived it."""


@dataclass(frozen=True)
class Receipt:
    """What a landed partition holds, and since when that is known."""

    partition: Partition
    sessions: int
    digest: str
    """Fingerprint of the set of ids, whatever order they came in."""
    job_id: str
    submitted_at: datetime
    """When the job was submitted whose answer this is."""
    landed_at: datetime
    confirmed_at: datetime
    """When the last job was submitted that gave this very answer."""
    added: int
    """Against the answer it replaced: ids that came,"""
    removed: int
    """ids that went,"""
    kept: int
    """and ids that stayed."""
    duplicates: int
    """Ids that Wix handed out more than once."""
    run_id: str | None = None
