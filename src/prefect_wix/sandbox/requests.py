"""Strict reading of requests: what the documentation allows passes, all else is a 400.

Every reader returns what was asked or raises a `Refusal` that lists all violations. Whether the
caller may ask, and what the answer is, belongs to `service`.
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from functools import cache
from typing import TYPE_CHECKING, Any
from zoneinfo import available_timezones

import orjson

from prefect_wix.sandbox.replies import invalid, violation
from prefect_wix.sandbox.sessions import DEVICES, STEPS

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    from prefect_wix.sandbox.rules import Rules

    Violations = Iterator[dict[str, Any]]

PERIODS = ("customTimePeriod", "predefinedTimePeriod")
FILTERS = ("deviceType", "conversionFunnel", "navigationFlow")
PREDEFINED_PERIODS = (
    *("TODAY", "YESTERDAY"),
    *(f"LAST_{days}_DAYS" for days in (7, 14, 28, 30, 90, 180, 365)),
    *("THIS_WEEK", "THIS_MONTH", "THIS_QUARTER", "THIS_YEAR"),
    *("LAST_WEEK", "LAST_MONTH", "LAST_QUARTER", "LAST_YEAR", "LAST_12_MONTHS"),
)
MOST_MARKS = 100
MOST_ZONE_CHARACTERS = 100
MOST_SITES = 100

_PAGING = "cursorPaging"


@dataclass(frozen=True, slots=True)
class Call:
    """One request as it came in. A parameter that is given twice is joined by a comma."""

    endpoint: str
    method: str
    headers: Mapping[str, str]
    params: Mapping[str, str]
    content: bytes

    def json(self) -> dict[str, Any]:
        """The body, which must be a JSON object."""
        with suppress(orjson.JSONDecodeError):
            body = orjson.loads(self.content)
            if isinstance(body, dict):
                return body
        raise invalid([violation("body", "FORMAT", "must be a JSON object")])


@dataclass(frozen=True, slots=True)
class PageRequest:
    """What Get List Sessions Job Result is asked."""

    job_id: str
    limit: int
    offset: int


@dataclass(frozen=True, slots=True)
class CountRequest:
    """The days and the zone of a session count; the zone may be left out."""

    start: date
    end: date
    zone: str | None


def sessions_query(call: Call) -> dict[str, Any]:
    """The body of List Sessions Async: one period, one filter and perhaps a zone."""
    body = call.json()
    _refuse(_query_violations(body))
    return body


def page_request(call: Call, rules: Rules) -> PageRequest:
    """The three required parameters of Get List Sessions Job Result."""
    params = call.params
    _refuse(
        found
        for name in ("jobId", "limit", "offset")
        for found in (_whole_number(params, name) if name != "jobId" else _present(params, name))
    )
    limit, offset = int(params["limit"]), int(params["offset"])
    _refuse(_range_violations(limit, offset, rules.page_cap))
    return PageRequest(params["jobId"], limit, offset)


def recorded_mark(call: Call) -> str:
    """The session id of Mark Session As Recorded."""
    body = call.json()
    _refuse([*_fields(body, "", {"sessionId"}), *_text(body, "sessionId")])
    return str(body["sessionId"])


def deleted_marks(call: Call) -> list[str]:
    """The session ids of Mark Recordings As Deleted."""
    body = call.json()
    _refuse([*_fields(body, "", {"sessionIds"}), *_marks(body.get("sessionIds"))])
    return list(body["sessionIds"])


def count_request(call: Call) -> CountRequest:
    """The parameters of Get Site Analytics Data, for TOTAL_SESSIONS alone."""
    params = call.params
    _refuse(_count_violations(params))
    start, end = (date.fromisoformat(params[f"dateRange.{name}Date"]) for name in ("start", "end"))
    return CountRequest(start, end, params.get("timeZone"))


def sites_page(call: Call) -> tuple[int, int]:
    """How many sites at most, and the place to go on from, which is what the cursor says."""
    body = call.json()
    _refuse([*_fields(body, "", {"query"}), *_object("query", body.get("query", {}), {_PAGING})])
    paging = body.get("query", {}).get(_PAGING, {})
    _refuse(_object(f"query.{_PAGING}", paging, {"limit", "cursor"}))
    limit, cursor = paging.get("limit", MOST_SITES), paging.get("cursor", "0")
    _refuse(_paging_violations(limit, cursor))
    return limit, int(cursor)


def _refuse(violations: Collection[dict[str, Any]] | Violations) -> None:
    if found := list(violations):
        raise invalid(found)


def _query_violations(body: Mapping[str, Any]) -> Violations:
    yield from _fields(body, "", {*PERIODS, *FILTERS, "timezone"})
    yield from _exactly_one(body, PERIODS)
    yield from _exactly_one(body, FILTERS)
    for name, check in _CHECKS.items():
        if name in body:
            yield from check(name, body[name])


def _fields(value: Mapping[str, Any], at: str, known: Collection[str]) -> Violations:
    for name in value:
        if name not in known:
            yield violation(f"{at}{name}", "FIELD_NOT_ALLOWED", "is not a known field")


def _exactly_one(body: Mapping[str, Any], names: tuple[str, ...]) -> Violations:
    given = [name for name in names if name in body]
    if not given:
        yield violation("|".join(names), "REQUIRED_ONE_OF_FIELD", "needs exactly one")
    for name in given[1:]:
        yield violation(name, "ONE_OF_ALIGNMENT", f"cannot stand beside {given[0]}")


def _object(at: str, value: object, known: Collection[str]) -> Violations:
    if not isinstance(value, dict):
        yield violation(at, "FORMAT", "must be an object")
    else:
        yield from _fields(value, f"{at}.", known)


def _choice(at: str, value: object, names: Collection[str]) -> Violations:
    if value not in names:
        yield violation(at, "INVALID_ENUM_VALUE", "must be one of " + ", ".join(names))


def _custom_period(at: str, value: Any) -> Violations:
    if wrong := list(_object(at, value, {"startDate", "endDate"})):
        yield from wrong
    else:
        yield from _dates(value, f"{at}.startDate", f"{at}.endDate")


def _dates(value: Mapping[str, Any], start_at: str, end_at: str) -> Violations:
    start, end = (_day(value.get(at.rpartition(".")[2])) for at in (start_at, end_at))
    for at, day in ((start_at, start), (end_at, end)):
        if day is None:
            yield violation(at, "FORMAT", "must be a date, YYYY-MM-DD")
    if start and end and end <= start:
        yield violation(end_at, "VALIDATION", "is not included, so it must be after startDate")


def _day(text: object) -> date | None:
    if isinstance(text, str) and re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text):
        with suppress(ValueError):
            return date.fromisoformat(text)
    return None


def _predefined_period(at: str, value: object) -> Violations:
    yield from _choice(at, value, PREDEFINED_PERIODS)


def _device_type(at: str, value: Any) -> Violations:
    wrong = list(_object(at, value, {"type"}))
    yield from wrong or _choice(f"{at}.type", value.get("type"), ("ALL", *DEVICES))


def _funnel(at: str, value: Any) -> Violations:
    if wrong := list(_object(at, value, {"include", "exclude"})):
        yield from wrong
    elif not value:
        yield violation(at, "REQUIRED_ONE_OF_FIELD", "needs include or exclude")
    else:
        for name, step in value.items():
            yield from _choice(f"{at}.{name}", step, STEPS)


def _flow(at: str, value: Any) -> Violations:
    if wrong := list(_object(at, value, {"pageInteractions"})):
        yield from wrong
        return
    pages = value.get("pageInteractions")
    if not isinstance(pages, list) or not all(isinstance(page, str) for page in pages):
        yield violation(f"{at}.pageInteractions", "FORMAT", "must be a list of strings")
    elif not pages:
        yield violation(f"{at}.pageInteractions", "MIN_SIZE", "needs a page", threshold=1)


def _zone(at: str, value: object) -> Violations:
    if not isinstance(value, str):
        yield violation(at, "FORMAT", "must be a string")
    elif len(value) > MOST_ZONE_CHARACTERS:
        yield violation(at, "MAX_LENGTH", "is too long", threshold=MOST_ZONE_CHARACTERS)
    elif value not in _zones():
        yield violation(at, "VALIDATION", "must be an IANA time zone")


_zones = cache(available_timezones)

_CHECKS: dict[str, Callable[[str, Any], Violations]] = {
    "customTimePeriod": _custom_period,
    "predefinedTimePeriod": _predefined_period,
    "deviceType": _device_type,
    "conversionFunnel": _funnel,
    "navigationFlow": _flow,
    "timezone": _zone,
}


def _present(params: Mapping[str, str], name: str) -> Violations:
    if not params.get(name):
        yield violation(name, "REQUIRED_FIELD", "is required")


def _whole_number(params: Mapping[str, str], name: str) -> Violations:
    if name not in params:
        yield violation(name, "REQUIRED_FIELD", "is required")
    elif not re.fullmatch(r"-?[0-9]{1,9}", params[name]):
        yield violation(name, "FORMAT", "must be a whole number")


def _range_violations(limit: int, offset: int, page_cap: int) -> Violations:
    if limit < 1:
        yield violation("limit", "MIN", "must be at least 1", threshold=1)
    if limit > page_cap:
        yield violation("limit", "MAX", f"must be at most {page_cap}", threshold=page_cap)
    if offset < 0:
        yield violation("offset", "MIN", "must be at least 0", threshold=0)


def _text(body: Mapping[str, Any], name: str) -> Violations:
    if not isinstance(body.get(name), str) or not body[name]:
        yield violation(name, "REQUIRED_FIELD", "must be a session id")


def _marks(ids: object) -> Violations:
    if not isinstance(ids, list) or not all(isinstance(each, str) and each for each in ids):
        yield violation("sessionIds", "FORMAT", "must be a list of session ids")
    elif not ids:
        yield violation("sessionIds", "MIN_SIZE", "needs an id", threshold=1)
    elif len(ids) > MOST_MARKS:
        yield violation("sessionIds", "MAX_SIZE", "has too many ids", threshold=MOST_MARKS)


def _count_violations(params: Mapping[str, str]) -> Violations:
    yield from _choice("measurementTypes", params.get("measurementTypes"), ("TOTAL_SESSIONS",))
    at = ("dateRange.startDate", "dateRange.endDate")
    yield from _dates({"startDate": params.get(at[0]), "endDate": params.get(at[1])}, *at)
    if "timeZone" in params:
        yield from _zone("timeZone", params["timeZone"])


def _paging_violations(limit: object, cursor: object) -> Violations:
    if type(limit) is not int or not 1 <= limit <= MOST_SITES:
        text = f"must be from 1 to {MOST_SITES}"
        yield violation(f"query.{_PAGING}.limit", "MAX", text, threshold=MOST_SITES)
    if not isinstance(cursor, str) or not cursor.isdecimal():
        yield violation(f"query.{_PAGING}.cursor", "VALIDATION", "is not a cursor")
