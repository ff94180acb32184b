"""How late sessions still come: what asking the same day again has brought, by the day's age.

Pure functions over the ledger of asks. The first answer for a partition is the measure; each later
one tells what changed until then.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from math import ceil

from prefect_wix.partitions import Ask, Partition

__all__ = ["Lateness", "lateness_curve", "lookback_to_choose"]

ONE_DAY = timedelta(days=1)


@dataclass(frozen=True)
class Lateness:
    """What asking again has brought, for partitions of one age."""

    age_days: int
    """Begun days between the end of the local day and the later ask."""
    asks: int
    """Later asks at that age."""
    changed: int
    """Those that found other ids than the ask before."""
    added: int
    gone: int


def lateness_curve(asks: Iterable[Ask]) -> list[Lateness]:
    """The curve, youngest first.

    Args:
        asks: asks that landed or found their answer unchanged; others are passed over.
    """
    by_age: defaultdict[int, list[Ask]] = defaultdict(list)
    for age, ask in _later_asks(asks):
        by_age[age].append(ask)
    return [_lateness(age, by_age[age]) for age in sorted(by_age)]


def lookback_to_choose(curve: Iterable[Lateness]) -> int | None:
    """The days after which nothing was ever seen to change.

    None where that is not known: nobody has asked again at a greater age than the last change.
    """
    rows = list(curve)
    last_change = max((row.age_days for row in rows if row.changed), default=0)
    asked_later = any(row.age_days > last_change for row in rows)
    return last_change if asked_later else None


def _later_asks(asks: Iterable[Ask]) -> Iterable[tuple[int, Ask]]:
    partitions: defaultdict[Partition, list[Ask]] = defaultdict(list)
    for ask in asks:
        if ask.sessions is not None and ask.submitted_at is not None:
            partitions[ask.partition].append(ask)
    for partition, history in partitions.items():
        history.sort(key=_when)
        for before, later in pairwise(history):
            # An ask before the day was over is no measure of lateness.
            if _when(before) >= partition.ends_at:
                yield ceil((_when(later) - partition.ends_at) / ONE_DAY), later


def _when(ask: Ask) -> datetime:
    if ask.submitted_at is None:  # pragma: no cover
        raise AssertionError("only asks that were submitted are put in order")
    return ask.submitted_at


def _lateness(age: int, asks: list[Ask]) -> Lateness:
    return Lateness(
        age_days=age,
        asks=len(asks),
        changed=sum(bool(ask.added or ask.gone) for ask in asks),
        added=sum(ask.added or 0 for ask in asks),
        gone=sum(ask.gone or 0 for ask in asks),
    )
