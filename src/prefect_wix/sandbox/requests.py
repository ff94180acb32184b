"""Strict parsing of requests: a request that the documentation does not allow is a 400.

Each parser returns the request's values or raises an `ApiError` that lists all violations.
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from functools import cache, partial
from typing import TYPE_CHECKING, Any
from zoneinfo import available_timezones

import orjson

from prefect_wix.sandbox.responses import validation_error, violation
from prefect_wix.sandbox.sessions import DEVICES, STEPS

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

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
MAX_MARKED_IDS = 100
MAX_TIMEZONE_LENGTH = 100
MAX_SITES_PER_PAGE = 100
MAX_OFFSET = 2**31 - 1
MEASUREMENT_TYPES = (
    *("TOTAL_SESSIONS", "TOTAL_SALES", "TOTAL_ORDERS", "CLICKS_TO_CONTACT"),
    *("TOTAL_FORMS_SUBMITTED", "TOTAL_UNIQUE_VISITORS"),
)

_PAGING = "cursorPaging"
_UNSET = ("NOT_SELECTED_FUNNEL_STEP", "NOT_SELECTED_DEVICE_TYPE")


@dataclass(frozen=True, slots=True)
class ApiRequest:
    """One HTTP request. The values of a repeated parameter are joined by commas."""

    endpoint: str
    method: str
    headers: Mapping[str, str]
    params: Mapping[str, str]
    content: bytes

    def json_object(self) -> dict[str, Any]:
        """Parse the body, which must be a JSON object."""
        with suppress(orjson.JSONDecodeError):
            body = orjson.loads(self.content)
            if isinstance(body, dict):
                return body
        raise validation_error([violation("body", "FORMAT", "must be a JSON object")])


@dataclass(frozen=True, slots=True)
class PageRequest:
    """The parameters of Get List Sessions Job Result."""

    job_id: str
    limit: int
    offset: int


@dataclass(frozen=True, slots=True)
class CountRequest:
    """The types and the days `[start, end)` of counts. Without a zone, the site's zone applies."""

    types: list[str]
    start: date
    end: date
    zone: str | None


@dataclass(frozen=True, slots=True)
class SitesRequest:
    """A page of Query Sites: `start` is the cursor. The filter compares fields for equality."""

    limit: int
    start: int
    filter: Mapping[str, Any]
    sort: Sequence[Mapping[str, str]]


def parse_sessions_query(request: ApiRequest, rules: Rules) -> dict[str, Any]:
    """Return the body of List Sessions Async: one period, one filter, an optional time zone.

    A field that is null counts as absent.
    """
    unset = (None, *(_UNSET if rules.accepts_unset_enums else ()))
    body: dict[str, Any] = _without(unset, request.json_object())
    _validate(_check_query(body))
    return body


def parse_page_request(request: ApiRequest, rules: Rules) -> PageRequest:
    """Return the three required parameters of Get List Sessions Job Result."""
    params = request.params
    _validate(_check_result_params(params))
    limit, offset = int(params["limit"]), int(params["offset"])
    _validate(_check_page_range(limit, offset, rules.page_cap))
    return PageRequest(params["jobId"], limit, offset)


def parse_recorded_mark(request: ApiRequest) -> str:
    """Return the session ID of Mark Session As Recorded."""
    body = request.json_object()
    _validate([*_check_fields(body, "", {"sessionId"}), *_check_session_id(body)])
    return str(body["sessionId"])


def parse_deleted_marks(request: ApiRequest) -> list[str]:
    """Return the session IDs of Mark Recordings As Deleted."""
    body = request.json_object()
    ids = body.get("sessionIds")
    _validate([*_check_fields(body, "", {"sessionIds"}), *_check_session_ids(ids)])
    return list(body["sessionIds"])


def parse_count_request(request: ApiRequest) -> CountRequest:
    """Return the parameters of Get Site Analytics Data."""
    params = request.params
    _validate(_check_count_params(params))
    start, end = (date.fromisoformat(params[f"dateRange.{name}Date"]) for name in ("start", "end"))
    return CountRequest(params["measurementTypes"].split(","), start, end, params.get("timeZone"))


def parse_sites_request(request: ApiRequest) -> SitesRequest:
    """Return the page, the filter and the order of Query Sites. The body may be missing."""
    body = _without((None,), request.json_object()) if request.content else {}
    query = body.get("query", {})
    known = {_PAGING, "filter", "sort"}
    _validate([*_check_fields(body, "", {"query"}), *_check_object("query", query, known)])
    paging = query.get(_PAGING, {})
    _validate(_check_object(f"query.{_PAGING}", paging, {"limit", "cursor"}))
    limit, cursor = paging.get("limit", MAX_SITES_PER_PAGE), paging.get("cursor", "0")
    criteria, order = query.get("filter", {}), query.get("sort", [])
    _validate(_check_paging(limit, cursor))
    _validate(_check_object("query.filter", criteria, {"id", "displayName"}))
    _validate(
        violation(f"query.filter.{name}", "FORMAT", "must be a string")
        for name, value in criteria.items()
        if not isinstance(value, str)
    )
    for key in order if isinstance(order, list) else [None]:
        _validate(_check_object("query.sort", key, {"fieldName", "order"}))
    return SitesRequest(limit, int(cursor), criteria, order)


def _validate(violations: Iterable[dict[str, Any]]) -> None:
    if entries := list(violations):
        raise validation_error(entries)


def _without(unset: Collection[object], value: Any) -> Any:
    """Return the JSON value without the fields, at any depth, that have an unset value."""
    if not isinstance(value, dict):
        return value
    return {name: _without(unset, each) for name, each in value.items() if each not in unset}


def _check_query(body: Mapping[str, Any]) -> Violations:
    yield from _check_fields(body, "", {*PERIODS, *FILTERS, "timezone"})
    yield from _check_exactly_one(body, PERIODS)
    yield from _check_exactly_one(body, FILTERS)
    for name, check in _CHECKS.items():
        if name in body:
            yield from check(name, body[name])


def _check_fields(value: Mapping[str, Any], prefix: str, known: Collection[str]) -> Violations:
    for name in value:
        if name not in known:
            yield violation(f"{prefix}{name}", "FIELD_NOT_ALLOWED", "is not a known field")


def _check_exactly_one(body: Mapping[str, Any], names: tuple[str, ...]) -> Violations:
    present = [name for name in names if name in body]
    if not present:
        yield violation("|".join(names), "REQUIRED_ONE_OF_FIELD", "needs exactly one")
    for name in present[1:]:
        yield violation(name, "ONE_OF_ALIGNMENT", f"cannot be combined with {present[0]}")


def _check_object(field: str, value: object, known: Collection[str]) -> Violations:
    if not isinstance(value, dict):
        yield violation(field, "FORMAT", "must be an object")
    else:
        yield from _check_fields(value, f"{field}.", known)


def _check_choice(field: str, value: object, names: Collection[str]) -> Violations:
    if value not in names:
        yield violation(field, "INVALID_ENUM_VALUE", "must be one of " + ", ".join(names))


def _check_custom_period(field: str, value: Any) -> Violations:
    if violations := list(_check_object(field, value, {"startDate", "endDate"})):
        yield from violations
    else:
        yield from _check_dates(value, f"{field}.startDate", f"{field}.endDate")


def _check_dates(value: Mapping[str, Any], start_field: str, end_field: str) -> Violations:
    fields = (start_field, end_field)
    start, end = (_parse_date(value.get(field.rpartition(".")[2])) for field in fields)
    for field, day in zip(fields, (start, end), strict=True):
        if day is None:
            yield violation(field, "FORMAT", "must be a date, YYYY-MM-DD")
    if start and end and end <= start:
        yield violation(end_field, "VALIDATION", "is exclusive and must be after startDate")


def _parse_date(text: object) -> date | None:
    if isinstance(text, str) and re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text):
        with suppress(ValueError):
            return date.fromisoformat(text)
    return None


def _check_device_type(field: str, value: Any) -> Violations:
    violations = list(_check_object(field, value, {"type"}))
    yield from violations or _check_choice(f"{field}.type", value.get("type"), ("ALL", *DEVICES))


def _check_funnel(field: str, value: Any) -> Violations:
    if violations := list(_check_object(field, value, {"include", "exclude"})):
        yield from violations
    elif not value:
        yield violation(field, "REQUIRED_ONE_OF_FIELD", "needs include or exclude")
    else:
        for name, step in value.items():
            yield from _check_choice(f"{field}.{name}", step, STEPS)


def _check_flow(field: str, value: Any) -> Violations:
    if violations := list(_check_object(field, value, {"pageInteractions"})):
        yield from violations
        return
    pages = value.get("pageInteractions", [""])
    if not isinstance(pages, list) or not all(isinstance(page, str) for page in pages):
        yield violation(f"{field}.pageInteractions", "FORMAT", "must be a list of strings")
    elif not pages:
        yield violation(f"{field}.pageInteractions", "MIN_SIZE", "needs a page", threshold=1)


def _check_timezone(field: str, value: object) -> Violations:
    if not isinstance(value, str):
        yield violation(field, "FORMAT", "must be a string")
    elif len(value) > MAX_TIMEZONE_LENGTH:
        yield violation(field, "MAX_LENGTH", "is too long", threshold=MAX_TIMEZONE_LENGTH)
    elif value not in _timezones():
        yield violation(field, "VALIDATION", "must be an IANA time zone")


_timezones = cache(available_timezones)

_CHECKS: dict[str, Callable[[str, Any], Violations]] = {
    "customTimePeriod": _check_custom_period,
    "predefinedTimePeriod": partial(_check_choice, names=PREDEFINED_PERIODS),
    "deviceType": _check_device_type,
    "conversionFunnel": _check_funnel,
    "navigationFlow": _check_flow,
    "timezone": _check_timezone,
}


def _check_result_params(params: Mapping[str, str]) -> Violations:
    if not params.get("jobId"):
        yield violation("jobId", "REQUIRED_FIELD", "is required")
    for name in ("limit", "offset"):
        if name not in params:
            yield violation(name, "REQUIRED_FIELD", "is required")
        elif not re.fullmatch(r"-?[0-9]{1,10}", params[name]):
            yield violation(name, "FORMAT", "must be a whole number")


def _check_page_range(limit: int, offset: int, page_cap: int) -> Violations:
    if limit < 1:
        yield violation("limit", "MIN", "must be at least 1", threshold=1)
    if limit > page_cap:
        yield violation("limit", "MAX", f"must be at most {page_cap}", threshold=page_cap)
    if offset < 0:
        yield violation("offset", "MIN", "must be at least 0", threshold=0)
    if offset > MAX_OFFSET:
        yield violation("offset", "MAX", "must be a 32-bit number", threshold=MAX_OFFSET)


def _check_session_id(body: Mapping[str, Any]) -> Violations:
    if not isinstance(body.get("sessionId"), str) or not body["sessionId"]:
        yield violation("sessionId", "REQUIRED_FIELD", "must be a session ID")


def _check_session_ids(ids: object) -> Violations:
    if not isinstance(ids, list) or not all(isinstance(each, str) and each for each in ids):
        yield violation("sessionIds", "FORMAT", "must be a list of session IDs")
    elif not ids:
        yield violation("sessionIds", "MIN_SIZE", "needs an ID", threshold=1)
    elif len(ids) > MAX_MARKED_IDS:
        yield violation("sessionIds", "MAX_SIZE", "has too many IDs", threshold=MAX_MARKED_IDS)


def _check_count_params(params: Mapping[str, str]) -> Violations:
    for name in params.get("measurementTypes", "").split(","):
        yield from _check_choice("measurementTypes", name, MEASUREMENT_TYPES)
    fields = ("dateRange.startDate", "dateRange.endDate")
    dates = {"startDate": params.get(fields[0]), "endDate": params.get(fields[1])}
    yield from _check_dates(dates, *fields)
    if "timeZone" in params:
        yield from _check_timezone("timeZone", params["timeZone"])


def _check_paging(limit: object, cursor: object) -> Violations:
    if type(limit) is not int or not 1 <= limit <= MAX_SITES_PER_PAGE:
        text = f"must be from 1 to {MAX_SITES_PER_PAGE}"
        yield violation(f"query.{_PAGING}.limit", "MAX", text, threshold=MAX_SITES_PER_PAGE)
    if not isinstance(cursor, str) or not cursor.isdecimal():
        yield violation(f"query.{_PAGING}.cursor", "VALIDATION", "is not a cursor")
