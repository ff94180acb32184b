"""The project deployed for tests: a server, a pool with two workers, PostgreSQL, the sandbox.

Everything is started as a user starts it, by commands and over the server's API.
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

import httpx
from prefect.automations import DoNothing
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.settings import PREFECT_API_URL, temporary_settings

from deployments.automations import run_died, site_is_silent
from prefect_wix.planning.partitions import Partition
from prefect_wix.planning.segments import DEVICES
from prefect_wix.sandbox import Sandbox, World, running
from tests.prefect_server import prefect_server
from tests.processes import ROOT, background, check_out, make_environment
from tests.warehouses import PostgresBench

ZONE = "Asia/Jerusalem"
SITES = 20
WORKERS = ("one", "two")
SETTINGS = {
    "PREFECT_WORKER_QUERY_SECONDS": "2",
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",  # the shortest that there is
}
WITHIN = {run_died().name: 60.0, site_is_silent(DoNothing()).name: 10.0}
"""Seconds, where the automations have minutes and hours."""
ENDS = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}


@dataclass
class Deployed:
    """The server with its workers, the Wix that they ask, and the warehouse that they load."""

    url: str
    folder: Path
    env: dict
    shop: Sandbox
    bench: PostgresBench
    stack: ExitStack
    workers: dict = field(default_factory=dict)
    told: list = field(default_factory=list)
    """What the automations told whoever is on call."""

    def start_process(self, name, command):
        log = self.folder / f"{name}.txt"
        options = {"cwd": self.folder, "env": self.env, "log": log}
        return self.stack.enter_context(background(f"exec {command}", **options))

    def start_worker(self, name):
        command = f"prefect worker start --pool wix --type process --name {name} --limit 4"
        self.workers[name] = self.start_process(f"worker-{name}", command)

    def command(self, *words):
        done = subprocess.run(
            words, cwd=self.folder, env=self.env, capture_output=True, text=True, timeout=240,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def send(self, method, path, **body):
        options = {"json": body or None, "timeout": 30}
        # The server says 503 where it is on an SQLite file that is locked, as workers may lock it.
        while (reply := httpx.request(method, f"{self.url}/api/{path}", **options)).status_code == (
            503
        ):
            time.sleep(0.5)
        return reply

    def record(self, method, path, **body):
        reply = self.send(method, path, **body)
        assert reply.is_success, reply.text
        return reply.json() if reply.content else None

    def deployment(self, name):
        return self.record("GET", f"deployments/name/{name}")

    def submit(self, deployment, **parameters):
        """What the run form sends when it is submitted; the reply."""
        found = self.deployment(deployment)
        given = found["parameters"] | parameters
        path = f"deployments/{found['id']}/create_flow_run"
        return self.send("POST", path, parameters=given, state={"type": "SCHEDULED"})

    def start(self, deployment, **parameters):
        """Start a run as the form does; its id."""
        reply = self.submit(deployment, **parameters)
        assert reply.is_success, reply.text
        return reply.json()["id"]

    def run(self, run_id):
        return self.record("GET", f"flow_runs/{run_id}")

    def runs(self, flow, **wanted):
        return self.record("POST", "flow_runs/filter", flows={"name": {"any_": [flow]}}, **wanted)

    def shield(self, run_id, *, seconds=60):
        """Wait for the run's end; its state."""
        deadline = time.monotonic() + seconds
        while (state := self.run(run_id)["state"])["type"] not in ENDS:
            assert time.monotonic() < deadline, state
            time.sleep(0.2)
        return state

    def set_state(self, run_id, **state):
        self.record("POST", f"flow_runs/{run_id}/set_state", state=state)

    def landed(self, days):
        """How many partitions of these days have landed, by site."""
        rows = asyncio.run(
            self.bench.sql(
                f"SELECT site_id, count(*) FROM {self.bench.name('wix_session_receipts')} "
                f"WHERE session_date BETWEEN '{days[0]}' AND '{days[-1]}' GROUP BY site_id"
            )
        )
        return Counter(dict(rows))

    def ids(self, partition):
        return sorted(asyncio.run(self.bench.check(partition)))

    def truth(self, partition):
        """What Wix has."""
        wire = partition.query.to_wire()
        return sorted(self.shop.answer(wire, site_id=partition.site_id))

    def check(self, partitions):
        """Whether each partition holds exactly what Wix has."""
        for partition in partitions:
            assert self.ids(partition) == self.truth(partition)

    def is_whole(self, partitions):
        """Whether each partition holds all of it, or nothing."""
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
    """All of it, made by the commands that a user types."""
    bench = PostgresBench(postgres_server)
    asyncio.run(bench.ready())
    with ExitStack() as stack:
        server = stack.enter_context(prefect_server(folder, postgres_server, ui=True))
        shop = stack.enter_context(
            running(make_world(1, 2_000), job_seconds=(0.05, 0.3), sites=other_worlds())
        )
        env = make_environment(folder) | SETTINGS | {"PREFECT_API_URL": server.api}
        env |= {"WIX_API_KEY": shop.api_key, "WIX_SITE_ID": shop.site_id}
        env |= {"WIX_ACCOUNT_API_KEY": shop.api_key, "WIX_ACCOUNT_ID": shop.account_id}
        env |= {"WIX_BASE_URL": shop.url, "WIX_WAREHOUSE_URL": bench.url}
        env |= {"WIX_WAREHOUSE_SCHEMA": bench.schema}
        deployed = Deployed(server.url, check_out(folder), env, shop, bench, stack)
        # The first worker makes the pool.
        for name in WORKERS:
            deployed.start_worker(name)
        deployed.command("python", "-m", "blocks")
        deploy_all = ["prefect", "--no-prompt", "deploy", "--all", "--prefect-file"]
        deployed.command(*deploy_all, "deployments/prefect.yaml")
        with temporary_settings({PREFECT_API_URL: server.api}):
            stack.enter_context(on_call(deployed.told)).save("on-call")
        deployed.command("bash", "-c", watching())
        hurry(deployed)
        yield deployed
    asyncio.run(bench.close())


def make_world(seed, sessions):
    return World.generate(seed, sessions=sessions, days=40, timezone=ZONE)


def other_worlds():
    """The account's further sites, each with sessions of its own."""
    return {f"site-{n}": make_world(n, 200) for n in range(2, SITES + 1)}


def watching():
    """The command that the documentation names."""
    text = (ROOT / "docs" / "deploying.md").read_text()
    return re.search(r"^python -m deployments.automations .*$", text, re.MULTILINE)[0]


@contextmanager
def on_call(told):
    """Whoever is on call has a web hook, as a block."""

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self):
            told.append(json.loads(self.rfile.read(int(self.headers["content-length"])))["text"])
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            """Nothing to say."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hook)
    Thread(target=server.serve_forever, daemon=True).start()
    yield CustomWebhookNotificationBlock(
        name="on call",
        url=f"http://127.0.0.1:{server.server_port}/",
        json_data={"text": "{{subject}}: {{body}}"},
    )
    server.shutdown()
    server.server_close()


def hurry(deployed):
    """Have the automations that wait wait for seconds."""
    for one in deployed.record("POST", "automations/filter"):
        if one["name"] in WITHIN:
            one["trigger"] |= {"within": WITHIN[one["name"]]}
            kept = ("name", "description", "enabled", "trigger", "actions")
            deployed.record("PUT", f"automations/{one['id']}", **{name: one[name] for name in kept})


def children(pid):
    """The processes that a process started."""
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in listed]


def kill_machine(worker):
    """What is left of a worker whose machine lost its power: nothing, and no word of it."""
    families = [worker.pid, *children(worker.pid)]
    for pid in families:
        os.killpg(pid, signal.SIGKILL)
    worker.wait(10)
