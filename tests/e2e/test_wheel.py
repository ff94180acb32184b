"""The wheel alone: in a new environment, without a checkout, on a real server and worker."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import duckdb
import pytest

from prefect_wix.cli.project import FOLDERS, init
from prefect_wix.sandbox import World, running
from tests.e2e.deployed import FINAL_STATES
from tests.prefect_server import request
from tests.processes import ROOT, background, free_port, make_environment, responds, wait_until

pytestmark = pytest.mark.xdist_group("wheel")
QUERY = {"period": "LAST_7_DAYS", "device_type": "MOBILE"}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The sdist and, built from it, the wheel."""
    folder = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "hatchling", "build"]
    subprocess.run([*build, "-t", "sdist", "-d", folder], cwd=ROOT, check=True, timeout=120)
    (sdist,) = folder.glob("*.tar.gz")
    shutil.unpack_archive(sdist, folder / "sdist", filter="data")
    (source,) = (folder / "sdist").iterdir()
    subprocess.run([*build, "-t", "wheel", "-d", folder], cwd=source, check=True, timeout=120)
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def programs(built, tmp_path_factory):
    """The folder of programs of an environment with the wheel and its extra duckdb."""
    folder = tmp_path_factory.mktemp("environment")
    venv = [sys.executable, "-m", "venv", "--without-pip", folder]
    subprocess.run(venv, check=True, timeout=120)
    pip = [sys.executable, "-m", "pip", "--python", folder / "bin" / "python", "install"]
    # Python compiles the modules that the tests import; pip would compile all.
    options = ["--quiet", "--disable-pip-version-check", "--no-compile"]
    constraints = ["-c", ROOT / "constraints.txt"]
    # The package index may need the certificates that the tests do not load.
    trusting = {name: value for name, value in os.environ.items() if name != "SSL_CERT_FILE"}
    install = [*pip, *options, *constraints, f"{built}[duckdb]"]
    subprocess.run(install, env=trusting, check=True, timeout=600)
    return folder / "bin"


def environment_of(folder, programs):
    """The environment of a user, whose Python does not find this checkout."""
    return make_environment(folder, programs) | {"PYTHONPATH": ""}


class Project:
    """An empty folder in which a user runs commands."""

    def __init__(self, folder, programs, stack):
        self.folder, self.programs, self.stack = folder, programs, stack
        self.env = environment_of(folder / "home", programs)

    def run(self, *words, expected=0, **settings):
        done = subprocess.run(
            words, cwd=self.folder, env=self.env | settings, capture_output=True, text=True,
            timeout=240, check=False,
        )  # fmt: skip
        assert done.returncode == expected, f"{words}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
        return done.stdout + done.stderr

    def start(self, name, command, folder=None):
        log = self.folder / f"{name}.txt"
        self.stack.enter_context(
            background(f"exec {command}", cwd=folder or self.folder, env=self.env, log=log)
        )
        return log

    def start_server(self):
        port = free_port()
        self.env["PREFECT_API_URL"] = f"http://127.0.0.1:{port}/api"
        self.start("server", f"prefect server start --no-ui --port {port}")
        health = f"http://127.0.0.1:{port}/api/health"
        wait_until(lambda: responds(health), seconds=90, what="the server's start")

    def call(self, path, **body):
        url = f"{self.env['PREFECT_API_URL']}/{path}"
        return request("POST", url, json=body).raise_for_status().json()

    def deployments(self):
        return self.call("deployments/filter")

    def watch(self, deployment, **parameters):
        """Start a run of the deployment, and wait until it has completed."""
        url = f"{self.env['PREFECT_API_URL']}/deployments/name/{deployment}"
        found = request("GET", url).raise_for_status().json()
        run = self.call(f"deployments/{found['id']}/create_flow_run", parameters=parameters)
        wait_until(lambda: self.state(run) in FINAL_STATES, seconds=120, what=f"{deployment}'s end")
        logs = self.call("logs/filter", logs={"flow_run_id": {"any_": [run["id"]]}})
        assert self.state(run) == "COMPLETED", [one["message"] for one in logs]

    def state(self, run):
        url = f"{self.env['PREFECT_API_URL']}/flow_runs/{run['id']}"
        return request("GET", url).raise_for_status().json()["state_type"]


@pytest.fixture
def project(tmp_path, programs):
    """An empty folder, and a Prefect server."""
    (tmp_path / "home").mkdir()
    with ExitStack() as stack:
        made = Project(tmp_path, programs, stack)
        made.start_server()
        yield made


@pytest.fixture
def shop():
    """A sandbox with sessions up to today."""
    with running(World.generate(sessions=900, days=10)) as sandbox:
        yield sandbox


def settings_of(shop, folder):
    return {
        "WIX_API_KEY": shop.api_key,
        "WIX_SITE_ID": shop.site_id,
        "WIX_BASE_URL": shop.url,
        "WIX_WAREHOUSE_URL": f"duckdb:///{folder / 'sessions.duckdb'}",
    }


@pytest.mark.wheel
def test_the_demo_runs_in_an_empty_folder(tmp_path, programs):
    """It is quiet, shows bars by day and a query that works; its only trace is the file."""
    folder = tmp_path / "empty"
    folder.mkdir()
    options = {"cwd": folder, "env": environment_of(tmp_path / "home", programs)}
    options |= {"text": True, "timeout": 240}
    done = subprocess.run(["prefect-wix", "demo"], capture_output=True, check=True, **options)
    shown = done.stdout
    # Where stderr is no terminal, the progress is its last line alone.
    assert re.fullmatch(r"90 jobs submitted, \d+ requests", done.stderr.strip())
    assert "First load, no history yet: 30 days x 3 devices are 90 jobs." in shown
    (requests,) = re.findall(r"90 jobs, (\d+) requests", shown)
    # The time zone, and for each job a submit and a page; a few polls come before its end.
    assert 181 <= int(requests) <= 2.2 * 90
    assert [path.name for path in folder.iterdir()] == ["demo-sessions.duckdb"]
    with duckdb.connect(str(folder / "demo-sessions.duckdb"), read_only=True) as connection:
        rows = connection.execute(
            "SELECT session_date, count(*) FROM wix_landed_sessions "
            "WHERE segment = 'device_type=MOBILE' GROUP BY ALL"
        ).fetchall()
    assert len(rows) == 30
    for day, mobile in rows:
        row = rf"{day} +│ +\d+ │ +{mobile} │ +\d+ │ █+"
        assert re.search(row, shown), f"{day}: {mobile} not shown"
    (query,) = [line.strip() for line in shown.splitlines() if "import duckdb" in line]
    assert subprocess.check_output(query, shell=True, **options) in shown


@pytest.mark.wheel
def test_the_whole_path_of_a_user_without_a_checkout(project, shop, tmp_path):
    """Setup, serve, deploy, an ad-hoc run, the daily run, and a pipeline of the starter project.

    Served, stopped, deployed, served again: all run, none is paused, refusals are sentences.
    """
    elsewhere = tmp_path / "worker"
    elsewhere.mkdir()
    shown = project.run("prefect-wix", "deploy", expected=1)
    assert "The server has no work pool wix; nothing was deployed." in shown
    # The worker creates the pool.
    project.start("worker", "prefect worker start --pool wix --type process", elsewhere)
    wait_until(lambda: project.call("work_pools/filter"), seconds=60, what="the work pool")
    assert "Run `prefect-wix setup` first." in project.run("prefect-wix", "deploy", expected=1)
    shown = project.run("prefect-wix", "setup", **settings_of(shop, tmp_path))
    assert "saved     wix-sessions-warehouse/sessions" in shown
    assert shop.api_key not in shown
    check_serving(project)

    shown = project.run("prefect-wix", "deploy", "--timezone", "Asia/Jerusalem")
    assert "skipped   load-sites/daily-sites: The server has no block wix-account" in shown
    assert {one["work_pool_name"] for one in project.deployments()} == {"wix"}
    output = tmp_path / "mobile.csv"
    project.watch("list-sessions/ad-hoc-list", query=QUERY, output=str(output))
    assert len(output.read_text().splitlines()) > 100
    shown = project.run("prefect-wix", "serve", expected=1)
    assert "belongs to the work pool wix; nothing was served" in shown
    project.watch("load-sessions/daily-load")
    with duckdb.connect(str(tmp_path / "sessions.duckdb"), read_only=True) as connection:
        (landed,) = connection.execute("SELECT count(*) FROM wix_session_receipts").fetchone()
    assert landed >= 7 * 3
    assert [one["paused"] for one in project.deployments()] == [False] * 6

    project.run("prefect-wix", "init")
    shown = project.run("prefect-wix", "init", expected=1)
    assert "already exists; nothing was copied" in shown
    deploy = ["prefect", "--no-prompt", "deploy", "--all", "--prefect-file"]
    project.run(*deploy, "deployments/prefect.yaml", PWD=str(tmp_path))
    project.watch("abandoned-carts/abandoned-carts")
    project.watch("daily-funnel/daily-funnel")


def check_serving(project):
    """Served deployments run, and are not paused when serving ends."""
    with ExitStack() as serving:
        project.stack, kept = serving, project.stack
        project.start("serve", "prefect-wix serve")
        wait_until(lambda: len(project.deployments()) == 6, seconds=60, what="serving")
        project.watch("list-sessions/ad-hoc-list", query=QUERY)
        project.stack = kept
    assert [one["paused"] for one in project.deployments()] == [False] * 6
    schedules = [one for each in project.deployments() for one in each["schedules"]]
    active = {one["schedule"]["cron"]: one["active"] for one in schedules}
    assert active == {"0 4 * * *": True, "30 * * * *": False}


def test_an_editable_install_has_the_same_starter_project(built, tmp_path):
    """The project's own folders are what the wheel contains."""
    init(tmp_path / "editable")
    shutil.unpack_archive(built, tmp_path / "wheel", format="zip")
    shipped = tmp_path / "wheel" / "prefect_wix" / "starter"
    assert contents(tmp_path / "editable") == contents(shipped)
    assert {path.split("/")[0] for path in contents(shipped)} == {*FOLDERS}


def contents(folder):
    files = [path for path in sorted(Path(folder).rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}
