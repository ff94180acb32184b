"""The sandbox as a server: it starts, stops, stands beside others and keeps a record."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from datetime import date
from typing import TYPE_CHECKING

import httpx
import pytest

from prefect_wix import sandbox as public
from prefect_wix.sandbox import Fault, Sandbox, World, running
from prefect_wix.sandbox.__main__ import main

if TYPE_CHECKING:
    from collections.abc import Iterator

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
    """What a test needs, and no more."""
    assert public.__all__ == ["Fault", "Rules", "Sandbox", "Session", "World", "running"]


def test_nothing_is_left_behind():
    """No thread and no listener remains, also when the block fails."""
    threads = threading.active_count()
    with suppress(LookupError), running(WORLD) as sandbox, client(sandbox) as wix:
        wix.post(LIST, json=BODY)
        raise LookupError

    assert threading.active_count() == threads
    with pytest.raises(httpx.ConnectError):
        httpx.get(sandbox.url, verify=False)


def test_a_slow_answer_does_not_hold_the_end_up(caplog: pytest.LogCaptureFixture):
    """Leaving the block ends requests that are still under way, without noise."""
    with running(WORLD, faults=[Fault("slow", seconds=60)]) as sandbox:
        with client(sandbox) as wix, pytest.raises(httpx.ReadTimeout):
            wix.post(LIST, json=BODY, timeout=0.05)
        waiting = threading.Thread(target=ask_in_vain, args=(sandbox,))
        waiting.start()
        time.sleep(0.05)
        started = time.monotonic()
    waiting.join()

    assert time.monotonic() - started < 1
    assert not caplog.records


def ask_in_vain(sandbox: Sandbox) -> None:
    with client(sandbox) as wix, pytest.raises(httpx.RemoteProtocolError):
        wix.post(LIST, json=BODY)


def test_several_stand_side_by_side():
    """Each has its own address, world and record; the same seed has the same identity."""
    with running(WORLD) as first, running(World(), seed=8) as second, running(World()) as third:
        with client(first) as wix:
            wix.post(LIST, json=BODY)

        assert len({first.url, second.url, third.url}) == 3
        assert (first.count(), second.count(), third.count()) == (1, 0, 0)
        assert first.api_key == third.api_key != second.api_key


async def page_concurrently(sandbox: Sandbox) -> list[str]:
    headers = {"authorization": sandbox.api_key, "wix-site-id": sandbox.site_id}
    async with httpx.AsyncClient(base_url=sandbox.url, headers=headers, verify=False) as wix:
        job_id = (await wix.post(LIST, json=BODY)).json()["jobId"]
        asked = (
            {"jobId": job_id, "limit": 100, "offset": offset} for offset in range(0, 3000, 100)
        )
        pages = await asyncio.gather(*(wix.get(RESULT, params=params) for params in asked))
    return [each for page in pages for each in page.json()["result"]["sessionIds"]]


def test_it_serves_a_caller_with_a_loop_of_its_own():
    """The block may be entered and left inside a running loop."""

    async def call() -> None:
        with running(WORLD) as sandbox:
            assert set(await page_concurrently(sandbox)) == sandbox.answer(BODY)

    asyncio.run(call())


def test_the_record_tells_what_was_asked():
    """Endpoint, status, body, parameters and job of every request, in order; it can be reset."""
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


def test_another_process_sees_and_steers_it_over_http():
    """State, faults and reset have pages of their own, which are not counted."""
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
def test_faults_that_do_not_exist_are_refused_over_http(body: object):
    """400 with a sentence, and the faults stay as they were."""
    with running(World(), faults=[Fault("slow", seconds=0)]) as sandbox, client(sandbox) as wix:
        answer = wix.post("/sandbox/faults", json=body)

        assert answer.status_code == 400
        assert answer.json()["message"]
        assert len(sandbox.faults) == 1


@pytest.fixture
def command() -> Iterator[subprocess.Popen[str]]:
    process = start("--port", "0", "--sessions", "50", "--fault", "server_error:on=list,times=1")
    yield process
    if process.poll() is None:
        process.kill()
    process.communicate()


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "prefect_wix.sandbox", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_serves_until_it_is_told_to_stop(
    command: subprocess.Popen[str], number: signal.Signals
):
    """It greets with a .env file that tells a client everything; Ctrl-C and SIGTERM end it."""
    assert command.stdout is not None
    greeting, *lines = [command.stdout.readline().strip() for _ in range(8)]
    told = dict(line.split("=", 1) for line in lines)
    headers = {"authorization": told["WIX_API_KEY"], "wix-site-id": told["WIX_SITE_ID"]}
    url = told["WIX_BASE_URL"]
    with httpx.Client(base_url=url, headers=headers, verify=False) as wix:
        statuses = [wix.post(LIST, json=BODY).status_code for _ in range(2)]
    command.send_signal(number)
    output, errors = command.communicate(timeout=5)

    assert statuses == [503, 200]
    assert (command.returncode, output, errors) == (0, "", "")
    assert greeting.startswith("# A sandbox Wix with 50 sessions")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--fault", "nope"], "There is no fault 'nope'"),
        (["--days", "-1"], "'-1' is not a whole number"),
        (["--timezone", "Mars"], "'Mars' is not an IANA time zone"),
        (["--job-seconds", "soon"], "'soon' is neither seconds nor a range"),
        (["--events", "nowhere.csv"], "nowhere.csv"),
        (["--events", __file__], "has no column event_time"),
        (["--fault", "slow:seconds=soon"], "seconds of a fault is a number, not 'soon'"),
        (["--port", "99999"], "port must be 0-65535"),
    ],
)
def test_bad_arguments_are_one_sentence(
    arguments: list[str],
    sentence: str,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    """Exit code 2 and one line that says what is wrong."""
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # this process goes on
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    errors = capfd.readouterr().err

    assert errors.startswith("The sandbox cannot start: ")
    assert sentence in errors
    assert errors.count("\n") == 1
