"""Whatever goes wrong, and however much at once: the right ids, or a typed error in good time."""

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

SESSIONS, PAGE = 230, 50
WORLD = World.generate(5, sessions=SESSIONS, start=date(2024, 3, 1), days=1, timezone="UTC")
QUERY = SessionsQuery(
    start_date="2024-03-01", end_date="2024-03-02", device_type="ALL", timezone="UTC"
)
PATIENCE = PollPolicy(timeout_seconds=600)
LATEST = 600 + 2 * 7 * 100
"""The deadline, and what two submits of seven tries may wait for a budget that is spent."""
MOST_REQUESTS = 600


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
class Heard:
    """What the server told the client of finished jobs, as it lay in the replies."""

    ids: dict[str, set[str]] = field(default_factory=dict)
    total: dict[str, int | None] = field(default_factory=dict)

    async def listen(self, response):
        if response.status_code != 200 or not response.url.path.endswith("/list/result"):
            return
        try:
            told = json.loads(await response.aread())["result"]
        except (ValueError, KeyError):
            return
        if told.get("jobStatus") == "FINISHED":
            job_id = response.url.params["jobId"]
            ids = self.ids.setdefault(job_id, set())
            ids |= {one for one in told.get("sessionIds") or [] if isinstance(one, str) and one}
            self.total[job_id] = told.get("total")


@dataclass
class PartitionResult:
    """How one listing ended."""

    ids: set[str] | None
    error: WixError | None
    seconds: float
    requests: int
    heard: Heard
    job_id: str | None = None


@pytest.fixture
async def client(sandbox):
    async with sandbox_client(sandbox) as client:
        yield client


async def listing_with(client, sandbox, faults, *, page=PAGE):
    """One listing with these faults, in virtual time. Any error outside the tree fails the test."""
    sandbox.faults = faults
    sandbox.reset_counts()
    heard = Heard()
    client.page_limit = page
    client._http.event_hooks = {"response": [heard.listen]}
    await client.clock.sleep(200)  # the budget and its pauses are those of this listing alone
    start, ids, error = client.clock.now(), None, None
    async with Listing(client, QUERY, poll_policy=PATIENCE) as listing:
        try:
            await listing.read_all()
            ids = {one for batch in listing.spool.batches() for one in batch}
            assert listing.summary.sessions == len(ids)
        except WixError as failure:
            error = failure
            assert listing.summary is None
        job_id = listing.job.job_id if listing.job else None
    return PartitionResult(ids, error, client.clock.now() - start, sandbox.count(), heard, job_id)


def truth(sandbox):
    return sandbox.answer(QUERY.to_wire())


# --- each fault alone --------------------------------------------------------------------------

NOW_AND_THEN = {"rate": 0.3}
COMPLETE = None

ALONE = [
    # A few of them are survived ...
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
    # ... and too many end it, each by its name.
    (Fault("rate_limited"), RateLimitError),
    (Fault("server_error"), ServerError),
    (Fault("server_error", status=504), ServerError),
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
    (Fault("wrong_total"), IncompleteListingError),
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
    ("fault", "ending"), ALONE, ids=[f"{name([one])}-{n}" for n, (one, _) in enumerate(ALONE)]
)
async def test_each_fault_is_survived_or_ends_a_listing_by_its_name(sandbox, client, fault, ending):
    outcome = await listing_with(client, sandbox, [fault])
    assert type(outcome.error) is (type(None) if ending is COMPLETE else ending), outcome.error
    if ending is COMPLETE:
        assert outcome.ids == truth(sandbox)
    assert outcome.seconds <= LATEST
    assert outcome.requests <= MOST_REQUESTS


async def test_one_gateway_timeout_is_survived_at_any_page_size(sandbox, client):
    fault = Fault("server_error", status=504, on="result", after=1, times=1)
    outcome = await listing_with(client, sandbox, [fault], page=100)
    assert outcome.ids == truth(sandbox)


SILENT = {"swapped_job", "stale_result"}
"""Nothing in a listing tells of them; what the segments of a day say of each other may."""


def test_no_kind_of_fault_is_left_out():
    assert {fault.kind for fault, _ in ALONE} == set(KINDS) - SILENT


# --- many at once ------------------------------------------------------------------------------

DISTURBANCES = [
    lambda draw: Fault(
        "rate_limited", rate=draw.choice([0.1, 0.3]), retry_after=draw.choice([None, 1, "date"])
    ),
    lambda draw: Fault(
        "server_error", rate=draw.choice([0.1, 0.4]), status=draw.choice([500, 502, 503, 504])
    ),
    lambda draw: Fault("html", rate=0.2, status=draw.choice([200, 502])),
    lambda draw: Fault("expired_token", rate=0.02),
    lambda draw: Fault("forbidden", rate=draw.choice([0.05, 0.2])),
    lambda draw: Fault("dropped_before", rate=0.2),
    lambda draw: Fault("dropped_after", rate=0.2),
    lambda draw: Fault("truncated", rate=0.2),
    lambda draw: Fault("cut_body", rate=0.2),
    lambda draw: Fault("limit_violation", threshold=draw.choice([10, 30, 49])),
    lambda draw: Fault("unknown_job", polls=draw.choice([1, 3, 5]), times=draw.choice([1, None])),
    lambda draw: Fault("slow", seconds=0.002, rate=0.1),
    lambda draw: Fault("job_error", rate=0.5),
    lambda draw: Fault("job_never_finishes", rate=0.2),
    lambda draw: Fault("unknown_status", polls=draw.choice([1, 3, None]), rate=0.5),
    lambda draw: Fault("small_pages", size=draw.choice([1, 9, 33]), rate=draw.choice([0.3, 1.0])),
    # Not both at once: the sandbox then hands out ids that nobody has.
    lambda draw: Fault(draw.choice(["repeats", "lossy_repeats"]), n=draw.choice([1, 5, 40])),
    lambda draw: Fault("bad_ids", rate=0.05, value=draw.choice(["null", "number", "empty"])),
    lambda draw: Fault("missing_fields", field=draw.choice(["jobStatus", "result"]), rate=0.2),
]
"""What goes wrong without the server ever contradicting the truth."""

HIDDEN_TOTALS = [
    lambda draw: Fault("null_total", rate=draw.choice([0.3, 1.0])),
    lambda draw: Fault("missing_fields", field="total", rate=draw.choice([0.3, 1.0])),
]
HIDDEN_PAGES = [
    lambda draw: Fault("empty_page", rate=draw.choice([0.1, 0.5])),
    lambda draw: Fault("missing_fields", field="sessionIds", rate=0.2),
]
LIES = [
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
"""What the server says about its own result and is not so.

A total that is too low by just as much as the last page holds can't be seen by anybody who asks
for no page beyond the total: that is the price of two requests for a job of up to 1,000 sessions.
"""


def check_ending(outcome, faults):
    assert outcome.seconds <= LATEST, (faults, outcome.error)
    assert outcome.requests <= MOST_REQUESTS, (faults, outcome.error)
    # The site's budget, whatever happens: no hot loop.
    assert outcome.requests <= 200 * (outcome.seconds // 61 + 1), faults


def combinations(seed, number, *groups):
    for n in range(number):
        draw = random.Random(f"{seed} {n}")
        makers = draw.sample([maker for group in groups for maker in group], draw.randint(2, 5))
        yield [maker(draw) for maker in makers]


@pytest.mark.parametrize("seed", range(8))
async def test_disturbances_at_once_lose_nothing_and_invent_nothing(sandbox, client, seed):
    """25 combinations each: the ids are the true ones exactly, or the error has a type."""
    hidden = HIDDEN_TOTALS if seed % 2 else HIDDEN_PAGES
    endings = []
    for faults in combinations(seed, 25, DISTURBANCES, hidden):
        outcome = await listing_with(client, sandbox, faults)
        check_ending(outcome, faults)
        endings.append(outcome.error is None)
        if outcome.error is None:
            assert outcome.ids == truth(sandbox), faults
    assert 3 <= sum(endings) <= 22, "both endings must be among them, or nothing was tried"


@pytest.mark.parametrize("seed", range(100, 104))
async def test_of_a_server_that_contradicts_itself_nothing_is_believed_that_does_not_add_up(
    sandbox, client, seed
):
    """Where even the total lies the truth can't be known. Then: what was heard, all of it, once.

    A listing that calls itself complete holds each id that the job handed out, no other, and as
    many as the job's last word on the total, where it had one.
    """
    ghosts = {DerivedIds(-1)[n] for n in range(-60, SESSIONS + 60)}
    for faults in combinations(seed, 25, LIES, DISTURBANCES[:8], HIDDEN_TOTALS, HIDDEN_PAGES):
        outcome = await listing_with(client, sandbox, faults)
        check_ending(outcome, faults)
        if outcome.error is None:
            heard = outcome.heard.ids[outcome.job_id]
            assert outcome.ids == heard, faults
            assert outcome.heard.total[outcome.job_id] in (None, len(heard)), faults
            made_up = outcome.ids - truth(sandbox)
            assert made_up <= ghosts, faults
            assert not made_up or any(one.kind == "shrinking_result" for one in faults), faults


@pytest.mark.parametrize("maker", LIES)
@pytest.mark.parametrize("seed", range(10))
async def test_a_lie_that_shows_in_the_pages_is_found_out(sandbox, client, maker, seed):
    """A result that changes between pages, or a total that the ids belie, is not complete as is."""
    fault = maker(random.Random(seed))
    outcome = await listing_with(client, sandbox, [fault])
    check_ending(outcome, [fault])
    if outcome.error is None:
        assert outcome.ids == truth(sandbox), fault
    else:
        assert isinstance(outcome.error, IncompleteListingError)
