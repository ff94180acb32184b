"""Pure decisions about a claim or a listing, given the contents of the warehouse.

Every engine calls them inside its transaction or lock, and does the reading and writing itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from prefect_wix.errors import WarehouseError
from prefect_wix.planning.partitions import UNCONFIRMED, JobRecord, JobState, Receipt
from prefect_wix.warehouse.interface import Claim, PublishResult, VerifiedListing

OPEN_STATES = (JobState.INTENDED, JobState.SUBMITTED)
"""The states of a job record that may still get a result."""


@dataclass(frozen=True)
class PartitionContents:
    """What a partition contains before a listing is published, and how many IDs were staged."""

    sessions: int
    """Session IDs in the partition."""
    kept: int
    """Session IDs both in the partition and in the listing."""
    staged: int
    """IDs of the listing that reached the staging table."""
    receipt: Receipt | None
    """The partition's receipt, if it has one."""
    version: int = 0
    """The version of the contents; 0 if the partition never had any."""


def decide_claim(
    record: JobRecord, records: Iterable[JobRecord], adopt_since: datetime, at: datetime
) -> tuple[Claim, list[JobRecord]]:
    """Adopt the job that was submitted last, or grant a submit and list the records to write.

    The records of another base URL, such as a sandbox's, are left alone.

    Args:
        record: the intent to submit.
        records: the partition's job records, at least those in `OPEN_STATES`, in any time zone.
        adopt_since: a job submitted before this instant is not adopted.
        at: when the partition is claimed, by the warehouse's clock.
    """
    # The intent itself is stored already if its commit succeeded but reported an error.
    others = [
        one
        for one in records
        if one.record_id != record.record_id and one.base_url == record.base_url
    ]
    jobs = [
        one
        for one in others
        if one.partition == record.partition
        and one.state is JobState.SUBMITTED
        and adopt_since <= _submitted_at(one) <= at
    ]
    if jobs:
        return Claim(max(jobs, key=_submitted_at), orphans=0, at=at), []
    orphans = [
        one.ended(JobState.ORPHANED, at=record.intended_at)
        for one in others
        if one.state is JobState.INTENDED
    ]
    return Claim(record, orphans=len(orphans), at=at), [*orphans, record]


def _submitted_at(record: JobRecord) -> datetime:
    return record.submitted_at or datetime.min.replace(tzinfo=UTC)


def decide_publish(
    listing: VerifiedListing, contents: PartitionContents, at: datetime
) -> PublishResult:
    """The result of publishing the listing at an instant of the warehouse's clock.

    A receipt from the future was written by a clock that ran ahead: it proves nothing and is
    replaced. Compares the IDs and not only their number, so that a partition altered by hand is
    replaced.

    Raises:
        WarehouseError: the staging table does not contain exactly the IDs of the listing.
    """
    sessions = len(listing.spool)
    if contents.staged != sessions:
        raise WarehouseError(
            f"Staged {contents.staged:,} of the {sessions:,} session IDs of "
            f"{listing.record.partition}; an ID may contain a line break. "
            "Nothing was changed. Report this as a defect of prefect-wix."
        )
    receipt = contents.receipt
    if receipt is not None and receipt.confirmed_at <= at:
        if _submitted_at(listing.record) < receipt.confirmed_at:
            return _untouched(JobState.SUPERSEDED, contents)
        if contents.sessions == contents.kept == sessions and _is_proven(listing, receipt):
            return _untouched(JobState.UNCHANGED, contents)
    added, removed = sessions - contents.kept, contents.sessions - contents.kept
    version = contents.version + 1
    return PublishResult(JobState.LANDED, sessions, added, removed, contents.kept, version)


def _is_proven(listing: VerifiedListing, receipt: Receipt) -> bool:
    """Whether the receipt describes this listing, and a job listed it."""
    if receipt.submitted_at == UNCONFIRMED:
        return False
    expected = (listing.digest, len(listing.spool), listing.record.partition.timezone)
    return (receipt.digest, receipt.sessions, receipt.partition.timezone) == expected


def _untouched(state: JobState, contents: PartitionContents) -> PublishResult:
    kept = contents.sessions
    return PublishResult(state, kept, added=0, removed=0, kept=kept, version=contents.version)


def closed_record(
    record: JobRecord, state: JobState, counts: PublishResult | Receipt, at: datetime
) -> JobRecord:
    """The job record after its listing was published with this state and these counts."""
    ended = record.ended(state, at=at)
    return replace(ended, sessions=counts.sessions, added=counts.added, removed=counts.removed)


def new_receipt(listing: VerifiedListing, result: PublishResult, at: datetime) -> Receipt:
    """The receipt of a listing that replaced its partition."""
    job = listing.record.job
    return Receipt(
        partition=listing.record.partition,
        sessions=result.sessions,
        digest=listing.digest,
        job_id=job.job_id,
        submitted_at=job.submitted_at,
        landed_at=at,
        confirmed_at=job.submitted_at,
        added=result.added,
        removed=result.removed,
        kept=result.kept,
        duplicates=listing.duplicates,
        run_id=listing.record.run_id,
        version=result.version,
    )
