"""Partitions that are put together from others: by plan, or because their own job came to nothing.

How one follows from others is said in `prefect_wix.cover`, and how one is asked for in
`prefect_wix.asking`. What the answers contradict is asked for all the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from itertools import chain

from prefect_wix.asking import Load, Outcome, PartitionLoad
from prefect_wix.cover import Derivation, proving_paths
from prefect_wix.deriving import derive
from prefect_wix.errors import (
    ListingError,
    RelationBrokenError,
    WarehouseError,
)
from prefect_wix.finish import finish_in_thread
from prefect_wix.lending import Lending, Lent
from prefect_wix.partitions import Ask, AskState, Partition
from prefect_wix.spool import Spool
from prefect_wix.warehouse import Answer

__all__ = ["Derived", "Parts", "sources_of"]


def sources_of(partition: Partition, derivation: Derivation) -> list[Partition]:
    """The partitions of the same day that one is derived from."""
    return [replace(partition, segment=key) for key in derivation.sources]


class Derived:
    """One partition that follows from others, which are being asked for."""

    def __init__(
        self, load: Load, partition: Partition, derivation: Derivation, lending: Lending
    ) -> None:
        self._load = load
        self._partition = partition
        self._derivation = derivation
        self._lending = lending

    async def run(self) -> Outcome:
        """Derive it; or ask for it, where it does not follow after all."""
        try:
            answers = await _borrow(self._lending, self._partition, self._derivation)
            if answers is not None:
                return await _land_derived(self._load, self._partition, self._derivation, answers)
        except RelationBrokenError as error:
            self._load.log.warning("%s", error)
        except (ListingError, WarehouseError) as error:
            self._load.tell(self._partition, error)
            return Outcome(self._partition, AskState.FAILED, reason=str(error))
        finally:
            for source in sources_of(self._partition, self._derivation):
                self._lending.give_back(source)
        return await PartitionLoad(self._load, self._partition).run()


class Parts:
    """A partition whose job came to nothing, put together from its parts in two ways."""

    def __init__(self, load: Load, failed: Outcome) -> None:
        self._load = load
        self._failed = failed
        self._partition = failed.partition
        self._ways = proving_paths(failed.partition.segment)
        self._sources = [sources_of(failed.partition, way) for way in self._ways]

    async def run(self) -> Outcome:
        """What became of it so; what had become of it, where there are no such ways."""
        parts = list(chain.from_iterable(self._sources))
        poisoned = not self._load.poisoned.keys().isdisjoint(parts)
        is_well = self._load.has_landed and self._load.stopped is None
        if not parts or poisoned or not is_well:
            return self._failed
        self._load.log.warning(
            "%s: asking for its parts instead, %s, and to prove it %s.",
            self._partition,
            *self._ways,
        )
        lending = Lending(parts)
        loads = [PartitionLoad(self._load, part, lending).run() for part in parts]
        outcomes, landed = await asyncio.gather(asyncio.gather(*loads), self._put_together(lending))
        orphans = sum(one.possible_orphans for one in (self._failed, *outcomes))
        if landed is not None:
            orphans += landed.possible_orphans
            return replace(landed, possible_orphans=orphans, parts=tuple(outcomes))
        reason = f"{self._failed.reason} {_blame(outcomes)}"
        return replace(self._failed, reason=reason, possible_orphans=orphans, parts=tuple(outcomes))

    async def _put_together(self, lending: Lending) -> Outcome | None:
        try:
            way, other = self._ways
            answers = await _borrow(lending, self._partition, way)
            proof = await _borrow(lending, self._partition, other)
            if answers is None or proof is None:
                return None
            if await _digest(way, answers) != await _digest(other, proof):
                return None
            return await _land_derived(self._load, self._partition, way, answers)
        except (ListingError, WarehouseError) as error:
            self._load.tell(self._partition, error)
            return None
        finally:
            for part in chain.from_iterable(self._sources):
                lending.give_back(part)


Answers = Mapping[str, Lent]


async def _borrow(lending: Lending, partition: Partition, derivation: Derivation) -> Answers | None:
    """The answers it is derived from, by segment; None where one of them will not come."""
    answers = {
        source.segment: await lending.borrow(source) for source in sources_of(partition, derivation)
    }
    there = {segment: lent for segment, lent in answers.items() if lent is not None}
    return there if len(there) == len(answers) else None


async def _derive(derivation: Derivation, answers: Answers) -> Spool:
    spools = {segment: lent.spool for segment, lent in answers.items()}
    return await finish_in_thread(lambda: derive(derivation, spools))


async def _digest(derivation: Derivation, answers: Answers) -> str:
    with await _derive(derivation, answers) as spool:
        return await spool.run(spool.digest)


async def _land_derived(
    load: Load, partition: Partition, derivation: Derivation, answers: Answers
) -> Outcome:
    """Land what follows from the answers; it is as old as the oldest of them."""
    oldest = min((lent.ask.job for lent in answers.values()), key=lambda job: job.submitted_at)
    ask = Ask.intend(partition, at=datetime.now(UTC), run_id=load.options.run_id)
    ask = replace(ask.submitted(oldest), derived_from=derivation.expression)
    with await _derive(derivation, answers) as spool:
        digest = await spool.run(spool.digest)
        landed = await load.warehouse.publish(Answer(ask, spool, digest, repeats=0))
    return Outcome(
        partition=partition,
        state=landed.state,
        job_id=oldest.job_id,
        sessions=landed.sessions,
        added=landed.added,
        gone=landed.gone,
        stayed=landed.stayed,
        possible_orphans=landed.orphans,
        derived_from=derivation.expression,
    )


def _blame(parts: Iterable[Outcome]) -> str:
    """What stood in the way of putting a partition together."""
    failed = [part.partition.segment for part in parts if part.state is AskState.FAILED]
    if failed:
        return f"Of its parts {', '.join(failed)} failed too."
    return "Its parts landed, but two ways of putting them together do not agree."
