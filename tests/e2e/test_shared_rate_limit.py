"""Processes share the rate limit of a site through a limit on the Prefect server."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from prefect_wix.sandbox import World, running
from tests.options import SOAK, repeated
from tests.prefect_server import prefect_server
from tests.processes import ROOT, make_environment

pytestmark = pytest.mark.xdist_group("shared-limit")

SECONDS = repeated(10, soak=66)
"""Long enough for each process to send the 200 requests of a minute; in soak, over a minute."""


@pytest.fixture(scope="module")
def shop():
    """A sandbox that enforces 200 requests per minute for each site."""
    with running(World.generate(1, sessions=10), requests_per_minute=200) as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def clients(tmp_path_factory, shop):
    """The environment of clients of a Prefect server with the site's blocks and limit."""
    folder = tmp_path_factory.mktemp("shared-limit")
    # As by default, the server writes each event of a task when it comes.
    busy = {"PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "1"}
    with prefect_server(folder, None, ui=False, **busy) as server:
        env = make_environment(folder) | {
            "PREFECT_API_URL": server.api,
            "WIX_API_KEY": shop.api_key,
            "WIX_SITE_ID": shop.site_id,
            "WIX_BASE_URL": shop.url,
        }
        saved = run(env, "-m", "prefect_wix.cli.app", "setup")
        assert f"saved     limit wix-{shop.site_id}: 200 requests a minute" in saved
        yield env


def run(env, *words):
    command = [sys.executable, *words]
    return subprocess.check_output(command, cwd=ROOT, env=env, text=True, timeout=120)


def start_requests(env, seconds):
    return subprocess.Popen(
        [sys.executable, "-m", "tests.e2e.request_loop", str(seconds)],
        cwd=ROOT,
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def test_three_tasks_of_a_ready_job_do_not_wait_for_slots(clients):
    """A server on SQLite is busy when a task starts: with a wait for slots, they took 2 to 5 s."""
    assert float(run(clients, "-m", "tests.e2e.three_tasks").split()[-1]) < 2.0


@pytest.mark.parametrize("processes", repeated([2], soak=[2, 10]))
def test_processes_at_full_speed_get_no_429(clients, shop, processes):
    """All progress; in more than a minute, they use half of the limit, two by similar shares."""
    if SOAK:
        time.sleep(61)  # requests of an earlier test count for a minute
    shop.reset_counts()
    counts = []
    for process in [start_requests(clients, SECONDS) for _ in range(processes)]:
        output, log = process.communicate(timeout=SECONDS + 60)
        assert process.returncode == 0, log
        counts.append(tuple(map(int, output.split()[-2:])))
    assert {rejected for _, rejected in counts} == {0}
    assert {request.status for request in shop.requests} == {200}
    shares = [succeeded for succeeded, _ in counts]
    assert min(shares) > 0
    if SOAK:
        assert processes > 2 or min(shares) >= 2 / 3 * max(shares)
        assert len(shop.requests) > 0.5 * 200 * SECONDS / 60


def test_without_the_limit_a_run_logs_one_warning(clients, shop):
    """The requests continue, limited by their own process."""
    # Another sandbox: the requests of the test above count for a minute.
    with running(World.generate(1, sessions=10), requests_per_minute=200) as unused:
        env = clients | {"WIX_BASE_URL": unused.url}
        run(env, "-m", "prefect_wix.cli.app", "setup")
        run(env, "-m", "prefect", "--no-prompt", "gcl", "delete", f"wix-{shop.site_id}")
        output, log = start_requests(env, 2).communicate(timeout=90)
    succeeded, rejected = map(int, output.split()[-2:])
    assert (succeeded > 0, rejected) == (True, 0)
    assert log.count("enforced in this process only") == 1
    assert "prefect-wix setup" in log
