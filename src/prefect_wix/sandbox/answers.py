"""Which sessions a documented request means: pure functions over a world, a moment and the rules.

Requests arrive here already checked (see `requests`). Reads of the documentation that could be
wrong are said where they are taken; those that a user may want otherwise are in `rules`.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from datetime import date, datetime, timedelta
from itertools import compress
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from prefect_wix.sandbox.sessions import DEVICES, STEPS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from prefect_wix.sandbox.rules import Rules
    from prefect_wix.sandbox.sessions import Journey
    from prefect_wix.sandbox.world import World

ANY_PAGE = ""
DROP = "__DROP__"

_DAY = timedelta(days=1)


def answer(world: World, body: Mapping[str, Any], *, now: datetime, rules: Rules) -> Sequence[int]:
    """The places, in order of arrival, of the sessions that this List Sessions body asks for.

    A session belongs to the local day of its arrival. What arrives after `now` has not happened
    yet, whatever the dates.
    """
    zone = ZoneInfo(body.get("timezone", world.timezone))
    start, end = (instant(day, zone) for day in days_asked(world, body, now=now, rules=rules))
    stop = min(bisect_left(world.arrivals, end), bisect_right(world.arrivals, now.timestamp()))
    if rules.midnight == "start":
        return matching(world, body, range(bisect_left(world.arrivals, start), stop))
    earliest = start - max(world.durations, default=0)
    reaching = matching(world, body, range(bisect_left(world.arrivals, earliest), stop))
    return [at for at in reaching if world.arrivals[at] + world.durations[at] >= start]


def days_asked(
    world: World, body: Mapping[str, Any], *, now: datetime, rules: Rules
) -> tuple[date, date]:
    """The half-open range of local days that this List Sessions body asks for."""
    zone = ZoneInfo(body.get("timezone", world.timezone))
    return time_period(body, now.astimezone(zone).date(), rules)


def count(world: World, day: date, zone: ZoneInfo, now: datetime) -> int:
    """How many sessions arrived on a local day until now."""
    start, end = instant(day, zone), instant(day + _DAY, zone)
    stop = min(bisect_left(world.arrivals, end), bisect_right(world.arrivals, now.timestamp()))
    return max(0, stop - bisect_left(world.arrivals, start))


def instant(day: date, zone: ZoneInfo) -> int:
    """When the local day begins, in seconds since 1970-01-01 UTC."""
    return int(datetime(day.year, day.month, day.day, tzinfo=zone).timestamp())


def time_period(body: Mapping[str, Any], today: date, rules: Rules) -> tuple[date, date]:
    """The half-open range of local days that the request's period means."""
    if custom := body.get("customTimePeriod"):
        return date.fromisoformat(custom["startDate"]), date.fromisoformat(custom["endDate"])
    return predefined(body["predefinedTimePeriod"], today, rules)


def predefined(name: str, today: date, rules: Rules) -> tuple[date, date]:
    """The half-open range of days of one of the 18 predefined periods, as seen from today.

    THIS_... runs from the unit's first day to today; LAST_WEEK, LAST_MONTH, LAST_QUARTER and
    LAST_YEAR are the whole unit before. Not documented and assumed here: LAST_12_MONTHS is the
    twelve whole months before this one.
    """
    tomorrow = today + _DAY
    if name.endswith("_DAYS"):
        end = tomorrow if rules.last_n_days_includes_today else today
        return end - timedelta(days=int(name.split("_")[1])), end
    week = today - timedelta(days=today.weekday())
    month, year = today.replace(day=1), today.replace(month=1, day=1)
    quarter = _months(month, -((today.month - 1) % 3))
    return {
        "TODAY": (today, tomorrow),
        "YESTERDAY": (today - _DAY, today),
        "THIS_WEEK": (week, tomorrow),
        "THIS_MONTH": (month, tomorrow),
        "THIS_QUARTER": (quarter, tomorrow),
        "THIS_YEAR": (year, tomorrow),
        "LAST_WEEK": (week - timedelta(days=7), week),
        "LAST_MONTH": (_months(month, -1), month),
        "LAST_QUARTER": (_months(quarter, -3), quarter),
        "LAST_YEAR": (_months(year, -12), year),
        "LAST_12_MONTHS": (_months(month, -12), month),
    }[name]


def _months(first: date, count: int) -> date:
    """The first day of the month so many months later."""
    month = first.year * 12 + first.month - 1 + count
    return date(month // 12, month % 12 + 1, 1)


def matching(world: World, body: Mapping[str, Any], span: range) -> Sequence[int]:
    """Those of a run of sessions that pass the request's filter."""
    if "deviceType" in body:
        return _on_device(world, body["deviceType"]["type"], span)
    if "conversionFunnel" in body:
        wanted = bytes(in_funnel(body["conversionFunnel"], each) for each in world.journey_table)
    else:
        pattern = body["navigationFlow"]["pageInteractions"]
        wanted = bytes(follows(pattern, each.pages) for each in world.journey_table)
    journeys = world.journeys[span.start : span.stop]
    return array("I", compress(span, map(wanted.__getitem__, journeys)))


def _on_device(world: World, device: str, span: range) -> Sequence[int]:
    if device == "ALL":
        return span
    wanted = bytes(code == DEVICES.index(device) for code in range(256))
    return array("I", compress(span, world.devices[span.start : span.stop].translate(wanted)))


def in_funnel(funnel: Mapping[str, str], journey: Journey) -> bool:
    """Whether a journey reached the step to include and did not reach the step to exclude."""
    include = STEPS.index(funnel.get("include", STEPS[0]))
    exclude = STEPS.index(funnel["exclude"]) if "exclude" in funnel else len(STEPS)
    return include <= journey.depth < exclude


def follows(pattern: Sequence[str], pages: Sequence[str]) -> bool:
    """Whether a visit's pages follow the pattern from the first page on.

    Element i is page i; an empty string is any page; `__DROP__` says that the visit ended there.
    A pattern without `__DROP__` is a prefix: the visit may go on.
    """
    for place, wanted in enumerate(pattern):
        if wanted == DROP:
            if len(pages) != place:
                return False
        elif place >= len(pages) or wanted not in (ANY_PAGE, pages[place]):
            return False
    return True
