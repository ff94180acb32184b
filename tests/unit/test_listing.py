"""A listing submits, polls, reads all pages and verifies: complete, or one typed error."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import time
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise

import pytest
from test_client import EMPTY, RawWix, raw_client, raw_response, sandbox_client

from prefect_wix.client.auth import ApiKeyAuth
from prefect_wix.client.client import WixClient
from prefect_wix.client.models import JobPage, JobStatus, SessionsQuery
from prefect_wix.errors import (
    IncompleteListingError,
    JobFailedError,
    JobTimeoutError,
    PermissionDeniedError,
    ResponseLostError,
    SpoolError,
    UnknownJobError,
    WixError,
)
from prefect_wix.jobs.listing import Listing, submit_job
from prefect_wix.jobs.poll_policy import PollPolicy
from prefect_wix.sandbox import Fault, Rules, Session, World, running
from prefect_wix.spool import id_spool as spool
from prefect_wix.spool.id_spool import Spool

SUBMITTED = raw_response(body={"jobId": "j"})
COUNTS = (0, 1, 7, 999, 1000, 1001, 2000, 2001, 5000)
"""Number of sessions of each day of March 2024, from the first."""
WORLD = World(
    Session(
        id=f"{count}-{number}",
        arrival=(at := datetime(2024, 3, day, 12, tzinfo=UTC)),
        end=at,
    )
    for day, count in enumerate(COUNTS, start=1)
    for number in range(count)
)


def day_with(count):
    """The query for the day with this number of sessions."""
    day = date(2024, 3, COUNTS.index(count) + 1)
    return SessionsQuery(
        start_date=day, end_date=day + timedelta(days=1), device_type="ALL", timezone="UTC"
    )


def pages_of(count):
    """The pages up to the first one with fewer than 1,000 IDs."""
    return count // 1000 + 1


def expected_ids(count):
    return {f"{count}-{number}" for number in range(count)}


@pytest.fixture(scope="module")
def running_sandbox():
    with running(WORLD) as sandbox:
        yield sandbox


@pytest.fixture
def sandbox(running_sandbox):
    running_sandbox.reset_counts()
    yield running_sandbox
    running_sandbox.faults = ()


@pytest.fixture
async def client(sandbox):
    async with sandbox_client(sandbox) as client:
        yield client


def spooled(listing):
    return [session_id for batch in listing.spool.batches() for session_id in batch]


async def complete_listing(client, count, **options):
    """The summary and the IDs of a complete listing, after checks of its batches."""
    async with Listing(client, day_with(count), **options) as listing:
        batches = [batch async for batch in listing]
        yielded = [session_id for batch in batches for session_id in batch]
        assert sorted(yielded) == sorted(spooled(listing))
        assert len(set(yielded)) == len(yielded) == listing.summary.sessions
        return listing.summary, set(yielded)


@asynccontextmanager
async def listing_from(*responses):
    """A listing from a server that sends these responses in order."""
    async with (
        RawWix(*responses).running() as wix,
        raw_client(wix.url) as client,
        Listing(client, day_with(1)) as listing,
    ):
        yield wix, listing


def limits(sandbox):
    return [int(one.params["limit"]) for one in sandbox.requests if one.endpoint == "result"]


# --- requests and waits ------------------------------------------------------------------------


@pytest.mark.parametrize("count", COUNTS)
async def test_a_listing_needs_one_submit_and_one_request_per_page(sandbox, client, count):
    """The poll that finds the job finished is page one: 2 requests below 1,000 sessions.

    After a full page, one more request shows that the list ends.
    """
    summary, ids = await complete_listing(client, count)
    assert ids == expected_ids(count) == sandbox.answer(day_with(count).to_wire())
    assert sandbox.count() == 1 + pages_of(count)
    assert sandbox.count("list") == 1
    assert summary.requests == sandbox.count("result")
    assert (summary.sessions, summary.duplicates, summary.passes) == (count, 0, 1)
    assert not summary.resubmitted
    assert summary.job.query == day_with(count)
    assert summary.job.site_id == sandbox.site_id
    assert list(sandbox.jobs)[-1] == summary.job.job_id


async def test_each_wait_for_a_slow_job_costs_one_poll(sandbox, client):
    sandbox.faults = [Fault("unknown_status", status="IN_PROGRESS", polls=6)]
    start = client.clock.now()
    summary, ids = await complete_listing(client, 7)
    assert (ids, summary.requests) == (expected_ids(7), 7)
    # Without observations the age at each poll is 1.5 times the age at the poll before.
    assert 0.9 * 1.5**6 <= client.clock.now() - start <= 1.1 * 1.5**6


async def test_backoff_waits_grow_to_a_limit_with_jitter():
    poll_policy = PollPolicy()
    waits = poll_policy.waits()
    drawn = [next(waits) for _ in range(40)]
    for wait, expected in zip(drawn, (min(1.5**n, 30) for n in range(40)), strict=True):
        assert 0.8 * expected <= wait <= 1.2 * expected
    assert len(set(drawn)) == 40


async def test_pages_are_yielded_as_they_are_received(sandbox, client):
    """The first page is one batch; pages received meanwhile form the next batch."""
    async with Listing(client, day_with(5000)) as listing:
        sizes, requests = [], []
        async for batch in listing:
            sizes.append(len(batch))
            requests.append(sandbox.count("result"))
            assert listing.summary is None, "complete only after the iteration"
    assert (sizes[0], requests[0]) == (1000, 1)
    assert sum(sizes) == 5000
    assert {size % 1000 for size in sizes} == {0}
    assert requests[-1] == 5


async def test_pages_received_while_the_disk_is_busy_are_added_together(
    sandbox, client, monkeypatch
):
    """A slow disk costs one write for several pages."""
    writes = []

    def add_slowly(self, ids, *, in_pass):
        if ids:
            writes.append(len(ids))
            time.sleep(0.5)
        return add(self, ids, in_pass=in_pass)

    add = Spool.add
    monkeypatch.setattr(Spool, "add", add_slowly)
    async with Listing(client, day_with(5000)) as listing:
        batches = [batch async for batch in listing]
    assert writes == list(map(len, batches))
    assert sum(writes) == 5000
    assert len(writes) <= 3


async def test_a_new_job_is_polled_after_a_second_and_an_adopted_one_at_once(sandbox, client):
    start = client.clock.now()
    await complete_listing(client, 1)
    assert 0.8 <= client.clock.now() - start <= 1.2
    start = client.clock.now()
    await complete_listing(client, 1, job=await submit_job(client, day_with(1)))
    assert client.clock.now() == start


async def test_concurrent_listings_of_one_client_keep_their_ids_apart(sandbox, client):
    counts = [count for count in COUNTS if count <= 2001] * 4
    done = await asyncio.gather(*(complete_listing(client, count) for count in counts))
    assert [ids for _, ids in done] == [expected_ids(count) for count in counts]
    assert sandbox.count("list") == len(counts)
    assert len({summary.job.job_id for summary, _ in done}) == len(counts)
    assert sandbox.count("result") == sum(map(pages_of, counts))


# --- page limits -------------------------------------------------------------------------------


async def test_a_refused_page_limit_is_lowered_once_per_client():
    """Wix names the limit in the 400; the next listing of the client starts with it."""
    with running(WORLD, rules=Rules(page_cap=300)) as sandbox:
        async with sandbox_client(sandbox) as client:
            _, ids = await complete_listing(client, 1001)
            assert ids == expected_ids(1001)
            assert limits(sandbox) == [1000, 300, 300, 300, 300]
            sandbox.reset_counts()
            await complete_listing(client, 7)
            assert limits(sandbox) == [300]


async def test_a_limit_refused_without_a_threshold_becomes_100(sandbox, client):
    sandbox.faults = [Fault("limit_violation", threshold=None)]
    _, ids = await complete_listing(client, 999)
    assert ids == expected_ids(999)
    assert limits(sandbox) == [1000, *[100] * 10]


async def test_a_504_halves_the_page_limit(sandbox, client):
    """Pages already read are not fetched again."""
    sandbox.faults = [Fault("server_error", status=504, on="result", after=1, times=1)]
    _, ids = await complete_listing(client, 2001)
    assert ids == expected_ids(2001)
    assert sorted(limits(sandbox)) == [500, 500, 1000, 1000, 1000]


async def test_repeated_504_responses_are_waited_for_with_smaller_pages(sandbox, client):
    sandbox.faults = [Fault("server_error", status=504, on="result")]
    with pytest.raises(JobTimeoutError):
        await complete_listing(client, 7, poll_policy=PollPolicy(timeout_seconds=600))
    assert limits(sandbox)[:5] == [1000, 500, 250, 125, 100]
    assert len(limits(sandbox)) <= 30


async def test_a_400_for_another_field_does_not_lower_the_page_limit(sandbox, client):
    sandbox.faults = [Fault("server_error", status=400, on="result")]
    with pytest.raises(WixError, match="Wix returned 400"):
        await complete_listing(client, 7)
    assert limits(sandbox) == [1000]


@pytest.mark.parametrize(
    ("threshold", "next_limit"), [(1, 1), (999, 999), (0, 100), (-5, 100), ("7", 100), (None, 100)]
)
async def test_only_a_positive_integer_threshold_is_used(threshold, next_limit):
    violation = {
        "field": "paging.limit",
        "description": "too large",
        "data": {"threshold": threshold},
    }
    refused = {"message": "", "details": {"validationError": {"fieldViolations": [violation]}}}
    page = {"result": {"jobStatus": "FINISHED", "total": 0, "sessionIds": []}}
    responses = [SUBMITTED, raw_response(400, refused), raw_response(body=page)]
    async with listing_from(*responses) as (wix, listing):
        await listing.read_all()
    assert [one.params["limit"] for one in wix.requests[1:]] == ["1000", str(next_limit)]


async def test_a_threshold_that_is_not_lower_fails_the_listing():
    """A refusal of 1000 that names 1000 is not retried."""
    violation = {"field": "limit", "description": "too large", "data": {"threshold": 1000}}
    refused = {"message": "", "details": {"validationError": {"fieldViolations": [violation]}}}
    responses = [SUBMITTED, raw_response(400, refused)]
    async with listing_from(*responses) as (wix, listing):
        with pytest.raises(WixError, match="limit: too large"):
            await listing.read_all()
    assert len(wix.requests) == 2


async def test_a_late_response_does_not_raise_the_page_limit():
    """One listing gets the limit of 100 while a larger page of another is still in flight."""
    late, both = asyncio.Event(), asyncio.Event()
    page = {"result": {"jobStatus": "FINISHED", "total": 1, "sessionIds": ["a"]}}
    violation = {"field": "limit", "description": "too large", "data": {"threshold": 100}}
    refused = {"message": "", "details": {"validationError": {"fieldViolations": [violation]}}}
    large = []

    async def respond(request):
        if request.method == "POST":
            return SUBMITTED
        if request.params["limit"] != "1000":
            late.set()
            return raw_response(body=page)
        large.append(request)
        if len(large) == 2:
            both.set()
        await both.wait()
        if request is large[0]:
            return raw_response(400, refused)
        await late.wait()
        return raw_response(504, EMPTY)

    async with RawWix(respond).running() as wix, raw_client(wix.url) as client:
        async with Listing(client, day_with(1)) as one, Listing(client, day_with(1)) as two:
            async with asyncio.timeout(60):
                await asyncio.gather(one.read_all(), two.read_all())
        assert client.page_limit == 100


# --- ids and totals that disagree --------------------------------------------------------------


async def test_duplicates_are_dropped_and_counted(sandbox, client):
    sandbox.faults = [Fault("repeats", n=3)]
    summary, ids = await complete_listing(client, 2001)
    assert ids == expected_ids(2001)
    assert (summary.duplicates, summary.passes) == (6, 1)


async def test_ids_missing_from_a_page_are_found_in_a_second_pass(sandbox, client):
    sandbox.faults = [Fault("lossy_repeats", n=5)]
    summary, ids = await complete_listing(client, 2001)
    assert ids == expected_ids(2001)
    assert summary.passes == 2
    assert summary.duplicates >= 6


async def test_a_short_page_does_not_end_a_pass(sandbox, client):
    sandbox.faults = [Fault("small_pages", size=400)]
    summary, ids = await complete_listing(client, 2001)
    assert ids == expected_ids(2001)
    assert summary.requests == 6


async def test_an_empty_page_does_not_end_a_pass_below_the_total(sandbox, client):
    sandbox.faults = [Fault("empty_page", after=1, times=1)]
    summary, ids = await complete_listing(client, 2001)
    assert (ids, summary.passes) == (expected_ids(2001), 1)


@pytest.mark.parametrize("count", [0, 7, 2001])
@pytest.mark.parametrize("fault", [Fault("null_total"), Fault("missing_fields", field="total")])
async def test_without_a_total_two_passes_must_agree(sandbox, client, fault, count):
    sandbox.faults = [fault]
    summary, ids = await complete_listing(client, count)
    assert (ids, summary.passes) == (expected_ids(count), 2)


def passes_without_total(*id_lists):
    """The responses of a server that sends no total and returns these IDs, pass by pass."""
    yield SUBMITTED
    for ids in id_lists:
        for page in (ids, []):
            yield raw_response(body={"result": {"jobStatus": "FINISHED", "sessionIds": page}})


@pytest.mark.parametrize(
    ("id_lists", "passes"),
    [
        ([["a"], ["a", "b"], ["a", "b"]], 3),
        ([["a"], ["a", "b"], ["a", "b", "c"], ["c", "b", "a"]], 4),
        ([["a"], ["b"], ["a", "b"]], 3),
        ([["a", "b"], ["a"], ["a", "b"]], 3),
    ],
)
async def test_without_a_total_passes_are_repeated_until_two_agree(id_lists, passes):
    """A pass without new IDs, or of the same length, is not enough."""
    async with listing_from(*passes_without_total(*id_lists)) as (_, listing):
        summary = await listing.read_all()
        assert summary.passes == passes
        assert spooled(listing) == sorted(set().union(*id_lists))


@pytest.mark.parametrize(
    "id_lists",
    [
        [["a"], ["a", "b"], ["a", "b", "c"], ["a", "b", "c", "d"]],
        [["a"], ["b"], ["c"], ["d"]],
        [["a", "b"], ["a"], ["b"], ["a"]],
    ],
)
async def test_without_a_total_passes_that_never_agree_are_incomplete(id_lists):
    async with listing_from(*passes_without_total(*id_lists)) as (_, listing):
        with pytest.raises(IncompleteListingError) as caught:
            await listing.read_all()
    assert (caught.value.received, caught.value.total) == (len(set().union(*id_lists)), None)


async def test_a_total_that_changes_within_a_pass_repeats_the_pass(sandbox, client):
    sandbox.faults = [Fault("growing_result", until=2, step=1)]
    summary, ids = await complete_listing(client, 2001)
    assert ids == expected_ids(2001)
    assert summary.passes == 2


@pytest.mark.parametrize("delta", [1, -1, 100])
async def test_a_total_that_never_agrees_is_an_incomplete_listing(sandbox, client, delta):
    """The error has both numbers, the job and the request ID; the number of requests is limited."""
    sandbox.faults = [Fault("wrong_total", delta=delta)]
    with pytest.raises(IncompleteListingError, match="the listing is incomplete") as caught:
        await complete_listing(client, 7)
    error = caught.value
    assert (error.received, error.total) == (7, 7 + delta)
    assert error.job_id in sandbox.jobs
    assert error.request_id in str(error)
    assert sandbox.count("list") == 1
    assert sandbox.count("result") <= 20


class Groups:
    """Replaces `PagePrefetcher`: returns groups of pages, the same ones in each pass."""

    def __init__(self, *groups):
        self.calls = 0
        self._groups = groups

    def __call__(self, result, first):
        self._left = iter(self._groups)
        return self

    async def __aenter__(self):
        return self

    async def __aexit__(self, *exc_info):
        pass

    async def pages(self, offset):
        self.calls += 1
        return next(self._left)


def page_of(ids, total):
    return JobPage(
        status=JobStatus.FINISHED, status_text="FINISHED", total=total, session_ids=tuple(ids)
    )


@asynccontextmanager
async def listing_in_groups(monkeypatch, first, *groups):
    """A listing whose first page comes alone and whose later pages come in groups."""
    prefetcher = Groups(*groups)
    monkeypatch.setattr("prefect_wix.jobs.listing.PagePrefetcher", prefetcher)
    ids, total = first
    body = {"result": {"jobStatus": "FINISHED", "total": total, "sessionIds": list(ids)}}
    async with listing_from(SUBMITTED, raw_response(body=body)) as (_, listing):
        yield prefetcher, listing


async def test_a_total_that_changes_within_a_group_of_pages_is_not_accepted(monkeypatch):
    groups = [page_of("b", 9), page_of("cd", 4)]
    async with listing_in_groups(monkeypatch, ("a", 4), groups) as (_, listing):
        with pytest.raises(IncompleteListingError):
            await listing.read_all()
        assert sorted(spooled(listing)) == ["a", "b", "c", "d"]


async def test_each_page_of_a_group_without_new_ids_counts_as_stale(monkeypatch):
    stale = [page_of("ab", 9)] * 3
    async with listing_in_groups(monkeypatch, ("ab", 9), stale, stale) as (prefetcher, listing):
        with pytest.raises(IncompleteListingError):
            await listing.read_all()
    assert prefetcher.calls == 4, "once in each pass"


async def test_a_server_that_repeats_its_first_page_fails_the_listing(sandbox, client):
    """The number of requests is limited."""
    page = {"result": {"jobStatus": "FINISHED", "total": 5, "sessionIds": ["a", "b"]}}
    responses = [SUBMITTED, raw_response(body=page)]
    async with listing_from(*responses) as (wix, listing):
        with pytest.raises(IncompleteListingError):
            await listing.read_all()
    assert len(wix.requests) <= 25


async def test_a_job_that_returns_to_running_is_polled_again():
    pages = [
        {"jobStatus": "FINISHED", "total": 2, "sessionIds": ["a"]},
        {"jobStatus": "IN_PROGRESS"},
        {"jobStatus": "IN_PROGRESS", "total": 2, "sessionIds": ["x"]},
        {"jobStatus": "FINISHED", "total": 2, "sessionIds": ["b"]},
    ]
    responses = [SUBMITTED, *(raw_response(body={"result": page}) for page in pages)]
    async with listing_from(*responses) as (wix, listing):
        await listing.read_all()
        assert spooled(listing) == ["a", "b"]
    assert [one.params["offset"] for one in wix.requests[1:]] == ["0", "1", "1", "1"]


@pytest.mark.parametrize(
    "status", ["IN_PROGRESS", "SOMETHING_NEW", "UNKNOWN_JOB_STATUS", None, "finished"]
)
async def test_ids_of_a_job_that_is_not_finished_are_ignored(status):
    early = {"jobStatus": status, "total": 1, "sessionIds": ["early"]}
    late = {"jobStatus": "FINISHED", "total": 1, "sessionIds": ["late"]}
    pages = (raw_response(body={"result": one}) for one in (early, late))
    async with listing_from(SUBMITTED, *pages) as (_, listing):
        await listing.read_all()
        assert spooled(listing) == ["late"]


# --- failed, unknown and lost jobs -------------------------------------------------------------


async def test_a_failed_job_is_resubmitted_once(sandbox, client, caplog):
    caplog.set_level("INFO")
    sandbox.faults = [Fault("job_error", times=1)]
    summary, ids = await complete_listing(client, 7)
    assert (ids, summary.resubmitted) == (expected_ids(7), True)
    assert sandbox.count("list") == 2
    assert summary.job.job_id == list(sandbox.jobs)[-1]
    assert "Submitting the query once more" in caplog.text


async def test_a_second_failed_job_fails_the_listing(sandbox, client):
    sandbox.faults = [Fault("job_error")]
    with pytest.raises(JobFailedError, match="names no reason") as caught:
        await complete_listing(client, 7)
    assert sandbox.count("list") == 2
    assert sandbox.count("result") == 2
    assert caught.value.job_id == list(sandbox.jobs)[-1]
    assert str(day_with(7)) in str(caught.value)
    assert f"(request ID {caught.value.request_id})" in str(caught.value)


@pytest.mark.parametrize("polls", [1, 3])
async def test_a_new_job_may_be_unknown_for_3_polls(sandbox, client, polls):
    sandbox.faults = [Fault("unknown_job", polls=polls)]
    summary, ids = await complete_listing(client, 7)
    assert ids == expected_ids(7)
    assert (summary.requests, summary.resubmitted) == (1 + polls, False)


async def test_a_job_that_stays_unknown_is_resubmitted_once(sandbox, client):
    sandbox.faults = [Fault("unknown_job", polls=1000)]
    with pytest.raises(UnknownJobError, match="Wix does not know job") as caught:
        await complete_listing(client, 7, poll_policy=PollPolicy(jitter=0.0))
    # Each job is polled after 1, 2, 3.5, ... 50 and 76 s, as it may be unknown for a minute.
    assert (sandbox.count("list"), sandbox.count("result")) == (2, 20)
    assert caught.value.job_id == list(sandbox.jobs)[-1]


@pytest.mark.parametrize("status", [404, 200])
async def test_an_adopted_job_that_wix_deleted_is_resubmitted_or_times_out(status):
    """A 404 is a resubmission; an unknown status in a 200 ends at the deadline."""
    rules = Rules(job_lifetime_seconds=0.0, unknown_job_status=status)
    with running(WORLD, rules=rules) as sandbox:
        async with sandbox_client(sandbox) as client:
            job = await submit_job(client, day_with(7))
            with pytest.raises(UnknownJobError if status == 404 else JobTimeoutError):
                await complete_listing(
                    client, 7, job=job, poll_policy=PollPolicy(timeout_seconds=300)
                )
            assert sandbox.count("list") == (2 if status == 404 else 1)
            assert sandbox.count("result") <= 30


async def test_an_adopted_job_is_read_without_a_submit(sandbox, client):
    job = await submit_job(client, day_with(1001))
    sandbox.reset_counts()
    summary, ids = await complete_listing(client, 1001, job=job)
    assert (ids, summary.job) == (expected_ids(1001), job)
    assert (sandbox.count("list"), sandbox.count("result")) == (0, 2)


async def test_a_callers_submit_function_is_used_for_all_submits(sandbox, client):
    submitted = []

    async def submit():
        submitted.append(await submit_job(client, day_with(7)))
        return submitted[-1]

    sandbox.faults = [Fault("job_error", times=1)]
    summary, _ = await complete_listing(client, 7, submit=submit)
    assert [job.job_id for job in submitted] == list(sandbox.jobs)[-2:]
    assert summary.job == submitted[-1]


@pytest.mark.parametrize("kind", ["dropped_before", "dropped_after", "cut_body", "truncated"])
async def test_a_lost_submit_is_repeated_once_and_reported(sandbox, client, kind, caplog):
    """The job counts a possible orphan, the log names it, and the caller's hook is awaited."""
    submits = []

    async def record_submits():
        submits.append(sandbox.count("list"))

    sandbox.faults = [Fault(kind, on="list", times=1)]
    job = await submit_job(client, day_with(7), on_response_lost=record_submits)
    assert (job.possible_orphans, submits) == (1, [1])
    assert sandbox.count("list") == 2
    assert "possible orphan" in caplog.text


async def test_a_submit_lost_twice_is_an_error(sandbox, client):
    sandbox.faults = [Fault("dropped_after", on="list")]
    with pytest.raises(ResponseLostError):
        await submit_job(client, day_with(7))
    assert sandbox.count("list") == 2


@pytest.mark.parametrize(
    "fault", [Fault("rate_limited", on="list", times=1), Fault("server_error", on="list", times=2)]
)
async def test_a_submit_without_effect_leaves_no_orphan(sandbox, client, fault):
    sandbox.faults = [fault]
    job = await submit_job(client, day_with(7))
    assert job.possible_orphans == 0


async def test_a_refused_submit_is_not_repeated(sandbox, client):
    sandbox.faults = [Fault("forbidden", on="list")]
    with pytest.raises(PermissionDeniedError):
        await submit_job(client, day_with(7))
    assert sandbox.count("list") == 1


async def test_a_job_deleted_while_it_is_read_fails_without_a_resubmission():
    """IDs of a second job must not be added to those already yielded."""
    page = {"result": {"jobStatus": "FINISHED", "total": 2, "sessionIds": ["a"]}}
    first = raw_response(body=page)

    async def respond(request):
        if request.method == "POST":
            return SUBMITTED
        return raw_response(404, EMPTY) if request.params["offset"] == "1" else first

    async with listing_from(respond) as (wix, listing):
        with pytest.raises(UnknownJobError, match="submit the query again"):
            await listing.read_all()
        assert listing.summary is None
    assert sum(request.method == "POST" for request in wix.requests) == 1


# --- deadlines ---------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [10.0, 600.0, 3600.0])
async def test_a_job_that_never_finishes_fails_at_the_deadline(sandbox, client, seconds):
    """The error has the job ID, and polls are few."""
    sandbox.faults = [Fault("job_never_finishes")]
    start = client.clock.now()
    with pytest.raises(JobTimeoutError, match=f"after {seconds:g} s. It may still be") as caught:
        await complete_listing(client, 7, poll_policy=PollPolicy(timeout_seconds=seconds))
    assert client.clock.now() - start == pytest.approx(seconds)
    assert sandbox.count("result") <= 10 + seconds / 24
    assert sandbox.count("list") == 1
    assert caught.value.job_id == list(sandbox.jobs)[-1]
    assert isinstance(caught.value, TimeoutError)


async def test_the_deadline_includes_reading_all_pages(sandbox, client):
    sandbox.faults = [Fault("empty_page", after=1)]
    start = client.clock.now()
    # No jitter: the real time of a request just before the deadline would change the result.
    with pytest.raises(JobTimeoutError):
        await complete_listing(client, 2001, poll_policy=PollPolicy(timeout_seconds=3, jitter=0.0))
    assert client.clock.now() - start == pytest.approx(3)


async def test_the_deadline_cancels_a_request_in_flight(sandbox):
    """On the real clock."""
    sandbox.faults = [Fault("slow", seconds=30, on="result")]
    auth = ApiKeyAuth(sandbox.api_key, sandbox.site_id)
    poll_policy = PollPolicy(timeout_seconds=0.3, first_wait_seconds=0.01)
    start = time.monotonic()
    async with WixClient(auth, base_url=sandbox.url) as client:
        with pytest.raises(JobTimeoutError):
            await complete_listing(client, 7, poll_policy=poll_policy)
    assert 0.25 <= time.monotonic() - start < 30


async def test_the_timeout_starts_after_the_submit(sandbox, client):
    """A submit that waits for the rate limit does not count."""
    sandbox.faults = [Fault("rate_limited", on="list", times=3)]
    start = client.clock.now()
    poll_policy = PollPolicy(timeout_seconds=200, first_wait_seconds=30)
    _, ids = await complete_listing(client, 7, poll_policy=poll_policy)
    assert ids == expected_ids(7)
    assert client.clock.now() - start > 200


async def test_a_callers_own_timeout_is_not_a_job_timeout(sandbox):
    sandbox.faults = [Fault("slow", seconds=30, on="result")]
    auth = ApiKeyAuth(sandbox.api_key, sandbox.site_id)
    async with WixClient(auth, base_url=sandbox.url) as client:
        with pytest.raises(TimeoutError) as caught:
            async with asyncio.timeout(0.2):
                await complete_listing(client, 7, poll_policy=PollPolicy(first_wait_seconds=0.01))
    assert not isinstance(caught.value, JobTimeoutError)


@pytest.mark.parametrize("status", ["SOMETHING_NEW", "UNKNOWN_JOB_STATUS", "finished", "DONE"])
async def test_an_undocumented_status_is_logged_once_and_treated_as_running(
    sandbox, client, caplog, status
):
    caplog.set_level(logging.WARNING)
    sandbox.faults = [Fault("unknown_status", status=status)]
    with pytest.raises(JobTimeoutError):
        await complete_listing(client, 7, poll_policy=PollPolicy(timeout_seconds=300))
    logged = [one for one in caplog.messages if "undocumented status" in one]
    assert len(logged) == 1
    assert repr(status) in logged[0]
    assert sandbox.count("result") <= 25


async def test_a_job_with_an_undocumented_status_may_still_finish(sandbox, client):
    sandbox.faults = [Fault("unknown_status", status="QUEUED", polls=4)]
    _, ids = await complete_listing(client, 7)
    assert ids == expected_ids(7)


# --- ending early ------------------------------------------------------------------------------


async def test_a_listing_left_early_releases_files_tasks_and_connections(sandbox, client):
    tasks = asyncio.all_tasks()
    async with Listing(client, day_with(5000)) as listing:
        folder = listing.spool.folder
        async for batch in listing:
            assert batch
            break
        assert folder.exists()
    assert listing.summary is None
    assert not folder.exists()
    gc.collect()
    for _ in range(5):  # the loop closes the unreferenced async generator
        await asyncio.sleep(0)
    assert asyncio.all_tasks() == tasks
    assert sandbox.count("result") == 1
    _, ids = await complete_listing(client, 7)
    assert ids == expected_ids(7)


async def test_a_failed_listing_removes_its_files(sandbox, client):
    sandbox.faults = [Fault("job_error")]
    async with Listing(client, day_with(7)) as listing:
        folder = listing.spool.folder
        with pytest.raises(JobFailedError):
            await listing.read_all()
        assert listing.summary is None
    assert not folder.exists()


async def test_a_cancelled_listing_removes_its_files(sandbox):
    sandbox.faults = [Fault("slow", seconds=30, on="result")]
    auth = ApiKeyAuth(sandbox.api_key, sandbox.site_id)
    folders = []

    async def read():
        async with Listing(
            client, day_with(7), poll_policy=PollPolicy(first_wait_seconds=0)
        ) as listing:
            folders.append(listing.spool.folder)
            await listing.read_all()

    async with WixClient(auth, base_url=sandbox.url) as client:
        task = asyncio.create_task(read())
        while not sandbox.count("list"):
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert not folders[0].exists()


async def test_a_full_disk_fails_the_listing(sandbox, client, monkeypatch):
    """The message names TMPDIR."""
    make_database = spool._make_database

    def make_small_database():
        database = make_database()
        database.execute("PRAGMA max_page_count = 20")
        return database

    monkeypatch.setattr(spool, "_make_database", make_small_database)
    async with Listing(client, day_with(5000)) as listing:
        with pytest.raises(SpoolError, match=r"Free space in .* or set TMPDIR"):
            await listing.read_all()
        assert listing.summary is None


def test_a_summary_is_equal_after_a_json_round_trip():
    from prefect_wix.client.models import SessionsJob  # noqa: PLC0415
    from prefect_wix.jobs.listing import ListingSummary  # noqa: PLC0415

    job = SessionsJob(
        job_id="j", query=day_with(7), site_id="s", submitted_at=datetime(2024, 3, 1, tzinfo=UTC)
    )
    counts = {"sessions": 7, "duplicates": 1, "passes": 2, "requests": 9, "possible_orphans": 1}
    summary = ListingSummary(job=job, **counts, resubmitted=True)
    assert ListingSummary.model_validate(json.loads(summary.model_dump_json())) == summary


def test_the_days_of_the_world_have_the_sizes_in_their_names():
    assert [len(expected_ids(count)) for count in COUNTS] == list(COUNTS)
    assert len(WORLD) == sum(COUNTS)
    assert all(one < two for one, two in pairwise(COUNTS))
