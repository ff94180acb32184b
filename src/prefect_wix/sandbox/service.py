"""The simulated API without HTTP: jobs and pages, marks, tokens, counts and sites.

Each endpoint has one handler, which returns a JSON object or raises an `ApiError`.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from datetime import date, timedelta
from random import Random
from typing import TYPE_CHECKING, Any
from uuid import uuid4
from zoneinfo import ZoneInfo

from prefect_wix.sandbox import requests
from prefect_wix.sandbox.access import AccessControl
from prefect_wix.sandbox.faults import Faults, Page
from prefect_wix.sandbox.query import count_sessions, find_sessions, query_days
from prefect_wix.sandbox.responses import application_error, validation_error, violation
from prefect_wix.sandbox.world import DerivedIds

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from prefect_wix.sandbox.requests import ApiRequest
    from prefect_wix.sandbox.rules import Rules
    from prefect_wix.sandbox.world import World

COUNT_DAYS = 62
"""The days with counts, including today. A range that starts before them is rejected."""

_OK = 200
_NONEXISTENT_IDS = DerivedIds(-1)


@dataclass(frozen=True, slots=True)
class Job:
    """A submitted query and its result, which is fixed at the submit."""

    id: str
    site_id: str
    body: Mapping[str, Any]
    days: tuple[date, date]
    """The local days `[start, end)` of the query."""
    sessions: Sequence[int] = field(repr=False)
    """The result: indices of sessions in the site's `World`."""
    stride: int
    """Page position n holds element n * stride, modulo the length, of `sessions`."""
    submitted: float
    """The time of the submit in seconds of `time.monotonic()`."""
    ready: float
    """The time when the job finishes in seconds of `time.monotonic()`."""


class Service:
    """The state of the simulated API."""

    def __init__(
        self,
        worlds: Mapping[str, World],
        access: AccessControl,
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

    def handle(self, request: ApiRequest) -> Mapping[str, Any]:
        """Return the JSON body of the response, or raise an `ApiError`."""
        return _HANDLERS[request.endpoint](self, request)

    @property
    def display_names(self) -> Mapping[str, str]:
        """What the owner calls each site, by site ID."""
        return {id_: f"Shop {n}" for n, id_ in enumerate(self.worlds, start=1)} | self.site_names

    def find_site_sessions(self, site_id: str, body: Mapping[str, Any]) -> Sequence[int]:
        """Return the indices of a site's sessions that a List Sessions body matches now."""
        world = self.worlds[site_id]
        sessions = find_sessions(world, body, now=self.access.now(), rules=self.rules)
        if not self.rules.recorded_only:
            return sessions
        recorded = {world.find(session_id) for session_id in self.recorded - self.deleted}
        return [index for index in sessions if index in recorded]


def _submit_job(service: Service, request: ApiRequest) -> Mapping[str, Any]:
    site_id = service.access.authorize_site(request)
    body = requests.parse_sessions_query(request, service.rules)
    now, world, rules = time.monotonic(), service.worlds[site_id], service.rules
    ready = now + service.random.uniform(*service.job_seconds)
    sessions = service.find_site_sessions(site_id, body)
    if rules.sort == "id":
        sessions = sorted(sessions, key=world.ids.__getitem__)
    stride = _stride(len(sessions)) if rules.sort == "random" else 1
    days = query_days(world, body, now=service.access.now(), rules=rules)
    # Random, because a restarted sandbox must not know the jobs of the one before.
    job = Job(str(uuid4()), site_id, body, days, sessions, stride, now, ready)
    service.jobs[job.id] = job
    return {"jobId": job.id}


def _stride(length: int) -> int:
    """Return a step that visits every position once, in an order that looks random."""
    stride = max(1, round(length * 0.6180339887))
    while math.gcd(stride, length) > 1:
        stride += 1
    return stride


def _get_result(service: Service, request: ApiRequest) -> Mapping[str, Any]:
    site_id = service.access.authorize_site(request)
    params = requests.parse_page_request(request, service.rules)
    job = service.jobs.get(params.job_id)
    if job is None or job.site_id != site_id or _is_expired(job, service.rules):
        return _unknown_job(service.rules)
    status = service.faults.job_status(job.id, job.days)
    status = status or ("FINISHED" if time.monotonic() >= job.ready else "IN_PROGRESS")
    result: dict[str, Any] = {"jobStatus": status}
    if status == "FINISHED":
        job = _job_of_listing(service, job)
        page = Page(params.job_id, params.offset, params.limit, len(job.sessions))
        service.faults.change_page(page)
        result |= {"total": page.total, "sessionIds": _page_ids(service, job, page.positions)}
    body = {"result": result}
    service.faults.change_result(body, params.job_id)
    return body


def _job_of_listing(service: Service, job: Job) -> Job:
    """Return the job whose listing is served: the job itself, unless a fault selects another."""
    kind = service.faults.listing_fault(job.id)
    if kind is None:
        return job
    same_query = kind == "stale_result"
    others = [
        other
        for other in service.jobs.values()
        if other.site_id == job.site_id
        and other.submitted <= job.submitted
        and (other.body == job.body) is same_query
    ]
    return job if not others else others[0 if same_query else -1]


def _is_expired(job: Job, rules: Rules) -> bool:
    lifetime = rules.job_lifetime_seconds
    return lifetime is not None and time.monotonic() > job.submitted + lifetime


def _unknown_job(rules: Rules) -> Mapping[str, Any]:
    if rules.unknown_job_status == _OK:
        return {"result": {"jobStatus": "UNKNOWN_JOB_STATUS"}}
    raise application_error(rules.unknown_job_status, "NOT_FOUND", "The job is unknown")


def _page_ids(service: Service, job: Job, positions: Sequence[int]) -> list[str]:
    ids, sessions, stride = service.worlds[job.site_id].ids, job.sessions, job.stride
    length = len(sessions)
    return [
        ids[sessions[position * stride % length]]
        if 0 <= position < length
        else _NONEXISTENT_IDS[position]
        for position in positions
    ]


def _mark_recorded(service: Service, request: ApiRequest) -> Mapping[str, Any]:
    site_id = service.access.authorize_site(request)
    session_id = requests.parse_recorded_mark(request)
    return _mark(service, site_id, [session_id], service.recorded)


def _mark_deleted(service: Service, request: ApiRequest) -> Mapping[str, Any]:
    site_id = service.access.authorize_site(request)
    session_ids = requests.parse_deleted_marks(request)
    return _mark(service, site_id, session_ids, service.deleted)


def _mark(
    service: Service, site_id: str, ids: Sequence[str], marked: set[str]
) -> Mapping[str, Any]:
    find, rules = service.worlds[site_id].find, service.rules
    if not rules.accepts_unknown_marks and any(find(each) is None for each in ids):
        raise application_error(404, "NOT_FOUND", "A session is unknown")
    if not rules.accepts_repeated_marks and not marked.isdisjoint(ids):
        raise application_error(409, "ALREADY_EXISTS", "A session is already marked")
    marked.update(ids)
    return {}


def _create_token(service: Service, request: ApiRequest) -> Mapping[str, Any]:
    seconds = service.rules.token_seconds
    token = service.access.issue_token(request.json_object(), seconds, service.random)
    return {"access_token": token, "token_type": "Bearer", "expires_in": seconds}


def _get_properties(service: Service, request: ApiRequest) -> Mapping[str, Any]:
    site_id = service.access.authorize_site(request)
    properties = {"siteDisplayName": service.display_names[site_id]}
    if service.rules.site_timezone_known:
        properties["timeZone"] = service.worlds[site_id].timezone
    mask = request.params.get("fields.paths") or request.params.get("fields")
    named = mask.split(",") if mask else properties
    return {"properties": {name: properties[name] for name in properties if name in named}}


def _get_counts(service: Service, request: ApiRequest) -> Mapping[str, Any]:
    world = service.worlds[service.access.authorize_site(request)]
    params, now = requests.parse_count_request(request), service.access.now()
    zone = ZoneInfo(params.zone or world.timezone)
    tomorrow = now.astimezone(zone).date() + timedelta(days=1)
    if params.start < tomorrow - timedelta(days=COUNT_DAYS):
        text = "Do not have data for this start date"
        raise validation_error([violation("dateRange.startDate", "VALIDATION", text)])
    length = (min(params.end, tomorrow) - params.start).days
    days = (params.start + timedelta(days=n) for n in range(length))
    counts = {str(day): count_sessions(world, day, zone, now) for day in days}
    if not service.rules.counts_match:
        counts = {day: count + count // 20 + 1 for day, count in counts.items()}
    values = [{"date": day, "value": value} for day, value in counts.items()]
    empty = {name: {"values": [], "total": 0} for name in params.types}
    measured = empty | {"TOTAL_SESSIONS": {"values": values, "total": sum(counts.values())}}
    return {"data": [{"type": name, **measured[name]} for name in params.types]}


def _list_sites(service: Service, request: ApiRequest) -> Mapping[str, Any]:
    service.access.authorize_account(request)
    query = requests.parse_sites_request(request)
    sites = [
        {"id": id_, "name": f"site-{id_[:8]}", "displayName": name}
        for id_, name in service.display_names.items()
        if query.filter.items() <= {"id": id_, "displayName": name}.items()
    ]
    for by in reversed(query.sort):
        field, is_descending = str(by.get("fieldName", "")), by.get("order") == "DESC"
        sites.sort(key=lambda site: site.get(field, ""), reverse=is_descending)
    page, end = sites[query.start :][: query.limit], query.start + query.limit
    cursors = {"next": str(end)} if end < len(sites) else {}
    metadata = {"count": len(page), "cursors": cursors, "hasNext": bool(cursors)}
    return {"sites": page, "metadata": metadata}


_HANDLERS: dict[str, Callable[[Service, ApiRequest], Mapping[str, Any]]] = {
    "list": _submit_job,
    "result": _get_result,
    "recorded": _mark_recorded,
    "deleted": _mark_deleted,
    "token": _create_token,
    "properties": _get_properties,
    "data": _get_counts,
    "sites": _list_sites,
}
