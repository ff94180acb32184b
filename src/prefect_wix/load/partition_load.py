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
from prefect_wix.client.rate_limiter import REQUESTS_A_JOB
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
from prefect_wix.jobs.poll_policy import Patience
from prefect_wix.jobs.poll_schedule import Pace
from prefect_wix.planning.partitions import Ask, AskState, Partition
from prefect_wix.planning.windows import ONE_DAY, Window
from prefect_wix.spool.shield import finish
from prefect_wix.warehouse.interface import Answer, Landed, Warehouse

__all__ = [
    "ADOPT_WITHIN",
    "Load",
    "LoadOptions",
    "Outcome",
    "PartitionLoad",
    "watched_jobs",
]

DRAINS = 8
"""Finished jobs that are drained and landed at once: with more, each would only be slower."""
LEARN_FROM = timedelta(days=30)
"""Of how many days before the last one the ledger is asked how long jobs took."""
ADOPT_WITHIN = timedelta(hours=6)
"""A job older than this is not waited for any more: its answer would be old news."""

_USELESS_JOB = (JobFailedError, UnknownJobError, IncompleteListingError)
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
    patience: Patience = Patience()
    run_id: str | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of one partition."""

    partition: Partition
    state: AskState
    """LANDED, UNCHANGED, SUPERSEDED or FAILED."""
    job_id: str | None = None
    sessions: int = 0
    added: int = 0
    gone: int = 0
    stayed: int = 0
    repeats: int = 0
    requests: int = 0
    adopted: bool = False
    """The job was submitted by an earlier run."""
    possible_orphans: int = 0
    """Submits for it that never got a reply: each may have left a job that nobody knows."""
    reason: str | None = None
    """Why it failed, in words."""


async def watched_jobs(
    warehouse: Warehouse, partitions: Sequence[Partition]
) -> list[tuple[SessionsQuery, float, float]]:
    """The jobs that earlier loads watched: (query, seen running at, finished at)."""
    if not partitions:
        return []
    last = max(partitions, key=lambda one: one.day)
    window = Window(last.day - LEARN_FROM, last.day + ONE_DAY, last.timezone)
    try:
        asks = await warehouse.history(last.site_id, window)
    except WarehouseError:
        return []  # Whoever writes to it next will say what is wrong.
    return [
        (ask.partition.query, ask.running_seconds or 0.0, ask.finished_seconds)
        for ask in asks
        if ask.finished_seconds is not None
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
        self.pace = Pace(client.clock, options.patience, client.budget.scarcity, history)
        self.running = asyncio.Semaphore(options.jobs_in_flight)
        """Jobs that run at Wix;"""
        self.draining = asyncio.Semaphore(DRAINS)
        self.begun = asyncio.Semaphore(options.jobs_in_flight + DRAINS)
        """and those that are finished and not landed yet, whose ids take room on this machine."""
        self.submitting = asyncio.Lock()
        self.had_a_job = False
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
        if self.stopped is None and self._holds_for_all(error):
            self.log.error("No further partition is begun, since this holds for all of them.")
            self.stopped = error

    def _holds_for_all(self, error: WixError) -> bool:
        if isinstance(error, WarehouseError):
            return not isinstance(error, WarehouseBusyError)
        if isinstance(error, PermissionDeniedError) and error.empty and self.had_a_job:
            return False
        return isinstance(error, RequestError) and error.holds_for_site


class PartitionLoad:
    """One partition on its way from an ask to rows."""

    def __init__(self, load: Load, partition: Partition) -> None:
        self._load = load
        self._partition = partition
        self._ask: Ask | None = None
        self._adopted = False
        self._orphans = 0

    async def run(self) -> Outcome:
        """Ask for it and land it; never raises what only this partition suffers from."""
        try:
            self._load.check()
            return await self._load_it()
        except (ListingError, RequestError, WarehouseError) as error:
            if error is not self._load.stopped:
                self._load.tell(self._partition, error)
                await self._note_failure(error)
            return self._outcome(AskState.FAILED, reason=str(error))

    async def _load_it(self) -> Outcome:
        async with self._load.begun, self._listing() as listing:
            self._load.pace.to_come -= REQUESTS_A_JOB
            async with self._load.running:
                await listing.first_page()
            async with self._load.draining:
                summary = await listing.drain()
                answer = await self._answer(listing, summary)
                landed = await self._load.warehouse.publish(answer)
        return self._landed(landed, summary)

    def _listing(self) -> Listing:
        return Listing(
            self._load.client,
            self._partition.query,
            submit=self._submit,
            patience=self._load.options.patience,
            pace=self._load.pace,
            log=self._load.log,
        )

    async def _answer(self, listing: Listing, summary: ListingSummary) -> Answer:
        digest = await listing.spool.run(listing.spool.digest)
        ask = self._known_ask
        if listing.watch is not None:
            ask = ask.watched(listing.watch.running, listing.watch.finished)
        return Answer(ask, listing.spool, digest, summary.repeats)

    async def _submit(self) -> SessionsJob:
        """A job for the partition: the one that runs already, or a new one that is on record."""
        await self._give_up_ask()
        async with self._load.submitting:
            self._load.check()
            claim = await self._load.warehouse.claim(
                self._intent(), adopt_since=self._adopt_since()
            )
            self._ask, self._adopted = claim.ask, claim.adopted
            self._orphans += claim.orphans
            return self._adopt(claim.ask) if claim.adopted else await self._submit_new()

    def _adopt(self, ask: Ask) -> SessionsJob:
        self._load.log.info(
            "%s: waiting for job %s, which runs since %s.",
            self._partition,
            ask.job_id,
            f"{ask.job.submitted_at:%F %T} UTC",
        )
        return ask.job

    async def _submit_new(self) -> SessionsJob:
        try:
            job = await submit_job(
                self._load.client,
                self._partition.query,
                log=self._load.log,
                reply_lost=self._begin_again,
            )
        except RequestError as error:
            if error.may_have_taken_effect:
                await self._note_orphan()
            else:
                await self._end_ask(AskState.FAILED, str(error))
            raise
        self._load.had_a_job = True
        await self._put_on_record(job)
        return job

    async def _put_on_record(self, job: SessionsJob) -> None:
        self._ask = self._known_ask.submitted(job)
        try:
            await finish(self._load.warehouse.record(self._ask))
        except WarehouseError as error:
            # Before the next one, who waits for its turn, submits a job that may be lost too.
            self._load.learn(error)
            raise

    async def _note_orphan(self) -> None:
        self._orphans += 1
        await self._end_ask(AskState.ORPHANED, "the reply to the submit was lost")

    async def _begin_again(self) -> None:
        await self._note_orphan()
        self._ask = self._intent()
        await self._load.warehouse.record(self._ask)

    async def _give_up_ask(self) -> None:
        """Close the ask whose job came to nothing, before the query is asked once more."""
        if self._ask is not None:
            await self._end_ask(AskState.FAILED, "the job failed or was forgotten; asked once more")

    async def _note_failure(self, error: WixError) -> None:
        if not isinstance(error, _USELESS_JOB):
            return
        try:
            await self._end_ask(AskState.FAILED, str(error))
        except WarehouseError as another:
            self._load.log.error("%s: %s", self._partition, another)  # noqa: TRY400
            self._load.learn(another)

    async def _end_ask(self, state: AskState, reason: str) -> None:
        self._ask = self._known_ask.ended(state, at=datetime.now(UTC), reason=reason)
        await self._load.warehouse.record(self._ask)

    def _intent(self) -> Ask:
        return Ask.intend(self._partition, at=datetime.now(UTC), run_id=self._load.options.run_id)

    def _adopt_since(self) -> datetime:
        """No job from before the day was over, unless it is not over yet; and none too old."""
        as_of, over = self._load.options.as_of, self._partition.ends_at
        since = datetime.now(UTC) - ADOPT_WITHIN
        return max(since, over) if over <= as_of else since

    @property
    def _known_ask(self) -> Ask:
        if self._ask is None:  # pragma: no cover
            raise AssertionError("a job is only ever submitted through an ask")
        return self._ask

    def _landed(self, landed: Landed, summary: ListingSummary) -> Outcome:
        return self._outcome(
            landed.state,
            sessions=landed.sessions,
            added=landed.added,
            gone=landed.gone,
            stayed=landed.stayed,
            repeats=summary.repeats,
            requests=summary.requests,
        )

    def _outcome(self, state: AskState, *, reason: str | None = None, **counts: int) -> Outcome:
        outcome = Outcome(
            partition=self._partition,
            state=state,
            job_id=self._ask.job_id if self._ask else None,
            adopted=self._adopted,
            possible_orphans=self._orphans,
            reason=reason,
        )
        return replace(outcome, **counts)  # type: ignore[arg-type]
