"""Two processes that ask for one site share its budget, by a limit on the Prefect server."""

from __future__ import annotations

import subprocess
import sys

import pytest

from prefect_wix.sandbox import World, running
from tests.processes import ROOT, answers, background, free_port, wait_until

SECONDS = 66
"""Longer than the minute that the budget is for."""


@pytest.fixture
def shop():
    """A Wix that holds every site to its 200 requests a minute."""
    with running(World.generate(1, sessions=10), requests_per_minute=200) as sandbox:
        yield sandbox


@pytest.fixture
def server(tmp_path, environment, shop):
    """A Prefect server, and the environment of those who use it."""
    port = free_port()
    there = environment | {
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "WIX_API_KEY": shop.api_key,
        "WIX_SITE_ID": shop.site_id,
        "WIX_BASE_URL": shop.url,
    }
    command = f"exec prefect server start --no-ui --port {port}"
    with background(command, cwd=tmp_path, env=environment, log=tmp_path / "server.log"):
        wait_until(
            lambda: answers(f"http://127.0.0.1:{port}/api/health"), seconds=60, what="the server"
        )
        yield there


def blocks(env):
    return subprocess.run(
        [sys.executable, "-m", "blocks"],
        cwd=ROOT,
        env=env,
        text=True,
        capture_output=True,
        timeout=120,
        check=True,
    ).stdout


def record(env, seconds):
    return subprocess.Popen(
        [sys.executable, "-m", "tests.e2e.asker", str(seconds)],
        cwd=ROOT,
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def test_two_processes_at_full_speed_are_never_refused(server, shop):
    """No 429 in more than a minute, both make progress, and the budget is not left unused."""
    assert f"saved     limit wix-{shop.site_id}: 200 requests a minute" in blocks(server)
    counts = []
    for process in [record(server, SECONDS) for _ in range(2)]:
        said, log = process.communicate(timeout=SECONDS + 60)
        assert process.returncode == 0, log
        counts.append(tuple(map(int, said.split()[-2:])))
    assert [refused for _, refused in counts] == [0, 0]
    assert {record.status for record in shop.requests} == {200}
    assert min(answered for answered, _ in counts) > 0
    assert len(shop.requests) > 0.5 * 200 * SECONDS / 60


def test_without_the_limit_a_run_says_that_nobody_keeps_count(server, shop):
    """And goes on with the budget of its own process."""
    blocks(server | {"WIX_SITE_ID": shop.site_id})
    subprocess.run(
        ["prefect", "--no-prompt", "gcl", "delete", f"wix-{shop.site_id}"],
        env=server,
        timeout=60,
        check=True,
    )
    said, log = record(server, 2).communicate(timeout=90)
    answered, refused = map(int, said.split()[-2:])
    assert (answered > 0, refused) == (True, 0)
    assert log.count("counted in this process only") == 1
    assert "python -m blocks" in log
