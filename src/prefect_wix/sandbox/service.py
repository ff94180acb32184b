"""The sandbox's Wix without its HTTP: jobs and their pages, marks, tokens, counts and sites.

Each endpoint is one function from a `Call` to a JSON answer; a `Refusal` is everything else.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from datetime import date, timedelta
from random import Random
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from prefect_wix.sandbox import requests
from prefect_wix.sandbox.access import Access, guid
from prefect_wix.sandbox.answers import answer, count, days_asked
from prefect_wix.sandbox.faults import Faults, Page
from prefect_wix.sandbox.replies import application_error
from prefect_wix.sandbox.world import DerivedIds

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from prefect_wix.sandbox.requests import Call
    from prefect_wix.sandbox.rules import Rules
    from prefect_wix.sandbox.world import World

DAYS_OF_COUNTS = 62
"""How many days of TOTAL_SESSIONS are kept, today included."""

_OK = 200
_GHOSTS = DerivedIds(-1)
"""Ids of sessions that never happened."""


@dataclass(frozen=True, slots=True)
class Job:
    """A submitted query and its answer, fixed at the submit."""

    id: str
    site_id: str
    body: Mapping[str, Any]
    days: tuple[date, date]
    """The local days that were asked for; the end is not included."""
    sessions: Sequence[int] = field(repr=False)
    """The answer: places in the world's order of arrival."""
    stride: int
    """The page order takes every so many-th of `sessions`, round and round. 1 keeps the order."""
    submitted: float
    """Seconds on the monotonic clock."""
    ready: float
    """When it finishes, on the monotonic clock."""


class Wix:
    """The state behind the endpoints."""

    def __init__(
        self,
        worlds: Mapping[str, World],
        access: Access,
        *,
        rules: Rules,
        faults: Faults,
        job_seconds: tuple[float, float],
        seed: int,
    ) -> None:
        self.worlds, self.access, self.rules, self.faults = worlds, access, rules, faults
        self.job_seconds = job_seconds
        self.random = Random(f"service {seed}")  # noqa: S311
        self.site_names: dict[str, str] = {}
        self.jobs: dict[str, Job] = {}
        self.recorded: set[str] = set()
        self.deleted: set[str] = set()

    def answer(self, call: Call) -> Mapping[str, Any]:
        """What this request is answered with."""
        return _ANSWERS[call.endpoint](self, call)

    def sessions(self, site_id: str, body: Mapping[str, Any]) -> Sequence[int]:
        """The sessions of a site that a List Sessions body means at this moment."""
        world = self.worlds[site_id]
        sessions = answer(world, body, now=self.access.now(), rules=self.rules)
        if not self.rules.recorded_only:
            return sessions
        recorded = {world.find(session_id) for session_id in self.recorded - self.deleted}
        return [place for place in sessions if place in recorded]


def _list(wix: Wix, call: Call) -> Mapping[str, Any]:
    site_id = wix.access.site(call)
    body = requests.sessions_query(call)
    now = time.monotonic()
    ready = now + wix.random.uniform(*wix.job_seconds)
    sessions = wix.sessions(site_id, body)
    if wix.rules.sort == "id":
        sessions = sorted(sessions, key=wix.worlds[site_id].ids.__getitem__)
    stride = _stride(len(sessions)) if wix.rules.sort == "random" else 1
    days = days_asked(wix.worlds[site_id], body, now=wix.access.now(), rules=wix.rules)
    job = Job(guid(wix.random), site_id, body, days, sessions, stride, now, ready)
    wix.jobs[job.id] = job
    return {"jobId": job.id}


def _stride(number: int) -> int:
    """A step that visits all of so many places, each once, and looks like no order."""
    stride = max(1, round(number * 0.6180339887))
    while math.gcd(stride, number) > 1:
        stride += 1
    return stride


def _result(wix: Wix, call: Call) -> Mapping[str, Any]:
    site_id = wix.access.site(call)
    asked = requests.page_request(call, wix.rules)
    job = wix.jobs.get(asked.job_id)
    if job is None or job.site_id != site_id or _forgotten(job, wix.rules):
        return _unknown_job(wix.rules)
    result: dict[str, Any] = {"jobStatus": wix.faults.status(job.id, job.days) or _status(job)}
    if result["jobStatus"] == "FINISHED":
        job = _whose_listing(wix, job)
        page = Page(asked.job_id, asked.offset, asked.limit, len(job.sessions))
        wix.faults.turn(page)
        result |= {"total": page.total, "sessionIds": _ids(wix, job, page.places)}
    told = {"result": result}
    wix.faults.spoil(told, asked.job_id)
    return told


def _whose_listing(wix: Wix, job: Job) -> Job:
    """The job itself, unless a fault takes another one of the site for it."""
    kind = wix.faults.mix_up(job.id)
    if kind is None:
        return job
    same = kind == "stale_result"
    others = [
        one
        for one in wix.jobs.values()
        if one.site_id == job.site_id
        and one.submitted <= job.submitted
        and (one.body == job.body) is same
    ]
    return job if not others else others[0 if same else -1]


def _forgotten(job: Job, rules: Rules) -> bool:
    lifetime = rules.job_lifetime_seconds
    return lifetime is not None and time.monotonic() > job.submitted + lifetime


def _unknown_job(rules: Rules) -> Mapping[str, Any]:
    if rules.unknown_job_status == _OK:
        return {"result": {"jobStatus": "UNKNOWN_JOB_STATUS"}}
    text = "The job is not known"
    raise application_error(rules.unknown_job_status, "JOB_NOT_FOUND", text)


def _status(job: Job) -> str:
    return "FINISHED" if time.monotonic() >= job.ready else "IN_PROGRESS"


def _ids(wix: Wix, job: Job, places: Sequence[int]) -> list[str]:
    ids, sessions, stride = wix.worlds[job.site_id].ids, job.sessions, job.stride
    number = len(sessions)
    return [
        ids[sessions[place * stride % number]] if 0 <= place < number else _GHOSTS[place]
        for place in places
    ]


def _recorded(wix: Wix, call: Call) -> Mapping[str, Any]:
    site_id = wix.access.site(call)
    session_id = requests.recorded_mark(call)
    _mark(wix, site_id, [session_id], wix.recorded)
    return {}


def _deleted(wix: Wix, call: Call) -> Mapping[str, Any]:
    site_id = wix.access.site(call)
    _mark(wix, site_id, requests.deleted_marks(call), wix.deleted)
    return {}


def _mark(wix: Wix, site_id: str, ids: Sequence[str], marked: set[str]) -> None:
    find = wix.worlds[site_id].find
    if not wix.rules.accepts_unknown_marks and any(find(each) is None for each in ids):
        raise application_error(404, "SESSION_NOT_FOUND", "A session is not known")
    if not wix.rules.accepts_repeated_marks and not marked.isdisjoint(ids):
        raise application_error(409, "ALREADY_MARKED", "A session is marked already")
    marked.update(ids)


def _token(wix: Wix, call: Call) -> Mapping[str, Any]:
    seconds = wix.rules.token_seconds
    token = wix.access.mint(call.json(), seconds, wix.random)
    return {"access_token": token, "token_type": "Bearer", "expires_in": seconds}


def _properties(wix: Wix, call: Call) -> Mapping[str, Any]:
    world = wix.worlds[wix.access.site(call)]
    asked = call.params.get("fields.paths", "").split(",")
    told = wix.rules.site_timezone_known and "timeZone" in asked
    return {"properties": {"timeZone": world.timezone} if told else {}}


def _data(wix: Wix, call: Call) -> Mapping[str, Any]:
    world = wix.worlds[wix.access.site(call)]
    asked, now = requests.count_request(call), wix.access.now()
    zone = ZoneInfo(asked.zone or world.timezone)
    tomorrow = now.astimezone(zone).date() + timedelta(days=1)
    first = max(asked.start, tomorrow - timedelta(days=DAYS_OF_COUNTS))
    days = (first + timedelta(days=n) for n in range((min(asked.end, tomorrow) - first).days))
    counted = {str(day): _told(count(world, day, zone, now), wix.rules) for day in days}
    values = [{"date": day, "value": value} for day, value in counted.items()]
    measured = {"type": "TOTAL_SESSIONS", "values": values, "total": sum(counted.values())}
    return {"data": [measured]}


def _told(true: int, rules: Rules) -> int:
    return true if rules.counts_match else true + true // 20 + 1


def _sites(wix: Wix, call: Call) -> Mapping[str, Any]:
    wix.access.check_account(call)
    limit, start = requests.sites_page(call)
    names = {site_id: f"Shop {n}" for n, site_id in enumerate(wix.worlds, start=1)}
    sites = [{"id": id_, "name": name} for id_, name in (names | wix.site_names).items()]
    following, page = start + limit, sites[start : start + limit]
    more = following < len(sites)
    cursors = {"next": str(following)} if more else {}
    return {"sites": page, "metadata": {"count": len(page), "cursors": cursors, "hasNext": more}}


_ANSWERS: dict[str, Callable[[Wix, Call], Mapping[str, Any]]] = {
    "list": _list,
    "result": _result,
    "recorded": _recorded,
    "deleted": _deleted,
    "token": _token,
    "properties": _properties,
    "data": _data,
    "sites": _sites,
}
