"""Fault injection: the kinds of `Fault`, and how they change a request's processing.

A fault replaces the response, sets the job's status, substitutes the job's listing, changes the
page of a finished job, changes the result that carries it, or damages the finished response.
Decisions are seeded. Faults handle requests and page positions; `service` maps positions to IDs.
"""

from __future__ import annotations

import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import date
from email.utils import formatdate
from random import Random
from typing import TYPE_CHECKING, Any

from prefect_wix.sandbox import responses
from prefect_wix.sandbox.responses import ApiError, ApiResponse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from prefect_wix.sandbox.requests import ApiRequest

ENDPOINTS = ("list", "result", "recorded", "deleted", "token", "properties", "data", "sites")

KINDS: dict[str, dict[str, Any]] = {
    # Replace the response. The request has no effect, except for `slow`.
    "rate_limited": {"retry_after": None},  # 429. Seconds, or "date": one second from now
    "server_error": {"status": 503},  # with the empty body of every 5xx
    "html": {"status": 502},  # an HTML page, also with status 200
    "expired_token": {},  # 401
    "forbidden": {},  # 403 with the empty body
    "dropped_before": {},  # the connection closes without a response
    "limit_violation": {"threshold": 100},  # None: rejects limits over 100 without a threshold
    "unknown_job": {"polls": 1},  # 404 for the first polls of a job
    "slow": {"seconds": 1.0},  # delays the correct response
    # Damage the response after the request had its effect.
    "truncated": {},  # half the JSON with the content-length of the half
    "cut_body": {},  # the connection closes in the middle of the body
    "dropped_after": {},  # the connection closes without a response
    # Set the status of a job whose query contains `day` and has more than `over_days` days.
    "job_error": {"day": None, "over_days": None},
    "job_never_finishes": {"day": None, "over_days": None},
    "unknown_status": {"status": "SOMETHING_NEW", "polls": None},  # None: on every poll
    # Return the complete listing of another job, with its total.
    "swapped_job": {},  # the last earlier job with a different query
    "stale_result": {},  # the first job with the same query
    # Change the page of a finished job.
    "unstable_order": {"ties": 10},  # random order within ties of so many IDs, on each page anew
    "clamped_offset": {"largest": 0},  # a larger offset returns the page at this one
    "large_pages": {"extra": 1},  # more IDs than `limit`
    "small_pages": {"size": 10},  # fewer IDs than `limit`
    "repeats": {"n": 1},  # each page begins with the last IDs of the page before, then continues
    "lossy_repeats": {"n": 1},  # ... and omits as many IDs, at the first request of an offset
    "growing_result": {"until": 3, "step": 1, "at": "end"},  # withheld IDs, `step` fewer per page
    "shrinking_result": {"until": 3, "step": 1, "at": "end"},  # extra IDs, `step` fewer per page
    "empty_page": {},  # although IDs remain
    # Change the result that carries the page.
    "null_total": {},
    "wrong_total": {"delta": 1},
    "changing_total": {"delta": 1},  # wrong on every second page of a job
    "bad_ids": {"n": 1, "value": "null"},  # null, number or empty instead of the first IDs
    "missing_fields": {"field": "total"},  # or jobStatus, sessionIds, result
}
"""Every kind of fault, with its options and their defaults."""

_BAD_IDS = {"null": None, "number": 12345, "empty": ""}
_CHOICES = {
    "field": ("jobStatus", "total", "sessionIds", "result"),
    "value": tuple(_BAD_IDS),
    "at": ("start", "end"),
}
_TEXT_OPTIONS = {*_CHOICES, "status", "retry_after", "day"}
_UNDOCUMENTED_LIMIT = 100
_HTML = b"<!doctype html><html><body><h1>Something went wrong</h1></body></html>"


class Fault:
    """One fault to inject: its kind, where it applies and how often.

    `on` names one or more endpoints; the default is all endpoints that the kind supports. Of the
    requests that it can affect, a fault skips the first `after`, then applies to each with
    probability `rate`, at most `times` times. A fault of jobs counts jobs instead of requests: its
    first decision on a job is final. `KINDS` lists the other options.
    """

    def __init__(
        self,
        kind: str,
        *,
        on: str | Iterable[str] | None = None,
        rate: float = 1.0,
        times: int | None = None,
        after: int = 0,
        **options: Any,
    ) -> None:
        if kind not in KINDS:
            raise ValueError(f"Unknown fault {kind!r}; known faults: {', '.join(KINDS)}.")
        self.kind, self.rate, self.times, self.after = kind, rate, times, after
        self.on = _select_endpoints(kind, on)
        self.options = _complete_options(kind, options)

    @classmethod
    def parse(cls, text: str) -> Fault:
        """Parse `kind` or `kind:key=value,key=value`; several endpoints are `on=list+result`."""
        kind, _, rest = text.partition(":")
        options: dict[str, Any] = {}
        for part in filter(None, rest.split(",")):
            name, equals, value = part.partition("=")
            if not equals:
                raise ValueError(f"{part!r} in the fault {text!r} is not key=value.")
            options[name] = value.split("+") if name == "on" else _parse_value(name, value)
        return cls(kind, **options)

    def __repr__(self) -> str:
        options = {"rate": self.rate, "times": self.times, "after": self.after} | self.options
        text = "".join(f", {name}={value!r}" for name, value in options.items())
        return f"Fault({self.kind!r}, on={self.on!r}{text})"


def _select_endpoints(kind: str, on: str | Iterable[str] | None) -> tuple[str, ...]:
    supported = _supported_endpoints(kind)
    names = supported if on is None else (on,) if isinstance(on, str) else tuple(on)
    for name in names:
        if name not in supported:
            raise ValueError(f"The fault {kind!r} supports {', '.join(supported)}, not {name!r}.")
    return names


def _supported_endpoints(kind: str) -> tuple[str, ...]:
    job_faults = {*_STATUS_FAULTS, *_LISTING_FAULTS, *_PAGE_FAULTS, *_RESULT_FAULTS}
    if kind in {*job_faults, "unknown_job", "limit_violation"}:
        return ("result",)
    return tuple(name for name in ENDPOINTS if (kind, name) != ("expired_token", "token"))


def _complete_options(kind: str, options: dict[str, Any]) -> dict[str, Any]:
    for name, value in options.items():
        if name not in KINDS[kind]:
            known = ", ".join(KINDS[kind]) or "none"
            raise ValueError(f"The fault {kind!r} has no option {name!r}; its options: {known}.")
        if value not in _CHOICES.get(name, (value,)):
            choices = ", ".join(_CHOICES[name])
            raise ValueError(f"{name} of the fault {kind!r} must be one of {choices}.")
    _check_day(options.get("day"))
    return KINDS[kind] | options


def _check_day(day: str | None) -> None:
    if day is not None:
        try:
            date.fromisoformat(day)
        except (TypeError, ValueError):
            raise ValueError(f"day of a fault must be a date, YYYY-MM-DD, not {day!r}.") from None


def _parse_value(name: str, text: str) -> object:
    if text == "none":
        return None
    for number in (int, float):
        with suppress(ValueError):
            return number(text)
    if name in _TEXT_OPTIONS:
        return text
    raise ValueError(f"{name} of a fault must be a number, not {text!r}.")


@dataclass
class Page:
    """The positions of a job's listing that one result returns.

    A position below 0, or from the length of the listing on, stands for a nonexistent session.
    """

    job_id: str
    offset: int
    limit: int
    total: int
    positions: Sequence[int] = ()

    def __post_init__(self) -> None:
        self.select(self.total)

    def select(self, total: int, shift: int = 0) -> None:
        """Select the page of a listing of `total` positions that begins at position `shift`."""
        self.total = total
        stop = min(self.offset + self.limit, total)
        self.positions = range(self.offset + shift, max(self.offset, stop) + shift)


@dataclass
class _ActiveFault:
    """A fault with its counters."""

    fault: Fault
    random: Random
    candidates: int = 0
    applied: int = 0
    decisions: dict[str, bool] = field(default_factory=dict)
    """The decision on each job."""
    calls: Counter[object] = field(default_factory=Counter)

    def applies(self, job_id: str) -> bool:
        """Decide whether the fault applies to a request. Faults of jobs decide once per job."""
        if self.fault.kind not in _PER_JOB:
            return self._decide()
        if job_id not in self.decisions:
            self.decisions[job_id] = self._decide()
        return self.decisions[job_id]

    def _decide(self) -> bool:
        fault = self.fault
        self.candidates += 1
        spent = fault.times is not None and self.applied >= fault.times
        applies = self.candidates > fault.after and not spent and self.random.random() < fault.rate
        self.applied += applies
        return applies

    def previous_calls(self, key: object) -> int:
        """Return the number of previous calls of this method with the key."""
        self.calls[key] += 1
        return self.calls[key] - 1


class Faults:
    """The faults of one sandbox. They apply in their order."""

    def __init__(self, faults: Iterable[Fault], seed: int) -> None:
        self.faults = tuple(faults)
        self._active = [
            _ActiveFault(fault, Random(f"{seed} {number} {fault.kind}"))  # noqa: S311
            for number, fault in enumerate(self.faults)
        ]

    def delay(self, request: ApiRequest) -> float:
        """Return the delay of the response in seconds."""
        active = self._applying({"slow": None}, request.endpoint, "")
        return float(sum(each.fault.options["seconds"] for each in active))

    def replacement(self, request: ApiRequest) -> ApiResponse | None:
        """Return the response of the first fault that replaces it, or None."""
        job_id = request.params.get("jobId", "")
        for active in self._applying(_REPLACEMENT_FAULTS, request.endpoint, job_id, request):
            if response := _REPLACEMENT_FAULTS[active.fault.kind](active, request):
                return response
        return None

    def job_status(self, job_id: str, days: tuple[date, date]) -> str | None:
        """Return the false status of a job that queries the days `[start, end)`, or None."""
        for active in self._applying(_STATUS_FAULTS, "result", job_id, days):
            if status := _STATUS_FAULTS[active.fault.kind](active, job_id):
                return status
        return None

    def listing_fault(self, job_id: str) -> str | None:
        """Return the kind of fault that substitutes the job's listing, or None."""
        kinds = [each.fault.kind for each in self._applying(_LISTING_FAULTS, "result", job_id)]
        return kinds[0] if kinds else None

    def change_page(self, page: Page) -> None:
        """Change the positions and the total of a page."""
        for active in self._applying(_PAGE_FAULTS, "result", page.job_id, page):
            _PAGE_FAULTS[active.fault.kind](active, page)

    def change_result(self, body: dict[str, Any], job_id: str) -> None:
        """Change the body `{"result": {...}}` of any poll."""
        for active in self._applying(_RESULT_FAULTS, "result", job_id, body):
            _RESULT_FAULTS[active.fault.kind](active, body, job_id)

    def change_response(self, request: ApiRequest, response: ApiResponse) -> ApiResponse:
        """Return the response, damaged if a fault applies. The request had its effect."""
        for active in self._applying(_RESPONSE_FAULTS, request.endpoint, ""):
            response = _RESPONSE_FAULTS[active.fault.kind](response)
        return response

    def _applying(
        self, kinds: dict[str, Any], endpoint: str, job_id: str, subject: Any = None
    ) -> Iterator[_ActiveFault]:
        for active in self._active:
            fault = active.fault
            possible = fault.kind in kinds and endpoint in fault.on
            if possible and _has_effect(fault, subject) and active.applies(job_id):
                yield active


def _has_effect(fault: Fault, subject: Any) -> bool:
    """Whether the fault would change the subject. A fault counts only such requests."""
    if fault.kind in _STATUS_FAULTS:
        return _matches_days(fault, *subject)
    if fault.kind == "empty_page":
        return bool(subject.positions)
    if fault.kind == "limit_violation":
        threshold = fault.options["threshold"] or _UNDOCUMENTED_LIMIT
        limit = subject.params.get("limit", "")
        return limit.isdecimal() and int(limit) > threshold
    result = subject.get("result", {}) if isinstance(subject, dict) else {}
    if fault.kind == "missing_fields":
        return fault.options["field"] in {*result, "result"}
    if fault.kind == "bad_ids":
        return bool(result.get("sessionIds"))
    return fault.kind not in _RESULT_FAULTS or result.get("total") is not None


def _matches_days(fault: Fault, start: date, end: date) -> bool:
    """Whether a query of these days matches the options `day` and `over_days`."""
    day, over_days = fault.options.get("day"), fault.options.get("over_days")
    has_day = day is None or start <= date.fromisoformat(day) < end
    return has_day and (over_days is None or (end - start).days > over_days)


def _error_response(error: ApiError, **headers: str) -> ApiResponse:
    return responses.json_response(error.status, error.body, **headers)


def _rate_limited(active: _ActiveFault, _: ApiRequest) -> ApiResponse:
    wait = active.fault.options["retry_after"]
    if wait is None:
        return _error_response(responses.too_many_requests())
    text = formatdate(time.time() + 1, usegmt=True) if wait == "date" else str(wait)
    return _error_response(responses.too_many_requests(), **{"retry-after": text})


def _server_error(active: _ActiveFault, _: ApiRequest) -> ApiResponse:
    return responses.json_response(active.fault.options["status"], responses.EMPTY_ERROR)


def _html(active: _ActiveFault, _: ApiRequest) -> ApiResponse:
    return ApiResponse(active.fault.options["status"], _HTML, content_type="text/html")


def _limit_violation(active: _ActiveFault, _: ApiRequest) -> ApiResponse:
    threshold = active.fault.options["threshold"]
    data = {} if threshold is None else {"threshold": threshold}
    return _error_response(
        responses.validation_error([responses.violation("limit", "MAX", "is too large", **data)])
    )


def _unknown_job(active: _ActiveFault, request: ApiRequest) -> ApiResponse | None:
    if active.previous_calls(request.params.get("jobId")) >= active.fault.options["polls"]:
        return None
    return _error_response(responses.application_error(404, "NOT_FOUND", "The job is unknown"))


_REPLACEMENT_FAULTS: dict[str, Callable[[_ActiveFault, ApiRequest], ApiResponse | None]] = {
    "rate_limited": _rate_limited,
    "server_error": _server_error,
    "html": _html,
    "expired_token": lambda *_: _error_response(responses.unauthenticated()),
    "forbidden": lambda *_: _error_response(responses.forbidden()),
    "dropped_before": lambda *_: ApiResponse(0, b"", delivery="never"),
    "limit_violation": _limit_violation,
    "unknown_job": _unknown_job,
}


def _unknown_status(active: _ActiveFault, job_id: str) -> str | None:
    polls = active.fault.options["polls"]
    applies = polls is None or active.previous_calls(job_id) < polls
    return str(active.fault.options["status"]) if applies else None


_STATUS_FAULTS: dict[str, Callable[[_ActiveFault, str], str | None]] = {
    "job_error": lambda *_: "ERROR",
    "job_never_finishes": lambda *_: "IN_PROGRESS",
    "unknown_status": _unknown_status,
}


_LISTING_FAULTS: dict[str, None] = dict.fromkeys(("swapped_job", "stale_result"))
"""`service` implements these because it has the jobs."""


def _unstable_order(active: _ActiveFault, page: Page) -> None:
    order: list[int] = []
    for start in range(0, page.total, ties := active.fault.options["ties"]):
        tied = range(start, min(start + ties, page.total))
        order += active.random.sample(tied, len(tied))
    page.positions = order[page.offset : page.offset + page.limit]


def _clamped_offset(active: _ActiveFault, page: Page) -> None:
    page.offset = min(page.offset, active.fault.options["largest"])
    page.select(page.total)


def _large_pages(active: _ActiveFault, page: Page) -> None:
    page.limit += active.fault.options["extra"]
    page.select(page.total)


def _small_pages(active: _ActiveFault, page: Page) -> None:
    page.limit = min(page.limit, active.fault.options["size"])
    page.positions = page.positions[: page.limit]


def _repeats(active: _ActiveFault, page: Page) -> None:
    n = min(active.fault.options["n"], page.limit - 1)
    requested = range(page.offset, page.offset + page.limit)
    # Each whole page before this position repeated n IDs.
    positions = (position - n * (position // page.limit) for position in requested)
    page.positions = [position for position in positions if position < page.total]


def _lossy_repeats(active: _ActiveFault, page: Page) -> None:
    if page.offset and not active.previous_calls((page.job_id, page.offset)):
        n = min(active.fault.options["n"], page.offset, len(page.positions))
        repeated = range(page.offset - n, min(page.offset, page.total))
        page.positions = [*repeated, *page.positions[n:]]


def _drift(active: _ActiveFault, page: Page) -> int:
    until, step = int(active.fault.options["until"]), int(active.fault.options["step"])
    return max(0, until - step * active.previous_calls(page.job_id))


def _growing_result(active: _ActiveFault, page: Page) -> None:
    withheld = min(_drift(active, page), page.total)
    at_start = active.fault.options["at"] == "start"
    page.select(page.total - withheld, withheld if at_start else 0)


def _shrinking_result(active: _ActiveFault, page: Page) -> None:
    extra = _drift(active, page)
    page.select(page.total + extra, -extra if active.fault.options["at"] == "start" else 0)


def _empty_page(_: _ActiveFault, page: Page) -> None:
    page.positions = ()


_PAGE_FAULTS: dict[str, Callable[[_ActiveFault, Page], None]] = {
    "growing_result": _growing_result,
    "shrinking_result": _shrinking_result,
    "repeats": _repeats,
    "lossy_repeats": _lossy_repeats,
    "unstable_order": _unstable_order,
    "clamped_offset": _clamped_offset,
    "large_pages": _large_pages,
    "small_pages": _small_pages,
    "empty_page": _empty_page,
}


def _null_total(_: _ActiveFault, body: dict[str, Any], __: str) -> None:
    body["result"]["total"] = None


def _wrong_total(active: _ActiveFault, body: dict[str, Any], _: str) -> None:
    body["result"]["total"] += active.fault.options["delta"]


def _changing_total(active: _ActiveFault, body: dict[str, Any], job_id: str) -> None:
    body["result"]["total"] += active.fault.options["delta"] * (active.previous_calls(job_id) % 2)


def _bad_ids(active: _ActiveFault, body: dict[str, Any], _: str) -> None:
    ids = body["result"]["sessionIds"]
    n = min(active.fault.options["n"], len(ids))
    ids[:n] = [_BAD_IDS[active.fault.options["value"]]] * n


def _missing_fields(active: _ActiveFault, body: dict[str, Any], _: str) -> None:
    name = active.fault.options["field"]
    (body if name == "result" else body["result"]).pop(name, None)


_RESULT_FAULTS: dict[str, Callable[[_ActiveFault, dict[str, Any], str], None]] = {
    "null_total": _null_total,
    "wrong_total": _wrong_total,
    "changing_total": _changing_total,
    "bad_ids": _bad_ids,
    "missing_fields": _missing_fields,
}

_RESPONSE_FAULTS: dict[str, Callable[[ApiResponse], ApiResponse]] = {
    "truncated": lambda response: replace(response, body=response.body[: len(response.body) // 2]),
    "cut_body": lambda response: replace(response, delivery="cut"),
    "dropped_after": lambda _: ApiResponse(0, b"", delivery="never"),
}

_PER_JOB = {"unknown_job", *_STATUS_FAULTS, *_LISTING_FAULTS, *_PAGE_FAULTS}
_PER_JOB -= {"small_pages", "large_pages", "empty_page"}
"""The kinds that apply to jobs instead of requests."""
