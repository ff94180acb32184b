"""The receipts of each local day, and a fingerprint of its profile's input. Pure functions.

The relations between segments are in `relations`; the SQL is in `steps`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date
from hashlib import blake2b

from prefect_wix.planning.partitions import UNCONFIRMED, Receipt
from prefect_wix.planning.segments import Segment
from prefect_wix.planning.windows import ONE_DAY, Window

Flows = Mapping[str, str]
"""Flow name -> segment key of a navigation flow."""

_VERSION = "1"
"""Version of the computation. A new version makes every profiled day stale."""


@dataclass(frozen=True)
class LandedDay:
    """The receipts of one local day, by segment key."""

    receipts: Mapping[str, Receipt] = field(default_factory=dict)
    """Receipts in the time zone of the window."""
    other_zone: Mapping[str, Receipt] = field(default_factory=dict)
    """Receipts in other time zones, which are no evidence for this day."""

    def why_untestable(self, segment: str) -> str | None:
        """The segment's key and why it is no evidence for a relation; None if it is evidence."""
        if segment in self.receipts:
            receipt = self.receipts[segment]
            if receipt.submitted_at == UNCONFIRMED:
                return f"{segment} (not listed by a job)"
            if receipt.confirmed_at < receipt.partition.ends_at:
                return f"{segment} (requested before its day was over)"
            return None
        if segment in self.other_zone:
            zone = self.other_zone[segment].partition.timezone
            return f"{segment} (landed as a day of {zone})"
        return segment


Days = defaultdict[date, LandedDay]
"""The receipts by local day; a day without any has none."""


def landed_days(window: Window, receipts: Iterable[Receipt]) -> Days:
    """The receipts by local day."""
    own: defaultdict[date, dict[str, Receipt]] = defaultdict(dict)
    other: defaultdict[date, dict[str, Receipt]] = defaultdict(dict)
    for receipt in receipts:
        partition = receipt.partition
        receipts_by_day = own if partition.timezone == window.timezone else other
        receipts_by_day[partition.day][partition.segment] = receipt
    landed = {day: LandedDay(own[day], other[day]) for day in {*own, *other}}
    return defaultdict(LandedDay, landed)


def neighbours(day: date) -> tuple[date, date, date]:
    """The day before, the day itself and the day after."""
    return day - ONE_DAY, day, day + ONE_DAY


def fingerprint(day: date, days: Days, flows: Flows) -> str:
    """A hash of everything that the profile of a day is computed from.

    It covers the neighbouring days, which decide whether a session continued over midnight.
    """
    landed = days[day]
    parts = [_VERSION, *(f"{name}={key}" for name, key in name_flows(landed.receipts, flows))]
    parts += sorted(
        filter(None, map(landed.why_untestable, {*landed.receipts, *landed.other_zone}))
    )
    for each in neighbours(day):
        for segment, receipt in sorted(days[each].receipts.items()):
            parts += [str(each), segment, receipt.digest, receipt.job_id]
    return blake2b("\n".join(parts).encode(), digest_size=16).hexdigest()


def name_flows(segments: Iterable[str], flows: Flows) -> list[tuple[str, str]]:
    """Name and segment key of each landed navigation flow, sorted; a key names an unnamed flow."""
    landed = {key for key in segments if Segment.parse(key).page_interactions is not None}
    named = {name: key for name, key in flows.items() if key in landed}
    return sorted({**{key: key for key in landed - set(named.values())}, **named}.items())


def check_flows(flows: Flows) -> None:
    """Check that every value is the segment key of a navigation flow.

    Raises:
        ValueError: a value is the key of another segment, or no key.
    """
    for name, key in flows.items():
        if Segment.parse(key).page_interactions is None:
            raise ValueError(
                f"flow {name!r} is {key!r}, which is not a navigation flow. Nothing was computed. "
                "Use a key such as navigation_flow=/{Homepage}>__DROP__."
            )
