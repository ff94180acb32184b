"""Two processes share the rate limit of a site through a limit on the Prefect server."""

from __future__ import annotations

import subprocess
import sys

import pytest

from prefect_wix.sandbox import World, running
from tests.processes import ROOT, background, free_port, responds, wait_until

SECONDS = 66
"""Longer than the minute of the rate limit."""


@pytest.fixture
def shop():
    """A sandbox that enforces 200 requests per minute for each site."""
    with running(World.generate(1, sessions=10), requests_per_minute=200) as sandbox:
        yield sandbox


@pytest.fixture
def server(tmp_path, environment, shop):
    """A Prefect server; yields the environment of its clients."""
    port = free_port()
    client_environment = environment | {
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "WIX_API_KEY": shop.api_key,
        "WIX_SITE_ID": shop.site_id,
        "WIX_BASE_URL": shop.url,
    }
    command = f"exec prefect server start --no-ui --port {port}"
    with background(command, cwd=tmp_path, env=environment, log=tmp_path / "server.log"):
        wait_until(
            lambda: responds(f"http://127.0.0.1:{port}/api/health"), seconds=60, what="the server"
        )
        yield client_environment


def save_blocks(env):
    return subprocess.run(
        [sys.executable, "-m", "blocks"],
        cwd=ROOT,
        env=env,
        text=True,
        capture_output=True,
        timeout=120,
        check=True,
    ).stdout


def start_requests(env, seconds):
    return subprocess.Popen(
        [sys.executable, "-m", "tests.e2e.request_loop", str(seconds)],
        cwd=ROOT,
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def test_two_processes_at_full_speed_get_no_429(server, shop):
    """No 429 in more than a minute, both processes progress, and the limit is used by half."""
    assert f"saved     limit wix-{shop.site_id}: 200 requests a minute" in save_blocks(server)
    counts = []
    for process in [start_requests(server, SECONDS) for _ in range(2)]:
        output, log = process.communicate(timeout=SECONDS + 60)
        assert process.returncode == 0, log
        counts.append(tuple(map(int, output.split()[-2:])))
    assert [rejected for _, rejected in counts] == [0, 0]
    assert {request.status for request in shop.requests} == {200}
    assert min(succeeded for succeeded, _ in counts) > 0
    assert len(shop.requests) > 0.5 * 200 * SECONDS / 60


def test_without_the_limit_a_run_logs_one_warning(server, shop):
    """The requests continue, limited by their own process."""
    save_blocks(server | {"WIX_SITE_ID": shop.site_id})
    subprocess.run(
        ["prefect", "--no-prompt", "gcl", "delete", f"wix-{shop.site_id}"],
        env=server,
        timeout=60,
        check=True,
    )
    output, log = start_requests(server, 2).communicate(timeout=90)
    succeeded, rejected = map(int, output.split()[-2:])
    assert (succeeded > 0, rejected) == (True, 0)
    assert log.count("enforced in this process only") == 1
    assert "prefect-wix setup" in log
