"""All sites of an account on two workers: what they cost, and one of the workers is killed."""

from __future__ import annotations

import json
import re
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from prefect_wix.deployments.definitions import AFTER_LOAD
from prefect_wix.planning.segments import DEVICES
from prefect_wix.planning.windows import ONE_DAY
from prefect_wix.sandbox import Fault
from tests.e2e.deployed import SITES, children, kill_machine
from tests.options import repeated
from tests.processes import wait_until

pytestmark = [
    pytest.mark.xdist_group("many-sites"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

SITES_IN_FLIGHT = repeated(4, soak=6)
"""More than the runs that the worker with the parent run has room for."""
REQUESTS = re.compile(r'- "(\w+ /api/[^? "]+)[^"]*" (?!503)')
"""The method and path of a request in the log of the Prefect server, unless it was too busy."""
JOBS_THAT_FINISH = len(DEVICES) * repeated(2, soak=10)
KILLED_SITES = repeated(7, soak=SITES)
"""The sites of the load whose worker is killed: each is a run of its own."""


def test_a_site_costs_the_prefect_server_at_most_30_requests(deployed):
    """12 partitions each; with the shares of the parent, the run and the workers.

    Not counted: workers that look for runs, and what depends on the machine: polls of runs, and
    requests that a busy SQLite refuses.
    """
    day = datetime.now(UTC).date() - timedelta(30)
    disable_the_profiles(deployed)
    log = deployed.folder / "server.txt"
    before = len(log.read_text())
    load = {"start_date": str(day), "end_date": str(day + 4 * ONE_DAY)}
    parent = deployed.start("load-sites/daily-sites", load=load)
    assert deployed.wait_for_end(parent, seconds=240)["type"] == "COMPLETED"
    sent = Counter(
        re.sub(r"[0-9a-f-]{36}", "ID", request)
        for request in REQUESTS.findall(log.read_text()[before:])
        if not re.search("/get_scheduled_flow_runs$|^GET /api/flow_runs/[0-9a-f-]{36}$", request)
    )
    assert 10 * SITES < sent.total() <= 30 * SITES, sent


def test_every_site_lands_once_though_a_worker_is_killed(deployed):
    """After SIGKILL of a worker the other sites land, and a retry loads the killed ones.

    The retry adopts the jobs of the killed runs, so each partition has exactly one job.
    """
    day = datetime.now(UTC).date() - timedelta(20)
    sites = [*deployed.shop.worlds][:KILLED_SITES]
    partitions = deployed.partitions([day], sites)
    disable_the_profiles(deployed)
    deployed.shop.reset_counts()
    deployed.shop.faults = [Fault("job_never_finishes", after=JOBS_THAT_FINISH)]
    parent = deployed.start(
        "load-sites/daily-sites",
        load={"start_date": str(day), "end_date": str(day + ONE_DAY)},
        sites=sites,
        sites_per_run=1,
        runs_in_flight=SITES_IN_FLIGHT,
    )
    wait_until(lambda: is_waiting(deployed, day), seconds=180, what="the middle of the sites")
    deployed.check_atomic(partitions)

    victim = worker_without(deployed, parent)
    died = len(children(deployed.workers[victim].pid))
    kill_machine(deployed.workers[victim])
    deployed.shop.faults = []
    state = deployed.wait_for_end(parent, seconds=240)
    assert (state["type"], died > 0) == ("FAILED", True)
    assert f"{died} of {KILLED_SITES} sites failed" in state["message"]
    assert Counter(run["state_type"] for run in runs_of_one_site(deployed)) == {
        "COMPLETED": KILLED_SITES - died,
        "CRASHED": died,
    }

    deployed.command("prefect", "flow-run", "retry", parent)
    wait_until(lambda: deployed.run(parent)["run_count"] == 2, seconds=60, what="the retry")
    assert deployed.wait_for_end(parent, seconds=120)["type"] == "COMPLETED"
    deployed.check(partitions)
    assert len(deployed.shop.submits) == len(partitions)
    check_table(deployed, partitions)
    deployed.start_worker(victim)


def disable_the_profiles(deployed):
    """Disable the trigger of the profiles, as docs/many-sites.md describes."""
    for automation in deployed.call("POST", "automations/filter"):
        if automation["name"] == AFTER_LOAD.name:
            deployed.call("PATCH", f"automations/{automation['id']}", enabled=False)


def is_waiting(deployed, day):
    """Whether all finishing jobs have landed and every site in flight has submitted its jobs."""
    submitted = Counter(job.site_id for job in deployed.shop.jobs.values() if job.days[0] == day)
    landed = deployed.landed([day])
    unfinished = [site for site in submitted if landed[site] < len(DEVICES)]
    return (
        landed.total() == JOBS_THAT_FINISH
        and len(unfinished) == SITES_IN_FLIGHT
        and {*submitted.values()} == {len(DEVICES)}
    )


def runs_of_one_site(deployed):
    return [
        run for run in deployed.runs("load-sites") if len(run["parameters"].get("sites") or ()) == 1
    ]


def worker_without(deployed, run_id):
    """The worker that does not execute this run."""
    variable = f"PREFECT__FLOW_RUN_ID={run_id}".encode()

    def runs_it(worker):
        return any(
            variable in Path(f"/proc/{pid}/environ").read_bytes() for pid in children(worker.pid)
        )

    (found,) = [name for name, worker in deployed.workers.items() if not runs_it(worker)]
    return found


def check_table(deployed, partitions):
    """Assert that the table has a row with the count of each site, and that no key is stored."""
    of_key = {"key": {"any_": ["wix-sites-load"]}}
    found = deployed.call("POST", "artifacts/filter", artifacts=of_key)
    table = max(found, key=lambda artifact: artifact["created"])
    rows = {row["site"]: row for row in json.loads(table["data"])}
    counts = Counter()
    for partition in partitions:
        counts[partition.site_id] += len(deployed.truth(partition))
    assert {row["state"] for row in rows.values()} == {"Completed"}
    # The retry of a killed site counts only the partitions that it loaded.
    killed = {
        run["parameters"]["sites"][0]
        for run in runs_of_one_site(deployed)
        if run["state_type"] == "CRASHED"
    }
    results = {site: re.findall(r"([\d,]+) session", row["result"]) for site, row in rows.items()}
    shown = {
        site: int(counted[0].replace(",", "")) if counted else 0
        for site, counted in results.items()
    }
    assert shown.keys() == counts.keys()
    assert all(shown[site] == counts[site] for site in counts.keys() - killed)
    assert all(shown[site] <= counts[site] for site in killed)
    stored = [found, deployed.runs("load-sites")]
    assert deployed.shop.api_key not in json.dumps(stored)
