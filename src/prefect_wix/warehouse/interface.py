"""What every warehouse can do: six verbs, each committed when it returns.

No verb holds anything while Wix is waited for. An engine that crashes in a verb leaves what was
there before it or what it was to leave, never a mix.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from prefect_wix.planning.partitions import JobRecord, JobState, Receipt
from prefect_wix.planning.windows import Window
from prefect_wix.spool.id_spool import Spool

__all__ = ["Claim", "PublishResult", "VerifiedListing", "Warehouse"]


@dataclass(frozen=True)
class VerifiedListing:
    """A complete, verified answer for one partition, ready to land."""

    record: JobRecord
    spool: Spool
    digest: str
    duplicates: int


@dataclass(frozen=True)
class Claim:
    """Leave to submit a job for a partition, or the job that already runs for it."""

    record: JobRecord
    orphans: int
    """Earlier asks whose submit never got a reply: each may have left a job nobody knows."""

    @property
    def adopted(self) -> bool:
        """Whether the ask's job was submitted before, by this run or another."""
        return self.record.state is JobState.SUBMITTED


@dataclass(frozen=True)
class PublishResult:
    """What landing an answer did."""

    state: JobState
    """LANDED; or UNCHANGED or SUPERSEDED, when no session was written."""
    sessions: int
    """How many the partition holds now."""
    added: int
    removed: int
    kept: int


class Warehouse(Protocol):
    """A place that keeps session ids, the receipts for them and the ledger of jobs."""

    async def prepare(self) -> None:
        """Make or migrate the tables; check that they are what this version writes.

        Raises:
            WarehouseAccessError: it can't be reached or written.
            WarehouseBusyError: another process holds it past the deadline.
            WarehouseSchemaError: a newer version made the tables, or somebody altered them.
        """

    async def receipts(self, site_id: str, window: Window) -> list[Receipt]:
        """The receipts of a site's landed partitions in a window, every segment."""

    async def job_records(self, site_id: str, window: Window) -> list[JobRecord]:
        """The ledger: the asks of a site in a window, oldest first, every segment."""

    async def claim(self, record: JobRecord, *, adopt_since: datetime) -> Claim:
        """Note the intent to submit, unless a job submitted since then is open: then take that."""

    async def save_record(self, record: JobRecord) -> None:
        """Write how far an ask has come."""

    async def publish(self, answer: VerifiedListing) -> PublishResult:
        """Replace the partition by the answer and write its receipt, in one transaction."""
