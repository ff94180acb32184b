"""The artifacts of a run in the Prefect UI, with a real server and a real browser.

The event of the profiles starts the dbt example.
"""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass

import pytest
from playwright.sync_api import expect

from prefect_wix.flows.profile_sessions import CERTIFICATE_KEY, FUNNEL_KEY, REPORT_KEY
from prefect_wix.profiles.relations import STEPS
from prefect_wix.sandbox import running
from tests.conftest import NOW, make_world
from tests.options import skip_without
from tests.prefect_server import request
from tests.processes import (
    ROOT,
    background,
    free_port,
    make_environment,
    responds,
    wait_until,
)

ALL_DEVICES = {
    "customTimePeriod": {"startDate": "2024-03-01", "endDate": "2024-03-04"},
    "timezone": "Asia/Jerusalem",
    "deviceType": {"type": "ALL"},
}
DBT = ROOT / ".venv" / "dbt" / "bin" / "dbt"

pytestmark = [
    pytest.mark.xdist_group("prefect-ui"),
    # Prefect leaves its sockets to the garbage collector.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@dataclass
class Stage:
    """A Prefect server with the runs of a load and its profiles."""

    url: str
    database: str
    report: str
    sessions: int = 0
    """The number of sessions at Wix."""

    def post(self, path, **body):
        return request("POST", f"{self.url}/api/{path}", json=body).json()

    def run_of(self, flow):
        found = self.post("flow_runs/filter", flows={"name": {"any_": [flow]}})
        return found[0] if found else None

    def is_completed(self, flow):
        run = self.run_of(flow)
        return bool(run) and run["state_type"] == "COMPLETED"


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    """The server, the served dbt example, and one load with its profiles."""
    folder, port = tmp_path_factory.mktemp("ui"), free_port()
    stage = Stage(f"http://127.0.0.1:{port}", f"{folder}/sessions.duckdb", f"{folder}/report.html")
    env = {**make_environment(folder), "PREFECT_SERVER_API_PORT": str(port)}
    with ExitStack() as stack:

        def start(command):
            log = folder / f"{command.split('/')[-1].split()[0]}.log"
            stack.enter_context(background(command, cwd=ROOT, env=env, log=log))

        start("prefect server start")
        wait_until(
            lambda: responds(f"{stage.url}/api/health"), seconds=90, what="the server's start"
        )
        env["PREFECT_API_URL"] = f"{stage.url}/api"
        if DBT.exists():
            start(f"python flows/build_funnel.py {stage.database} {DBT}")
            wait_until(
                lambda: stage.post("deployments/filter") != [], seconds=60, what="the deployment"
            )
        shop = stack.enter_context(running(make_world(), now=NOW))
        stage.sessions = len(shop.answer(ALL_DEVICES))
        arguments = {"key": shop.api_key, "site": shop.site_id, "url": shop.url}
        arguments |= {"database": stage.database, "report": stage.report}
        command = [sys.executable, "-m", "tests.e2e.profiled_run", json.dumps(arguments)]
        done = subprocess.run(
            command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=240, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        yield stage


@pytest.fixture
def run_page(stage, browser):
    """The artifacts on the page of the profile's run."""
    page = browser.new_page(viewport={"width": 1300, "height": 1000})
    page.goto(f"{stage.url}/runs/flow-run/{stage.run_of('profile-sessions')['id']}")
    page.get_by_role("tablist").get_by_text("Artifacts", exact=True).click()
    yield page
    page.close()


def open_artifact(page, key):
    page.get_by_role("link", name=key).first.click()
    table = page.get_by_role("table")
    expect(table).to_be_visible()
    return table


def test_the_funnel_is_shown_with_the_run(stage, run_page, tmp_path):
    """Each step of the funnel is a row; the first step has all sessions."""
    table = open_artifact(run_page, FUNNEL_KEY)
    for step in STEPS:
        expect(table.get_by_role("row").filter(has_text=step)).to_be_visible()
    first = table.get_by_role("row").filter(has_text="SITE_SESSIONS")
    expect(first.get_by_role("cell", name=f"{stage.sessions:,}", exact=True)).to_be_visible()
    run_page.screenshot(path=tmp_path / "funnel.png")


def test_the_certificate_is_shown_with_the_run(stage, run_page, tmp_path):
    """The table shows which relations held, and its description counts them."""
    expect(run_page.get_by_text("21 held, 0 broken, 0 not testable").first).to_be_visible()
    table = open_artifact(run_page, CERTIFICATE_KEY)
    row = table.get_by_role("row").filter(has_text="DESKTOP + MOBILE + TABLET = ALL").first
    expect(row).to_contain_text("held")
    run_page.screenshot(path=tmp_path / "certificate.png")


def test_the_run_shows_the_numbers_of_the_report(stage, run_page):
    """A browser opens no link to a file: the artifact has the numbers and the path to copy."""
    table = open_artifact(run_page, REPORT_KEY)
    expect(table.get_by_role("row").filter(has_text="Sessions a day")).to_be_visible()
    expect(run_page.get_by_text(stage.report).first).to_be_visible()
    run_page.goto(f"file://{stage.report}")
    heading = run_page.get_by_role("heading", name="Sessions, 1 Mar to 3 Mar 2024")
    expect(heading).to_be_visible()


def test_the_event_of_the_profiles_starts_the_dbt_build(stage, browser):
    """The dbt run completes, and its table is in the UI."""
    if not DBT.exists():
        skip_without("dbt (make .venv/dbt/.ready)")
    wait_until(lambda: stage.is_completed("build-funnel"), seconds=120, what="dbt's run")
    page = browser.new_page()
    page.goto(f"{stage.url}/runs/flow-run/{stage.run_of('build-funnel')['id']}")
    page.get_by_role("tablist").get_by_text("Artifacts", exact=True).click()
    table = open_artifact(page, "wix-sessions-dbt-funnel")
    expect(table).to_contain_text("2024-03-03")
    page.close()
