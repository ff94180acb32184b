"""What is landed of each local day, and what its profile is computed from. Pure functions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date
from hashlib import blake2b

from prefect_wix.planning.partitions import Receipt
from prefect_wix.planning.segments import Segment
from prefect_wix.planning.windows import ONE_DAY, Window
from prefect_wix.profiles.relations import doubt

__all__ = ["LandedDay", "check_flows", "fingerprint", "landed_days", "name_flows", "neighbours"]

Flows = Mapping[str, str]
"""Name -> the key of a navigation flow."""

_VERSION = "1"
"""Of what is computed. A new one has every day computed anew."""


@dataclass(frozen=True)
class LandedDay:
    """The receipts of one day, by segment."""

    receipts: Mapping[str, Receipt] = field(default_factory=dict)
    """Those of the zone that days are counted in."""
    other_zone: Mapping[str, Receipt] = field(default_factory=dict)
    """Those of another one, which say nothing about this day."""

    def lacking(self, segment: str) -> str | None:
        """Why a segment can't testify, with its key; None where it can."""
        if segment in self.receipts:
            why = doubt(self.receipts[segment])
            return why and f"{segment} ({why})"
        if segment in self.other_zone:
            zone = self.other_zone[segment].partition.timezone
            return f"{segment} (landed as a day of {zone})"
        return segment


def landed_days(window: Window, receipts: Iterable[Receipt]) -> dict[date, LandedDay]:
    """What is landed of each day that has a receipt."""
    mine: defaultdict[date, dict[str, Receipt]] = defaultdict(dict)
    other: defaultdict[date, dict[str, Receipt]] = defaultdict(dict)
    for receipt in receipts:
        partition = receipt.partition
        found = mine if partition.timezone == window.timezone else other
        found[partition.day][partition.segment] = receipt
    return {day: LandedDay(mine[day], other[day]) for day in {*mine, *other}}


def neighbours(day: date) -> tuple[date, date, date]:
    """The day, between the day before and the day after."""
    return day - ONE_DAY, day, day + ONE_DAY


def fingerprint(day: date, days: Mapping[date, LandedDay], flows: Flows) -> str:
    """What the profile of a day is computed from, in short.

    The days beside it belong to it, since they tell which sessions went on over midnight.
    """
    landed = days.get(day, LandedDay())
    parts = [_VERSION, *(f"{name}={key}" for name, key in name_flows(landed.receipts, flows))]
    parts += sorted(filter(None, map(landed.lacking, {*landed.receipts, *landed.other_zone})))
    for each in neighbours(day):
        for segment, receipt in sorted(days.get(each, LandedDay()).receipts.items()):
            parts += [str(each), segment, receipt.digest, receipt.job_id]
    return blake2b("\n".join(parts).encode(), digest_size=16).hexdigest()


def name_flows(segments: Iterable[str], flows: Flows) -> list[tuple[str, str]]:
    """Each landed navigation flow by its name, or by its key where it has none; in order."""
    landed = {key for key in segments if Segment.parse(key).page_interactions is not None}
    named = {name: key for name, key in flows.items() if key in landed}
    return sorted({**{key: key for key in landed - set(named.values())}, **named}.items())


def check_flows(flows: Flows) -> None:
    """Refuse what is not the key of a navigation flow.

    Raises:
        ValueError: see there.
    """
    for name, key in flows.items():
        if Segment.parse(key).page_interactions is None:
            raise ValueError(
                f"flow {name!r} is {key!r}, which is no navigation flow. "
                "Write a key such as navigation_flow=/{Homepage}>__DROP__."
            )
