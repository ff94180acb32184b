"""Measure late arrivals: how reloads of a day changed it, by the day's age.

Pure functions over job records. The baseline of a day is its first load within 24 hours after it
ended; each later load counts the changes since the load before it. Days without a baseline are
ignored. Stale days are selected in `prefect_wix.planning.plan`.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from math import ceil
from operator import itemgetter

from prefect_wix.planning.partitions import CONFIRMING, JobRecord, Partition
from prefect_wix.planning.windows import ONE_DAY

MIN_RELOADS = 7
"""Unchanged reloads needed to recommend a lookback: a week of daily loads."""


@dataclass(frozen=True)
class LateArrivals:
    """What reloads of partitions of one age changed."""

    age_days: int
    """Days from the end of the local day to the submit of the reload, rounded up."""
    reloads: int
    changed: int
    """Reloads that listed other IDs than the load before."""
    added: int
    removed: int


def late_arrivals_by_age(records: Iterable[JobRecord]) -> list[LateArrivals]:
    """Changes by age, youngest first.

    Args:
        records: job records; those without a published result are ignored.
    """
    by_age: defaultdict[int, list[JobRecord]] = defaultdict(list)
    for age, record in _reloads(records):
        by_age[age].append(record)
    return [_late_arrivals_at(age, by_age[age]) for age in sorted(by_age)]


def recommended_lookback(curve: Iterable[LateArrivals]) -> int | None:
    """The age in days after which no reload changed a partition.

    None if unknown: fewer than `MIN_RELOADS` reloads are older than the last change.
    """
    rows = list(curve)
    last_change = max((row.age_days for row in rows if row.changed), default=0)
    unchanged_since = sum(row.reloads for row in rows if row.age_days > last_change)
    return last_change if unchanged_since >= MIN_RELOADS else None


def _reloads(records: Iterable[JobRecord]) -> Iterable[tuple[int, JobRecord]]:
    partitions: defaultdict[Partition, list[tuple[datetime, JobRecord]]] = defaultdict(list)
    for record in records:
        at = record.submitted_at
        if record.state in CONFIRMING and at is not None and at >= record.partition.ends_at:
            partitions[record.partition].append((at, record))
    for partition, history in partitions.items():
        (first, _), *reloads = sorted(history, key=itemgetter(0))
        # A backfilled day has no baseline: its late sessions had arrived before its first load.
        if first <= partition.ends_at + ONE_DAY:
            for at, reload in reloads:
                yield ceil((at - partition.ends_at) / ONE_DAY), reload


def _late_arrivals_at(age: int, records: list[JobRecord]) -> LateArrivals:
    return LateArrivals(
        age_days=age,
        reloads=len(records),
        changed=sum(bool(record.added or record.removed) for record in records),
        added=sum(record.added or 0 for record in records),
        removed=sum(record.removed or 0 for record in records),
    )
