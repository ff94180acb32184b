"""Seeded combinations of faults: each load is exact or ends with a typed error, in time.

The sandbox is called in virtual time, without a socket; the warehouses are real. `make soak` runs
3,000 combinations.
"""

from __future__ import annotations

import asyncio
import logging
import random
import resource
import sys
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from types import SimpleNamespace

import httpx
import pytest

from prefect_wix.client.auth import ApiKeyAuth
from prefect_wix.client.client import WixClient
from prefect_wix.jobs.poll_policy import PollPolicy
from prefect_wix.load.loader import load_partitions
from prefect_wix.load.partition_load import LoadOptions
from prefect_wix.planning.partitions import JobState, Partition
from prefect_wix.sandbox import Fault, Rules, World, access, service
from prefect_wix.sandbox.access import AccessControl, Credentials
from prefect_wix.sandbox.faults import Faults
from prefect_wix.sandbox.requests import ApiRequest
from prefect_wix.sandbox.server import ROUTES, _respond
from prefect_wix.sandbox.service import Service
from tests.faults import HIDDEN_PAGES, HIDDEN_TOTALS, TRUTHFUL
from tests.options import repeated
from tests.virtual_time import LoopClock, real_time, run
from tests.warehouses import PostgresBench

BLOCKS, SEEDS = repeated((1, 6), soak=(30, 50))
"""How many tests on each engine, and the seeds of each."""
DAYS = [date(2024, 3, day) for day in (1, 2, 3)]
WORLD = World.generate(5, sessions=300, start=DAYS[0], days=len(DAYS), timezone="UTC")
NOW = datetime(2024, 4, 1, tzinfo=UTC)
PAGE = 50
TIMEOUT_SECONDS = 600
FOREVER = 10**9
"""A `Retry-After` beyond every deadline. It pauses the whole site."""
MAX_GROWTH_BYTES = 100 * 2**20
ENDPOINTS = {path: name for name, (_, path) in ROUTES.items()}
STOPPING = {"expired_token", "forbidden", "rate_limited", "server_error"}
"""After these faults a load stops: partitions without a job fail for the same reason."""


# -- faults that the sandbox lacks ---------------------------------------------------------------

OUTAGES = [
    *(
        Fault("rate_limited", retry_after=hint)
        for hint in (None, 0, 1, 5, "Fri, 01 Mar 2024 00:00:00 GMT", "soon", FOREVER, -1)
    ),
    *(Fault("server_error", status=n) for n in (500, 502, 503, 504, 408, 421, 425, 499)),
    *(Fault("html", status=status) for status in (200, 404, 502)),
    Fault("dropped_before"),
    Fault("dropped_after"),
    Fault("cut_body"),
]
"""Faults of every request, or of every poll, for some time."""
OUTAGE_SECONDS = (45, 300, 2_000)
ENDINGS = [
    lambda draw: Fault(
        "unknown_status", status=draw.choice(["FAILED", "EXPIRED", "TIMED_OUT"]), rate=0.4
    ),
    lambda draw: Fault("job_error", rate=draw.choice([0.3, 1.0])),
    lambda draw: Fault("unknown_job", polls=draw.choice([2, 1000]), rate=0.4),
    lambda draw: Fault("job_never_finishes", rate=0.4),
]

TEXT = "\x00\x1b[31m\ud83d\u202e'; DROP TABLE wix_session_ids; --\r\n{0}%s" + "x" * 5_000
HOSTILE = [
    {"status_code": 400, "json": {"message": TEXT.replace("\ud83d", ""), "details": {}}},
    {"status_code": 400, "content": b'{"message": "\\ud83d\\u0000", "details": 3}'},
    {"status_code": 404, "json": {"message": "\x00", "details": {}}},
    {"status_code": 409, "content": b"\xff\xfe" * 1_000},
    {"status_code": 410, "content": b"[" * 50_000},
    {"status_code": 500, "content": TEXT.encode("utf-8", "replace")},
    {"status_code": 200, "content": b""},
    {"status_code": 204, "content": b""},
    {"status_code": 200, "content": b"null"},
    {"status_code": 200, "content": b'{"result": []}'},
    {"status_code": 200, "content": b'{"result": {"jobStatus": 7, "total": 1e400}}'},
    {"status_code": 200, "content": b'{"jobId": "\\u0000"}'},
    {"status_code": 200, "content": b" " * (9 * 2**20)},
    {"status_code": 307, "headers": {"location": "http://169.254.0.1/"}},
]


@dataclass
class Combination:
    """The faults of one seed."""

    seed: int
    faults: list[Fault] = field(default_factory=list)
    outage: tuple[Fault, float, float] | None = None
    hostile_rate: float = 0.0
    kill_after: float | None = None

    @classmethod
    def draw(cls, seed):
        draw = random.Random(f"matrix {seed}")
        hidden = draw.choice([HIDDEN_TOTALS, HIDDEN_PAGES])
        makers = draw.sample([*TRUTHFUL, *hidden, *ENDINGS], draw.randint(0, 3))
        drawn = cls(seed, [maker(draw) for maker in makers])
        if draw.random() < 0.5:
            fault = draw.choice(OUTAGES)
            if draw.random() < 0.5:
                fault = Fault(fault.kind, on="result", **fault.options)
            start = draw.uniform(0, 60)
            drawn.outage = (fault, start, start + draw.choice(OUTAGE_SECONDS))
        drawn.hostile_rate = draw.choice([0, 0, 0.1, 0.5])
        drawn.kill_after = draw.choice([None, None, draw.uniform(0, 120)])
        return drawn


# -- Wix in virtual time -------------------------------------------------------------------------


class Wix:
    """The sandbox's service under a combination of faults."""

    def __init__(self, combination):
        seed = combination.seed
        self.credentials = Credentials.from_seed(seed)
        worlds = {self.credentials.site_id: WORLD}
        self.service = Service(
            worlds,
            AccessControl(self.credentials, worlds, lambda: NOW, 200, Rules()),
            rules=Rules(),
            faults=Faults(combination.faults, seed),
            job_seconds=(0, 90),
            seed=seed,
        )
        self.combination, self.random = combination, random.Random(f"wix {seed}")
        self.outage = combination.outage and Faults([combination.outage[0]], seed)
        self.hit = set()
        """The days with a request that had a fault."""
        self.requests = 0
        self.last_submit = 0.0
        """When Wix last ended a submit: neither a 429 nor a 503."""

    def heal(self):
        """End all faults."""
        self.combination, self.outage = Combination(self.combination.seed), None
        self.service.faults = Faults([], 0)

    async def __call__(self, request):
        self.requests += 1
        await asyncio.sleep(self.random.uniform(0.05, 0.3))
        sent = ApiRequest(
            ENDPOINTS[request.url.path],
            request.method,
            request.headers,
            dict(request.url.params),
            request.content,
        )
        before = self._applied()
        response = self._respond(sent)
        if response is None or self._applied() != before:
            self.hit.add(self._day(sent))
            if response and self._outlasts_the_jobs(response):
                self.hit.update(DAYS)
        if sent.endpoint == "list" and (response is None or response.status not in {429, 503}):
            self.last_submit = asyncio.get_running_loop().time()
        if response is None:
            return httpx.Response(**self.random.choice(HOSTILE))
        headers = {**response.headers, "content-type": response.content_type}
        if response.delivery == "never":
            raise httpx.ReadError("the connection was closed", request=request)
        if response.delivery == "cut":
            raise httpx.RemoteProtocolError("the body was cut", request=request)
        return httpx.Response(response.status, headers=headers, content=response.body)

    def _respond(self, sent):
        if self.random.random() < self.combination.hostile_rate:
            return None
        normal, during = self.service.faults, self.combination.outage
        if during and during[1] <= asyncio.get_running_loop().time() < during[2]:
            self.service.faults = self.outage
        try:
            return _respond(self.service, sent)[0]
        finally:
            self.service.faults = normal

    def _outlasts_the_jobs(self, response):
        """Whether an outage, which pauses the whole site, lasts beyond the timeout of its jobs."""
        outage = self.combination.outage
        is_long = outage is not None and outage[2] - outage[1] > TIMEOUT_SECONDS
        return is_long or response.headers.get("retry-after") == str(FOREVER)

    def _applied(self):
        active = [*self.service.faults._active, *(self.outage._active if self.outage else ())]
        return sum(one.applied for one in active)

    def _day(self, sent):
        if sent.endpoint == "list":
            return date.fromisoformat(sent.json_object()["customTimePeriod"]["startDate"])
        # A job that does not exist is polled after a lost submit.
        job = self.service.jobs.get(sent.params["jobId"])
        return job and job.days[0]

    def client(self):
        auth = ApiKeyAuth(self.credentials.api_key, self.credentials.site_id)
        client = WixClient(auth, base_url="https://wix.test", clock=LoopClock())
        client.page_limit = PAGE
        client._http = httpx.AsyncClient(
            base_url=client.base_url,
            auth=auth,
            transport=httpx.MockTransport(self),
            event_hooks=client._http.event_hooks,
        )
        return client


class ServerWarehouse:
    """A warehouse on a server; its operations take real time in a virtual loop."""

    def __init__(self, warehouse):
        for name in ("receipts", "job_records", "claim", "save_record", "publish"):
            setattr(self, name, self._in_real_time(getattr(warehouse, name)))

    @staticmethod
    def _in_real_time(operation):
        async def timed(*args, **options):
            with real_time():
                return await operation(*args, **options)

        return timed


# -- the test ------------------------------------------------------------------------------------


async def load(wix, warehouse, kill_after=None):
    """The results and the duration of one load; no results if it was killed."""
    partitions = [Partition(wix.credentials.site_id, day, "device_type=ALL", "UTC") for day in DAYS]
    policy = PollPolicy(TIMEOUT_SECONDS)

    async def nothing(_):
        pass

    started = asyncio.get_running_loop().time()
    async with wix.client() as client:
        options = LoadOptions(datetime.now(UTC), poll_policy=policy)
        loading = load_partitions(client, warehouse, partitions, options, on_progress=nothing)
        try:
            results = await asyncio.wait_for(loading, kill_after)
        except TimeoutError:
            results = None
    return results, asyncio.get_running_loop().time() - started


async def stored(bench, site_id):
    """The IDs of each day, read with the engine's own tools."""
    table = bench.name("wix_session_ids")
    rows = await bench.sql(
        f"SELECT session_date, session_id FROM {table} WHERE site_id = '{site_id}'"
    )
    found = {day: [] for day in DAYS}
    for day, session_id in rows:
        found[day].append(session_id)
    return {day: sorted(ids) for day, ids in found.items()}


def truth(wix):
    ids = {day: [] for day in DAYS}
    for session in WORLD.sessions():
        ids[session.arrival.date()].append(session.id)
    return {day: sorted(of_day) for day, of_day in ids.items()}


def check(combination, wix, results, found):
    """Each partition has all its IDs, or failed because a fault hit it, and is empty."""
    failed = {one.partition.day: one for one in results if one.state is JobState.FAILED}
    for day, ids in truth(wix).items():
        assert found[day] == ([] if day in failed else ids), day
    stopped = {failed[day].reason for day in failed.keys() & wix.hit}
    outage = combination.outage[:1] if combination.outage else ()
    # The second of two partitions in a row whose submits are lost stops a load, with its reason.
    lost = [one.reason for one in failed.values() if one.possible_orphans > 1]
    if len(lost) > 1:
        failed = {day: one for day, one in failed.items() if one.reason not in lost}
    if {one.kind for one in (*combination.faults, *outage)} & STOPPING:
        failed = {day: one for day, one in failed.items() if one.reason not in stopped}
    assert failed.keys() <= wix.hit


async def load_under(combination, bench):
    """Two loads, the second one without faults: it completes what the first one could not."""
    wix = Wix(combination)
    warehouse = bench.open()
    if isinstance(bench, PostgresBench):
        warehouse = ServerWarehouse(warehouse)
    results, seconds = await load(wix, warehouse, combination.kill_after)
    assert seconds <= wix.last_submit + TIMEOUT_SECONDS + 10
    assert wix.requests <= 200 * (seconds // 61 + 1)
    with real_time():
        found = await stored(bench, wix.credentials.site_id)
    if results is not None:
        check(combination, wix, results, found)
    wix.heal()
    results, _ = await load(wix, warehouse)
    assert {one.state for one in results} <= {JobState.LANDED, JobState.UNCHANGED}
    with real_time():
        assert await stored(bench, wix.credentials.site_id) == truth(wix)


@pytest.mark.parametrize("block", range(BLOCKS))
@pytest.mark.parametrize("engine", ["duckdb", "postgres"])
def test_a_load_under_combined_faults_is_exact_or_fails_with_a_typed_error(
    make_bench, engine, block, monkeypatch, caplog
):
    """No partition fails that no fault hit, and the next load completes the days."""
    caplog.set_level(logging.CRITICAL)
    virtual = SimpleNamespace(monotonic=lambda: asyncio.get_running_loop().time())
    monkeypatch.setattr(service, "time", virtual)
    monkeypatch.setattr(access, "time", virtual)
    bench, failures = make_bench(engine), {}
    run(prepare(bench))
    memory = peak_memory()
    for seed in range(block * SEEDS, (block + 1) * SEEDS):
        combination = Combination.draw(f"{engine} {seed}")
        try:
            run(load_under(combination, bench))
        except Exception as error:  # noqa: BLE001 - all seeds of the block are run
            failures[str(combination)] = repr(error)
    assert not failures
    assert peak_memory() - memory < MAX_GROWTH_BYTES


def peak_memory():
    """Of this process, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


async def prepare(bench):
    with real_time():
        await bench.ready()
