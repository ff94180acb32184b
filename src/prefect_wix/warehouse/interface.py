"""The interface of every warehouse: six operations, each committed when it returns.

The engines are in modules of their own; `decisions` has the rules that they share. No operation
keeps a lock or a transaction open while a job runs at Wix. A crash during an operation leaves the
state before it or the state after it, never a mix.
"""

from __future__ import annotations

import time
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol, runtime_checkable

from prefect_wix.planning.partitions import JobRecord, JobState, Receipt
from prefect_wix.planning.windows import Window
from prefect_wix.spool.id_spool import Spool

BUSY_TIMEOUT_SECONDS = 60.0
"""How long an operation waits for a lock, or for a file that another process has open."""
_LONGEST_TEXT = 500


@dataclass(frozen=True)
class VerifiedListing:
    """The complete, verified result of one partition's job, ready to publish."""

    record: JobRecord
    """The job record of the job, in state SUBMITTED."""
    spool: Spool
    """The distinct session IDs."""
    digest: str
    """`Spool.digest` of the IDs."""
    duplicates: int
    """How many IDs Wix listed more than once."""


@dataclass(frozen=True)
class Claim:
    """Permission to submit a job for a partition, or the running job to adopt instead."""

    record: JobRecord
    """The intent of the caller; or the record of the adopted job."""
    orphans: int
    """Earlier intents without a job ID, closed by this claim: each may have left a job at Wix."""
    at: datetime
    """When the partition was claimed, by the warehouse's clock."""
    received: float = field(default_factory=time.monotonic, compare=False)
    """The claim's creation in seconds of `time.monotonic`."""

    def now(self) -> datetime:
        """The time by the warehouse's clock, by which jobs of all workers are ordered.

        It continues `at` by this machine's monotonic clock. So a submit is never dated later than
        it happened, however wrong this machine's time of day is.
        """
        return self.at + timedelta(seconds=time.monotonic() - self.received)

    @property
    def adopted(self) -> bool:
        """Whether the job was submitted before, by this run or another."""
        return self.record.state is JobState.SUBMITTED


@dataclass(frozen=True)
class PublishResult:
    """What publishing a listing changed in its partition."""

    state: JobState
    """LANDED; or UNCHANGED or SUPERSEDED, when no session was written."""
    sessions: int
    """Sessions in the partition afterwards."""
    added: int
    """Sessions that were not in the partition before."""
    removed: int
    """Sessions that are no longer in the partition."""
    kept: int
    """Sessions that were in the partition before and still are."""
    version: int = field(default=0, compare=False)
    """The version of the partition's contents afterwards."""


class Warehouse(Protocol):
    """Storage of session IDs, their receipts and the job records.

    Every operation raises `WarehouseAccessError` if the warehouse cannot be reached or written, and
    `WarehouseBusyError` if another process or session locks it beyond the timeout.
    """

    async def prepare(self) -> None:
        """Create or migrate the tables, and check that this version can write them.

        Raises:
            WarehouseSchemaError: a newer version created the tables, or they were altered.
        """

    async def receipts(self, site_id: str, window: Window) -> list[Receipt]:
        """The receipts of a site's partitions in a window, all segments."""

    async def job_records(self, site_id: str, window: Window) -> list[JobRecord]:
        """The job records of a site in a window, all segments, oldest intent first."""

    async def claim(self, record: JobRecord, *, adopt_since: datetime) -> Claim:
        """Record the intent to submit, or adopt an open job submitted at `adopt_since` or later."""

    async def save_record(self, record: JobRecord) -> None:
        """Insert an intent, or write the state of a job whose intent is stored."""

    async def publish(self, listing: VerifiedListing) -> PublishResult:
        """Replace the partition by the listing and write its receipt, in one transaction."""


@runtime_checkable
class KeepsOpen(Protocol):
    """A warehouse that is faster when its connection stays open between transactions."""

    def kept_open(self) -> AbstractAsyncContextManager[None]:
        """See `kept_open`."""


def driver_text(error: object) -> str:
    """The text of a driver's error, for a message: one line of at most 500 characters.

    Only for errors that can't repeat the URL: those of a statement, and not those of a connection.
    """
    return " ".join(str(error).split())[:_LONGEST_TEXT] or type(error).__name__


def kept_open(warehouse: object) -> AbstractAsyncContextManager[None]:
    """Keep the warehouse's connection open between transactions, if it has one to keep open.

    Each transaction is committed when its call returns.
    """
    return warehouse.kept_open() if isinstance(warehouse, KeepsOpen) else nullcontext()
