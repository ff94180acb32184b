"""What can go wrong with Wix, one kind of `Fault` each, seeded and freely combined.

Faults act at six moments of a request: instead of its answer, on the job's status, on the choice
of the listing, on the page of a finished job, on the result that carries it, and on the finished
reply. They know requests and pages, not sessions: where a page's ids come from is in `service`.
"""

from __future__ import annotations

import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date
from email.utils import formatdate
from random import Random
from typing import TYPE_CHECKING, Any

from prefect_wix.sandbox.replies import (
    EMPTY_ERROR,
    Refusal,
    Reply,
    application_error,
    forbidden,
    invalid,
    reply,
    too_many_requests,
    unauthenticated,
    violation,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from prefect_wix.sandbox.requests import Call

ENDPOINTS = ("list", "result", "recorded", "deleted", "token", "properties", "data", "sites")

KINDS: dict[str, dict[str, Any]] = {
    # Instead of an answer; the request has no effect.
    "rate_limited": {"retry_after": None},  # 429. Seconds, or "date": one second from now
    "server_error": {"status": 503},  # with the empty body of every 5xx
    "html": {"status": 502},  # a page for people, also with status 200
    "expired_token": {},  # 401
    "forbidden": {},  # 403 with the empty body
    "dropped_before": {},  # the connection closes without a reply
    "limit_violation": {"threshold": 100},  # None: refuses over 100 and does not say so
    "unknown_job": {"polls": 1},  # 404 for the first polls of a job
    "slow": {"seconds": 1.0},  # late, then all is well
    # The request has its effect, the reply is spoilt.
    "truncated": {},  # half the JSON, with a content-length that is right for the half
    "cut_body": {},  # the connection closes in the middle of the body
    "dropped_after": {},  # the connection closes without a reply
    # A job's status.
    "job_error": {"day": None, "over_days": None},  # only jobs that ask for this day, or for
    "job_never_finishes": {"day": None, "over_days": None},  # more than so many days
    "unknown_status": {"status": "SOMETHING_NEW", "polls": None},  # None: for ever
    # Whose listing a job hands out; it looks like any other, and its total agrees.
    "swapped_job": {},  # that of the job before it which was asked something else
    "stale_result": {},  # that of the first job which was asked the same
    # The page of a finished job.
    "small_pages": {"size": 10},  # silently fewer ids than asked
    "repeats": {"n": 1},  # each page begins with the last ids of the one before, then goes on
    "lossy_repeats": {"n": 1},  # ... in place of real ids, the first time an offset is asked
    "growing_result": {"until": 3, "step": 1, "at": "end"},  # ids withheld, `step` fewer a page
    "shrinking_result": {"until": 3, "step": 1, "at": "end"},  # ids nobody has, fewer a page
    "empty_page": {},  # although ids remain
    # The result that carries the page.
    "null_total": {},
    "wrong_total": {"delta": 1},
    "changing_total": {"delta": 1},  # wrong on every second page of a job
    "bad_ids": {"n": 1, "value": "null"},  # null, number or empty in place of the first ids
    "missing_fields": {"field": "total"},  # or jobStatus, sessionIds, result
}
"""Every kind of fault, with its own values and their defaults."""

_ONCE_PER_JOB = {
    "unknown_job",
    "job_error",
    "job_never_finishes",
    "unknown_status",
    "swapped_job",
    "stale_result",
    "repeats",
    "lossy_repeats",
    "growing_result",
    "shrinking_result",
}
_BAD_IDS = {"null": None, "number": 12345, "empty": ""}
_CHOICES = {
    "field": ("jobStatus", "total", "sessionIds", "result"),
    "value": tuple(_BAD_IDS),
    "at": ("start", "end"),
}
_WORDS = {*_CHOICES, "status", "retry_after", "day"}
_UNDOCUMENTED_LIMIT = 100
_HTML = b"<!doctype html><html><body><h1>Something went wrong</h1></body></html>"


class Fault:
    """One thing that goes wrong, where and how often.

    `on` names the endpoints it strikes (one name or several, all that it can strike by default).
    Of the requests it could strike it lets the first `after` pass, then strikes each with
    probability `rate`, `times` times at most. A fault of a job, rather than of a request, counts
    jobs, and a job it has struck stays struck. The other values are in `KINDS`.
    """

    def __init__(
        self,
        kind: str,
        *,
        on: str | Iterable[str] | None = None,
        rate: float = 1.0,
        times: int | None = None,
        after: int = 0,
        **values: Any,
    ) -> None:
        if kind not in KINDS:
            raise ValueError(f"There is no fault {kind!r}; the kinds are {', '.join(KINDS)}.")
        self.kind, self.rate, self.times, self.after = kind, rate, times, after
        self.on = _endpoints(kind, on)
        self.values = _checked_values(kind, values)

    @classmethod
    def parse(cls, text: str) -> Fault:
        """Read `kind` or `kind:key=value,key=value`; several endpoints are `on=list+result`."""
        kind, _, rest = text.partition(":")
        values: dict[str, Any] = {}
        for part in filter(None, rest.split(",")):
            name, equals, value = part.partition("=")
            if not equals:
                raise ValueError(f"{part!r} in the fault {text!r} is not key=value.")
            values[name] = value.split("+") if name == "on" else _literal(name, value)
        return cls(kind, **values)

    def __repr__(self) -> str:
        own = {"rate": self.rate, "times": self.times, "after": self.after} | self.values
        told = "".join(f", {name}={value!r}" for name, value in own.items())
        return f"Fault({self.kind!r}, on={self.on!r}{told})"


def _endpoints(kind: str, on: str | Iterable[str] | None) -> tuple[str, ...]:
    possible = _possible_endpoints(kind)
    names = possible if on is None else (on,) if isinstance(on, str) else tuple(on)
    for name in names:
        if name not in possible:
            raise ValueError(f"The fault {kind!r} strikes {', '.join(possible)}, not {name!r}.")
    return names


def _possible_endpoints(kind: str) -> tuple[str, ...]:
    if kind in {*_STATUSES, *_MIX_UPS, *_PAGES, *_RESULTS, "unknown_job", "limit_violation"}:
        return ("result",)
    return tuple(name for name in ENDPOINTS if (kind, name) != ("expired_token", "token"))


def _checked_values(kind: str, values: dict[str, Any]) -> dict[str, Any]:
    for name, value in values.items():
        if name not in KINDS[kind]:
            own = ", ".join(KINDS[kind]) or "none of its own"
            raise ValueError(f"The fault {kind!r} has no value {name!r}; it has {own}.")
        if value not in _CHOICES.get(name, (value,)):
            raise ValueError(f"{name} of the fault {kind!r} is one of {', '.join(_CHOICES[name])}.")
    _check_day(values.get("day"))
    return KINDS[kind] | values


def _check_day(day: str | None) -> None:
    if day is not None:
        try:
            date.fromisoformat(day)
        except (TypeError, ValueError):
            raise ValueError(f"day of a fault is a date, YYYY-MM-DD, not {day!r}.") from None


def _literal(name: str, text: str) -> object:
    if text == "none":
        return None
    for number in (int, float):
        with suppress(ValueError):
            return number(text)
    if name in _WORDS:
        return text
    raise ValueError(f"{name} of a fault is a number, not {text!r}.")


@dataclass
class Page:
    """The places, in a job's own order, that one result hands out.

    A place outside the job's ids, below 0 or from `total` on, is an id that nobody has.
    """

    job_id: str
    offset: int
    limit: int
    total: int
    places: Sequence[int] = ()

    def __post_init__(self) -> None:
        self.show(self.total)

    def show(self, total: int, shift: int = 0) -> None:
        """Hand out the page of a listing of this length that begins at another place."""
        self.total = total
        stop = min(self.offset + self.limit, total)
        self.places = range(self.offset + shift, max(self.offset, stop) + shift)


@dataclass
class _Armed:
    """A fault at work: what it has seen and done so far."""

    fault: Fault
    random: Random
    seen: int = 0
    struck: int = 0
    jobs: dict[str, bool] = field(default_factory=dict)
    turns: Counter[object] = field(default_factory=Counter)

    def strikes(self, job_id: str) -> bool:
        """Decide on one request, or recall what was decided on its job."""
        if self.fault.kind not in _ONCE_PER_JOB:
            return self._decide()
        if job_id not in self.jobs:
            self.jobs[job_id] = self._decide()
        return self.jobs[job_id]

    def _decide(self) -> bool:
        fault = self.fault
        self.seen += 1
        spent = fault.times is not None and self.struck >= fault.times
        strike = self.seen > fault.after and not spent and self.random.random() < fault.rate
        self.struck += strike
        return strike

    def turn(self, key: object) -> int:
        """How often this was called for the key before."""
        self.turns[key] += 1
        return self.turns[key] - 1


class Faults:
    """The faults of one sandbox, in the order in which they are tried."""

    def __init__(self, faults: Iterable[Fault], seed: int) -> None:
        self.faults = tuple(faults)
        self._armed = [
            _Armed(fault, Random(f"{seed} {place} {fault.kind}"))  # noqa: S311
            for place, fault in enumerate(self.faults)
        ]

    def delay(self, call: Call) -> float:
        """How many seconds late this request is answered."""
        struck = self._striking({"slow": None}, call.endpoint, "")
        return float(sum(armed.fault.values["seconds"] for armed in struck))

    def instead(self, call: Call) -> Reply | None:
        """The reply that stands in for the answer, if a fault strikes. Only the first acts."""
        job_id = call.params.get("jobId", "")
        for armed in self._striking(_REPLACEMENTS, call.endpoint, job_id, call):
            if made := _REPLACEMENTS[armed.fault.kind](armed, call):
                return made
        return None

    def status(self, job_id: str, days: tuple[date, date]) -> str | None:
        """The status that a job of these days, the end not included, pretends to have, if any."""
        for armed in self._striking(_STATUSES, "result", job_id, days):
            if status := _STATUSES[armed.fault.kind](armed, job_id):
                return status
        return None

    def mix_up(self, job_id: str) -> str | None:
        """The kind of fault that has the job hand out another one's listing, if any."""
        kinds = [armed.fault.kind for armed in self._striking(_MIX_UPS, "result", job_id)]
        return kinds[0] if kinds else None

    def turn(self, page: Page) -> None:
        """Let the page hand out other places."""
        for armed in self._striking(_PAGES, "result", page.job_id, page):
            _PAGES[armed.fault.kind](armed, page)

    def spoil(self, answer: dict[str, Any], job_id: str) -> None:
        """Change the answer `{"result": {...}}` of any poll."""
        for armed in self._striking(_RESULTS, "result", job_id, answer):
            _RESULTS[armed.fault.kind](armed, answer, job_id)

    def deliver(self, call: Call, made: Reply) -> Reply:
        """Spoil a reply whose request had its effect."""
        for armed in self._striking(_DELIVERIES, call.endpoint, ""):
            made = _DELIVERIES[armed.fault.kind](made)
        return made

    def _striking(
        self, acts: dict[str, Any], endpoint: str, job_id: str, subject: Any = None
    ) -> Iterator[_Armed]:
        for armed in self._armed:
            fault = armed.fault
            possible = fault.kind in acts and endpoint in fault.on
            if possible and _matters(fault, subject) and armed.strikes(job_id):
                yield armed


def _matters(fault: Fault, subject: Any) -> bool:
    """Whether the fault would be seen at all: what it cannot change, it does not count."""
    if fault.kind in _STATUSES:
        return _concerns(fault, *subject)
    if fault.kind == "empty_page":
        return bool(subject.places)
    if fault.kind == "limit_violation":
        limit = fault.values["threshold"] or _UNDOCUMENTED_LIMIT
        asked = subject.params.get("limit", "")
        return asked.isdecimal() and int(asked) > limit
    result = subject.get("result", {}) if isinstance(subject, dict) else {}
    if fault.kind == "missing_fields":
        return fault.values["field"] in {*result, "result"}
    if fault.kind == "bad_ids":
        return bool(result.get("sessionIds"))
    return fault.kind not in _RESULTS or result.get("total") is not None


def _concerns(fault: Fault, start: date, end: date) -> bool:
    """Whether the fault is about a job that was asked for these days."""
    day, over_days = fault.values.get("day"), fault.values.get("over_days")
    has_day = day is None or start <= date.fromisoformat(day) < end
    return has_day and (over_days is None or (end - start).days > over_days)


def _refused(refusal: Refusal, **headers: str) -> Reply:
    return reply(refusal.status, refusal.body, **headers)


def _rate_limited(armed: _Armed, _: Call) -> Reply:
    wait = armed.fault.values["retry_after"]
    if wait is None:
        return _refused(too_many_requests())
    text = formatdate(time.time() + 1, usegmt=True) if wait == "date" else str(wait)
    return _refused(too_many_requests(), **{"retry-after": text})


def _server_error(armed: _Armed, _: Call) -> Reply:
    return reply(armed.fault.values["status"], EMPTY_ERROR)


def _html(armed: _Armed, _: Call) -> Reply:
    return Reply(armed.fault.values["status"], _HTML, content_type="text/html")


def _limit_violation(armed: _Armed, _: Call) -> Reply:
    threshold = armed.fault.values["threshold"]
    data = {} if threshold is None else {"threshold": threshold}
    return _refused(invalid([violation("limit", "MAX", "is too large", **data)]))


def _unknown_job(armed: _Armed, call: Call) -> Reply | None:
    if armed.turn(call.params.get("jobId")) >= armed.fault.values["polls"]:
        return None
    return _refused(application_error(404, "JOB_NOT_FOUND", "The job is not known"))


_REPLACEMENTS: dict[str, Callable[[_Armed, Call], Reply | None]] = {
    "rate_limited": _rate_limited,
    "server_error": _server_error,
    "html": _html,
    "expired_token": lambda *_: _refused(unauthenticated()),
    "forbidden": lambda *_: _refused(forbidden()),
    "dropped_before": lambda *_: Reply(0, b"", delivery="never"),
    "limit_violation": _limit_violation,
    "unknown_job": _unknown_job,
}


def _unknown_status(armed: _Armed, job_id: str) -> str | None:
    polls = armed.fault.values["polls"]
    still = polls is None or armed.turn(job_id) < polls
    return str(armed.fault.values["status"]) if still else None


_STATUSES: dict[str, Callable[[_Armed, str], str | None]] = {
    "job_error": lambda *_: "ERROR",
    "job_never_finishes": lambda *_: "IN_PROGRESS",
    "unknown_status": _unknown_status,
}


_MIX_UPS: dict[str, None] = dict.fromkeys(("swapped_job", "stale_result"))
"""What they do is in `service`, which knows the jobs."""


def _small_pages(armed: _Armed, page: Page) -> None:
    page.limit = min(page.limit, armed.fault.values["size"])
    page.places = page.places[: page.limit]


def _repeats(armed: _Armed, page: Page) -> None:
    n = min(armed.fault.values["n"], page.limit - 1)
    asked = range(page.offset, page.offset + page.limit)
    # Each whole page before this place handed out n ids that had been handed out already.
    places = (place - n * (place // page.limit) for place in asked)
    page.places = [place for place in places if place < page.total]


def _lossy_repeats(armed: _Armed, page: Page) -> None:
    if page.offset and not armed.turn((page.job_id, page.offset)):
        n = min(armed.fault.values["n"], page.offset, len(page.places))
        before = range(page.offset - n, min(page.offset, page.total))
        page.places = [*before, *page.places[n:]]


def _drift(armed: _Armed, page: Page) -> int:
    until, step = int(armed.fault.values["until"]), int(armed.fault.values["step"])
    return max(0, until - step * armed.turn(page.job_id))


def _growing_result(armed: _Armed, page: Page) -> None:
    withheld = min(_drift(armed, page), page.total)
    page.show(page.total - withheld, withheld if armed.fault.values["at"] == "start" else 0)


def _shrinking_result(armed: _Armed, page: Page) -> None:
    ghosts = _drift(armed, page)
    page.show(page.total + ghosts, -ghosts if armed.fault.values["at"] == "start" else 0)


def _empty_page(_: _Armed, page: Page) -> None:
    page.places = ()


_PAGES: dict[str, Callable[[_Armed, Page], None]] = {
    "growing_result": _growing_result,
    "shrinking_result": _shrinking_result,
    "repeats": _repeats,
    "lossy_repeats": _lossy_repeats,
    "small_pages": _small_pages,
    "empty_page": _empty_page,
}


def _null_total(_: _Armed, answer: dict[str, Any], __: str) -> None:
    answer["result"]["total"] = None


def _wrong_total(armed: _Armed, answer: dict[str, Any], _: str) -> None:
    answer["result"]["total"] += armed.fault.values["delta"]


def _changing_total(armed: _Armed, answer: dict[str, Any], job_id: str) -> None:
    answer["result"]["total"] += armed.fault.values["delta"] * (armed.turn(job_id) % 2)


def _bad_ids(armed: _Armed, answer: dict[str, Any], _: str) -> None:
    ids = answer["result"]["sessionIds"]
    n = min(armed.fault.values["n"], len(ids))
    ids[:n] = [_BAD_IDS[armed.fault.values["value"]]] * n


def _missing_fields(armed: _Armed, answer: dict[str, Any], _: str) -> None:
    name = armed.fault.values["field"]
    (answer if name == "result" else answer["result"]).pop(name, None)


_RESULTS: dict[str, Callable[[_Armed, dict[str, Any], str], None]] = {
    "null_total": _null_total,
    "wrong_total": _wrong_total,
    "changing_total": _changing_total,
    "bad_ids": _bad_ids,
    "missing_fields": _missing_fields,
}


def _truncated(made: Reply) -> Reply:
    half = made.body[: len(made.body) // 2]
    return Reply(made.status, half, made.headers, made.content_type, made.delivery)


def _cut(made: Reply) -> Reply:
    return Reply(made.status, made.body, made.headers, made.content_type, "cut")


_DELIVERIES: dict[str, Callable[[Reply], Reply]] = {
    "truncated": _truncated,
    "cut_body": _cut,
    "dropped_after": lambda _: Reply(0, b"", delivery="never"),
}
