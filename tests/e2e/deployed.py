"""The project deployed for tests: a server, a pool with two workers, PostgreSQL, the sandbox.

Everything is started with the commands and API calls that a user would use.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import time
from collections import Counter
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

from prefect.automations import DoNothing
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.settings import PREFECT_API_URL, temporary_settings

from prefect_wix.deployments.automations import nothing_landed, run_died
from prefect_wix.planning.partitions import Partition
from prefect_wix.planning.segments import DEVICES
from prefect_wix.sandbox import Sandbox, World, running
from tests.options import repeated
from tests.prefect_server import prefect_server, request
from tests.processes import ROOT, background, make_environment
from tests.warehouses import PostgresBench

ZONE = "Asia/Jerusalem"
SITES = repeated(10, soak=20)
WORKERS = ("one", "two")
SETTINGS = {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30"}  # the minimum
WITHIN_SECONDS = {run_died().name: 60.0, nothing_landed(DoNothing()).name: 10.0}
"""Shorter periods for automations that would wait for minutes or hours."""
FINAL_STATES = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}


WORKER = """
from prefect.cli import app
from prefect.runner._control_channel import ControlChannel

ControlChannel.__init__.__kwdefaults__["ack_timeout"] = 15.0
app()
"""
"""The command ``prefect``. By default a run that does not acknowledge its cancellation within 1 s,
on a machine under load, is killed and reported as crashed."""


@dataclass
class Deployed:
    """The server, its workers, the sandbox and the warehouse."""

    url: str
    folder: Path
    env: dict
    shop: Sandbox
    bench: PostgresBench
    stack: ExitStack
    workers: dict = field(default_factory=dict)
    notifications: list = field(default_factory=list)
    """The texts that the automations sent."""

    def start_process(self, name, command):
        log = self.folder / f"{name}.txt"
        options = {"cwd": self.folder, "env": self.env, "log": log}
        return self.stack.enter_context(background(f"exec {command}", **options))

    def start_worker(self, name):
        program = self.folder / "worker.py"
        program.write_text(WORKER)
        command = f"python {program} worker start --pool wix --type process --name {name} --limit 4"
        self.workers[name] = self.start_process(f"worker-{name}", command)

    def command(self, *words):
        done = subprocess.run(
            words, cwd=self.folder, env=self.env, capture_output=True, text=True, timeout=240,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def send(self, method, path, **body):
        return request(method, f"{self.url}/api/{path}", json=body or None)

    def call(self, method, path, **body):
        response = self.send(method, path, **body)
        assert response.is_success, response.text
        return response.json() if response.content else None

    def deployment(self, name):
        return self.call("GET", f"deployments/name/{name}")

    def submit(self, deployment, **parameters):
        """Submit the run form of a deployment and return the server's response."""
        found = self.deployment(deployment)
        merged = found["parameters"] | parameters
        path = f"deployments/{found['id']}/create_flow_run"
        return self.send("POST", path, parameters=merged, state={"type": "SCHEDULED"})

    def start(self, deployment, **parameters):
        """Submit the run form of a deployment and return the ID of the run."""
        response = self.submit(deployment, **parameters)
        assert response.is_success, response.text
        return response.json()["id"]

    def run(self, run_id):
        return self.call("GET", f"flow_runs/{run_id}")

    def runs(self, flow, **filters):
        return self.call("POST", "flow_runs/filter", flows={"name": {"any_": [flow]}}, **filters)

    def wait_for_end(self, run_id, *, seconds=60):
        """Wait for the end of the run and return its state."""
        deadline = time.monotonic() + seconds
        while (state := self.run(run_id)["state"])["type"] not in FINAL_STATES:
            assert time.monotonic() < deadline, state
            time.sleep(0.5)
        return state

    def set_state(self, run_id, **state):
        self.call("POST", f"flow_runs/{run_id}/set_state", state=state)

    def landed(self, days):
        """The number of landed partitions of these days, by site."""
        rows = asyncio.run(
            self.bench.sql(
                f"SELECT site_id, count(*) FROM {self.bench.name('wix_session_receipts')} "
                f"WHERE session_date BETWEEN '{days[0]}' AND '{days[-1]}' GROUP BY site_id"
            )
        )
        return Counter(dict(rows))

    def profiled_days(self):
        """The days of the profiled sessions, oldest first."""
        table = self.bench.name("wix_sessions")
        rows = asyncio.run(self.bench.sql(f"SELECT DISTINCT session_date FROM {table} ORDER BY 1"))
        return [day for (day,) in rows]

    def ids(self, partition):
        return sorted(asyncio.run(self.bench.check(partition)))

    def truth(self, partition):
        """The partition's IDs at Wix."""
        wire = partition.query.to_wire()
        return sorted(self.shop.answer(wire, site_id=partition.site_id))

    def check(self, partitions):
        """Assert that each partition holds exactly the IDs that Wix has."""
        for partition in partitions:
            assert self.ids(partition) == self.truth(partition)

    def check_atomic(self, partitions):
        """Assert that each partition is either complete or empty."""
        for partition in partitions:
            assert self.ids(partition) in ([], self.truth(partition))

    def partitions(self, days, sites=None):
        return [
            Partition(site, day, segment.key, ZONE)
            for site in sites or [self.shop.site_id]
            for day in days
            for segment in DEVICES
        ]


@contextmanager
def deploy(folder, postgres_server):
    """Start the servers, and create blocks, deployments and automations by their commands."""
    bench = PostgresBench(postgres_server)
    asyncio.run(bench.ready())
    with ExitStack() as stack:
        # The server creates the runs of a schedule every minute by default.
        often = {"PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "5"}
        server = stack.enter_context(prefect_server(folder, postgres_server, ui=True, **often))
        shop = stack.enter_context(
            running(make_world(1, 2_000), job_seconds=(0.05, 0.3), sites=other_worlds())
        )
        env = make_environment(folder) | SETTINGS | {"PREFECT_API_URL": server.api}
        env |= {"WIX_API_KEY": shop.api_key, "WIX_SITE_ID": shop.site_id}
        env |= {"WIX_ACCOUNT_API_KEY": shop.api_key, "WIX_ACCOUNT_ID": shop.account_id}
        env |= {"WIX_BASE_URL": shop.url, "WIX_WAREHOUSE_URL": bench.url}
        env |= {"WIX_WAREHOUSE_SCHEMA": bench.schema}
        deployed = Deployed(server.url, folder, env, shop, bench, stack)
        # The first worker creates the pool.
        for name in WORKERS:
            deployed.start_worker(name)
        deployed.command("prefect-wix", "setup")
        deployed.command("prefect-wix", "deploy")
        with temporary_settings({PREFECT_API_URL: server.api}):
            stack.enter_context(on_call(deployed.notifications)).save("on-call")
        deployed.command("bash", "-c", automations_command())
        shorten_automations(deployed)
        yield deployed
    asyncio.run(bench.close())


def make_world(seed, sessions):
    return World.generate(seed, sessions=sessions, days=40, timezone=ZONE)


def other_worlds():
    """The account's other sites, each with its own sessions."""
    return {f"site-{n}": make_world(n, 200) for n in range(2, SITES + 1)}


def automations_command():
    """The command from the documentation."""
    text = (ROOT / "docs" / "deploying.md").read_text()
    return re.search(r"^prefect-wix automations .*$", text, re.MULTILINE)[0]


@contextmanager
def on_call(notifications):
    """A notification block whose web hook appends each text to a list."""

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            notifications.append(json.loads(body)["text"])
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            """Log nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hook)
    Thread(target=server.serve_forever, daemon=True).start()
    yield CustomWebhookNotificationBlock(
        name="on call",
        url=f"http://127.0.0.1:{server.server_port}/",
        json_data={"text": "{{subject}}: {{body}}"},
    )
    server.shutdown()
    server.server_close()


def shorten_automations(deployed):
    """Shorten the periods of the automations to seconds."""
    fields = ("name", "description", "enabled", "trigger", "actions")
    for one in deployed.call("POST", "automations/filter"):
        if one["name"] in WITHIN_SECONDS:
            one["trigger"] |= {"within": WITHIN_SECONDS[one["name"]]}
            body = {name: one[name] for name in fields}
            deployed.call("PUT", f"automations/{one['id']}", **body)


def children(pid):
    """The IDs of a process's child processes."""
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in listed]


def kill_machine(worker):
    """Kill a worker and its runs with SIGKILL, as a power loss of its machine would."""
    families = [worker.pid, *children(worker.pid)]
    for pid in families:
        os.killpg(pid, signal.SIGKILL)
    worker.wait(10)
