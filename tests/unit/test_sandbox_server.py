"""The server of the sandbox: start, stop, parallel servers and the request log."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import suppress
from datetime import date

import httpx
import pytest

from prefect_wix import sandbox as public
from prefect_wix.sandbox import Fault, Rules, Sandbox, World, running

LIST = "/analytics/v1/sessions/list/async"
RESULT = "/analytics/v1/sessions/list/result"
BODY = {
    "customTimePeriod": {"startDate": "2024-03-01", "endDate": "2024-03-08"},
    "deviceType": {"type": "ALL"},
}
WORLD = World.generate(seed=5, sessions=3000, start=date(2024, 3, 1), days=5)


def client(sandbox: Sandbox) -> httpx.Client:
    headers = {"authorization": sandbox.api_key, "wix-site-id": sandbox.site_id}
    return httpx.Client(base_url=sandbox.url, headers=headers, verify=False)


def test_the_public_names_are_few():
    """The package exports only what tests need."""
    assert public.__all__ == ["Fault", "Rules", "Sandbox", "Session", "World", "running"]


def test_no_thread_or_socket_remains():
    """The server stops even if the block raises."""
    threads = threading.active_count()
    with suppress(LookupError), running(WORLD) as sandbox, client(sandbox) as wix:
        wix.post(LIST, json=BODY)
        raise LookupError

    assert threading.active_count() == threads
    with pytest.raises(httpx.ConnectError):
        httpx.get(sandbox.url, verify=False)


def test_a_slow_response_does_not_delay_the_stop(caplog: pytest.LogCaptureFixture):
    """The end of the block aborts pending requests and logs nothing."""
    with running(WORLD, faults=[Fault("slow", seconds=60)]) as sandbox:
        with client(sandbox) as wix, pytest.raises(httpx.ReadTimeout):
            wix.post(LIST, json=BODY, timeout=0.05)
        waiting = threading.Thread(target=post_without_response, args=(sandbox,))
        waiting.start()
        time.sleep(0.05)
        started = time.monotonic()
    waiting.join()

    assert time.monotonic() - started < 60
    assert not caplog.records


def post_without_response(sandbox: Sandbox) -> None:
    with client(sandbox) as wix, pytest.raises(httpx.RemoteProtocolError):
        wix.post(LIST, json=BODY)


def test_one_process_runs_several_sandboxes():
    """Each has its own address, world, jobs and request log. The seed sets the credentials."""
    with running(WORLD) as first, running(World(), seed=8) as second, running(World()) as third:
        with client(first) as wix:
            wix.post(LIST, json=BODY)

        assert len({first.url, second.url, third.url}) == 3
        assert (first.count(), second.count(), third.count()) == (1, 0, 0)
        assert first.api_key == third.api_key != second.api_key


def test_a_restarted_sandbox_repeats_no_job_id():
    """A job of the sandbox before is unknown, and not the job of another query."""
    job_ids = set()
    for _ in range(2):
        with running(WORLD) as sandbox, client(sandbox) as wix:
            job_ids |= {wix.post(LIST, json=BODY).json()["jobId"] for _ in range(3)}
    assert len(job_ids) == 6


async def page_concurrently(sandbox: Sandbox) -> list[str]:
    headers = {"authorization": sandbox.api_key, "wix-site-id": sandbox.site_id}
    async with httpx.AsyncClient(base_url=sandbox.url, headers=headers, verify=False) as wix:
        job_id = (await wix.post(LIST, json=BODY)).json()["jobId"]
        requests = (
            {"jobId": job_id, "limit": 100, "offset": offset} for offset in range(0, 3000, 100)
        )
        pages = await asyncio.gather(*(wix.get(RESULT, params=params) for params in requests))
    return [each for page in pages for each in page.json()["result"]["sessionIds"]]


def test_a_sandbox_runs_inside_an_event_loop():
    """The block may begin and end inside a running event loop."""

    async def call() -> None:
        with running(WORLD) as sandbox:
            assert set(await page_concurrently(sandbox)) == sandbox.answer(BODY)

    asyncio.run(call())


def test_the_request_log_contains_every_request():
    """The log has the endpoint, status, body, parameters and job, in order. It can be reset."""
    with running(WORLD) as sandbox, client(sandbox) as wix:
        job_id = wix.post(LIST, json=BODY).json()["jobId"]
        wix.get(RESULT, params={"jobId": job_id, "limit": 1, "offset": 0})
        submitted, polled = sandbox.requests

        assert (submitted.endpoint, submitted.method, submitted.status) == ("list", "POST", 200)
        assert (polled.endpoint, polled.method, polled.body) == ("result", "GET", None)
        assert submitted.job_id == polled.job_id == polled.params["jobId"] == job_id
        assert submitted.at < polled.at
        assert sandbox.submits == [BODY]
        assert (sandbox.count("list"), sandbox.count("token"), sandbox.count()) == (1, 0, 2)

        sandbox.reset_counts()
        assert (sandbox.count(), sandbox.submits, list(sandbox.jobs)) == (0, [], [job_id])


def test_another_process_controls_the_sandbox_over_http():
    """The control routes are not in the request log."""
    with running(WORLD) as sandbox, client(sandbox) as wix:
        wix.post(LIST, json=BODY)
        state = wix.get("/sandbox/state").json()
        assert (state["counts"], state["submits"]) == ({"list": 1}, [BODY])
        assert [job["total"] for job in state["jobs"]] == [3000]

        assert wix.post("/sandbox/faults", json=["server_error:on=list,times=1"]).status_code == 200
        assert [wix.post(LIST, json=BODY).status_code for _ in range(2)] == [503, 200]

        assert wix.post("/sandbox/reset").status_code == 200
        assert wix.get("/sandbox/state").json()["counts"] == {}


@pytest.mark.parametrize("body", [["nope"], "slow", [1], {"a": 1}, None])
def test_invalid_faults_are_rejected_over_http(body: object):
    """The response is a 400 with a message. The active faults do not change."""
    with running(World(), faults=[Fault("slow", seconds=0)]) as sandbox, client(sandbox) as wix:
        answer = wix.post("/sandbox/faults", json=body)

        assert answer.status_code == 400
        assert answer.json()["message"]
        assert len(sandbox.faults) == 1


def test_rules_are_parsed_and_an_unknown_rule_lists_all():
    """As the option of the command; a value has the rule's type."""
    assert Rules.parse([]) == Rules()
    parsed = Rules.parse(["page_cap=50", "sort=id", "recorded_only=true", "job_lifetime_seconds=3"])
    assert parsed == Rules(page_cap=50, sort="id", recorded_only=True, job_lifetime_seconds=3.0)
    for text in ("pages=50", "page_cap=many", "page_cap=-5", "page_cap", "sort=up"):
        with pytest.raises(ValueError, match=r"^Rule .* All rules: .* page_cap=1000, .*\.$"):
            Rules.parse([text])
