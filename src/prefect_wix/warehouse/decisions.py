"""What to do with a claim or an answer, given what the warehouse holds: pure decisions.

Every engine asks these, inside its transaction or lock. Nothing here reads or writes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from prefect_wix.errors import WarehouseError
from prefect_wix.planning.partitions import Ask, AskState, Receipt
from prefect_wix.warehouse.interface import Answer, Claim, Landed

__all__ = [
    "OPEN",
    "Held",
    "choose_claim",
    "choose_landing",
    "ended_by",
    "landed_by",
    "new_receipt",
]

OPEN = (AskState.INTENDED, AskState.SUBMITTED)
"""The states of an ask that something may still come of."""


@dataclass(frozen=True)
class Held:
    """What a partition holds, beside the answer that is to land in it."""

    sessions: int
    stayed: int
    """How many of the answer's ids are among them."""
    staged: int
    """How many ids of the answer reached the engine."""
    receipt: Receipt | None


def choose_claim(
    ask: Ask, open_asks: Iterable[Ask], adopt_since: datetime
) -> tuple[Claim, list[Ask]]:
    """The job to adopt, the latest one; or leave to submit, and the asks to record for it.

    Args:
        ask: the intent.
        open_asks: the `OPEN` entries of the partition, whatever their time zone.
        adopt_since: a job submitted before it is not adopted.
    """
    # Its own is there where a commit took effect that was said to have failed.
    asks = [one for one in open_asks if one.ask_id != ask.ask_id]
    jobs = [one for one in asks if _may_adopt(one, ask, adopt_since)]
    if jobs:
        return Claim(max(jobs, key=_submitted_at), orphans=0), []
    lost = [
        one.ended(AskState.ORPHANED, at=ask.intended_at)
        for one in asks
        if one.state is AskState.INTENDED
    ]
    return Claim(ask, orphans=len(lost)), [*lost, ask]


def _may_adopt(one: Ask, ask: Ask, adopt_since: datetime) -> bool:
    same = one.partition == ask.partition and one.state is AskState.SUBMITTED
    return same and _submitted_at(one) >= adopt_since


def _submitted_at(ask: Ask) -> datetime:
    return ask.submitted_at or datetime.min.replace(tzinfo=UTC)


def choose_landing(answer: Answer, held: Held, at: datetime) -> Landed:
    """What landing the answer does, at an instant.

    The ids are compared and not only counted, so that a partition altered by hand is put right.

    Raises:
        WarehouseError: the engine did not get the ids as they are.
    """
    sessions = len(answer.spool)
    if held.staged != sessions:
        raise WarehouseError(
            f"{sessions} ids of {answer.ask.partition} were handed to the warehouse and "
            f"{held.staged} arrived: an id has a line break in it, or the like. "
            "The warehouse holds what it held before."
        )
    if _is_superseded(answer.ask, held.receipt, at):
        return _untouched(AskState.SUPERSEDED, held)
    if held.sessions == held.stayed == sessions and _is_proven(answer, held.receipt):
        return _untouched(AskState.UNCHANGED, held)
    gone = held.sessions - held.stayed
    return Landed(AskState.LANDED, sessions, sessions - held.stayed, gone, held.stayed)


def _is_superseded(ask: Ask, receipt: Receipt | None, at: datetime) -> bool:
    """Whether what is held came from a job submitted later: the newest job wins, in any zone.

    A job from the future was submitted by a clock that ran ahead, and proves nothing.
    """
    return receipt is not None and _submitted_at(ask) < receipt.confirmed_at <= at


def _is_proven(answer: Answer, receipt: Receipt | None) -> bool:
    if receipt is None:
        return False
    said = (receipt.digest, receipt.sessions, receipt.partition.timezone)
    same = said == (answer.digest, len(answer.spool), answer.ask.partition.timezone)
    return same and receipt.derived_from is None


def _untouched(state: AskState, held: Held) -> Landed:
    return Landed(state, held.sessions, added=0, gone=0, stayed=held.sessions)


def ended_by(ask: Ask, landed: Landed, at: datetime) -> Ask:
    """The entry of the ledger for an ask whose answer landed so."""
    ended = ask.ended(landed.state, at=at)
    return replace(ended, sessions=landed.sessions, added=landed.added, gone=landed.gone)


def landed_by(ask: Ask, receipt: Receipt) -> Ask:
    """The entry of the ledger for an ask whose answer the receipt is for."""
    ended = ask.ended(AskState.LANDED, at=receipt.landed_at)
    return replace(ended, sessions=receipt.sessions, added=receipt.added, gone=receipt.gone)


def new_receipt(answer: Answer, landed: Landed, at: datetime) -> Receipt:
    """The receipt for an answer that replaced its partition."""
    job = answer.ask.job
    return Receipt(
        partition=answer.ask.partition,
        sessions=landed.sessions,
        digest=answer.digest,
        job_id=job.job_id,
        asked_at=job.submitted_at,
        landed_at=at,
        confirmed_at=job.submitted_at,
        added=landed.added,
        gone=landed.gone,
        stayed=landed.stayed,
        repeats=answer.repeats,
        run_id=answer.ask.run_id,
    )
