"""The tasks for jobs and marks, chained as users chain them."""

from __future__ import annotations

import pytest
from prefect import flow

from prefect_wix import SessionsQuery, WixCredentials
from prefect_wix.client.models import SessionsJob
from prefect_wix.errors import (
    JobFailedError,
    JobTimeoutError,
    ResponseLostError,
    WixError,
)
from prefect_wix.sandbox import Fault, running
from prefect_wix.tasks.jobs import fetch_session_ids, submit_sessions_job, wait_for_sessions_job
from prefect_wix.tasks.recordings import mark_recordings_as_deleted, mark_session_as_recorded
from tests.conftest import NOW, make_world

ALL_DEVICES = SessionsQuery(start_date="2024-03-01", end_date="2024-03-08", device_type="ALL")
QUERY = SessionsQuery(start_date="2024-03-01", end_date="2024-03-08", device_type="MOBILE")


async def test_submit_wait_and_fetch_return_the_ids_of_the_query(shop, credentials):
    """The three tasks, each in its own task run, return exactly the IDs that Wix has."""

    @flow
    async def chain():
        job = await submit_sessions_job(credentials, QUERY)
        job = await wait_for_sessions_job(credentials, job)
        return await fetch_session_ids(credentials, job)

    ids = await chain()
    assert len(ids) == len(set(ids))
    assert set(ids) == shop.answer(QUERY.to_wire())


async def test_a_job_can_be_passed_to_another_run_as_json(shop, credentials):
    """A run that submitted nothing waits for a job handle from JSON and fetches its IDs."""

    @flow
    async def submit():
        return await submit_sessions_job(credentials, QUERY)

    @flow
    async def fetch(text: str):
        job = SessionsJob.model_validate_json(text)
        return await fetch_session_ids(credentials, await wait_for_sessions_job(credentials, job))

    text = (await submit()).model_dump_json()
    assert set(await fetch(text)) == shop.answer(QUERY.to_wire())
    assert len(shop.submits) == 1


async def test_a_retried_run_reuses_its_job(shop, credentials):
    """A flow that fails after the submit and is retried does not submit again."""
    attempts = []

    @flow(retries=1)
    async def fails_once():
        job = await submit_sessions_job(credentials, QUERY)
        attempts.append(job)
        if len(attempts) == 1:
            raise RuntimeError("the first attempt fails here")
        return await fetch_session_ids(credentials, job)

    assert set(await fails_once()) == shop.answer(QUERY.to_wire())
    assert attempts[0] == attempts[1]
    assert len(shop.submits) == 1


async def test_two_runs_never_share_a_job(shop, credentials):
    """Each flow run submits its own job, since the job of another run may be outdated."""

    @flow
    async def submit():
        return await submit_sessions_job(credentials, QUERY)

    first, second = await submit(), await submit()
    assert first.job_id != second.job_id


async def test_two_sites_never_share_a_job(credentials):
    """In one run, the same query to two sites makes two jobs, although their keys hash alike."""
    with running(make_world(100), now=NOW, seed=8) as other_shop:
        other = WixCredentials(
            api_key=other_shop.api_key, site_id=other_shop.site_id, base_url=other_shop.url
        )

        @flow
        async def submit_to_both():
            ours = await submit_sessions_job(credentials, QUERY)
            theirs = await submit_sessions_job(other, QUERY)
            return ours, theirs

        ours, theirs = await submit_to_both()
        assert len(other_shop.submits) == 1
        assert (ours.site_id, theirs.site_id) == (credentials.site_id, other.site_id)


async def test_retries_do_not_repeat_a_submit_that_may_have_worked(shop, credentials):
    """With `retries`, a submit whose response is lost twice is not sent a third time."""
    shop.faults = [Fault("dropped_after", on="list")]

    @flow
    async def submit():
        return await submit_sessions_job.with_options(retries=3)(credentials, QUERY)

    with pytest.raises(ResponseLostError):
        await submit()
    assert len(shop.submits) == 2
    assert len(shop.jobs) == 2


async def test_a_job_that_errors_twice_fails_the_run_with_its_name(shop, credentials):
    """After one ERROR the job is resubmitted; the second fails the run and names the job."""
    shop.faults = [Fault("job_error")]

    @flow
    async def wait():
        return await wait_for_sessions_job(
            credentials, await submit_sessions_job(credentials, QUERY)
        )

    with pytest.raises(JobFailedError, match="status ERROR") as caught:
        await wait()
    assert caught.value.job_id in str(caught.value)
    assert len(shop.submits) == 2


async def test_a_wait_returns_the_handle_of_the_finished_job(shop, credentials):
    """The returned handle of a resubmitted job has the IDs of the query."""
    shop.faults = [Fault("job_error", times=1)]

    @flow
    async def chain():
        submitted = await submit_sessions_job(credentials, QUERY)
        finished = await wait_for_sessions_job(credentials, submitted)
        return submitted, finished, await fetch_session_ids(credentials, finished)

    submitted, finished, ids = await chain()
    assert submitted.job_id != finished.job_id
    assert set(ids) == shop.answer(QUERY.to_wire())
    assert len(shop.submits) == 2


async def test_a_wait_past_its_deadline_is_timed_out(shop, credentials, monkeypatch):
    """A job that never finishes ends the task run at the deadline, in the state TimedOut."""
    monkeypatch.undo()  # the first poll is after 1 s
    shop.faults = [Fault("job_never_finishes")]

    @flow
    async def wait():
        job = await submit_sessions_job(credentials, QUERY)
        state = await wait_for_sessions_job(
            credentials, job, timeout_seconds=1.5, return_state=True
        )
        return state.name, await state.aresult(raise_on_failure=False)

    name, error = await wait()
    assert name == "TimedOut"
    assert isinstance(error, JobTimeoutError)
    assert "was not finished and read after 1.5 s" in str(error)
    assert shop.count("result") <= 3


async def test_a_job_of_another_site_is_rejected(shop, credentials):
    """Credentials of one site are not used to fetch another site's job."""

    @flow
    async def fetch():
        job = await submit_sessions_job(credentials, QUERY)
        other = credentials.model_copy(update={"site_id": "another"})
        return await fetch_session_ids(other, job)

    with pytest.raises(WixError, match="but the credentials are of site another"):
        await fetch()
    assert shop.count("result") == 0


async def test_marks_reach_wix(shop, credentials):
    """A recorded session and 100 deleted recordings are marked."""
    ids = sorted(shop.answer(ALL_DEVICES.to_wire()))[:100]

    @flow
    async def mark():
        await mark_session_as_recorded(credentials, ids[0])
        await mark_recordings_as_deleted(credentials, ids)

    await mark()
    assert shop.recorded == {ids[0]}
    assert shop.deleted == set(ids)


async def test_a_mark_whose_response_is_lost_is_not_sent_twice(shop, credentials):
    """With `retries`, a mark that may have been made is not repeated."""
    shop.faults = [Fault("dropped_after", on="recorded")]

    @flow
    async def mark():
        await mark_session_as_recorded.with_options(retries=3)(credentials, "a-session")

    with pytest.raises(ResponseLostError):
        await mark()
    assert shop.count("recorded") == 1
