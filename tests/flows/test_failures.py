"""Ten failures of a deployed load: the state's message and the lines of the log that a user reads.

The table in docs/reliability.md names them.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import subprocess
import sys
from contextlib import contextmanager
from uuid import uuid4

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId, LogFilterLevel
from prefect.client.schemas.sorting import LogSort
from prefect.exceptions import PrefectHTTPStatusError
from prefect.flow_engine import run_flow
from prefect.logging.handlers import APILogHandler
from prefect.runner import Runner
from prefect.settings import get_current_settings
from prefect.types.entrypoint import EntrypointType
from pydantic import SecretStr

from prefect_wix import SessionsQuery, SessionsWarehouse, tasks
from prefect_wix.blocks.shared_limit import add_missing_limit
from prefect_wix.client.models import SessionsJob
from prefect_wix.errors import AuthenticationError, LoadError
from prefect_wix.flows.load_sessions import load_sessions
from prefect_wix.load.partition_load import LoadOptions
from prefect_wix.planning.partitions import Partition
from prefect_wix.sandbox import Fault
from prefect_wix.tasks import (
    collect_sessions,
    fetch_session_ids,
    load_sessions_partitions,
    mark_recordings_as_deleted,
    mark_session_as_recorded,
    submit_sessions_job,
    wait_for_sessions_job,
)
from prefect_wix.tasks.sites import reference_to
from tests.conftest import NOW

LOAD = {"start_date": "2024-03-01", "end_date": "2024-03-03", "timezone": "Asia/Jerusalem"}
MOST_LINES = 3
"""The most lines of ours at WARNING or above. Prefect's own are one of the flow run and two of the
task run that failed."""
OF_PREFECT = (
    "Finished in state",
    "Task run failed with exception",
    "Encountered exception during execution",
)


@pytest.fixture(autouse=True)
async def shared_limit(shop):
    """The limit of the site on the server, as `prefect-wix setup` creates it."""
    await add_missing_limit(shop.site_id, 100_000)
    yield
    async with get_client() as client:
        await client.delete_global_concurrency_limit_by_name(f"wix-{shop.site_id}")


ENGINE = """
import runpy, sys
from prefect_wix.warehouse import duckdb
duckdb.BUSY_TIMEOUT_SECONDS = 2
runpy.run_module("prefect.engine", run_name="__main__")
"""
"""What a worker executes, with a short wait for a locked file."""


@pytest.fixture
def submit(credentials, warehouse):
    """A function that submits the form of a deployed load; returns the run."""

    async def submit(**parameters):
        blocks = {"credentials": credentials, "warehouse": warehouse}
        blocks |= {name: parameters.pop(name) for name in blocks if name in parameters}
        for block in blocks.values():
            await block.save(f"failures-{uuid4()}")
        deployed = await load_sessions.ato_deployment(
            str(uuid4()), entrypoint_type=EntrypointType.MODULE_PATH
        )
        async with get_client() as client:
            return await client.create_flow_run_from_deployment(
                await Runner().aadd_deployment(deployed),
                parameters={name: reference_to(block) for name, block in blocks.items()}
                | LOAD
                | parameters,
            )

    return submit


@pytest.fixture
def start(submit, tmp_path):
    """A function that submits the form and executes the run as a worker does; returns its state."""

    async def start(**parameters):
        run = await submit(**parameters)
        settings = get_current_settings().to_environment_variables(exclude_unset=True)
        engine = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", ENGINE, str(run.id)),
            cwd=tmp_path,
            env=os.environ | settings,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        await engine.wait()
        async with get_client() as client:
            return (await client.read_flow_run(run.id)).state

    return start


async def what_was_logged(state):
    """The lines of a failed run at WARNING or above on the server: ours, and Prefect's."""
    assert state.is_failed()
    wanted = LogFilter(
        flow_run_id=LogFilterFlowRunId(any_=[state.state_details.flow_run_id]),
        level=LogFilterLevel(ge_=logging.WARNING),
    )
    messages = []
    async with get_client() as client, asyncio.timeout(20):
        while not (messages and messages[-1].startswith(OF_PREFECT[0])):
            await APILogHandler.aflush()
            logs = await client.read_logs(wanted, sort=LogSort.TIMESTAMP_ASC)
            messages = [log.message for log in logs]
    assert [line for line in messages if "\n" in line or "NoneType" in line] == []
    of_prefect = [line for line in messages if line.startswith(OF_PREFECT)]
    ours = [line for line in messages if line not in of_prefect]
    assert len(ours) <= MOST_LINES
    return ours, of_prefect


@contextmanager
def opened(database):
    """Another process has the DuckDB file open; its ID."""
    program = "import duckdb, sys; c = duckdb.connect(sys.argv[1]); print(flush=True); input()"
    command = [sys.executable, "-c", program, str(database)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        yield process.pid
        process.communicate(b"\n")


FAULTS = {
    "403": (
        Fault("forbidden"),
        {},
        r"Wix returned 403 for POST .* lacks the permission .* \(request ID .*\)",
    ),
    "429": (
        Fault("rate_limited", retry_after=0),
        {"timeout_seconds": 1},
        r"(Wix returned 429|POST .* was not sent: the rate limit or a pause of the site) .*",
    ),
    "ERROR": (
        Fault("job_error"),
        {},
        r"Job .* ended with the status ERROR; .* Run again later.* \(request ID .*\)",
    ),
    "a job that never ends": (
        Fault("job_never_finishes"),
        {"timeout_seconds": 1},
        r"Job .* was not finished and read after 1 s\. It may still be running at Wix.*",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
async def test_a_failure_at_wix_is_told_in_few_lines(shop, start, name):
    """The cause, what was not changed, what to do, and Wix's ID of the request."""
    fault, parameters, cause = FAULTS[name]
    shop.faults = [fault]
    state = await start(**parameters)
    rest = r" No partition landed \(6 failed\); failed partitions keep their previous rows\. Run .*"
    await assert_told(state, cause + rest)


async def test_a_rejected_key_is_told_in_few_lines(shop, start, credentials):
    """The first job ends the run."""
    wrong = credentials.model_copy(update={"api_key": SecretStr("wrong-key")})
    state = await start(credentials=wrong)
    cause = rf"Wix rejected the API key of site {shop.site_id} \(401 for .*\): .* Put a valid one"
    await assert_told(state, f"{cause}.* \\(request ID .*")


async def test_debug_shows_where_a_run_failed(submit, credentials, caplog):
    """A developer needs the traceback that an operator does not: the log has no other line."""
    caplog.set_level(logging.DEBUG, logger="prefect.flow_runs")
    wrong = credentials.model_copy(update={"api_key": SecretStr("wrong-key")})
    run = await submit(credentials=wrong, timezone=None)
    state = await run_flow(load_sessions, flow_run=run, return_type="state")
    assert (await what_was_logged(state))[0] == []
    assert "Traceback" in caplog.text


async def test_a_locked_duckdb_file_is_told_at_once(start, database):
    """The first line names the process that has the file, and says that the load waits."""
    with opened(database) as process_id:
        state = await start()
    cause = rf"Another process had {database} open for all of 2 s\. Nothing was changed\. Close it"
    ours = await assert_told(state, f"{cause}.*PID {process_id}.*")
    assert ours[0].startswith(f"Waiting up to 2 s for {database}, which another process has open")
    assert f"PID {process_id}" in ours[0]


async def test_a_wrong_database_password_is_told_in_few_lines(start, postgres_server):
    """Without the password, in one sentence for each: cause, effect, advice."""
    url = f"postgresql://shop:wrong-pw@127.0.0.1:{postgres_server.port}/postgres"
    state = await start(warehouse=SessionsWarehouse(url=url))
    cause = r'PostgreSQL rejected the .* user "?shop.* Nothing was changed\. .*'
    await assert_told(state, cause)


WRONG = {"timezone": "Mars/Phobos", "segments": ["device_type=PHONE"], "start_date": "2024-02-30"}


@pytest.mark.parametrize("name", WRONG)
async def test_a_wrong_parameter_is_named(shop, start, name):
    """The server refuses the form, or the run ends before its first request, without a log."""
    try:
        message = (await start(**{name: WRONG[name]})).message
    except PrefectHTTPStatusError as error:
        message = error.response.json()["detail"]
    assert name in message
    assert shop.count() == 0


async def assert_told(state, message):
    """The message of the state is one line, a task is red; returns our lines of the log."""
    assert re.fullmatch(message, state.message)
    ours, of_prefect = await what_was_logged(state)
    assert of_prefect[-1] == f"Finished in state Failed({state.message!r})"
    assert len(of_prefect) == 3, "no task is red"
    return ours


QUERY = SessionsQuery(period="TODAY", device_type="ALL")
JOB = {"job_id": "job", "query": QUERY, "submitted_at": NOW}
TASKS = {
    submit_sessions_job: (AuthenticationError, lambda *_: [QUERY]),
    wait_for_sessions_job: (AuthenticationError, lambda job, _: [job]),
    fetch_session_ids: (AuthenticationError, lambda job, _: [job]),
    collect_sessions: (AuthenticationError, lambda job, _: [job]),
    load_sessions_partitions: (LoadError, lambda _, load: load),
    mark_session_as_recorded: (AuthenticationError, lambda *_: ["session"]),
    mark_recordings_as_deleted: (AuthenticationError, lambda *_: [["session"]]),
}


def test_every_public_task_is_in_the_table():
    """The next test runs all of them."""
    assert {task.name for task in TASKS} == set(tasks.__all__)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
async def test_a_flow_of_the_user_fails_with_our_error(shop, credentials, warehouse, task):
    """A rejected key raises a typed error where the task is awaited; the log has no traceback."""
    kind, arguments = TASKS[task]
    wrong = credentials.model_copy(update={"api_key": SecretStr("wrong-key")})
    day = Partition(shop.site_id, NOW.date(), "device_type=ALL", "Asia/Jerusalem")
    load = [warehouse, [day], LoadOptions(NOW)]
    job = SessionsJob(**JOB, site_id=shop.site_id)

    @flow
    async def of_the_user():
        await warehouse.get_warehouse().prepare()
        await task(wrong, *arguments(job, load))

    state = await of_the_user(return_state=True)
    assert state.is_failed()
    assert isinstance(await state.aresult(raise_on_failure=False), kind)
    assert "(401 for " in state.message
    await what_was_logged(state)
