"""Evaluation of a List Sessions body: pure functions of the world, the time and the rules.

`requests` has validated the body. Assumptions about the documentation are noted where they are
made; those that have a switch are in `rules`.
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


def find_sessions(
    world: World, body: Mapping[str, Any], *, now: datetime, rules: Rules
) -> Sequence[int]:
    """Return the indices in `world` of the sessions that match the body, in order of arrival.

    A session belongs to the local day of its arrival. Sessions that arrive after `now` never match.
    """
    zone = ZoneInfo(body.get("timezone", world.timezone))
    start, end = (day_start(day, zone) for day in query_days(world, body, now=now, rules=rules))
    stop = min(bisect_left(world.arrivals, end), bisect_right(world.arrivals, now.timestamp()))
    if rules.midnight == "start":
        return filter_sessions(world, body, range(bisect_left(world.arrivals, start), stop))
    earliest = start - max(world.durations, default=0)
    matches = filter_sessions(world, body, range(bisect_left(world.arrivals, earliest), stop))
    return [index for index in matches if world.arrivals[index] + world.durations[index] >= start]


def query_days(
    world: World, body: Mapping[str, Any], *, now: datetime, rules: Rules
) -> tuple[date, date]:
    """Return the local days `[start, end)` of the body's time period."""
    if custom := body.get("customTimePeriod"):
        return date.fromisoformat(custom["startDate"]), date.fromisoformat(custom["endDate"])
    zone = ZoneInfo(body.get("timezone", world.timezone))
    return predefined_period(body["predefinedTimePeriod"], now.astimezone(zone).date(), rules)


def count_sessions(world: World, day: date, zone: ZoneInfo, now: datetime) -> int:
    """Return the number of sessions that arrived on a local day, up to now."""
    start, end = day_start(day, zone), day_start(day + _DAY, zone)
    stop = min(bisect_left(world.arrivals, end), bisect_right(world.arrivals, now.timestamp()))
    return max(0, stop - bisect_left(world.arrivals, start))


def day_start(day: date, zone: ZoneInfo) -> int:
    """Return the start of a local day in seconds since 1970-01-01 UTC."""
    return int(datetime(day.year, day.month, day.day, tzinfo=zone).timestamp())


def predefined_period(name: str, today: date, rules: Rules) -> tuple[date, date]:
    """Return the days `[start, end)` of one of the 18 predefined periods.

    THIS_... runs from the first day of the unit to today. LAST_WEEK, LAST_MONTH, LAST_QUARTER and
    LAST_YEAR are the whole previous unit. Wix documents that weeks begin on Monday. Assumption:
    LAST_12_MONTHS is the twelve whole months before this month.
    """
    tomorrow = today + _DAY
    if name.endswith("_DAYS"):
        end = tomorrow if rules.last_n_days_includes_today else today
        return end - timedelta(days=int(name.split("_")[1])), end
    week = today - timedelta(days=today.weekday())
    month, year = today.replace(day=1), today.replace(month=1, day=1)
    quarter = _add_months(month, -((today.month - 1) % 3))
    return {
        "TODAY": (today, tomorrow),
        "YESTERDAY": (today - _DAY, today),
        "THIS_WEEK": (week, tomorrow),
        "THIS_MONTH": (month, tomorrow),
        "THIS_QUARTER": (quarter, tomorrow),
        "THIS_YEAR": (year, tomorrow),
        "LAST_WEEK": (week - timedelta(days=7), week),
        "LAST_MONTH": (_add_months(month, -1), month),
        "LAST_QUARTER": (_add_months(quarter, -3), quarter),
        "LAST_YEAR": (_add_months(year, -12), year),
        "LAST_12_MONTHS": (_add_months(month, -12), month),
    }[name]


def _add_months(first: date, months: int) -> date:
    month = first.year * 12 + first.month - 1 + months
    return date(month // 12, month % 12 + 1, 1)


def filter_sessions(world: World, body: Mapping[str, Any], indices: range) -> Sequence[int]:
    """Return those of the indices whose sessions match the body's filter."""
    if "deviceType" in body:
        return _filter_device(world, body["deviceType"]["type"], indices)
    if "conversionFunnel" in body:
        funnel = body["conversionFunnel"]
        matches = bytes(matches_funnel(funnel, each) for each in world.journey_table)
    else:
        pattern = body["navigationFlow"].get("pageInteractions", ())
        matches = bytes(matches_flow(pattern, each.pages) for each in world.journey_table)
    journeys = world.journeys[indices.start : indices.stop]
    return array("I", compress(indices, map(matches.__getitem__, journeys)))


def _filter_device(world: World, device: str, indices: range) -> Sequence[int]:
    if device == "ALL":
        return indices
    matches = bytes(code == DEVICES.index(device) for code in range(256))
    devices = world.devices[indices.start : indices.stop]
    return array("I", compress(indices, devices.translate(matches)))


def matches_funnel(funnel: Mapping[str, str], journey: Journey) -> bool:
    """Whether the journey reached the `include` step and did not reach the `exclude` step."""
    include = STEPS.index(funnel.get("include", STEPS[0]))
    exclude = STEPS.index(funnel["exclude"]) if "exclude" in funnel else len(STEPS)
    return include <= journey.depth < exclude


def matches_flow(pattern: Sequence[str], pages: Sequence[str]) -> bool:
    """Whether the pages of a visit match the pattern from the first page.

    Element i matches page i. An empty string matches any page; `__DROP__` matches the end of the
    visit. A pattern without `__DROP__` is a prefix: the visit may continue.
    """
    for index, expected in enumerate(pattern):
        if expected == DROP:
            if len(pages) != index:
                return False
        elif index >= len(pages) or expected not in (ANY_PAGE, pages[index]):
            return False
    return True
