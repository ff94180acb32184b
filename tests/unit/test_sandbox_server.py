"""The server of the sandbox: start, stop, parallel servers, the request log and the command."""

from __future__ import annotations

import asyncio
import signal
import stat
import subprocess
import sys
import threading
import time
from contextlib import suppress
from datetime import date
from typing import TYPE_CHECKING

import httpx
import pytest
from dotenv import dotenv_values

from prefect_wix import sandbox as public
from prefect_wix.sandbox import Fault, Sandbox, World, running

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

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

    assert time.monotonic() - started < 1
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


@pytest.fixture
def command() -> Iterator[subprocess.Popen[str]]:
    process = start("--port", "0", "--sessions", "50", "--fault", "server_error:on=list,times=1")
    yield process
    if process.poll() is None:
        process.kill()
    process.communicate()


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "prefect_wix.cli.app", "sandbox", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_runs_until_a_signal(command: subprocess.Popen[str], number: signal.Signals):
    """It prints its settings as a .env file. SIGINT and SIGTERM stop it."""
    assert command.stdout is not None
    title, *lines = [command.stdout.readline().strip() for _ in range(9)]
    settings = dict(line.split("=", 1) for line in lines)
    headers = {"authorization": settings["WIX_API_KEY"], "wix-site-id": settings["WIX_SITE_ID"]}
    url = settings["WIX_BASE_URL"]
    with httpx.Client(base_url=url, headers=headers, verify=False) as wix:
        statuses = [wix.post(LIST, json=BODY).status_code for _ in range(2)]
    command.send_signal(number)
    output, errors = command.communicate(timeout=5)

    assert statuses == [503, 200]
    assert (command.returncode, output, errors) == (0, "", "")
    assert title.startswith(f"# Wix sandbox at {url} with 50 sessions")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--fault", "nope"], "Unknown fault 'nope'"),
        (["--fault", "slow:kind=x"], "kind of a fault must be a number, not 'x'"),
        (["--days", "-1"], 'Invalid value "-1" for --days. Must be >= 0.'),
        (["--timezone", "Mars"], "'Mars' is not an IANA time zone"),
        (["--job-seconds", "soon"], "'soon' is neither seconds nor a range"),
        (["--events", "nowhere.csv"], "nowhere.csv"),
        (["--events", __file__], "has no column event_time"),
        (["--fault", "slow:seconds=soon"], "seconds of a fault must be a number, not 'soon'"),
        (["--port", "99999"], 'Invalid value "99999" for --port. Must be <= 65535.'),
    ],
)
def test_bad_arguments_are_one_sentence(arguments: list[str], sentence: str):
    """The command ends with an error and prints no traceback."""
    process = start(*arguments)
    output, errors = process.communicate(timeout=30)

    assert process.returncode != 0
    assert sentence in errors
    assert "Traceback" not in errors
    assert output == ""


def test_a_taken_port_is_one_sentence(tmp_path: Path):
    """The settings file is written only after the port is bound."""
    with running(World()) as sandbox:
        port = sandbox.url.rpartition(":")[2]
        process = start("--port", port, "--env-file", str(tmp_path / ".env"))
        _, errors = process.communicate(timeout=30)

    assert process.returncode == 1
    assert f"can't listen on 127.0.0.1:{port} (Address already in use)" in errors
    assert errors.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_the_settings_file_is_private_and_replaces_only_its_own_kind(tmp_path: Path):
    """Mode 0600, all credentials in it; the settings of a real account are not overwritten."""
    file = tmp_path / ".env"
    file.write_text("WIX_API_KEY=real\n")
    refused = start("--port", "0", "--env-file", str(file))
    assert "has other settings than a sandbox's" in refused.communicate(timeout=30)[1]
    assert file.read_text() == "WIX_API_KEY=real\n"

    file.write_text("# Wix sandbox at http://127.0.0.1:1\n")
    file.chmod(0o644)
    process = start("--port", "0", "--sessions", "50", "--env-file", str(file))
    assert process.stdout is not None
    line = process.stdout.readline()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=10)

    settings = dotenv_values(file)
    assert f"at {settings['WIX_BASE_URL']} with 50 sessions" in line
    assert settings["WIX_ACCOUNT_API_KEY"]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
