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

from prefect_wix.planning.partitions import CONFIRMING, JobRecord, Partition

__all__ = ["LateArrivals", "late_arrivals_by_age", "recommended_lookback"]

ONE_DAY = timedelta(days=1)

MIN_RELOADS = 7
"""Later asks without a change that a lookback is founded on: a week of daily loads."""


@dataclass(frozen=True)
class LateArrivals:
    """What asking again has brought, for partitions of one age."""

    age_days: int
    """Begun days between the end of the local day and the later ask."""
    records: int
    """Later asks at that age."""
    changed: int
    """Those that found other ids than the ask before."""
    added: int
    removed: int


def late_arrivals_by_age(records: Iterable[JobRecord]) -> list[LateArrivals]:
    """The curve, youngest first.

    Args:
        asks: the ledger; asks that were not answered are passed over.
    """
    by_age: defaultdict[int, list[JobRecord]] = defaultdict(list)
    for age, record in _reloads(records):
        by_age[age].append(record)
    return [_late_arrivals_at(age, by_age[age]) for age in sorted(by_age)]


def recommended_lookback(curve: Iterable[LateArrivals]) -> int | None:
    """The days after which nothing was ever seen to change.

    None where that is not known: too few have asked again at a greater age than the last change.
    """
    rows = list(curve)
    last_change = max((row.age_days for row in rows if row.changed), default=0)
    asked_later = sum(row.records for row in rows if row.age_days > last_change)
    return last_change if asked_later >= MIN_RELOADS else None


def _reloads(records: Iterable[JobRecord]) -> Iterable[tuple[int, JobRecord]]:
    partitions: defaultdict[Partition, list[JobRecord]] = defaultdict(list)
    for record in records:
        if record.state in CONFIRMING and _when(record) >= record.partition.ends_at:
            partitions[record.partition].append(record)
    for partition, history in partitions.items():
        history.sort(key=_when)
        # A day that was first asked when it was old tells nothing of its youth.
        if _when(history[0]) <= partition.ends_at + ONE_DAY:
            for later in history[1:]:
                yield ceil((_when(later) - partition.ends_at) / ONE_DAY), later


def _when(record: JobRecord) -> datetime:
    if record.submitted_at is None:  # pragma: no cover
        raise AssertionError("only asks that were submitted are put in order")
    return record.submitted_at


def _late_arrivals_at(age: int, records: list[JobRecord]) -> LateArrivals:
    return LateArrivals(
        age_days=age,
        records=len(records),
        changed=sum(bool(record.added or record.removed) for record in records),
        added=sum(record.added or 0 for record in records),
        removed=sum(record.removed or 0 for record in records),
    )
