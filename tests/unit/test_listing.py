"""A listing: submit, wait, drain, verify. Complete, or one typed error; never something between."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import math
import time
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise

import pytest
from test_client import EMPTY, RawWix, raw_client, reply, sandbox_client

from prefect_wix.client.auth import ApiKeyAuth
from prefect_wix.client.client import WixClient
from prefect_wix.client.models import JobPage, JobStatus, SessionsQuery
from prefect_wix.errors import (
    IncompleteListingError,
    JobFailedError,
    JobTimeoutError,
    PermissionDeniedError,
    ResponseLostError,
    ServerError,
    SpoolError,
    UnknownJobError,
    WixError,
)
from prefect_wix.jobs.listing import Listing, submit_job
from prefect_wix.jobs.poll_policy import PollPolicy
from prefect_wix.sandbox import Fault, Rules, Session, World, running
from prefect_wix.spool import id_spool as spool
from prefect_wix.spool.id_spool import Spool

COUNTS = (0, 1, 7, 999, 1000, 1001, 2000, 2001, 5000)
"""How many sessions each day of March 2024 has, from the first on."""
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
    """The query for the day that has so many sessions."""
    day = date(2024, 3, COUNTS.index(count) + 1)
    return SessionsQuery(
        start_date=day, end_date=day + timedelta(days=1), device_type="ALL", timezone="UTC"
    )


def truth(count):
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
    """The summary and the ids of a whole listing."""
    async with Listing(client, day_with(count), **options) as listing:
        batches = [batch async for batch in listing]
        given = [session_id for batch in batches for session_id in batch]
        assert sorted(given) == sorted(spooled(listing))
        assert len(set(given)) == len(given) == listing.summary.sessions
        return listing.summary, set(given)


@asynccontextmanager
async def listing_of(*answers):
    """A listing of a server that answers just so, one answer after the other."""
    async with (
        RawWix(*answers).running() as wix,
        raw_client(wix.url) as client,
        Listing(client, day_with(1)) as listing,
    ):
        yield wix, listing


def limits(sandbox):
    return [int(one.params["limit"]) for one in sandbox.requests if one.endpoint == "result"]


# --- the plain case, and what it costs ---------------------------------------------------------


@pytest.mark.parametrize("count", COUNTS)
async def test_a_listing_is_complete_in_as_few_requests_as_can_be(sandbox, client, count):
    """The poll that finds the job finished is page one: two requests up to 1,000 sessions."""
    summary, ids = await complete_listing(client, count)
    assert ids == truth(count) == sandbox.answer(day_with(count).to_wire())
    assert sandbox.count() == 1 + max(1, math.ceil(count / 1000))
    assert sandbox.count("list") == 1
    assert summary.requests == sandbox.count("result")
    assert (summary.sessions, summary.duplicates, summary.passes) == (count, 0, 1)
    assert not summary.resubmitted
    assert summary.job.query == day_with(count)
    assert summary.job.site_id == sandbox.site_id
    assert list(sandbox.jobs)[-1] == summary.job.job_id


async def test_a_job_that_needs_a_while_costs_one_poll_more_for_each_wait(sandbox, client):
    sandbox.faults = [Fault("unknown_status", status="IN_PROGRESS", polls=6)]
    start = client.clock.now()
    summary, ids = await complete_listing(client, 7)
    assert (ids, summary.requests) == (truth(7), 7)
    # Of jobs that nothing is known of, the age at each poll is half as much again.
    assert 0.9 * 1.5**6 <= client.clock.now() - start <= 1.1 * 1.5**6


async def test_waits_grow_to_a_ceiling_and_are_not_in_step():
    poll_policy = PollPolicy()
    waits = poll_policy.waits()
    seen = [next(waits) for _ in range(40)]
    for wait, expected in zip(seen, (min(1.5**n, 30) for n in range(40)), strict=True):
        assert 0.8 * expected <= wait <= 1.2 * expected
    assert len(set(seen)) == 40


async def test_pages_are_handed_on_as_they_come(sandbox, client):
    """The first one alone, and those that came meanwhile as one batch."""
    async with Listing(client, day_with(5000)) as listing:
        sizes, requests = [], []
        async for batch in listing:
            sizes.append(len(batch))
            requests.append(sandbox.count("result"))
            assert listing.summary is None, "complete only when the iteration has ended"
    assert (sizes[0], requests[0]) == (1000, 1)
    assert sum(sizes) == 5000
    assert {size % 1000 for size in sizes} == {0}
    assert requests[-1] == 5


async def test_pages_that_come_while_the_ids_are_worked_on_are_taken_in_together(
    sandbox, client, monkeypatch
):
    """A disk that is slower than Wix costs one visit for several pages, not one for each."""
    visits = []

    def add_slowly(self, ids, *, in_pass):
        visits.append(len(ids))
        time.sleep(0.5)
        return add(self, ids, in_pass=in_pass)

    add = Spool.add
    monkeypatch.setattr(Spool, "add", add_slowly)
    async with Listing(client, day_with(5000)) as listing:
        batches = [batch async for batch in listing]
    assert visits == list(map(len, batches))
    assert sum(visits) == 5000
    assert len(visits) <= 3


async def test_a_job_is_asked_for_no_sooner_than_it_can_be_done(sandbox, client):
    """The first poll comes a second after the submit; that of a job taken up comes at once."""
    start = client.clock.now()
    await complete_listing(client, 1)
    assert 0.8 <= client.clock.now() - start <= 1.2
    start = client.clock.now()
    await complete_listing(client, 1, job=await submit_job(client, day_with(1)))
    assert client.clock.now() == start


async def test_many_listings_on_one_client_do_not_mix(sandbox, client):
    counts = [count for count in COUNTS if count <= 2001] * 4
    done = await asyncio.gather(*(complete_listing(client, count) for count in counts))
    assert [ids for _, ids in done] == [truth(count) for count in counts]
    assert sandbox.count("list") == len(counts)
    assert len({summary.job.job_id for summary, _ in done}) == len(counts)
    assert sandbox.count("result") == sum(max(1, math.ceil(count / 1000)) for count in counts)


# --- pages of another size ---------------------------------------------------------------------


async def test_a_smaller_page_limit_is_found_out_once_and_remembered():
    """Wix names the limit in its refusal; the next listing of the client asks right at once."""
    with running(WORLD, rules=Rules(page_cap=300)) as sandbox:
        async with sandbox_client(sandbox) as client:
            _, ids = await complete_listing(client, 1001)
            assert ids == truth(1001)
            assert limits(sandbox) == [1000, 300, 300, 300, 300]
            sandbox.reset_counts()
            await complete_listing(client, 7)
            assert limits(sandbox) == [300]


async def test_a_limit_that_is_refused_without_saying_how_much_becomes_a_hundred(sandbox, client):
    sandbox.faults = [Fault("limit_violation", threshold=None)]
    _, ids = await complete_listing(client, 999)
    assert ids == truth(999)
    assert limits(sandbox) == [1000, *[100] * 10]


async def test_a_gateway_timeout_halves_the_page(sandbox, client):
    """As Wix advises; and what was read before it is not read again."""
    sandbox.faults = [Fault("server_error", status=504, on="result", after=1, times=1)]
    _, ids = await complete_listing(client, 2001)
    assert ids == truth(2001)
    assert sorted(limits(sandbox)) == [500, 500, 1000, 1000, 1000]


async def test_a_gateway_timeout_that_stays_is_the_end(sandbox, client):
    sandbox.faults = [Fault("server_error", status=504, on="result")]
    with pytest.raises(ServerError, match="504"):
        await complete_listing(client, 7)
    assert limits(sandbox)[:5] == [1000, 500, 250, 125, 100]
    assert len(limits(sandbox)) <= 10


async def test_a_refusal_of_something_else_is_no_matter_of_the_page(sandbox, client):
    sandbox.faults = [Fault("server_error", status=400, on="result")]
    with pytest.raises(WixError, match="Wix answered 400"):
        await complete_listing(client, 7)
    assert limits(sandbox) == [1000]


@pytest.mark.parametrize(
    ("threshold", "next_limit"), [(1, 1), (999, 999), (0, 100), (-5, 100), ("7", 100), (None, 100)]
)
async def test_only_a_limit_that_makes_sense_is_believed(threshold, next_limit):
    violation = {
        "field": "paging.limit",
        "description": "too large",
        "data": {"threshold": threshold},
    }
    refused = {"message": "", "details": {"validationError": {"fieldViolations": [violation]}}}
    page = {"result": {"jobStatus": "FINISHED", "total": 1, "sessionIds": ["a"]}}
    answers = [reply(body={"jobId": "j"}), reply(400, refused), reply(body=page)]
    async with listing_of(*answers) as (wix, listing):
        await listing.read_all()
    assert [one.params["limit"] for one in wix.asked[1:]] == ["1000", str(next_limit)]


async def test_a_limit_that_is_not_larger_is_no_way_out():
    """Refusing 1000 and naming 1000, or a refusal of every limit, ends; it does not spin."""
    violation = {"field": "limit", "description": "too large", "data": {"threshold": 1000}}
    refused = {"message": "", "details": {"validationError": {"fieldViolations": [violation]}}}
    answers = [reply(body={"jobId": "j"}), reply(400, refused)]
    async with listing_of(*answers) as (wix, listing):
        with pytest.raises(WixError, match="limit: too large"):
            await listing.read_all()
    assert len(wix.asked) == 2


async def test_the_page_limit_is_only_ever_lowered():
    """A late answer to a large page does not undo what an early one has taught."""
    late, both = asyncio.Event(), asyncio.Event()
    page = {"result": {"jobStatus": "FINISHED", "total": 1, "sessionIds": ["a"]}}
    violation = {"field": "limit", "description": "too large", "data": {"threshold": 100}}
    refused = {"message": "", "details": {"validationError": {"fieldViolations": [violation]}}}
    large = []

    async def answer(asked):
        if asked.method == "POST":
            return reply(body={"jobId": "j"})
        if asked.params["limit"] != "1000":
            late.set()
            return reply(body=page)
        large.append(asked)
        if len(large) == 2:
            both.set()
        await both.wait()
        if asked is large[0]:
            return reply(400, refused)
        await late.wait()
        return reply(504, EMPTY)

    async with RawWix(answer).running() as wix, raw_client(wix.url) as client:
        async with Listing(client, day_with(1)) as one, Listing(client, day_with(1)) as two:
            async with asyncio.timeout(10):
                await asyncio.gather(one.read_all(), two.read_all())
        assert client.page_limit == 100


# --- answers that do not add up ----------------------------------------------------------------


async def test_repeats_are_dropped_and_counted(sandbox, client):
    sandbox.faults = [Fault("repeats", n=3)]
    summary, ids = await complete_listing(client, 2001)
    assert ids == truth(2001)
    assert (summary.duplicates, summary.passes) == (6, 1)


async def test_ids_that_a_page_leaves_out_are_found_by_draining_again(sandbox, client):
    sandbox.faults = [Fault("lossy_repeats", n=5)]
    summary, ids = await complete_listing(client, 2001)
    assert ids == truth(2001)
    assert summary.passes == 2
    assert summary.duplicates >= 6


async def test_a_short_page_is_not_the_end(sandbox, client):
    sandbox.faults = [Fault("small_pages", size=400)]
    summary, ids = await complete_listing(client, 2001)
    assert ids == truth(2001)
    assert summary.requests == 6


async def test_an_empty_page_is_not_the_end_while_ids_are_missing(sandbox, client):
    sandbox.faults = [Fault("empty_page", after=1, times=1)]
    summary, ids = await complete_listing(client, 2001)
    assert (ids, summary.passes) == (truth(2001), 1)


@pytest.mark.parametrize("count", [0, 7, 2001])
@pytest.mark.parametrize("fault", [Fault("null_total"), Fault("missing_fields", field="total")])
async def test_without_a_total_two_drains_must_agree(sandbox, client, fault, count):
    sandbox.faults = [fault]
    summary, ids = await complete_listing(client, count)
    assert (ids, summary.passes) == (truth(count), 2)


def drains(*seen):
    """The answers of a server that names no total and hands out these ids, drain by drain."""
    yield reply(body={"jobId": "j"})
    for ids in seen:
        for page in (ids, []):
            yield reply(body={"result": {"jobStatus": "FINISHED", "sessionIds": page}})


@pytest.mark.parametrize(
    ("seen", "passes"),
    [
        ([["a"], ["a", "b"], ["a", "b"]], 3),
        ([["a"], ["a", "b"], ["a", "b", "c"], ["c", "b", "a"]], 4),
        ([["a"], ["b"], ["a", "b"]], 3),
        ([["a", "b"], ["a"], ["a", "b"]], 3),
    ],
)
async def test_without_a_total_nothing_is_believed_before_two_drains_agree(seen, passes):
    """Not that the last drain brought nothing new, and not that it was as long as the first."""
    async with listing_of(*drains(*seen)) as (_, listing):
        summary = await listing.read_all()
        assert summary.passes == passes
        assert spooled(listing) == sorted(set().union(*seen))


@pytest.mark.parametrize(
    "seen",
    [
        [["a"], ["a", "b"], ["a", "b", "c"], ["a", "b", "c", "d"]],
        [["a"], ["b"], ["c"], ["d"]],
        [["a", "b"], ["a"], ["b"], ["a"]],
    ],
)
async def test_without_a_total_drains_that_never_agree_are_incomplete(seen):
    async with listing_of(*drains(*seen)) as (_, listing):
        with pytest.raises(IncompleteListingError) as caught:
            await listing.read_all()
    assert (caught.value.received, caught.value.total) == (len(set().union(*seen)), None)


async def test_a_total_that_changes_under_way_is_not_believed(sandbox, client):
    """A result that grew while it was read is read again, until it has stayed put."""
    sandbox.faults = [Fault("growing_result", until=2, step=1)]
    summary, ids = await complete_listing(client, 2001)
    assert ids == truth(2001)
    assert summary.passes == 2


@pytest.mark.parametrize("delta", [1, -1, 100])
async def test_a_total_that_never_agrees_is_an_incomplete_listing(sandbox, client, delta):
    """Loudly, with both numbers, the job and the request id; and after a bounded effort."""
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
    """In place of `PagePrefetcher`: hands out several pages at once, alike in each pass."""

    def __init__(self, *groups):
        self.taken = 0
        self._groups = groups

    def __call__(self, result, first):
        self._left = iter(self._groups)
        return self

    async def __aenter__(self):
        return self

    async def __aexit__(self, *exc_info):
        pass

    async def pages(self, offset):
        self.taken += 1
        return next(self._left)


def page_of(ids, total):
    return JobPage(
        status=JobStatus.FINISHED, status_text="FINISHED", total=total, session_ids=tuple(ids)
    )


@asynccontextmanager
async def listing_in_groups(monkeypatch, first, *groups):
    """A listing whose first page is one alone, and what comes behind it is taken in in groups."""
    taken = Groups(*groups)
    monkeypatch.setattr("prefect_wix.jobs.listing.PagePrefetcher", taken)
    ids, total = first
    body = {"result": {"jobStatus": "FINISHED", "total": total, "sessionIds": list(ids)}}
    async with listing_of(reply(body={"jobId": "j"}), reply(body=body)) as (_, listing):
        yield taken, listing


async def test_a_total_that_changes_amid_pages_taken_in_together_is_not_believed(monkeypatch):
    groups = [page_of("b", 9), page_of("cd", 4)]
    async with listing_in_groups(monkeypatch, ("a", 4), groups) as (_, listing):
        with pytest.raises(IncompleteListingError):
            await listing.read_all()
        assert sorted(spooled(listing)) == ["a", "b", "c", "d"]


async def test_pages_taken_in_together_that_bring_nothing_new_are_counted_each(monkeypatch):
    stale = [page_of("ab", 9)] * 3
    async with listing_in_groups(monkeypatch, ("ab", 9), stale, stale) as (taken, listing):
        with pytest.raises(IncompleteListingError):
            await listing.read_all()
    assert taken.taken == 4, "once in each pass"


async def test_a_pass_ends_where_one_of_the_pages_taken_in_together_says_so(monkeypatch):
    groups = [page_of("c", 3), page_of("d", 9)]
    async with listing_in_groups(monkeypatch, ("ab", 9), groups, groups) as (taken, listing):
        with pytest.raises(IncompleteListingError):
            await listing.read_all()
    assert taken.taken == 4, "once in each pass"


async def test_a_page_that_never_moves_on_is_given_up(sandbox, client):
    """A server that hands out the first page for ever is no endless loop."""
    page = {"result": {"jobStatus": "FINISHED", "total": 5, "sessionIds": ["a", "b"]}}
    answers = [reply(body={"jobId": "j"}), reply(body=page)]
    async with listing_of(*answers) as (wix, listing):
        with pytest.raises(IncompleteListingError):
            await listing.read_all()
    assert len(wix.asked) <= 25


async def test_a_job_that_goes_back_to_running_is_waited_for_again():
    pages = [
        {"jobStatus": "FINISHED", "total": 2, "sessionIds": ["a"]},
        {"jobStatus": "IN_PROGRESS"},
        {"jobStatus": "IN_PROGRESS", "total": 2, "sessionIds": ["x"]},
        {"jobStatus": "FINISHED", "total": 2, "sessionIds": ["b"]},
    ]
    answers = [reply(body={"jobId": "j"}), *(reply(body={"result": page}) for page in pages)]
    async with listing_of(*answers) as (wix, listing):
        await listing.read_all()
        assert spooled(listing) == ["a", "b"]
    assert [one.params["offset"] for one in wix.asked[1:]] == ["0", "1", "1", "1"]


@pytest.mark.parametrize(
    "status", ["IN_PROGRESS", "SOMETHING_NEW", "UNKNOWN_JOB_STATUS", None, "finished"]
)
async def test_ids_of_a_job_that_is_not_finished_count_for_nothing(status):
    """Whatever lies beside another status is no result yet."""
    early = {"jobStatus": status, "total": 1, "sessionIds": ["early"]}
    late = {"jobStatus": "FINISHED", "total": 1, "sessionIds": ["late"]}
    answers = [reply(body={"jobId": "j"}), *(reply(body={"result": one}) for one in (early, late))]
    async with listing_of(*answers) as (_, listing):
        await listing.read_all()
        assert spooled(listing) == ["late"]


# --- jobs that come to nothing -----------------------------------------------------------------


async def test_a_failed_job_is_asked_once_more(sandbox, client, caplog):
    sandbox.faults = [Fault("job_error", times=1)]
    summary, ids = await complete_listing(client, 7)
    assert (ids, summary.resubmitted) == (truth(7), True)
    assert sandbox.count("list") == 2
    assert summary.job.job_id == list(sandbox.jobs)[-1]
    assert "Asking the same query once more" in caplog.text


async def test_a_query_whose_jobs_fail_is_asked_twice_and_no_more(sandbox, client):
    sandbox.faults = [Fault("job_error")]
    with pytest.raises(JobFailedError, match="names no reason") as caught:
        await complete_listing(client, 7)
    assert sandbox.count("list") == 2
    assert sandbox.count("result") == 2
    assert caught.value.job_id == list(sandbox.jobs)[-1]
    assert str(day_with(7)) in str(caught.value)
    assert f"(request id {caught.value.request_id})" in str(caught.value)


@pytest.mark.parametrize("polls", [1, 3])
async def test_a_job_may_be_unknown_for_a_few_polls(sandbox, client, polls):
    sandbox.faults = [Fault("unknown_job", polls=polls)]
    summary, ids = await complete_listing(client, 7)
    assert ids == truth(7)
    assert (summary.requests, summary.resubmitted) == (1 + polls, False)


async def test_a_job_that_stays_unknown_is_asked_once_more_and_no_more(sandbox, client):
    sandbox.faults = [Fault("unknown_job", polls=1000)]
    with pytest.raises(UnknownJobError, match="Wix does not know job") as caught:
        await complete_listing(client, 7)
    assert sandbox.count("list") == 2
    assert sandbox.count("result") == 8
    assert caught.value.job_id == list(sandbox.jobs)[-1]


@pytest.mark.parametrize("status", [404, 200])
async def test_a_job_that_was_taken_up_and_is_forgotten_is_asked_again_or_times_out(status):
    """404 says so; where Wix only calls the status unknown, the deadline ends it."""
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


async def test_a_job_that_is_known_is_taken_up_and_not_asked_again(sandbox, client):
    job = await submit_job(client, day_with(1001))
    sandbox.reset_counts()
    summary, ids = await complete_listing(client, 1001, job=job)
    assert (ids, summary.job) == (truth(1001), job)
    assert (sandbox.count("list"), sandbox.count("result")) == (0, 2)


async def test_a_caller_that_keeps_a_record_of_jobs_submits_himself(sandbox, client):
    noted = []

    async def submit():
        noted.append(await submit_job(client, day_with(7)))
        return noted[-1]

    sandbox.faults = [Fault("job_error", times=1)]
    summary, _ = await complete_listing(client, 7, submit=submit)
    assert [job.job_id for job in noted] == list(sandbox.jobs)[-2:]
    assert summary.job == noted[-1]


@pytest.mark.parametrize("kind", ["dropped_before", "dropped_after", "cut_body", "truncated"])
async def test_a_lost_submit_is_made_once_more_and_said(sandbox, client, kind, caplog):
    """A job may run unused: the handle counts it, the log says it, the caller may note it."""
    noted = []

    async def note():
        noted.append(sandbox.count("list"))

    sandbox.faults = [Fault(kind, on="list", times=1)]
    job = await submit_job(client, day_with(7), on_response_lost=note)
    assert (job.possible_orphans, noted) == (1, [1])
    assert sandbox.count("list") == 2
    assert "possible orphan" in caplog.text


async def test_a_submit_that_is_lost_twice_is_an_error(sandbox, client):
    sandbox.faults = [Fault("dropped_after", on="list")]
    with pytest.raises(ResponseLostError):
        await submit_job(client, day_with(7))
    assert sandbox.count("list") == 2


@pytest.mark.parametrize(
    "fault", [Fault("rate_limited", on="list", times=1), Fault("server_error", on="list", times=2)]
)
async def test_a_submit_that_surely_had_no_effect_makes_no_orphan(sandbox, client, fault):
    sandbox.faults = [fault]
    job = await submit_job(client, day_with(7))
    assert job.possible_orphans == 0


async def test_a_refused_submit_is_not_made_again(sandbox, client):
    sandbox.faults = [Fault("forbidden", on="list")]
    with pytest.raises(PermissionDeniedError):
        await submit_job(client, day_with(7))
    assert sandbox.count("list") == 1


async def test_a_job_that_is_forgotten_while_it_is_read_fails_and_is_not_mixed_with_another():
    """Its ids were handed out already; those of a second job must not be added to them."""
    first = {"jobStatus": "FINISHED", "total": 2, "sessionIds": ["a"]}

    async def answer(asked):
        if asked.method == "POST":
            return reply(body={"jobId": "job-0"})
        return reply(404, EMPTY) if asked.params["offset"] == "1" else reply(body={"result": first})

    async with listing_of(answer) as (wix, listing):
        with pytest.raises(UnknownJobError, match="submit the query again"):
            await listing.read_all()
        assert listing.summary is None
    assert sum(asked.method == "POST" for asked in wix.asked) == 1


# --- deadlines ---------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [10.0, 600.0, 3600.0])
async def test_a_job_that_never_ends_is_given_up_at_the_deadline(sandbox, client, seconds):
    """To the second, in few polls, with the job to take up again."""
    sandbox.faults = [Fault("job_never_finishes")]
    start = client.clock.now()
    with pytest.raises(JobTimeoutError, match=f"after {seconds:g} s. It may still be") as caught:
        await complete_listing(client, 7, poll_policy=PollPolicy(timeout_seconds=seconds))
    assert client.clock.now() - start == pytest.approx(seconds)
    assert sandbox.count("result") <= 10 + seconds / 24
    assert sandbox.count("list") == 1
    assert caught.value.job_id == list(sandbox.jobs)[-1]
    assert isinstance(caught.value, TimeoutError)


async def test_the_deadline_holds_for_draining_too(sandbox, client):
    sandbox.faults = [Fault("empty_page", after=1)]
    start = client.clock.now()
    # Waits that are not drawn: a request just before the deadline would be cut in real time.
    with pytest.raises(JobTimeoutError):
        await complete_listing(client, 2001, poll_policy=PollPolicy(timeout_seconds=3, jitter=0.0))
    assert client.clock.now() - start == pytest.approx(3)


async def test_the_deadline_cuts_a_reply_that_does_not_come(sandbox):
    """On the real clock: one request in flight is not waited for past the end."""
    sandbox.faults = [Fault("slow", seconds=30, on="result")]
    auth = ApiKeyAuth(sandbox.api_key, sandbox.site_id)
    poll_policy = PollPolicy(timeout_seconds=0.3, first_wait_seconds=0.01)
    start = time.monotonic()
    async with WixClient(auth, base_url=sandbox.url) as client:
        with pytest.raises(JobTimeoutError):
            await complete_listing(client, 7, poll_policy=poll_policy)
    assert 0.25 <= time.monotonic() - start < 2


async def test_a_jobs_time_begins_when_there_is_a_job(sandbox, client):
    """A submit that has to wait for the site's budget takes nothing from it."""
    sandbox.faults = [Fault("rate_limited", on="list", times=3)]
    start = client.clock.now()
    _, ids = await complete_listing(client, 7, poll_policy=PollPolicy(timeout_seconds=10))
    assert ids == truth(7)
    assert client.clock.now() - start > 180


async def test_a_callers_own_timeout_is_not_taken_for_the_jobs(sandbox):
    sandbox.faults = [Fault("slow", seconds=30, on="result")]
    auth = ApiKeyAuth(sandbox.api_key, sandbox.site_id)
    async with WixClient(auth, base_url=sandbox.url) as client:
        with pytest.raises(TimeoutError) as caught:
            async with asyncio.timeout(0.2):
                await complete_listing(client, 7, poll_policy=PollPolicy(first_wait_seconds=0.01))
    assert not isinstance(caught.value, JobTimeoutError)


@pytest.mark.parametrize("status", ["SOMETHING_NEW", "UNKNOWN_JOB_STATUS", "finished", "DONE"])
async def test_a_status_nobody_knows_is_said_once_and_never_success(
    sandbox, client, caplog, status
):
    caplog.set_level(logging.WARNING)
    sandbox.faults = [Fault("unknown_status", status=status)]
    with pytest.raises(JobTimeoutError):
        await complete_listing(client, 7, poll_policy=PollPolicy(timeout_seconds=300))
    said = [one for one in caplog.messages if "not documented" in one]
    assert len(said) == 1
    assert repr(status) in said[0]
    assert sandbox.count("result") <= 25


async def test_a_status_nobody_knows_may_still_become_a_result(sandbox, client):
    sandbox.faults = [Fault("unknown_status", status="QUEUED", polls=4)]
    _, ids = await complete_listing(client, 7)
    assert ids == truth(7)


# --- leaving early -----------------------------------------------------------------------------


async def test_leaving_early_leaves_nothing_behind(sandbox, client):
    """Neither a file, nor a task, nor a connection that is not used again."""
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
    for _ in range(5):  # the loop closes an iteration that nobody holds any more
        await asyncio.sleep(0)
    assert asyncio.all_tasks() == tasks
    assert sandbox.count("result") == 1
    _, ids = await complete_listing(client, 7)
    assert ids == truth(7)


async def test_a_failed_listing_leaves_nothing_behind(sandbox, client):
    sandbox.faults = [Fault("job_error")]
    async with Listing(client, day_with(7)) as listing:
        folder = listing.spool.folder
        with pytest.raises(JobFailedError):
            await listing.read_all()
        assert listing.summary is None
    assert not folder.exists()


async def test_a_cancelled_listing_leaves_nothing_behind(sandbox):
    sandbox.faults = [Fault("slow", seconds=30, on="result")]
    auth = ApiKeyAuth(sandbox.api_key, sandbox.site_id)
    folders = []

    async def listen():
        async with Listing(
            client, day_with(7), poll_policy=PollPolicy(first_wait_seconds=0)
        ) as listing:
            folders.append(listing.spool.folder)
            await listing.read_all()

    async with WixClient(auth, base_url=sandbox.url) as client:
        task = asyncio.create_task(listen())
        while not sandbox.count("list"):
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert not folders[0].exists()


async def test_a_full_disk_ends_a_listing_as_such(sandbox, client, monkeypatch):
    """The ids can't be kept, so there is no listing; and the message says where to make room."""
    make_database = spool._make_database

    def make_small_database():
        database = make_database()
        database.execute("PRAGMA max_page_count = 20")
        return database

    monkeypatch.setattr(spool, "_make_database", make_small_database)
    async with Listing(client, day_with(5000)) as listing:
        with pytest.raises(SpoolError, match=r"Free space in .* or point TMPDIR"):
            await listing.read_all()
        assert listing.summary is None


def test_a_summary_survives_json():
    from prefect_wix.client.models import SessionsJob  # noqa: PLC0415
    from prefect_wix.jobs.listing import ListingSummary  # noqa: PLC0415

    job = SessionsJob(
        job_id="j", query=day_with(7), site_id="s", submitted_at=datetime(2024, 3, 1, tzinfo=UTC)
    )
    counts = {"sessions": 7, "duplicates": 1, "passes": 2, "requests": 9, "possible_orphans": 1}
    summary = ListingSummary(job=job, **counts, resubmitted=True)
    assert ListingSummary.model_validate(json.loads(summary.model_dump_json())) == summary


def test_the_days_of_the_world_have_the_sizes_they_are_named_for():
    assert [len(truth(count)) for count in COUNTS] == list(COUNTS)
    assert len(WORLD) == sum(COUNTS)
    assert all(one < two for one, two in pairwise(COUNTS))
