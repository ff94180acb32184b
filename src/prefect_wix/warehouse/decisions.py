"""What to do with a claim or an answer, given what the warehouse holds: pure decisions.

Every engine asks these, inside its transaction or lock. Nothing here reads or writes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from prefect_wix.errors import WarehouseError
from prefect_wix.planning.partitions import UNCONFIRMED, JobRecord, JobState, Receipt
from prefect_wix.warehouse.interface import Claim, PublishResult, VerifiedListing

__all__ = [
    "OPEN_STATES",
    "PartitionContents",
    "closed_record",
    "decide_claim",
    "decide_publish",
    "landed_record",
    "new_receipt",
]

OPEN_STATES = (JobState.INTENDED, JobState.SUBMITTED)
"""The states of an ask that something may still come of."""


@dataclass(frozen=True)
class PartitionContents:
    """What a partition holds, beside the answer that is to land in it."""

    sessions: int
    kept: int
    """How many of the answer's ids are among them."""
    staged: int
    """How many ids of the answer reached the engine."""
    receipt: Receipt | None


def decide_claim(
    record: JobRecord, open_records: Iterable[JobRecord], adopt_since: datetime
) -> tuple[Claim, list[JobRecord]]:
    """The job to adopt, the latest one; or leave to submit, and the asks to record for it.

    Args:
        ask: the intent.
        open_asks: the `OPEN_STATES` entries of the partition, whatever their time zone.
        adopt_since: a job submitted before it is not adopted.
    """
    # Its own is there where a commit took effect that was said to have failed.
    records = [one for one in open_records if one.record_id != record.record_id]
    jobs = [one for one in records if _may_adopt(one, record, adopt_since)]
    if jobs:
        return Claim(max(jobs, key=_submitted_at), orphans=0), []
    lost = [
        one.ended(JobState.ORPHANED, at=record.intended_at)
        for one in records
        if one.state is JobState.INTENDED
    ]
    return Claim(record, orphans=len(lost)), [*lost, record]


def _may_adopt(one: JobRecord, record: JobRecord, adopt_since: datetime) -> bool:
    same = one.partition == record.partition and one.state is JobState.SUBMITTED
    return same and _submitted_at(one) >= adopt_since


def _submitted_at(record: JobRecord) -> datetime:
    return record.submitted_at or datetime.min.replace(tzinfo=UTC)


def decide_publish(answer: VerifiedListing, held: PartitionContents, at: datetime) -> PublishResult:
    """What landing the answer does, at an instant.

    The ids are compared and not only counted, so that a partition altered by hand is put right.

    Raises:
        WarehouseError: the engine did not get the ids as they are.
    """
    sessions = len(answer.spool)
    if held.staged != sessions:
        raise WarehouseError(
            f"{sessions} ids of {answer.record.partition} were handed to the warehouse and "
            f"{held.staged} arrived: an id has a line break in it, or the like. "
            "The warehouse holds what it held before."
        )
    if _is_superseded(answer.record, held.receipt, at):
        return _untouched(JobState.SUPERSEDED, held)
    if held.sessions == held.kept == sessions and _is_proven(answer, held.receipt):
        return _untouched(JobState.UNCHANGED, held)
    removed = held.sessions - held.kept
    return PublishResult(JobState.LANDED, sessions, sessions - held.kept, removed, held.kept)


def _is_superseded(record: JobRecord, receipt: Receipt | None, at: datetime) -> bool:
    """Whether what is held came from a job submitted later: the newest job wins, in any zone.

    A job from the future was submitted by a clock that ran ahead, and proves nothing.
    """
    return receipt is not None and _submitted_at(record) < receipt.confirmed_at <= at


def _is_proven(answer: VerifiedListing, receipt: Receipt | None) -> bool:
    if receipt is None:
        return False
    said = (receipt.digest, receipt.sessions, receipt.partition.timezone)
    same = said == (answer.digest, len(answer.spool), answer.record.partition.timezone)
    return same and receipt.submitted_at != UNCONFIRMED


def _untouched(state: JobState, held: PartitionContents) -> PublishResult:
    return PublishResult(state, held.sessions, added=0, removed=0, kept=held.sessions)


def closed_record(record: JobRecord, landed: PublishResult, at: datetime) -> JobRecord:
    """The entry of the ledger for an ask whose answer landed so."""
    ended = record.ended(landed.state, at=at)
    return replace(ended, sessions=landed.sessions, added=landed.added, removed=landed.removed)


def landed_record(record: JobRecord, receipt: Receipt) -> JobRecord:
    """The entry of the ledger for an ask whose answer the receipt is for."""
    ended = record.ended(JobState.LANDED, at=receipt.landed_at)
    return replace(ended, sessions=receipt.sessions, added=receipt.added, removed=receipt.removed)


def new_receipt(answer: VerifiedListing, landed: PublishResult, at: datetime) -> Receipt:
    """The receipt for an answer that replaced its partition."""
    job = answer.record.job
    return Receipt(
        partition=answer.record.partition,
        sessions=landed.sessions,
        digest=answer.digest,
        job_id=job.job_id,
        submitted_at=job.submitted_at,
        landed_at=at,
        confirmed_at=job.submitted_at,
        added=landed.added,
        removed=landed.removed,
        kept=landed.kept,
        duplicates=answer.duplicates,
        run_id=answer.record.run_id,
    )
