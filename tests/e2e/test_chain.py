"""One deployment triggered by the event of another, on a real server with a real runner."""

from __future__ import annotations

import json
import subprocess
from datetime import date

import duckdb
import httpx
import pytest

from prefect_wix.sandbox import running
from tests.conftest import NOW, make_world
from tests.processes import background, free_port, responds, wait_until

pytestmark = pytest.mark.xdist_group("chain")


@pytest.fixture
def shop():
    """A sandbox whose current time is in 2024."""
    with running(make_world(500), now=NOW) as sandbox:
        yield sandbox


@pytest.fixture
def server(environment, tmp_path):
    """A Prefect server; yields the URL of its API."""
    port = free_port()
    api = f"http://127.0.0.1:{port}/api"
    command = f"prefect server start --port {port}"
    log = tmp_path / "server.txt"
    with background(command, cwd=tmp_path, env=environment, log=log):
        wait_until(lambda: responds(f"{api}/health"), seconds=90, what="the server's start")
        environment["PREFECT_API_URL"] = api
        yield api


def runs(api, flow):
    """The runs of a flow, newest first."""
    body = {"flows": {"name": {"any_": [flow]}}, "sort": "START_TIME_DESC"}
    found = httpx.post(f"{api}/flow_runs/filter", json=body, timeout=10)
    return found.raise_for_status().json()


def test_a_load_triggers_the_profile_of_its_days(shop, server, environment, tmp_path):
    """A load of two days starts the profile of exactly these days, which completes."""
    database = tmp_path / "sessions.duckdb"
    environment |= {
        "WIX_API_KEY": shop.api_key,
        "WIX_SITE_ID": shop.site_id,
        "WIX_BASE_URL": shop.url,
        "WIX_WAREHOUSE_URL": f"duckdb:///{database}",
    }
    options = {"cwd": tmp_path, "env": environment}
    subprocess.run(["prefect-wix", "setup"], check=True, timeout=120, **options)
    with background("exec prefect-wix serve", log=tmp_path / "serve.txt", **options):
        wait_until(lambda: "one-site" in deployments(server), seconds=60, what="serving")
        days = {"start_date": "2024-03-01", "end_date": "2024-03-03"}
        segments = {"segments": ["device_type=ALL", "device_type=MOBILE"]}
        parameters = ["--params", json.dumps(days | segments)]
        command = [
            "prefect",
            "deployment",
            "run",
            "load-sessions/daily-load",
            "--watch",
            *parameters,
        ]
        subprocess.run(command, check=True, timeout=240, **options)
        wait_until(
            lambda: (
                [run["state_type"] for run in runs(server, "profile-sessions")] == ["COMPLETED"]
            ),
            seconds=120,
            what="the profile",
        )
    (run,) = runs(server, "profile-sessions")
    used = run["parameters"]
    assert {name: used[name] for name in days} == days
    assert (used["site_id"], used["timezone"]) == (shop.site_id, "Asia/Jerusalem")
    with duckdb.connect(str(database), read_only=True) as connection:
        profiled = connection.execute("SELECT DISTINCT session_date FROM wix_sessions ORDER BY 1")
        assert profiled.fetchall() == [(date(2024, 3, 1),), (date(2024, 3, 2),)]


def deployments(api):
    found = httpx.post(f"{api}/deployments/filter", json={}, timeout=10)
    return [deployment["name"] for deployment in found.raise_for_status().json()]
