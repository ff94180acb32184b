"""A window that fails is listed day by day: complete, or with each day named that fails alone."""

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
from prefect_wix.jobs.split_window import HOPELESS_DAYS, complete_listing
from prefect_wix.sandbox import Fault, Rules, Session, World, running

FIRST = date(2024, 3, 1)
DAYS = 32
SHORT = PollPolicy(timeout_seconds=600)


def day(number):
    """The days of the world are counted from 0."""
    return FIRST + timedelta(number)


def sessions():
    """Three a day, at noon; and one in each night, from a minute before midnight to one after."""
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


def poison(*days, kind="job_error"):
    """Wix fails whenever one of these days is asked for."""
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


async def record(client, query, **options):
    """The summary and the ids of a query, whose job has been submitted before."""
    job = await submit_job(client, query)
    async with complete_listing(client, job, **options) as (summary, spool):
        return summary, [session_id for batch in spool.batches() for session_id in batch]


def asked(sandbox):
    """The windows of all submits in order, as first day and number of days."""
    periods = [body["customTimePeriod"] for body in sandbox.submits]
    for one in periods:
        start, end = (date.fromisoformat(one[name]) for name in ("startDate", "endDate"))
        yield (start - FIRST).days, (end - start).days


# --- what can be put together -------------------------------------------------------------------


async def test_what_succeeds_as_a_whole_is_not_split(sandbox, client):
    summary, ids = await record(client, window(8))
    assert set(ids) == sandbox.answer(window(8).to_wire())
    assert (summary.parts, summary.requests, sandbox.count()) == (1, 1, 2)


@pytest.mark.parametrize(("kind", "tries"), [("job_error", 2), ("job_never_finishes", 1)])
@pytest.mark.parametrize(("length", "most"), [(2, 1), (7, 3), (DAYS, 31), (DAYS, 1)])
async def test_a_window_that_is_too_big_is_put_together_from_its_days(
    sandbox, client, kind, tries, length, most
):
    """The IDs are those that Wix has, once each, at the cost of one job for each day."""
    sandbox.faults = [Fault(kind, over_days=most)]
    summary, ids = await record(client, window(length))
    assert ids == sorted(sandbox.answer(window(length).to_wire()))
    assert (summary.sessions, summary.parts) == (len(ids), length)
    assert summary.job.query == window(length)
    days_newest_first = [(number, 1) for number in reversed(range(length))]
    assert list(asked(sandbox)) == [(0, length)] * tries + days_newest_first


async def test_the_summary_counts_every_request_that_it_took(sandbox, client):
    """Failed ones too: after the first submit, as for any listing."""
    sandbox.faults = [Fault("job_error", over_days=3)]
    summary, _ = await record(client, window(8))
    assert summary.requests == sandbox.count() - 1
    assert summary.resubmitted


async def test_a_session_over_midnight_is_listed_once():
    """Where Wix lists it on both days, two listings hold it, and the union holds it once."""
    with running(World(sessions()), rules=Rules(midnight="both")) as sandbox:
        sandbox.faults = [Fault("job_error", over_days=4)]
        async with sandbox_client(sandbox) as client:
            summary, ids = await record(client, window(8, start=1))
        assert ids == sorted(sandbox.answer(window(8, start=1).to_wire()))
        assert len(ids) == 8 * 4 + 1
        assert (summary.parts, summary.duplicates) == (8, 7)


async def test_an_incomplete_listing_is_split(sandbox, client):
    """Its job was finished, but what it handed out never came to its total."""
    sandbox.faults = [Fault("wrong_total", delta=-2, times=5)]
    summary, ids = await record(client, window(4))
    assert ids == sorted(sandbox.answer(window(4).to_wire()))
    assert summary.parts == 4


# --- what can not --------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "length"), [(0, 2), (2, 5), (15, 16), (0, 16), (19, DAYS)])
async def test_a_day_that_fails_is_named(sandbox, client, number, length):
    """All others were tried, and the message says which, why, and what to do."""
    sandbox.faults = poison(number)
    with pytest.raises(DaysFailedError, match=r"List the other days, or let load_s") as caught:
        await record(client, window(length))
    error = caught.value
    assert (error.days, error.untried) == ((day(number),), ())
    assert f"Days that fail by themselves: {day(number)}. " in str(error)
    assert str(window(length)) in str(error)
    assert str(error).endswith(str(error.__cause__))
    assert isinstance(error.__cause__, JobFailedError)
    assert error.job_id == error.__cause__.job_id == list(sandbox.jobs)[-1 - after(sandbox, number)]
    assert sandbox.count("list") == 2 + length + 1


def after(sandbox, number):
    """How many jobs were submitted after the last one for a day alone."""
    return list(asked(sandbox))[::-1].index((number, 1))


async def test_a_day_is_asked_for_twice_before_it_is_named(sandbox, client):
    """One more ERROR of Wix for a day alone is not the day's fault."""
    sandbox.faults = [Fault("job_error", over_days=1), Fault("job_error", times=1)]
    summary, ids = await record(client, window(2))
    assert ids == sorted(sandbox.answer(window(2).to_wire()))
    assert summary.parts == 2


async def test_days_that_never_end_leave_time_for_the_others(sandbox, client):
    """Two of them are named after a quarter of the timeout each, and all others are tried."""
    for numbers in ((0, 1), (13, 20), (DAYS - 2, DAYS - 1)):
        sandbox.faults = poison(*numbers, kind="job_never_finishes")
        start = client.clock.now()
        with pytest.raises(DaysFailedError) as caught:
            await record(client, window(DAYS), poll_policy=SHORT)
        assert (caught.value.days, caught.value.untried) == (tuple(map(day, numbers)), ())
        assert isinstance(caught.value.__cause__, JobTimeoutError)
        assert 1.5 <= (client.clock.now() - start) / SHORT.timeout_seconds <= 1.6


async def test_days_for_which_no_time_is_left_are_said_to_be_untried(sandbox, client):
    """Where nothing ever finishes, it ends after twice the timeout all the same."""
    sandbox.faults = [Fault("job_never_finishes")]
    start = client.clock.now()
    with pytest.raises(DaysFailedError, match="were not tried, since the time was up") as caught:
        await record(client, window(8), poll_policy=SHORT)
    assert client.clock.now() - start <= 2 * SHORT.timeout_seconds
    assert [*caught.value.untried, *caught.value.days] == [day(number) for number in range(8)]
    assert len(caught.value.days) >= 3
    assert caught.value.untried


async def test_it_is_given_up_where_nothing_can_be_listed(sandbox, client):
    """A Wix that fails for every day gets no job for each of them."""
    sandbox.faults = [Fault("job_error")]
    with pytest.raises(DaysFailedError, match="since nothing at all could be listed") as caught:
        await record(client, window(DAYS))
    assert caught.value.days == tuple(day(DAYS - n) for n in range(HOPELESS_DAYS, 0, -1))
    assert caught.value.untried == tuple(day(n) for n in range(DAYS - HOPELESS_DAYS))
    assert f"Days before {caught.value.days[0]} were not tried" in str(caught.value)
    assert sandbox.count("list") == 2 + 2 * HOPELESS_DAYS


async def test_days_that_wix_has_no_more_are_all_named(sandbox, client):
    """However many they are, once a later day has been listed."""
    sandbox.faults = poison(*range(10))
    with pytest.raises(DaysFailedError) as caught:
        await record(client, window(16))
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
async def test_what_has_no_days_to_split_fails_as_it_does(sandbox, client, query, fault, error):
    """A single day, and a period that Wix has a name for."""
    sandbox.faults = [fault]
    with pytest.raises(error):
        await record(client, query)
    assert all(body == query.to_wire() for body in sandbox.submits)


@pytest.mark.parametrize("after", [0, 1, 3])
async def test_what_holds_for_the_site_is_not_split(sandbox, client, after):
    """No permission for a poll, or from some submit on: the error as it is, and no more jobs."""
    sandbox.faults = [
        Fault("forbidden", on="result" if not after else "list", after=after),
        Fault("job_error", over_days=1),
    ]
    with pytest.raises(PermissionDeniedError):
        await record(client, window(16))
    assert sandbox.count("list") == after + 1


async def test_a_whole_that_is_read_too_slowly_is_not_split(sandbox, client):
    """Its job has finished: its days have as many pages, with less time for each."""
    client.page_limit = 10
    sandbox.faults = [Fault("slow", on="result", after=1, seconds=3)]
    with pytest.raises(JobTimeoutError, match="allow more timeout_seconds"):
        await record(client, window(8), poll_policy=PollPolicy(timeout_seconds=1))
    assert len(sandbox.submits) == 1


async def test_a_failure_leaves_no_files_behind(sandbox, client, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    sandbox.faults = poison(3)
    with pytest.raises(DaysFailedError):
        await record(client, window(8))
    assert list(tmp_path.iterdir()) == []


# --- for any window and any days that fail --------------------------------------------------------


async def told(sandbox, query, **options):
    """The ids of a query, or the error that names days; and how long it took."""
    async with sandbox_client(sandbox) as client:
        try:
            _, answer = await record(client, query, **options)
        except DaysFailedError as error:
            answer = error
        return answer, client.clock.now()


windows = st.integers(1, DAYS).flatmap(
    lambda length: st.builds(window, st.just(length), st.integers(0, DAYS - length))
)


@given(
    query=windows,
    bad=st.sets(st.integers(0, DAYS - 1), max_size=4) | st.sets(st.integers(0, DAYS - 1)),
    most=st.none() | st.integers(1, DAYS),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_exactly_the_days_that_fail_are_named_or_the_union_is_the_truth(
    running_sandbox, query, bad, most
):
    """Unless the newest days all fail: then it is given up after these, and says so."""
    sandbox = running_sandbox
    sandbox.reset_counts()
    sandbox.faults = [*poison(*bad), *([Fault("job_error", over_days=most)] if most else [])]
    asked_for = [day(n) for n in range(DAYS) if query.start_date <= day(n) < query.end_date]
    fail = [one for one in asked_for if (one - FIRST).days in bad]
    newest = asked_for[-HOPELESS_DAYS:]
    hopeless = len(newest) == HOPELESS_DAYS and set(newest) <= set(fail)
    try:
        answer, _ = asyncio.run(told(sandbox, query))
    except JobFailedError:
        assert len(asked_for) == 1
        assert fail
        return
    jobs = 2 + len(asked_for) + len(fail)
    if hopeless:
        assert answer.days == tuple(newest)
        assert answer.untried == tuple(asked_for[:-HOPELESS_DAYS])
        jobs = 2 + 2 * HOPELESS_DAYS
    elif fail:
        assert (answer.days, answer.untried) == (tuple(fail), ())
    else:
        assert answer == sorted(sandbox.answer(query.to_wire()))
        jobs = jobs if most and len(asked_for) > most else 1
    assert sandbox.count("list") == jobs


@given(query=windows, bad=st.sets(st.integers(0, DAYS - 1), max_size=3))
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_days_that_never_end_are_named_while_there_is_time(running_sandbox, query, bad):
    """None is named that is well, none is passed over in silence, and the time is bounded."""
    sandbox = running_sandbox
    sandbox.faults = poison(*bad, kind="job_never_finishes")
    fail = {day(n) for n in bad if query.start_date <= day(n) < query.end_date}
    try:
        answer, seconds = asyncio.run(told(sandbox, query, poll_policy=SHORT))
    except JobTimeoutError:
        assert (query.end_date - query.start_date).days == len(fail) == 1
        return
    assert seconds <= 2 * SHORT.timeout_seconds
    if not fail:
        assert answer == sorted(sandbox.answer(query.to_wire()))
    else:
        assert set(answer.days) <= fail <= {*answer.days, *answer.untried}
        assert not answer.untried or len(fail) > 2
