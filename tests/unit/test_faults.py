"""Under single and combined faults, a listing is exact or ends with a typed error in time."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from datetime import date

import pytest
from test_client import sandbox_client

from prefect_wix.client.models import SessionsQuery
from prefect_wix.errors import (
    AuthenticationError,
    IncompleteListingError,
    InvalidResponseError,
    JobFailedError,
    JobTimeoutError,
    PermissionDeniedError,
    RateLimitError,
    ResponseLostError,
    ServerError,
    UnknownJobError,
    WixError,
)
from prefect_wix.jobs.listing import Listing
from prefect_wix.jobs.poll_policy import PollPolicy
from prefect_wix.sandbox import Fault, World, running
from prefect_wix.sandbox.faults import KINDS
from prefect_wix.sandbox.world import DerivedIds
from tests.faults import HIDDEN_PAGES, HIDDEN_TOTALS, TRUTHFUL
from tests.options import repeated

SESSIONS, PAGE = 230, 50
WORLD = World.generate(5, sessions=SESSIONS, start=date(2024, 3, 1), days=1, timezone="UTC")
QUERY = SessionsQuery(
    start_date="2024-03-01", end_date="2024-03-02", device_type="ALL", timezone="UTC"
)
POLL_POLICY = PollPolicy(timeout_seconds=600)
MAX_SECONDS = 600 + 2 * 7 * 100
"""The timeout, and the rate-limit waits of two submits with seven attempts each."""
MAX_REQUESTS = 600


@pytest.fixture(scope="module")
def running_sandbox():
    with running(WORLD) as sandbox:
        yield sandbox


@pytest.fixture
def sandbox(running_sandbox):
    running_sandbox.reset_counts()
    yield running_sandbox
    running_sandbox.faults = ()


@dataclass
class Received:
    """The IDs and totals of finished jobs in the server's responses."""

    ids: dict[str, set[str]] = field(default_factory=dict)
    total: dict[str, int | None] = field(default_factory=dict)

    async def collect(self, response):
        if response.status_code != 200 or not response.url.path.endswith("/list/result"):
            return
        try:
            result = json.loads(await response.aread())["result"]
        except (ValueError, KeyError):
            return
        if result.get("jobStatus") == "FINISHED":
            job_id = response.url.params["jobId"]
            ids = self.ids.setdefault(job_id, set())
            ids |= {one for one in result.get("sessionIds") or [] if isinstance(one, str) and one}
            self.total[job_id] = result.get("total")


@dataclass
class ListingResult:
    """The IDs or the error of one listing, and its cost."""

    ids: set[str] | None
    error: WixError | None
    seconds: float
    requests: int
    received: Received
    job_id: str | None = None


@pytest.fixture
async def client(sandbox):
    async with sandbox_client(sandbox) as client:
        yield client


async def listing_with(client, sandbox, faults, *, page=PAGE):
    """Run one listing with faults in virtual time; an error outside the tree fails the test."""
    sandbox.faults = faults
    sandbox.reset_counts()
    received = Received()
    client.page_limit = page
    client._http.event_hooks = {"response": [received.collect]}
    await client.clock.sleep(200)  # the rate limit starts without requests of an earlier listing
    start, ids, error = client.clock.now(), None, None
    async with Listing(client, QUERY, poll_policy=POLL_POLICY) as listing:
        try:
            await listing.read_all()
            ids = {one for batch in listing.spool.batches() for one in batch}
            assert listing.summary.sessions == len(ids)
        except WixError as failure:
            error = failure
            assert listing.summary is None
        job_id = listing.job.job_id if listing.job else None
    return ListingResult(ids, error, client.clock.now() - start, sandbox.count(), received, job_id)


def truth(sandbox):
    return sandbox.answer(QUERY.to_wire())


# --- single faults -----------------------------------------------------------------------------

NOW_AND_THEN = {"rate": 0.3}
COMPLETE = None

SINGLE = [
    # Survived.
    (Fault("rate_limited", times=2), COMPLETE),
    (Fault("rate_limited", retry_after=3, times=2), COMPLETE),
    (Fault("rate_limited", retry_after="date", times=2), COMPLETE),
    (Fault("server_error", times=3), COMPLETE),
    (Fault("server_error", status=500, on="result", times=3), COMPLETE),
    (Fault("server_error", status=500, on="list", times=1), COMPLETE),
    (Fault("html", on="result", times=3), COMPLETE),
    (Fault("html", status=200, on="result", times=3), COMPLETE),
    (Fault("html", status=200, on="list", times=1), COMPLETE),
    (Fault("forbidden", on="result", times=2), COMPLETE),
    (Fault("dropped_before", on="result", times=3), COMPLETE),
    (Fault("dropped_before", on="list", times=1), COMPLETE),
    (Fault("dropped_after", on="result", times=3), COMPLETE),
    (Fault("dropped_after", on="list", times=1), COMPLETE),
    (Fault("truncated", on="result", times=3), COMPLETE),
    (Fault("truncated", on="list", times=1), COMPLETE),
    (Fault("cut_body", on="result", times=3), COMPLETE),
    (Fault("cut_body", on="list", times=1), COMPLETE),
    (Fault("limit_violation", threshold=20), COMPLETE),
    (Fault("unknown_job", polls=3), COMPLETE),
    (Fault("slow", seconds=0.01), COMPLETE),
    (Fault("job_error", times=1), COMPLETE),
    (Fault("job_never_finishes", times=1, after=1), COMPLETE),
    (Fault("unknown_status", polls=4), COMPLETE),
    (Fault("small_pages", size=7), COMPLETE),
    (Fault("repeats", n=1), COMPLETE),
    (Fault("repeats", n=49), COMPLETE),
    (Fault("lossy_repeats", n=1), COMPLETE),
    (Fault("lossy_repeats", n=50), COMPLETE),
    (Fault("unstable_order"), COMPLETE),
    (Fault("unstable_order", ties=70), COMPLETE),
    (Fault("clamped_offset", largest=200), COMPLETE),
    (Fault("large_pages", times=2), COMPLETE),
    (Fault("growing_result"), COMPLETE),
    (Fault("shrinking_result"), COMPLETE),
    (Fault("growing_result", until=4, step=1, at="start"), COMPLETE),
    (Fault("empty_page", times=2), COMPLETE),
    (Fault("empty_page", **NOW_AND_THEN), COMPLETE),
    (Fault("null_total"), COMPLETE),
    (Fault("null_total", **NOW_AND_THEN), COMPLETE),
    (Fault("changing_total", times=2), COMPLETE),
    (Fault("wrong_total", times=1), COMPLETE),
    (Fault("missing_fields", field="total"), COMPLETE),
    (Fault("missing_fields", field="jobStatus", **NOW_AND_THEN), COMPLETE),
    (Fault("missing_fields", field="result", **NOW_AND_THEN), COMPLETE),
    (Fault("missing_fields", field="sessionIds", **NOW_AND_THEN), COMPLETE),
    # The listing ends with an error.
    (Fault("rate_limited"), RateLimitError),
    (Fault("server_error"), ServerError),
    (Fault("server_error", status=504, on="result"), JobTimeoutError),
    (Fault("html"), ServerError),
    (Fault("html", status=200), InvalidResponseError),
    (Fault("expired_token"), AuthenticationError),
    (Fault("forbidden"), PermissionDeniedError),
    (Fault("dropped_before"), ResponseLostError),
    (Fault("dropped_after"), ResponseLostError),
    (Fault("truncated"), InvalidResponseError),
    (Fault("cut_body"), ResponseLostError),
    (Fault("unknown_job", polls=1000), UnknownJobError),
    (Fault("job_error"), JobFailedError),
    (Fault("job_never_finishes"), JobTimeoutError),
    (Fault("unknown_status"), JobTimeoutError),
    (Fault("empty_page"), IncompleteListingError),
    (Fault("clamped_offset"), IncompleteListingError),
    (Fault("clamped_offset", largest=150), IncompleteListingError),
    (Fault("large_pages"), InvalidResponseError),
    (Fault("wrong_total"), IncompleteListingError),
    (Fault("wrong_total", delta=-30), IncompleteListingError),
    (Fault("wrong_total", delta=-1), IncompleteListingError),
    (Fault("changing_total"), IncompleteListingError),
    (Fault("bad_ids"), InvalidResponseError),
    (Fault("bad_ids", value="number"), InvalidResponseError),
    (Fault("bad_ids", value="empty"), InvalidResponseError),
    (Fault("missing_fields", field="jobStatus"), JobTimeoutError),
    (Fault("missing_fields", field="result"), JobTimeoutError),
    (Fault("missing_fields", field="sessionIds"), IncompleteListingError),
    (Fault("shrinking_result", until=20), IncompleteListingError),
    (Fault("shrinking_result", at="start"), IncompleteListingError),
]


def name(faults):
    return "+".join(
        f"{one.kind}({','.join(f'{k}={v}' for k, v in one.options.items())})" for one in faults
    )


@pytest.mark.parametrize(
    ("fault", "ending"), SINGLE, ids=[f"{name([one])}-{n}" for n, (one, _) in enumerate(SINGLE)]
)
async def test_each_fault_is_survived_or_ends_with_its_error(sandbox, client, fault, ending):
    outcome = await listing_with(client, sandbox, [fault])
    assert type(outcome.error) is (type(None) if ending is COMPLETE else ending), outcome.error
    if ending is COMPLETE:
        assert outcome.ids == truth(sandbox)
    assert outcome.seconds <= MAX_SECONDS
    assert outcome.requests <= MAX_REQUESTS


async def test_one_gateway_timeout_is_survived_at_any_page_size(sandbox, client):
    fault = Fault("server_error", status=504, on="result", after=1, times=1)
    outcome = await listing_with(client, sandbox, [fault], page=100)
    assert outcome.ids == truth(sandbox)


SILENT = {"swapped_job", "stale_result"}
"""A single listing can't detect them; comparing the segments of a day may."""


def test_no_kind_of_fault_is_left_out():
    assert {fault.kind for fault, _ in SINGLE} == set(KINDS) - SILENT


# --- combined faults ---------------------------------------------------------------------------

CONTRADICTIONS = [
    lambda draw: Fault(
        "growing_result", until=draw.choice([1, 5, 20]), at=draw.choice(["start", "end"])
    ),
    lambda draw: Fault(
        "shrinking_result", until=draw.choice([1, 5, 20]), at=draw.choice(["start", "end"])
    ),
    lambda draw: Fault(
        "wrong_total", delta=draw.choice([-31, -1, 1, 7]), rate=draw.choice([0.2, 1.0])
    ),
    lambda draw: Fault("changing_total", delta=draw.choice([-1, 1, 50])),
]
"""Faults under which the server contradicts its own result.

A total that is too low by exactly the last page can't be detected without a request beyond the
total; that is the cost of two requests for a job of up to 1,000 sessions.
"""


def check_ending(outcome, faults):
    assert outcome.seconds <= MAX_SECONDS, (faults, outcome.error)
    assert outcome.requests <= MAX_REQUESTS, (faults, outcome.error)
    # At most the site's rate limit: no hot loop.
    assert outcome.requests <= 200 * (outcome.seconds // 61 + 1), faults


def combinations(seed, number, *groups):
    for n in range(number):
        draw = random.Random(f"{seed} {n}")
        makers = draw.sample([maker for group in groups for maker in group], draw.randint(2, 5))
        yield [maker(draw) for maker in makers]


@pytest.mark.parametrize("seed", range(100, 100 + repeated(2, soak=20)))
async def test_a_listing_of_contradictory_responses_is_consistent_or_fails(sandbox, client, seed):
    """A complete listing has exactly the IDs that the job returned, as many as its last total.

    With wrong totals the true result can't be known.
    """
    ghosts = {DerivedIds(-1)[n] for n in range(-60, SESSIONS + 60)}
    for faults in combinations(seed, 25, CONTRADICTIONS, TRUTHFUL[:8], HIDDEN_TOTALS, HIDDEN_PAGES):
        outcome = await listing_with(client, sandbox, faults)
        check_ending(outcome, faults)
        if outcome.error is None:
            received = outcome.received.ids[outcome.job_id]
            assert outcome.ids == received, faults
            assert outcome.received.total[outcome.job_id] in (None, len(received)), faults
            made_up = outcome.ids - truth(sandbox)
            assert made_up <= ghosts, faults
            assert not made_up or any(one.kind == "shrinking_result" for one in faults), faults


@pytest.mark.parametrize("maker", CONTRADICTIONS)
@pytest.mark.parametrize("seed", range(repeated(4, soak=40)))
async def test_a_contradiction_in_the_pages_is_detected(sandbox, client, maker, seed):
    """A result that changes between pages, or a wrong total, is read again or fails."""
    fault = maker(random.Random(seed))
    outcome = await listing_with(client, sandbox, [fault])
    check_ending(outcome, [fault])
    if outcome.error is None:
        assert outcome.ids == truth(sandbox), fault
    else:
        assert isinstance(outcome.error, IncompleteListingError)
