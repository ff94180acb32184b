"""One deployment chained behind another, by an event, on a real server with a real runner."""

from __future__ import annotations

import json
import subprocess
from datetime import date

import duckdb
import httpx
import pytest

from prefect_wix.sandbox import running
from tests.conftest import NOW, make_world
from tests.processes import answers, background, free_port, wait_until

pytestmark = pytest.mark.xdist_group("chain")


@pytest.fixture
def shop():
    """A shop whose today is long ago."""
    with running(make_world(500), now=NOW) as sandbox:
        yield sandbox


@pytest.fixture
def server(environment, checkout):
    """A Prefect server of its own; its API."""
    port = free_port()
    api = f"http://127.0.0.1:{port}/api"
    command = f"prefect server start --port {port}"
    log = checkout / "server.txt"
    with background(command, cwd=checkout, env=environment, log=log):
        wait_until(lambda: answers(f"{api}/health"), seconds=90, what="the server's start")
        environment["PREFECT_API_URL"] = api
        yield api


def runs(api, flow):
    """The runs of a flow, the newest first."""
    wanted = {"flows": {"name": {"any_": [flow]}}, "sort": "START_TIME_DESC"}
    found = httpx.post(f"{api}/flow_runs/filter", json=wanted, timeout=10)
    return found.raise_for_status().json()


def test_what_landed_is_profiled_without_anybody_asking(shop, server, environment, checkout):
    """A load of two days starts the profile of exactly these, and it succeeds."""
    database = checkout / "sessions.duckdb"
    environment |= {
        "WIX_API_KEY": shop.api_key,
        "WIX_SITE_ID": shop.site_id,
        "WIX_BASE_URL": shop.url,
        "WIX_WAREHOUSE_URL": f"duckdb:///{database}",
    }
    options = {"cwd": checkout, "env": environment}
    subprocess.run(["python", "-m", "blocks"], check=True, timeout=120, **options)
    with background("python -m deployments.serve", log=checkout / "serve.txt", **options):
        wait_until(lambda: "after-load" in deployments(server), seconds=60, what="serving")
        days = {"start_date": "2024-03-01", "end_date": "2024-03-03"}
        segments = {"segments": ["device_type=ALL", "device_type=MOBILE"]}
        asked = ["--params", json.dumps(days | segments)]
        command = ["prefect", "deployment", "run", "load-sessions/daily", "--watch", *asked]
        subprocess.run(command, check=True, timeout=240, **options)
        wait_until(
            lambda: (
                [run["state_type"] for run in runs(server, "profile-sessions")] == ["COMPLETED"]
            ),
            seconds=120,
            what="the profile",
        )
    (run,) = runs(server, "profile-sessions")
    given = run["parameters"]
    assert {name: given[name] for name in days} == days
    assert (given["site_id"], given["timezone"]) == (shop.site_id, "Asia/Jerusalem")
    with duckdb.connect(str(database), read_only=True) as connection:
        profiled = connection.execute("SELECT DISTINCT session_date FROM wix_sessions ORDER BY 1")
        assert profiled.fetchall() == [(date(2024, 3, 1),), (date(2024, 3, 2),)]


def deployments(api):
    found = httpx.post(f"{api}/deployments/filter", json={}, timeout=10)
    return [deployment["name"] for deployment in found.raise_for_status().json()]


def test_the_file_for_workers_has_the_same_chain(server, environment, checkout):
    """What ``prefect deploy`` makes of it: the trigger's parameters stay what the event fills."""
    pool = ["prefect", "work-pool", "create", "wix", "--type", "process"]
    deploy = ["prefect", "--no-prompt", "deploy", "--all", "--prefect-file"]
    for command in (pool, [*deploy, "deployments/prefect.yaml"]):
        subprocess.run(command, check=True, timeout=240, cwd=checkout, env=environment)
    found = httpx.post(f"{server}/automations/filter", json={}, timeout=10).json()
    (action,) = [action for one in found for action in one["actions"]]
    assert action["parameters"] == {
        name: f"{{{{ event.payload.{name} }}}}"
        for name in ("site_id", "start_date", "end_date", "timezone")
    }
