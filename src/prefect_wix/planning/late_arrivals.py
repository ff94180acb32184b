"""How late sessions still come: what asking the same day again has brought, by the day's age.

Pure functions over the ledger of asks. The first answer after the end of a day, within a day of it,
is the measure; each later one tells what changed until then. Other days tell nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import ceil

from prefect_wix.planning.partitions import ANSWERED, Ask, Partition

__all__ = ["Lateness", "lateness_curve", "lookback_to_choose"]

ONE_DAY = timedelta(days=1)

ENOUGH_ASKS = 7
"""Later asks without a change that a lookback is founded on: a week of daily loads."""


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
        asks: the ledger; asks that were not answered are passed over.
    """
    by_age: defaultdict[int, list[Ask]] = defaultdict(list)
    for age, ask in _later_asks(asks):
        by_age[age].append(ask)
    return [_lateness(age, by_age[age]) for age in sorted(by_age)]


def lookback_to_choose(curve: Iterable[Lateness]) -> int | None:
    """The days after which nothing was ever seen to change.

    None where that is not known: too few have asked again at a greater age than the last change.
    """
    rows = list(curve)
    last_change = max((row.age_days for row in rows if row.changed), default=0)
    asked_later = sum(row.asks for row in rows if row.age_days > last_change)
    return last_change if asked_later >= ENOUGH_ASKS else None


def _later_asks(asks: Iterable[Ask]) -> Iterable[tuple[int, Ask]]:
    partitions: defaultdict[Partition, list[Ask]] = defaultdict(list)
    for ask in asks:
        if ask.state in ANSWERED and _when(ask) >= ask.partition.ends_at:
            partitions[ask.partition].append(ask)
    for partition, history in partitions.items():
        history.sort(key=_when)
        # A day that was first asked when it was old tells nothing of its youth.
        if _when(history[0]) <= partition.ends_at + ONE_DAY:
            for later in history[1:]:
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
