"""Answers that others are derived from: kept on disk for as long as somebody needs them.

A lender waits until all who need his answer have had it; a borrower waits until there is one, or
until it is known that there will be none. What is derived, and how, is not known here.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from prefect_wix.partitions import Ask, Partition
from prefect_wix.spool import Spool

__all__ = ["Lending", "Lent"]


@dataclass(frozen=True)
class Lent:
    """A complete answer, to be read and left as it is."""

    ask: Ask
    spool: Spool


class Lending:
    """The answers that are needed, between those who have them and those who need them.

    Args:
        needed: a partition for each time that its answer is needed.
    """

    def __init__(self, needed: Iterable[Partition] = ()) -> None:
        self._needed = Counter(needed)
        self._answers: dict[Partition, asyncio.Future[Lent | None]] = {}
        self._given_back: dict[Partition, asyncio.Event] = {}

    @property
    def needed(self) -> set[Partition]:
        """The partitions whose answers somebody needs."""
        return {*self._needed}

    async def lend(self, partition: Partition, answer: Lent) -> None:
        """Return when nobody needs the answer any more."""
        if self._needed[partition] <= 0:
            return
        given_back = self._given_back.setdefault(partition, asyncio.Event())
        self._tell(partition, answer)
        await given_back.wait()

    def has_none(self, partition: Partition) -> None:
        """Say that there will be no answer."""
        self._tell(partition, None)

    async def borrow(self, partition: Partition) -> Lent | None:
        """The answer for a partition, or None where there will be none; to be given back."""
        # Many may wait for one answer, and one of them may be cancelled.
        return await asyncio.shield(self._answer(partition))

    def give_back(self, partition: Partition) -> None:
        """Need the answer no more, whether it came or not."""
        self._needed[partition] -= 1
        if self._needed[partition] <= 0 and partition in self._given_back:
            self._given_back[partition].set()

    def _answer(self, partition: Partition) -> asyncio.Future[Lent | None]:
        return self._answers.setdefault(partition, asyncio.get_running_loop().create_future())

    def _tell(self, partition: Partition, answer: Lent | None) -> None:
        if not (future := self._answer(partition)).done():
            future.set_result(answer)
