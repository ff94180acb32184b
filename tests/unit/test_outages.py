"""What passes by itself is waited for once by all partitions; a job without a result is closed."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, date, datetime, timedelta

import httpx
import pytest
from test_client import EMPTY, JOB, RawWix, raw_client, raw_response, serving

from prefect_wix.client.auth import ApiKeyAuth, AppAuth
from prefect_wix.client.client import WixClient
from prefect_wix.client.models import SessionsQuery
from prefect_wix.errors import (
    JobFailedError,
    RequestError,
    RequestNotSentError,
    UnknownJobError,
)
from prefect_wix.jobs.listing import Listing, submit_job
from prefect_wix.jobs.poll_policy import PollPolicy
from prefect_wix.load.loader import load_partitions
from prefect_wix.load.partition_load import LoadOptions
from prefect_wix.planning.partitions import JobState, Partition
from prefect_wix.warehouse.factory import open_warehouse
from tests.virtual_time import LoopClock, run

DAYS = [date(2024, 3, 1) + timedelta(day) for day in range(30)]
QUERY = SessionsQuery(start_date=DAYS[0], end_date=DAYS[1], device_type="ALL", timezone="UTC")
# The check for an idle database file runs ten times a second, also in virtual time.
pytestmark = pytest.mark.usefixtures("never_idle")
NO_ID = {"result": {"jobStatus": "FINISHED", "total": 0, "sessionIds": []}}


class Wix:
    """A Wix in virtual time. ``reply(seconds, path)`` may replace a normal reply."""

    def __init__(self, reply=lambda seconds, path: None):
        self.reply, self.requests, self.submits = reply, [], 0

    async def __call__(self, request):
        seconds = asyncio.get_running_loop().time()
        await asyncio.sleep(0.05)
        self.requests.append(seconds)
        if (other := self.reply(seconds, request.url.path)) is not None:
            return other
        if request.method == "POST":
            self.submits += 1
            return httpx.Response(200, json={"jobId": f"job-{self.submits}"})
        return httpx.Response(200, json=NO_ID)

    def client(self, clock=None):
        auth = ApiKeyAuth("secret-key", "site")
        client = WixClient(auth, base_url="https://wix.test", clock=clock or LoopClock())
        hooks = client._http.event_hooks
        client._http = httpx.AsyncClient(
            base_url=client.base_url,
            auth=auth,
            transport=httpx.MockTransport(self),
            event_hooks=hooks,
        )
        return client


async def load(wix, folder, days=DAYS, timeout_seconds=3600, clock=None):
    warehouse = open_warehouse(f"duckdb:///{folder}/sessions.duckdb")
    await warehouse.prepare()
    partitions = [Partition("site", day, "device_type=ALL", "UTC") for day in days]
    options = LoadOptions(datetime.now(UTC), poll_policy=PollPolicy(timeout_seconds))

    async def nothing(_):
        pass

    async with wix.client(clock) as client:
        return await load_partitions(client, warehouse, partitions, options, on_progress=nothing)


def storm(start, end, **headers):
    def reply(seconds, _):
        return httpx.Response(429, headers=headers) if start <= seconds < end else None

    return reply


@pytest.mark.parametrize("seconds", [45, 600])
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"retry-after": "0"},
        {"retry-after": "1"},
        {"retry-after": "5"},
        {"retry-after": "Fri, 01 Mar 2024 00:00:00 GMT"},
    ],
)
def test_a_storm_of_429_fails_no_partition_and_is_logged_once(tmp_path, caplog, seconds, headers):
    """30 partitions wait together, with few requests, and then load at the full rate."""
    wix = Wix(storm(2, 2 + seconds, **headers))
    results, took = run(load(wix, tmp_path))
    assert {one.state for one in results} == {JobState.LANDED}
    assert len([one for one in caplog.records if one.levelno >= logging.WARNING]) == 1
    during = [at for at in wix.requests if 2 <= at < 2 + seconds]
    # Beyond the jobs in flight when the storm began, one probe after each pause.
    assert len(during) <= 24 + 7 + seconds / 60
    assert took <= seconds + 64 + 60


def test_a_request_without_a_job_survives_a_storm_of_429():
    """A flow begins with the time zone of its site. The hints are useless, and the storm ends."""

    async def time_zone():
        async with Wix(storm(0, 45, **{"retry-after": "0"})).client() as client:
            return await client.get_site_timezone()

    assert run(time_zone())[0] is None


def test_a_submit_ends_at_the_timeout_of_its_job():
    """Wix accepts no request for hours. A submit of another job waits no longer."""

    async def submit(client):
        with pytest.raises(RequestError, match=r"returned 429|before the deadline"):
            await submit_job(client, QUERY, poll_policy=PollPolicy(timeout_seconds=600))

    async def both():
        async with Wix(storm(0, 1e6, **{"retry-after": "3000"})).client() as client:
            await submit(client)
            await submit(client)

    async def alone():
        async with Wix(storm(0, 1e6)).client() as client:
            await submit(client)

    assert 480 <= run(alone())[1] <= 600
    assert run(both())[1] == pytest.approx(600, abs=1)


OUTAGES = {
    "503": httpx.Response(503),
    "500": httpx.Response(500),
    "504": httpx.Response(504),
    "HTML": httpx.Response(200, html="<h1>Maintenance</h1>"),
}


@pytest.mark.parametrize("response", OUTAGES.values(), ids=OUTAGES)
def test_an_outage_is_waited_for_together_and_logged_once(tmp_path, caplog, response):
    """Ten minutes without an answer to a poll: few requests for 30 partitions, and one warning."""
    wix = Wix(lambda at, path: response if 2 <= at < 600 and path.endswith("result") else None)
    results, took = run(load(wix, tmp_path))
    assert {one.state for one in results} == {JobState.LANDED}
    assert len([one for one in caplog.records if one.levelno >= logging.WARNING]) == 1
    assert len([at for at in wix.requests if 2 <= at < 600]) <= 24 + 7 + 600 / 60
    assert took <= 600 + 64 + 60


def refuse(*_):
    raise httpx.ConnectError("connection refused")


OUTAGES_OF_SUBMITS = {
    "429": lambda *_: httpx.Response(429),
    "503": lambda *_: httpx.Response(503),
    "no connection": refuse,
}


@pytest.mark.parametrize("reply", OUTAGES_OF_SUBMITS.values(), ids=OUTAGES_OF_SUBMITS)
def test_an_outage_of_submits_is_waited_for_together(tmp_path, caplog, reply):
    """Ten minutes after the first job, and no partition fails."""
    wix = Wix(lambda at, path: reply() if 2 < at < 600 and path.endswith("async") else None)
    results, took = run(load(wix, tmp_path, DAYS, timeout_seconds=3600))
    assert {one.state for one in results} == {JobState.LANDED}
    assert took <= 600 + 64 + 60


@pytest.mark.parametrize("reply", OUTAGES_OF_SUBMITS.values(), ids=OUTAGES_OF_SUBMITS)
def test_an_outage_that_outlasts_the_timeout_of_a_submit_stops_the_load(tmp_path, reply):
    """The partitions do not wait for their timeouts one after another."""
    wix = Wix(lambda at, path: reply() if at > 0.06 and path.endswith("async") else None)
    results, took = run(load(wix, tmp_path, DAYS[:5], timeout_seconds=600))
    assert JobState.FAILED in {one.state for one in results}
    assert took <= 600 + 64


def reset():
    raise httpx.ReadError("reset")


LOST_SUBMITS = {
    "reset": reset,
    "500": lambda: httpx.Response(500),
    "502": lambda: httpx.Response(502),
    "HTML": lambda: httpx.Response(200, html="<h1>Maintenance</h1>"),
}


@pytest.mark.parametrize("reply", LOST_SUBMITS.values(), ids=LOST_SUBMITS)
def test_an_outage_after_a_lost_submit_is_waited_for(tmp_path, reply):
    """The submit is sent again when Wix responds again: one possible orphan, and no failure."""
    wix = Wix(lambda at, path: reply() if 0.06 < at < 600 else None)
    results, took = run(load(wix, tmp_path))
    assert {one.state for one in results} == {JobState.LANDED}
    assert sum(one.possible_orphans for one in results) == 1
    assert took <= 600 + 64 + 60


@pytest.mark.parametrize("reply", LOST_SUBMITS.values(), ids=LOST_SUBMITS)
def test_two_partitions_whose_submits_are_lost_stop_the_load(tmp_path, reply):
    """Wix responds to all but submits: the other 28 partitions leave no orphans."""
    wix = Wix(lambda at, path: reply() if path.endswith("async") else None)
    results, _ = run(load(wix, tmp_path))
    assert {one.state for one in results} == {JobState.FAILED}
    assert sum(one.possible_orphans for one in results) == 4


def test_one_query_whose_submits_are_lost_fails_alone(tmp_path):
    """Its submits come after one that succeeded, and before the others."""
    wix = Wix()
    lost = iter([False, True, True])
    wix.reply = lambda at, path: reset() if path.endswith("async") and next(lost, False) else None
    results, _ = run(load(wix, tmp_path, DAYS[:5]))
    assert sorted(one.state for one in results) == [JobState.FAILED, *4 * [JobState.LANDED]]


def test_a_lost_connection_at_the_start_of_a_load_is_waited_for(tmp_path):
    """The flow has reached Wix before, by another client."""
    wix = Wix(lambda at, path: refuse() if at < 40 and path.endswith("async") else None)
    clock = LoopClock()

    async def flow():
        async with wix.client(clock) as client:
            await client.get_site_timezone()
        return await load(wix, tmp_path, DAYS[:5], clock=clock)

    assert {one.state for one in run(flow())[0]} == {JobState.LANDED}


def test_a_second_submit_ends_at_the_deadline_of_the_first(tmp_path):
    """The response of the first is lost after nine minutes of 503."""

    def reply(at, path):
        if path.endswith("async") and at > 500:
            raise httpx.ReadError("reset")
        return httpx.Response(503) if path.endswith("async") else None

    results, took = run(load(Wix(reply), tmp_path, DAYS[:1], timeout_seconds=600))
    assert {one.state for one in results} == {JobState.FAILED}
    assert took <= 600 + 1


def test_a_wix_that_was_never_reached_is_given_up_soon(tmp_path):
    """The base URL may be wrong."""
    results, took = run(load(Wix(refuse), tmp_path, DAYS[:5]))
    assert {one.state for one in results} == {JobState.FAILED}
    assert took <= 60


GATEWAY = {
    "HTML": httpx.Response(200, html="<h1>Maintenance</h1>"),
    "404 of a gateway": httpx.Response(404, html="no route"),
} | {str(status): httpx.Response(status) for status in (408, 421, 425, 499, 502)}


@pytest.mark.parametrize("response", GATEWAY.values(), ids=GATEWAY)
def test_a_gateway_in_the_way_of_reads_is_waited_for(tmp_path, response):
    """Ten minutes without one reply of Wix to a poll fail no partition, and no job is repeated."""
    wix = Wix(lambda at, path: response if at < 600 and path.endswith("result") else None)
    results, _ = run(load(wix, tmp_path, DAYS[:3]))
    assert {one.state for one in results} == {JobState.LANDED}
    assert wix.submits == 3


async def list_one(wix):
    async with wix.client() as client, Listing(client, QUERY) as listing:
        return await listing.read_all()


def unknown(seconds, path, until):
    is_unknown = path.endswith("result") and seconds < until
    return httpx.Response(404, json={"message": "", "details": {}}) if is_unknown else None


def test_a_new_job_may_be_unknown_for_a_minute():
    """It is waited for and not submitted again; after the minute it is unknown."""
    wix = Wix(lambda at, path: unknown(at, path, until=50))
    run(list_one(wix))
    assert wix.submits == 1
    with pytest.raises(UnknownJobError):
        run(list_one(Wix(lambda at, path: unknown(at, path, until=1e6))))


@pytest.mark.parametrize("status", ["FAILED", "Expired", "CANCELLED", "JOB_TIMED_OUT"])
def test_a_final_status_that_is_not_documented_ends_the_wait(status):
    """The error names the status and Wix's text."""
    body = {"result": {"jobStatus": status, "message": "too many sessions"}}
    ended = httpx.Response(200, json=body)
    with pytest.raises(JobFailedError, match=f"{status}; Wix names too many sessions"):
        run(list_one(Wix(lambda _, path: ended if path.endswith("result") else None)))


NO_RESULT = {
    "400": httpx.Response(400, json={"message": "bad"}),
    "410": httpx.Response(410, json={"message": "gone"}),
    "unreadable": httpx.Response(
        200, json={"result": {"jobStatus": "FINISHED", "sessionIds": [1]}}
    ),
    "EXPIRED": httpx.Response(200, json={"result": {"jobStatus": "EXPIRED"}}),
}


@pytest.mark.parametrize("response", NO_RESULT.values(), ids=NO_RESULT)
def test_a_job_that_came_to_nothing_is_closed(tmp_path, response):
    """The next load submits the partition anew instead of adopting the job."""
    wix = Wix(lambda _, path: response if path.endswith("result") else None)
    ((failed,), _) = run(load(wix, tmp_path, DAYS[:1]))
    ((landed,), _) = run(load(Wix(), tmp_path, DAYS[:1]))
    assert (failed.state, landed.state, landed.adopted) == (JobState.FAILED, JobState.LANDED, False)


@pytest.mark.parametrize("response", [raw_response(204, b""), raw_response(200, b"")])
async def test_a_mark_with_an_empty_body_is_done(response):
    """204, or 200 without a body."""
    async with RawWix(response).running() as wix, raw_client(wix.url) as client:
        await client.mark_recordings_as_deleted(["a"])
    assert len(wix.requests) == 1


async def test_a_mark_without_a_token_is_not_sent():
    """While the token endpoint hangs, no ID becomes unknown."""

    async def hang(_):
        await asyncio.sleep(60)

    async with RawWix(hang).running() as wix:
        auth = AppAuth("app", "app-secret", "instance", base_url=wix.url)
        async with raw_client(wix.url, timeout_seconds=0.1, auth=auth) as client:
            with pytest.raises(RequestNotSentError):
                await client.mark_recordings_as_deleted(["a"])


async def test_retry_after_is_relative_to_the_date_of_the_response():
    """The clock of this machine is years away from Wix's."""
    headers = {
        "retry-after": "Fri, 01 Mar 2024 12:00:20 GMT",
        "date": "Fri, 01 Mar 2024 12:00:00 GMT",
    }
    async with serving(raw_response(429, EMPTY, **headers), JOB) as (_, client):
        await client.list_sessions_async(QUERY)
        assert 20 <= client.clock.now() < 40
