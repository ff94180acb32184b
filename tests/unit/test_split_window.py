"""A window that fails is listed day by day; if days fail too, the error names them."""

from __future__ import annotations

import asyncio
from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_client import sandbox_client

from prefect_wix.client.models import SessionsQuery
from prefect_wix.errors import (
    DaysFailedError,
    IncompleteListingError,
    JobFailedError,
    JobTimeoutError,
    PermissionDeniedError,
)
from prefect_wix.jobs.listing import submit_job
from prefect_wix.jobs.poll_policy import PollPolicy
from prefect_wix.jobs.split_window import MAX_FAILED_DAYS, complete_listing
from prefect_wix.sandbox import Fault, Rules, Session, World, running
from tests.options import repeated

FIRST = date(2024, 3, 1)
DAYS = 32
SHORT = PollPolicy(timeout_seconds=600)


def day(number):
    """A day of the world, counted from 0."""
    return FIRST + timedelta(number)


def sessions():
    """Three a day at noon, and one from a minute before each midnight to a minute after."""
    for number in range(DAYS):
        noon = datetime(2024, 3, 1, 12, tzinfo=UTC) + timedelta(number)
        for one in range(3):
            yield Session(id=f"{day(number)}-{one}", arrival=noon, end=noon)
        late = noon + timedelta(hours=11, minutes=59)
        yield Session(id=f"{day(number)}-night", arrival=late, end=late + timedelta(minutes=2))


def window(length, start=0):
    return SessionsQuery(
        start_date=day(start), end_date=day(start + length), device_type="ALL", timezone="UTC"
    )


def faults_of(*days, kind="job_error"):
    """Faults of every job that includes one of these days."""
    return [Fault(kind, day=str(day(number))) for number in days]


@pytest.fixture(scope="module")
def running_sandbox():
    with running(World(sessions()), now=datetime(2024, 4, 2, 12, tzinfo=UTC)) as sandbox:
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


async def list_job(client, query, **options):
    """The summary and the IDs of a query, from a job submitted first."""
    job = await submit_job(client, query)
    async with complete_listing(client, job, **options) as (summary, spool):
        return summary, [session_id for batch in spool.batches() for session_id in batch]


def submitted(sandbox):
    """The windows of all submits in order: first day and number of days."""
    periods = [body["customTimePeriod"] for body in sandbox.submits]
    for one in periods:
        start, end = (date.fromisoformat(one[name]) for name in ("startDate", "endDate"))
        yield (start - FIRST).days, (end - start).days


# --- windows that succeed -----------------------------------------------------------------------


async def test_a_window_that_succeeds_is_not_split(sandbox, client):
    summary, ids = await list_job(client, window(8))
    assert set(ids) == sandbox.answer(window(8).to_wire())
    assert (summary.parts, summary.requests, sandbox.count()) == (1, 1, 2)


@pytest.mark.parametrize("faults", [[], [Fault("null_total")]], ids=["total", "no total"])
async def test_a_window_with_a_clamped_offset_is_combined_from_its_days(sandbox, client, faults):
    """A result that never shows its last pages fails; each day ends before the clamp."""
    sandbox.faults = [Fault("clamped_offset", largest=10), *faults]
    client.page_limit = 5
    summary, ids = await list_job(client, window(7))
    assert ids == sorted(sandbox.answer(window(7).to_wire()))
    assert summary.parts == 7


@pytest.mark.parametrize(("kind", "tries"), [("job_error", 2), ("job_never_finishes", 1)])
@pytest.mark.parametrize(("length", "most"), [(2, 1), (7, 3), (DAYS, 31), (DAYS, 1)])
async def test_a_window_that_is_too_long_is_combined_from_its_days(
    sandbox, client, kind, tries, length, most
):
    """Each ID is returned once, and each day costs one job."""
    sandbox.faults = [Fault(kind, over_days=most)]
    summary, ids = await list_job(client, window(length))
    assert ids == sorted(sandbox.answer(window(length).to_wire()))
    assert (summary.sessions, summary.parts) == (len(ids), length)
    assert summary.job.query == window(length)
    days_newest_first = [(number, 1) for number in reversed(range(length))]
    assert list(submitted(sandbox)) == [(0, length)] * tries + days_newest_first


async def test_the_summary_counts_all_requests_after_the_first_submit(sandbox, client):
    """Requests of failed jobs count too."""
    sandbox.faults = [Fault("job_error", over_days=3)]
    summary, _ = await list_job(client, window(8))
    assert summary.requests == sandbox.count() - 1
    assert summary.resubmitted


async def test_a_session_over_midnight_is_returned_once():
    """Wix lists it on both days; the union drops one copy."""
    with running(World(sessions()), rules=Rules(midnight="both")) as sandbox:
        sandbox.faults = [Fault("job_error", over_days=4)]
        async with sandbox_client(sandbox) as client:
            summary, ids = await list_job(client, window(8, start=1))
        assert ids == sorted(sandbox.answer(window(8, start=1).to_wire()))
        assert len(ids) == 8 * 4 + 1
        assert (summary.parts, summary.duplicates) == (8, 7)


async def test_an_incomplete_listing_is_split(sandbox, client):
    """Its job finished, but its IDs never matched its total."""
    sandbox.faults = [Fault("wrong_total", delta=-2, times=5)]
    summary, ids = await list_job(client, window(4))
    assert ids == sorted(sandbox.answer(window(4).to_wire()))
    assert summary.parts == 4


# --- days that fail ------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "length"), [(0, 2), (2, 5), (15, 16), (0, 16), (19, DAYS)])
async def test_a_day_that_fails_is_named(sandbox, client, number, length):
    """All other days were tried; the message has the day, the cause and the remedy."""
    sandbox.faults = faults_of(number)
    with pytest.raises(DaysFailedError, match="List the other days, or load them") as caught:
        await list_job(client, window(length))
    error = caught.value
    assert (error.days, error.untried) == ((day(number),), ())
    assert f"Failed days: {day(number)}. " in str(error)
    assert str(window(length)) in str(error)
    assert str(error).endswith(str(error.__cause__))
    assert isinstance(error.__cause__, JobFailedError)
    assert error.job_id == error.__cause__.job_id == last_job_of(sandbox, number)
    assert sandbox.count("list") == 2 + length + 1


def last_job_of(sandbox, number):
    """The ID of the last job of this day alone."""
    return list(sandbox.jobs)[-1 - list(submitted(sandbox))[::-1].index((number, 1))]


async def test_the_job_of_a_day_is_resubmitted_once_before_the_day_fails(sandbox, client):
    sandbox.faults = [Fault("job_error", over_days=1), Fault("job_error", times=1)]
    summary, ids = await list_job(client, window(2))
    assert ids == sorted(sandbox.answer(window(2).to_wire()))
    assert summary.parts == 2


async def test_two_days_that_never_finish_leave_time_for_the_others(sandbox, client):
    """Each fails after a quarter of the timeout, and all others are tried."""
    for numbers in ((0, 1), (13, 20), (DAYS - 2, DAYS - 1)):
        sandbox.faults = faults_of(*numbers, kind="job_never_finishes")
        start = client.clock.now()
        with pytest.raises(DaysFailedError) as caught:
            await list_job(client, window(DAYS), poll_policy=SHORT)
        assert (caught.value.days, caught.value.untried) == (tuple(map(day, numbers)), ())
        assert isinstance(caught.value.__cause__, JobTimeoutError)
        assert 1.5 <= (client.clock.now() - start) / SHORT.timeout_seconds <= 1.6


async def test_days_without_time_left_are_reported_as_not_tried(sandbox, client):
    """If no job ever finishes, the error comes within twice the timeout."""
    sandbox.faults = [Fault("job_never_finishes")]
    start = client.clock.now()
    with pytest.raises(DaysFailedError, match="not tried, since the timeout was reached") as caught:
        await list_job(client, window(8), poll_policy=SHORT)
    assert client.clock.now() - start <= 2 * SHORT.timeout_seconds
    assert [*caught.value.untried, *caught.value.days] == [day(number) for number in range(8)]
    assert len(caught.value.days) >= 3
    assert caught.value.untried


async def test_listing_stops_after_5_failed_days_if_none_succeeded(sandbox, client):
    sandbox.faults = [Fault("job_error")]
    with pytest.raises(DaysFailedError, match="since all days failed so far") as caught:
        await list_job(client, window(DAYS))
    assert caught.value.days == tuple(day(DAYS - n) for n in range(MAX_FAILED_DAYS, 0, -1))
    assert caught.value.untried == tuple(day(n) for n in range(DAYS - MAX_FAILED_DAYS))
    assert f"Days before {caught.value.days[0]} were not tried" in str(caught.value)
    assert sandbox.count("list") == 2 + 2 * MAX_FAILED_DAYS


async def test_any_number_of_old_days_may_fail_once_a_later_day_succeeded(sandbox, client):
    sandbox.faults = faults_of(*range(10))
    with pytest.raises(DaysFailedError) as caught:
        await list_job(client, window(16))
    assert (len(caught.value.days), caught.value.untried) == (10, ())


@pytest.mark.parametrize(
    "query", [window(1), SessionsQuery(period="LAST_365_DAYS", device_type="ALL", timezone="UTC")]
)
@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault("job_error"), JobFailedError),
        (Fault("job_never_finishes"), JobTimeoutError),
        (Fault("wrong_total", delta=-1), IncompleteListingError),
    ],
)
async def test_a_query_without_days_raises_its_own_error(sandbox, client, query, fault, error):
    """A single day, and a predefined period."""
    sandbox.faults = [fault]
    with pytest.raises(error):
        await list_job(client, query)
    assert all(body == query.to_wire() for body in sandbox.submits)


@pytest.mark.parametrize("after", [0, 1, 3])
async def test_an_error_that_affects_the_site_is_not_split(sandbox, client, after):
    """After a 403 for a poll or for a submit there are no more jobs."""
    sandbox.faults = [
        Fault("forbidden", on="result" if not after else "list", after=after),
        Fault("job_error", over_days=1),
    ]
    with pytest.raises(PermissionDeniedError):
        await list_job(client, window(16))
    assert sandbox.count("list") == after + 1


async def test_a_finished_job_that_is_read_too_slowly_is_not_split(sandbox, client):
    """Its days have as many pages, and less time for each."""
    client.page_limit = 10
    sandbox.faults = [Fault("slow", on="result", after=1, seconds=3)]
    with pytest.raises(JobTimeoutError, match="increase timeout_seconds"):
        await list_job(client, window(8), poll_policy=PollPolicy(timeout_seconds=1))
    assert len(sandbox.submits) == 1


async def test_a_failure_removes_all_files(sandbox, client, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    sandbox.faults = faults_of(3)
    with pytest.raises(DaysFailedError):
        await list_job(client, window(8))
    assert list(tmp_path.iterdir()) == []


# --- any window and any failed days ---------------------------------------------------------------


async def list_in_sandbox(sandbox, query, **options):
    """The IDs of a query, or the error that names days; and the duration in seconds."""
    async with sandbox_client(sandbox) as client:
        try:
            _, result = await list_job(client, query, **options)
        except DaysFailedError as error:
            result = error
        return result, client.clock.now()


LOADS = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
windows = st.integers(1, DAYS).flatmap(
    lambda length: st.builds(window, st.just(length), st.integers(0, DAYS - length))
)


@given(
    query=windows,
    failing=st.sets(st.integers(0, DAYS - 1), max_size=4) | st.sets(st.integers(0, DAYS - 1)),
    most=st.none() | st.integers(1, DAYS),
)
@settings(LOADS, max_examples=repeated(15, soak=300))
def test_the_result_is_the_union_or_names_exactly_the_failed_days(
    running_sandbox, query, failing, most
):
    """If the newest days all fail, the older ones are not tried."""
    sandbox = running_sandbox
    sandbox.reset_counts()
    sandbox.faults = [*faults_of(*failing), *([Fault("job_error", over_days=most)] if most else [])]
    all_days = [day(n) for n in range(DAYS) if query.start_date <= day(n) < query.end_date]
    fail = [one for one in all_days if (one - FIRST).days in failing]
    newest = all_days[-MAX_FAILED_DAYS:]
    stops_early = len(newest) == MAX_FAILED_DAYS and set(newest) <= set(fail)
    try:
        result, _ = asyncio.run(list_in_sandbox(sandbox, query))
    except JobFailedError:
        assert len(all_days) == 1
        assert fail
        return
    jobs = 2 + len(all_days) + len(fail)
    if stops_early:
        assert result.days == tuple(newest)
        assert result.untried == tuple(all_days[:-MAX_FAILED_DAYS])
        jobs = 2 + 2 * MAX_FAILED_DAYS
    elif fail:
        assert (result.days, result.untried) == (tuple(fail), ())
    else:
        assert result == sorted(sandbox.answer(query.to_wire()))
        jobs = jobs if most and len(all_days) > most else 1
    assert sandbox.count("list") == jobs


@given(query=windows, failing=st.sets(st.integers(0, DAYS - 1), max_size=3))
@settings(LOADS, max_examples=repeated(6, soak=100))
def test_days_that_never_finish_are_named_or_reported_as_not_tried(running_sandbox, query, failing):
    """No other day is named, each is reported, and the time is limited."""
    sandbox = running_sandbox
    sandbox.faults = faults_of(*failing, kind="job_never_finishes")
    fail = {day(n) for n in failing if query.start_date <= day(n) < query.end_date}
    try:
        result, seconds = asyncio.run(list_in_sandbox(sandbox, query, poll_policy=SHORT))
    except JobTimeoutError:
        assert (query.end_date - query.start_date).days == len(fail) == 1
        return
    assert seconds <= 2 * SHORT.timeout_seconds
    if not fail:
        assert result == sorted(sandbox.answer(query.to_wire()))
    else:
        assert set(result.days) <= fail <= {*result.days, *result.untried}
        assert not result.untried or len(fail) > 2
